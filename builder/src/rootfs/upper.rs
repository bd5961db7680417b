//! Writing a snapshot: a directory in overlayfs's upper format, on top of lower ones.
//!
//! Invariants: everything is created through descriptors of directories below the snapshot's own,
//! exclusively (`O_EXCL`) and never through a symlink. A directory that only the lowers have is
//! first made in the upper with their mode, owner and attributes, as overlayfs's copy-up does, so
//! that nothing of the lower's hides behind defaults. The caller is the only writer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, fremovexattr,
    fsetxattr, futimens, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::describe::{Attributes, Describer, timestamps};
use super::dir::{Dir, OPAQUE, WHITEOUT_MARK, fd_xattrs};
use super::merged::LayeredRoot;
use super::metadata::{Kind, Metadata, Time};
use super::open_dir::OpenDir;
use super::{RootError, components, display_path, join};

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// The tree below cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A directory is needed where something else is.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// Path in the root.
        path: PathBuf,
    },
    /// The host's file system refused.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Path in the root.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

pub(super) fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: &[u8],
) -> impl Fn(E) -> UpperError {
    move |source| UpperError::Io { action, path: display_path(path), source: source.into() }
}

/// A snapshot being written.
#[derive(Debug)]
pub(crate) struct Upper {
    top: Arc<Dir>,
    merged: LayeredRoot,
    /// The directory last asked for: the next name most often lies in the same one.
    last: Option<OpenDir>,
    /// Times to set once nothing more is created in the directories.
    dir_times: Vec<(Vec<u8>, Time)>,
    /// Whether directories made after the lowers' example keep the lowers' time.
    keeps_lower_times: bool,
    describer: Arc<Describer>,
}

impl Upper {
    /// Opens the existing directory `upper` on top of `below`.
    pub(crate) fn open(upper: &Path, below: &LayeredRoot) -> Result<Self, UpperError> {
        let dir = Arc::new(open_top(upper)?);
        Ok(Self::on(Arc::clone(&dir), below.with_upper(dir)))
    }

    /// Opens the existing directory `dir` as it is: not a snapshot, nothing below it.
    pub(crate) fn open_plain(dir: &Path) -> Result<Self, UpperError> {
        let dir = Arc::new(open_top(dir)?);
        Ok(Self::on(Arc::clone(&dir), LayeredRoot::plain(dir)))
    }

    fn on(top: Arc<Dir>, merged: LayeredRoot) -> Self {
        Self {
            top,
            merged,
            last: None,
            dir_times: Vec::new(),
            keeps_lower_times: false,
            describer: Arc::new(Describer::new()),
        }
    }

    /// Returns who describes what is created here.
    pub(crate) fn describer(&self) -> &Arc<Describer> {
        &self.describer
    }

    /// Has directories that are only passed through keep the lowers' time. Otherwise they show
    /// that something in them changed, which programs with caches of directories rely on.
    pub(crate) fn keep_lower_times(mut self) -> Self {
        self.keeps_lower_times = true;
        self
    }

    /// Takes the directory `at` as a root of its own.
    pub(crate) fn below(&self, at: OpenDir) -> Self {
        let mut below = Self::on(at.dir, LayeredRoot::below(at.merged));
        below.keeps_lower_times = self.keeps_lower_times;
        below
    }

    /// Forgets what is known of the directories, after somebody else has written to them.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// Returns what is in sight: the upper and all below it.
    pub(crate) fn merged(&self) -> &LayeredRoot {
        &self.merged
    }

    /// Opens the directory at `path` (without symlinks) for writing; what is missing of it is made
    /// after the lowers' example, or with `new` where they have nothing there.
    pub(crate) fn dir(&mut self, path: &[u8], new: &Attributes) -> Result<OpenDir, UpperError> {
        let mut at = match self.last.take() {
            Some(last) if last.path == path => {
                self.last = Some(last.clone());
                return Ok(last);
            }
            Some(last)
                if path.starts_with(&join(&last.path, b"")) && is_below(path, &last.path) =>
            {
                last
            }
            _ => OpenDir {
                path: Vec::new(),
                dir: Arc::clone(&self.top),
                merged: self.merged.top().clone(),
            },
        };
        for name in components(&path[at.path.len()..]) {
            at = self.enter(&at, name, new)?;
        }
        self.last = Some(at.clone());
        Ok(at)
    }

