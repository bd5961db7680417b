//! One process's part of `tmp/`: a directory that is locked as long as the process lives.
//!
//! Invariant: what lies in an unlocked session is garbage, and only there. A session appears under
//! a shared lock on `tmp` and sweepers need that lock alone, so a session is never seen between
//! its mkdir and its lock.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags, syncfs};

use crate::error::{AtPath, Result, found};
use crate::layout::{Layout, make_dir};
use crate::lock::FileLock;
use crate::reaper::Reaper;
use crate::remove::remove_tree;

/// The directory for everything this process has in the making.
#[derive(Debug)]
pub(crate) struct Session {
    dir: PathBuf,
    next: AtomicU64,
    reaper: Reaper,
    /// Open from the beginning, so that syncfs(2) tells of every failed write since then.
    root: File,
    root_path: PathBuf,
    is_flushing: Arc<AtomicBool>,
    _lock: FileLock,
}

impl Session {
    /// Makes this process's directory, and clears away what dead processes left.
    pub(crate) fn start(layout: &Layout) -> io::Result<Self> {
        let tmp = layout.tmp();
        let dir = tmp.join(random_hex()?);
        let lock = {
            let _no_sweeper = FileLock::shared_dir(&tmp)?;
            spread(&tmp);
            make_dir(&dir, false)?;
            spread(&dir);
            FileLock::try_exclusive_dir(&dir)?
                .ok_or_else(|| io::Error::other("a new directory is locked by somebody else"))?
        };
        let root = File::open(layout.root())?;
        let next = AtomicU64::new(0);
        let session = Self {
            dir,
            next,
            reaper: Reaper::new(),
            root,
            root_path: layout.root().to_owned(),
            is_flushing: Arc::default(),
            _lock: lock,
        };
        session.sweep(&tmp)?;
        Ok(session)
    }

    /// Returns a path in this session that nobody has had before.
    pub(crate) fn fresh(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Deletes the tree at `path`, which lies in this session, without making the caller wait.
    pub(crate) fn discard(&self, path: PathBuf) {
        self.reaper.remove(path);
    }

    /// Takes the tree at `path` out of sight at once and deletes it later; false if none is there.
    pub(crate) fn remove_later(&self, path: &Path) -> Result<bool> {
        let grave = self.fresh("removed");
        let moved = found(fs::rename(path, &grave)).at("remove", path)?;
        if moved.is_some() {
            self.discard(grave);
        }
        Ok(moved.is_some())
    }

    /// Waits until what was discarded is gone.
    pub(crate) fn finish_removals(&self) {
        self.reaper.finish();
    }

    /// Begins to bring everything written so far to the disk, so that less is left for
    /// [`Self::flush`]. Not by its descriptor, which must hear of all failures.
    pub(crate) fn flush_early(&self) {
        if self.is_flushing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, is_flushing) = (self.root_path.clone(), Arc::clone(&self.is_flushing));
        let work = move || {
            if let Ok(root) = File::open(path) {
                // A failure shows in the flush that counts.
                let _ = syncfs(root);
            }
            is_flushing.store(false, Ordering::Release);
        };
        // Nobody waits for it. Without a thread all is left for the flush that counts.
        if thread::Builder::new().name("store-flush".into()).spawn(work).is_err() {
            self.is_flushing.store(false, Ordering::Release);
        }
    }

    /// Brings everything written to the store's file system to the disk.
    pub(crate) fn flush(&self) -> io::Result<()> {
        Ok(syncfs(&self.root)?)
    }

    fn sweep(&self, tmp: &Path) -> io::Result<()> {
        // Somebody is making a session or sweeping already: the next process will look again.
        let Some(_alone) = FileLock::try_exclusive_dir(tmp)? else { return Ok(()) };
        for entry in fs::read_dir(tmp)? {
            let path = entry?.path();
            if path == self.dir {
                continue;
            }
            match FileLock::try_exclusive_dir(&path) {
                Ok(None) => {}
                Ok(lock @ Some(_)) => self.reaper.remove_left(path, lock),
                // Not a directory, or not ours to open: removing it says more than opening it.
                Err(_) => self.reaper.remove_left(path, None),
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reaper.finish_own();
        if let Err(error) = remove_tree(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "could not remove temporary files");
        }
    }
}

/// Has ext4 put what is made in each directory of `dir` in a part of the disk of its own (chattr(1),
/// `T`).
///
/// It puts files next to their directory, and looks for room for the next one by going over all that
/// were deleted there in the last minutes, one by one. In a store, where much is made and deleted,
/// that takes longer than to make the file. Other file systems neither know the flag nor need it.
fn spread(dir: &Path) {
    let set = || -> io::Result<()> {
        let dir = File::open(dir)?;
        let flags = ioctl_getflags(&dir)?;
        if !flags.contains(IFlags::TOPDIR) {
            ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
        }
        Ok(())
    };
    // Where it cannot be had, all works as well and no slower than it did.
    let _ = set();
}

/// A directory in the making, removed when dropped; no other process touches it meanwhile.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    session: Arc<Session>,
}

impl TempDir {
    pub(crate) fn create(session: &Arc<Session>) -> Result<Self> {
        let path = session.fresh("dir");
        make_dir(&path, false).at("create", &path)?;
        Ok(Self { path, session: Arc::clone(session) })
    }

    /// Returns the directory: absolute, empty at first, mode 0700.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        self.session.discard(std::mem::take(&mut self.path));
    }
}

/// Returns 32 hex digits that nobody can foresee.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}
