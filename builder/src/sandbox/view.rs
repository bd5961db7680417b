//! The image before anything is mounted on it: where a path leads, and small files of it.
//!
//! Nothing runs in the image yet, so it cannot change while it is looked at. Every path is
//! resolved beneath the image's root; links that point outside end inside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath::open_exact;
use super::error::{At as _, Fault};
use super::mount::{overlay, path_of};

/// Links followed on the way to one path at most (as the kernel, `path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// A read-only view of the merged image.
pub(super) struct ImageView {
    root: Option<OwnedFd>,
    is_merged: bool,
}

/// Where a path leads once all links are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// Relative to the root, without links, `.` or `..`; empty is the root itself.
    pub path: PathBuf,
    /// How many leading parts of `path` exist.
    pub existing: usize,
    /// What is at `path`, if anything is.
    pub kind: Option<FileType>,
}

impl ImageView {
    /// Merges `layers`, topmost first, for looking only. Without layers everything is missing.
    pub(super) fn open(layers: &[BorrowedFd<'_>]) -> Result<Self, Fault> {
        let root = match layers {
            [] => None,
            [only] => Some(only.try_clone_to_owned()?),
            several => Some(overlay(several, None)?),
        };
        Ok(Self { root, is_merged: layers.len() > 1 })
    }

    /// Returns the mount that was made for it, if one was.
    pub(super) fn into_merged(self) -> Option<OwnedFd> {
        self.root.filter(|_| self.is_merged)
    }

    /// Opens what is at `path`, itself free of links, as a place; a link is not followed.
    pub(super) fn open_place(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_exact(self.root.as_ref().ok_or(Errno::NOENT)?, path)
    }

    /// Follows every link of `path`, an absolute one, beneath the root.
    ///
    /// # Errors
    ///
    /// Refused: too many links, or a part that should be a directory is none.
    pub(super) fn locate(&self, path: &str) -> Result<Located, Fault> {
        let mut pending: VecDeque<OsString> = parts(Path::new(path)).collect();
        let mut found = PathBuf::new();
        let mut existing = 0;
        let mut kind = Some(FileType::Directory);
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            if part == ".." {
                found.pop();
                existing = existing.min(found.components().count());
                kind = (existing == found.components().count()).then_some(FileType::Directory);
                continue;
            }
            if kind.is_some_and(|kind| kind != FileType::Directory) {
                return Err(Fault::refused(format!(
                    "`{path}`: `/{}` is no directory",
                    found.display()
                )));
            }
            let missing_parent = kind.is_none();
            found.push(&part);
            if missing_parent {
                continue;
            }
            match self.look(&found).at(path)? {
                None => kind = None,
                Some((FileType::Symlink, target)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Fault::refused(format!(
                            "`{path}` has too many symbolic links"
                        )));
                    }
                    found.pop();
                    if target.is_absolute() {
                        found = PathBuf::new();
                        existing = 0;
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        pending.push_front(part);
                    }
                    kind = Some(FileType::Directory);
                }
                Some((other, _)) => {
                    existing += 1;
                    kind = Some(other);
                }
            }
        }
        Ok(Located { path: found, existing, kind })
    }

    /// Returns the type at `path` and a link's target.
    fn look(&self, path: &Path) -> Result<Option<(FileType, PathBuf)>, Errno> {
        let place = match self.open_place(path) {
            Err(Errno::NOENT) => return Ok(None),
            place => place?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
        let target = if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(&place, "", Vec::new())?;
            PathBuf::from(OsStr::from_bytes(target.to_bytes()))
        } else {
            PathBuf::new()
        };
        Ok(Some((kind, target)))
    }

    /// Reads the regular file at `path`, itself free of links; `None` if there is none or it has
    /// more than `limit` bytes. Fifos and devices are not opened.
    pub(super) fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
        let place = match self.open_place(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            place => place?,
        };
        let stat = rustix::fs::fstat(&place)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > limit {
            return Ok(None);
        }
        let mut content = Vec::new();
        File::open(path_of(place.as_fd()))?.take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }
}