    /// Opens `name` in `at`, made in the upper if need be.
    fn enter(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        new: &Attributes,
    ) -> Result<OpenDir, UpperError> {
        let path = join(&at.path, name);
        match at.lookup(name)? {
            Some(node) if !node.metadata.is_dir() => {
                Err(UpperError::NotADirectory { path: display_path(&path) })
            }
            Some(_) if at.in_upper(name)?.is_some() => at.open(name),
            Some(_) => self.copy_up_dir(at, name),
            None => self.make_dir(at, name, new),
        }
    }

    fn copy_up_dir(&mut self, at: &OpenDir, name: &[u8]) -> Result<OpenDir, UpperError> {
        let path = join(&at.path, name);
        let lower = at.merged.open_dir(name).and_then(|lower| {
            let lower = lower.ok_or(io::ErrorKind::NotFound)?;
            Ok((lower.node()?.metadata, lower.xattrs()?))
        });
        let (metadata, xattrs) = lower.map_err(failed("read", &path))?;
        mkdirat(&at.dir, name, Mode::RWXU).map_err(failed("create", &path))?;
        let made = at.open(name)?;
        let mut attributes = Attributes::of(&metadata, xattrs);
        if !self.keeps_lower_times {
            attributes.mtime = None;
        }
        self.describe_dir(&made, &attributes)?;
        Ok(made)
    }

