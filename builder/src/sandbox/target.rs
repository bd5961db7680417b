//! Where things are mounted: mount points found, made where missing, and covered.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath::open_exact;
use super::error::{At as _, Fault};
use super::mount::attach;
use super::source::Prepared;
use super::stub::StubLayer;
use super::view::{ImageView, Located};

/// Finds all mount points, in the order in which they are mounted.
#[derive(Debug, Default)]
pub(super) struct Targets {
    found: Vec<Located>,
}

impl Targets {
    /// Finds the mount point `path` and stubs it if the image lacks it.
    ///
    /// A target inside an earlier one is not looked for in the image: the earlier mount hides it.
    pub(super) fn add(
        &mut self,
        view: &ImageView,
        stubs: &mut StubLayer<'_>,
        path: &str,
        is_dir: bool,
    ) -> Result<Located, Fault> {
        let located = view.locate(path)?;
        if located.path.as_os_str().is_empty() {
            return Err(Fault::refused(format!("`{path}`: nothing can be mounted on the root")));
        }
        let is_hidden = self.found.iter().any(|earlier| located.path.starts_with(&earlier.path));
        if !is_hidden {
            match (located.kind, is_dir) {
                (None, true) => stubs.add_dir(&located)?,
                (None, false) => stubs.add_file(&located, b"")?,
                (Some(FileType::Directory), false) => {
                    return Err(Fault::refused(format!(
                        "`{path}` is a directory, but a file is mounted on it"
                    )));
                }
                (Some(kind), true) if kind != FileType::Directory => {
                    return Err(Fault::refused(format!(
                        "`{path}` is no directory, but one is mounted on it"
                    )));
                }
                (Some(_), _) => {}
            }
        }
        self.found.push(located.clone());
        Ok(located)
    }
}

/// Attaches `prepared` at `target`, below `root`.
///
/// What is missing by now lies inside an earlier mount and is made there, as Docker does; links
/// inside an earlier mount are not followed.
pub(super) fn attach_at(root: &OwnedFd, target: &Path, prepared: &Prepared) -> Result<(), Fault> {
    let place = match open_exact(root, target) {
        Err(Errno::NOENT) => make(root, target, prepared.is_dir)?,
        Err(Errno::LOOP) => {
            let target = target.display();
            return Err(Fault::refused(format!(
                "`/{target}` passes a symbolic link inside another mount"
            )));
        }
        place => place.at(target.display())?,
    };
    attach(&prepared.mount, place).at(target.display())
}

/// Makes the mount point `path` with its parents and opens it.
fn make(root: &OwnedFd, path: &Path, is_dir: bool) -> Result<OwnedFd, Fault> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let mut dir = root.try_clone()?;
    for name in parent {
        dir = match open_exact(&dir, Path::new(name)) {
            Err(Errno::NOENT) => super::mount::make_dir(&dir, name, 0o755)?,
            next => next.at(path.display())?,
        };
    }
    let name = path.file_name().unwrap_or_default();
    if is_dir {
        super::mount::make_dir(&dir, name, 0o755)
    } else {
        super::mount::make_file(&dir, name, 0o644)
    }
}