/// The parts of a path that move: names and `..`.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::OFlags;

    use super::super::beneath::open_followed;
    use super::*;

    /// An image with the links that images have, and some that attackers make.
    fn image() -> (tempfile::TempDir, ImageView) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etc", "run", "var", "usr/lib"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let links = [
            ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
            ("var/run", "/run"),
            ("lib", "usr/lib"),
            ("out", "../../../../../etc"),
            ("loop", "loop"),
            ("etc/self", "/proc/self/fd/3"),
        ];
        for (name, target) in links {
            symlink(target, dir.path().join(name)).unwrap();
        }
        let root = super::super::mount::open_dir(dir.path()).unwrap();
        let view = ImageView::open(&[root.as_fd()]).unwrap();
        (dir, view)
    }

    #[test]
    fn paths_are_followed_beneath_the_root() {
        let (_dir, view) = image();
        let dir = Some(FileType::Directory);
        let file = Some(FileType::RegularFile);
        #[rustfmt::skip]
        let cases = [
            ("root",              "/",                  "",                                     0, dir),
            ("plain",             "/etc/passwd",        "etc/passwd",                           2, file),
            ("missing leaf",      "/etc/hosts",         "etc/hosts",                            1, None),
            ("missing tree",      "/a/b/c",             "a/b/c",                                0, None),
            ("dangling link",     "/etc/resolv.conf",   "run/systemd/resolve/stub-resolv.conf", 1, None),
            ("absolute link",     "/var/run/lock",      "run/lock",                             1, None),
            ("directory link",    "/lib",               "usr/lib",                              2, dir),
            ("dots clamped",      "/../../etc/passwd",  "etc/passwd",                           2, file),
            ("link outside",      "/out/passwd",        "etc/passwd",                           2, file),
            ("missing, then up",  "/a/../etc/passwd",   "etc/passwd",                           2, file),
            ("magic is a name",   "/etc/self",          "proc/self/fd/3",                       0, None),
        ];
        for (name, path, want, existing, kind) in cases {
            let want = Located { path: want.into(), existing, kind };
            assert_eq!(view.locate(path).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn loops_and_files_in_the_way_are_refused() {
        let (_dir, view) = image();
        for path in ["/loop", "/loop/x", "/etc/passwd/x"] {
            assert!(view.locate(path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_empty_image_has_only_its_root() {
        let view = ImageView::open(&[]).unwrap();
        let located = view.locate("/etc/hosts").unwrap();
        assert_eq!((located.existing, located.kind), (0, None));
        assert!(view.read_file(Path::new("etc/hosts"), 10).unwrap().is_none());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let (dir, view) = image();
        let fifo = dir.path().join("etc/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        #[rustfmt::skip]
        let cases = [
            ("file",      "etc/passwd", 100, true),
            ("too large", "etc/passwd", 3,   false),
            ("fifo",      "etc/fifo",   100, false),
            ("directory", "etc",        100, false),
            ("missing",   "etc/group",  100, false),
        ];
        for (name, path, limit, want) in cases {
            let read = view.read_file(Path::new(path), limit).unwrap();
            assert_eq!(read.is_some(), want, "{name}");
        }
    }

    proptest::proptest! {
        /// Where the kernel finds something beneath the root, so do we, and the same thing.
        #[test]
        fn the_kernel_agrees(
            links in proptest::collection::vec(("[ab](/[ab]){0,2}", "/?(([ab]|\\.\\.)/){0,3}[ab.]"), 0..5),
            dirs in proptest::collection::vec("[ab](/[ab]){0,3}", 0..5),
            path in "(/([ab]|\\.\\.)){1,5}",
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (name, target) in links {
                let link = dir.path().join(name);
                // Some of the random names are taken, or lead through a link: left out.
                let _ = std::fs::create_dir_all(link.parent().unwrap());
                let _ = symlink(target, link);
            }
            for name in dirs {
                let _ = std::fs::create_dir_all(dir.path().join(name));
            }
            let root = super::super::mount::open_dir(dir.path()).unwrap();
            let kernels = open_followed(&root, Path::new(&path), OFlags::empty());
            let view = ImageView::open(&[root.as_fd()]).unwrap();
            let located = view.locate(&path);
            if let Ok(kernels) = kernels {
                let located = located.unwrap();
                let ours = view.open_place(&located.path).unwrap();
                let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
                proptest::prop_assert_eq!(inode(&ours), inode(&kernels));
                proptest::prop_assert!(located.kind.is_some());
                proptest::prop_assert_eq!(located.existing, located.path.components().count());
            }
        }
    }
}
