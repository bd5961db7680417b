//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::fault::Fault;

/// A file that is not there yet; dropped before [`Temporary::rename`], it never will be.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    dest: PathBuf,
}

impl Temporary {
    /// Opens one that will be `dest`.
    pub(crate) fn beside(dest: &Path) -> Result<(File, Self), Fault> {
        let mut name = dest.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = dest.with_file_name(name);
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| Fault::file("write", dest, &error))?;
        Ok((file, Self { path, dest: dest.to_owned() }))
    }

    /// Gives it its name.
    pub(crate) fn rename(self) -> Result<(), Fault> {
        fs::rename(&self.path, &self.dest).map_err(|error| Fault::file("write", &self.dest, &error))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after the renaming.
        drop(fs::remove_file(&self.path));
    }
}
