//! Which ignore file is in force for a context that is a directory of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use frontend::IgnoreRules;

use crate::fault::Fault;

/// Endings of the ignore file of one Dockerfile, in the order in which they are looked for.
pub(crate) const OWN_ENDINGS: [&str; 2] = [".containerignore", ".dockerignore"];

/// Ignore files of a whole context, in the order in which they are looked for.
pub(crate) const NAMES: [&str; 2] = [".containerignore", ".dockerignore"];

/// An ignore file that was found.
#[derive(Debug)]
pub(crate) struct IgnoreFile {
    pub(crate) path: PathBuf,
    pub(crate) rules: IgnoreRules,
}

impl IgnoreFile {
    /// Looks for the ignore file: that of the Dockerfile first, then that of the context, where there
    /// is one. Blocking.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that holds what is no pattern.
    pub(crate) fn find(
        context: Option<&Path>,
        dockerfile: Option<&Path>,
    ) -> Result<Option<Self>, Fault> {
        let own = dockerfile.into_iter().flat_map(|dockerfile| {
            OWN_ENDINGS.map(|ending| {
                let mut name = dockerfile.as_os_str().to_owned();
                name.push(ending);
                PathBuf::from(name)
            })
        });
        let of_context =
            context.into_iter().flat_map(|context| NAMES.map(|name| context.join(name)));
        let found = own.chain(of_context).find(|path| path.is_file());
        found.map(|path| Self::read(&path)).transpose()
    }

    /// Reads the ignore file at `path`. Blocking.
    ///
    /// # Errors
    ///
    /// As for [`Self::find`].
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        let text = fs::read_to_string(path).map_err(|error| Fault::file("read", path, &error))?;
        let rules = IgnoreRules::parse(&text)
            .map_err(|error| Fault::user(format!("`{}`: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), rules })
    }
}