    /// Makes the directory `name`, where nothing is in sight. What a whiteout hid stays hidden.
    pub(crate) fn make_dir(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<OpenDir, UpperError> {
        let covers = self.clear(at, name)?;
        let path = join(&at.path, name);
        mkdirat(&at.dir, name, Mode::RWXU).map_err(failed("create", &path))?;
        let mut made = at.open(name)?;
        if covers {
            self.set_opaque(&made)?;
            made = at.open(name)?;
        }
        self.describe_dir(&made, attributes)?;
        Ok(made)
    }

    /// Gives the directory `at` mode, owner and attributes, and its time in [`Self::finish`].
    pub(crate) fn describe_dir(
        &mut self,
        at: &OpenDir,
        attributes: &Attributes,
    ) -> Result<(), UpperError> {
        self.describer.describe(&at.dir, &at.path, attributes)?;
        if let Some(mtime) = attributes.mtime {
            self.set_dir_time(at, mtime);
        }
        Ok(())
    }

    /// Has [`Self::finish`] set the time of the directory `at`, since everything created in it
    /// until then changes it again.
    pub(crate) fn set_dir_time(&mut self, at: &OpenDir, mtime: Time) {
        self.dir_times.push((at.path.clone(), mtime));
    }

    /// Returns what the directory `at` will be after [`Self::finish`], if its time is to be
    /// `mtime`; `None` leaves that as it is. The file system may know less times than there are.
    pub(crate) fn expect_dir(at: &OpenDir, mtime: Option<Time>) -> Result<Metadata, UpperError> {
        if let Some(mtime) = mtime {
            let set = futimens(&at.dir, &timestamps(mtime));
            set.map_err(failed("set the time of", &at.path))?;
        }
        at.dir.metadata().map_err(failed("look at", &at.path))
    }

    /// Hides everything that the lowers have in the directory `at`.
    pub(crate) fn set_opaque(&mut self, at: &OpenDir) -> Result<(), UpperError> {
        self.last = None;
        fsetxattr(&at.dir, OPAQUE, b"y", XattrFlags::empty()).map_err(failed("mark", &at.path))
    }

    /// Records that `name` is deleted. What the upper itself made under that name stays, and hides
    /// the lowers' (image-spec, layer.md: whiteouts apply to lower layers only).
    pub(crate) fn whiteout(&mut self, at: &OpenDir, name: &[u8]) -> Result<(), UpperError> {
        let path = join(&at.path, name);
        match at.in_upper(name)? {
            Some(metadata) if metadata.is_dir() => {
                let dir = at.open(name)?;
                self.set_opaque(&dir)
            }
            Some(_) => Ok(()),
            None => {
                let made = mknodat(&at.dir, name, FileType::CharacterDevice, Mode::empty(), 0);
                let made = match made {
                    // Overlayfs takes no such device: it means as much to itself.
                    Err(Errno::PERM) => mark_deleted(&at.dir, name),
                    other => other,
                };
                made.map_err(failed("record the deletion of", &path))
            }
        }
    }

    /// Deletes `name`, of the upper too; what the lowers have of it is recorded to be deleted.
    pub(crate) fn delete(&mut self, at: &OpenDir, name: &[u8]) -> Result<(), UpperError> {
        self.clear(at, name)?;
        match at.lookup(name)? {
            Some(_) => self.whiteout(at, name),
            None => Ok(()),
        }
    }

    /// Empties the directory `at`, of what the upper holds too.
    pub(crate) fn delete_content(&mut self, at: &OpenDir) -> Result<(), UpperError> {
        for (name, _) in at.dir.entries().map_err(failed("read", &at.path))? {
            self.clear(at, &name)?;
        }
        if at.is_new() { Ok(()) } else { self.set_opaque(at) }
    }

    /// Takes the attributes from the directory `at` that `attributes` does not have.
    pub(crate) fn drop_xattrs(at: &OpenDir, attributes: &Attributes) -> Result<(), UpperError> {
        let found = fd_xattrs(&*at.dir).map_err(failed("read", &at.path))?;
        let is_kept = |name: &[u8]| attributes.xattrs.iter().any(|(kept, _)| kept == name);
        for (name, _) in found.iter().filter(|(name, _)| !is_kept(name)) {
            fremovexattr(&*at.dir, name.as_slice())
                .map_err(failed("take an attribute from", &at.path))?;
        }
        Ok(())
    }

    /// Removes what the upper holds under `name`, directories with their content, and returns
    /// whether that hid the lowers'. What only the lowers hold stays in sight.
    pub(crate) fn clear(&mut self, at: &OpenDir, name: &[u8]) -> Result<bool, UpperError> {
        let Some(metadata) = at.in_upper(name)? else { return Ok(false) };
        if metadata.is_dir() {
            self.last = None;
        }
        at.remove(name, &metadata)?;
        Ok(true)
    }

    /// Creates the symlink `name`.
    pub(crate) fn symlink(
        &self,
        at: &OpenDir,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UpperError> {
        symlinkat(target, &at.dir, name).map_err(failed("create", &join(&at.path, name)))?;
        self.describe_special(at, name, attributes)
    }

    /// Creates the device or FIFO `name`; returns false where the kernel does not allow this user
    /// namespace to make devices, as the other builders leave them out there too.
    pub(crate) fn special(
        &self,
        at: &OpenDir,
        name: &[u8],
        kind: Kind,
        (major, minor): (u32, u32),
        attributes: &Attributes,
    ) -> Result<bool, UpperError> {
        let path = join(&at.path, name);
        let (file_type, device) = match kind {
            Kind::CharDevice => (FileType::CharacterDevice, makedev(major, minor)),
            Kind::BlockDevice => (FileType::BlockDevice, makedev(major, minor)),
            Kind::Socket => (FileType::Socket, 0),
            Kind::File | Kind::Dir | Kind::Symlink | Kind::Fifo => (FileType::Fifo, 0),
        };
        let mode = Mode::from_raw_mode(attributes.mode);
        match mknodat(&at.dir, name, file_type, mode, device) {
            Err(Errno::PERM) => return Ok(false),
            other => other.map_err(failed("create", &path))?,
        }
        self.describe_special(at, name, attributes)?;
        // Nobody else writes here, so the name is still the object just made and no symlink.
        chmodat(&at.dir, name, mode, AtFlags::empty())
            .map_err(failed("change the mode of", &path))?;
        Ok(true)
    }

    fn describe_special(
        &self,
        at: &OpenDir,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UpperError> {
        let path = join(&at.path, name);
        if let Some((uid, gid)) = attributes.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            let changed = chownat(&at.dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            self.describer.owned(changed, &path)?;
        }
        let Some(mtime) = attributes.mtime else { return Ok(()) };
        utimensat(&at.dir, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of", &path))
    }

    /// Sets the times of the directories described; the last description counts.
    pub(crate) fn finish(&mut self) -> Result<(), UpperError> {
        for (path, mtime) in std::mem::take(&mut self.dir_times) {
            // Later entries may have replaced the directory by something else.
            let Ok(dir) = self.top.open_dir(&path) else { continue };
            futimens(&dir, &timestamps(mtime)).map_err(failed("set the time of", &path))?;
        }
        Ok(())
    }
}

fn open_top(path: &Path) -> Result<Dir, UpperError> {
    Dir::open(path).map_err(|source| UpperError::Io {
        action: "open",
        path: path.to_path_buf(),
        source,
    })
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path[dir.len()..].starts_with(b"/")
}

/// Records a deletion by a file: see [`WHITEOUT_MARK`].
fn mark_deleted(dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    fsetxattr(&file, WHITEOUT_MARK, b"y", XattrFlags::empty())
}
