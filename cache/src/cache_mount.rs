//! Directories that outlive builds and enter no key: those of `RUN --mount=type=cache`, and what
//! was fetched from elsewhere (git mirrors, downloads).
//!
//! One id has numbered slots, each a directory and a lock. Steps that share use slot 0 together; a
//! step that locks has slot 0 alone; a private one takes the first slot that nobody uses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::digest::Digest;
use crate::error::{AtPath, Result, StoreError};
use crate::index::note_use;
use crate::layout::make_dir;
use crate::lease::Handle;
use crate::lock::FileLock;

/// Private slots of one id; more steps than this at once wait for one.
const MAX_SLOTS: usize = 256;

/// Who may use a cache mount at the same time (Dockerfile reference, `sharing`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Any number of steps together.
    Shared,
    /// One step after the other.
    Locked,
    /// Each step has a directory of its own.
    Private,
}

/// A cache directory in use by one step; gc leaves it alone until this is dropped.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    is_new: bool,
    _lock: FileLock,
}

impl CacheMount {
    /// Takes the directory of `id`; `None` when other steps have it now: ask again later. A new one
    /// has what `fill` puts into it from the moment that others can see it.
    pub(crate) fn take<E: From<StoreError>>(
        handle: &Handle,
        id: &str,
        sharing: Sharing,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        // A hash, since an id is any text of a Dockerfile, `../..` among them.
        let taken = Self::take_named(handle, &Digest::of(id.as_bytes()), id, sharing)?;
        taken.map(|mount| mount.made(handle, fill)).transpose()
    }

    /// Takes the directory of something fetched, alone.
    ///
    /// What is hashed is no UTF-8, so no id that a Dockerfile can write leads here.
    pub(crate) fn take_fetched(handle: &Handle, kind: &str, name: &str) -> Result<Option<Self>> {
        let hashed = [b"\xff", kind.as_bytes(), b"\xff", name.as_bytes()].concat();
        let shown = format!("{kind} {name}");
        let taken = Self::take_named(handle, &Digest::of(&hashed), &shown, Sharing::Locked)?;
        taken.map(|mount| mount.made(handle, |_| Ok(()))).transpose()
    }

    /// Takes a directory for a context that clients send under `name`: the first that nobody uses.
    pub(crate) fn take_sent(handle: &Handle, name: &str) -> Result<Option<Self>> {
        let hashed = [b"\xff", b"context".as_slice(), b"\xff", name.as_bytes()].concat();
        let shown = format!("context {name}");
        let taken = Self::take_named(handle, &Digest::of(&hashed), &shown, Sharing::Private)?;
        taken.map(|mount| mount.made(handle, |_| Ok(()))).transpose()
    }

    fn take_named(
        handle: &Handle,
        name: &Digest,
        id: &str,
        sharing: Sharing,
    ) -> Result<Option<Self>> {
        let _no_gc = handle.no_gc()?;
        let dir = handle.layout.cache_mounts().join(name.hex());
        make_dir(&dir, false).at("create", &dir)?;
        let name = dir.join("id");
        if !name.exists() {
            fs::write(&name, id).at("write", &name)?;
        }
        let slots = if sharing == Sharing::Private { 0..MAX_SLOTS } else { 0..1 };
        for slot in slots {
            let lock_path = dir.join(format!("{slot}.lock"));
            let lock = match sharing {
                Sharing::Shared => FileLock::try_shared(&lock_path),
                Sharing::Locked | Sharing::Private => FileLock::try_exclusive(&lock_path),
            };
            if let Some(lock) = lock.at("lock", &lock_path)? {
                note_use(&lock_path);
                let path = dir.join(slot.to_string());
                return Ok(Some(Self { path, is_new: false, _lock: lock }));
            }
        }
        Ok(None)
    }

    /// Makes the directory if there is none. Several that share may fill one each; the first to be
    /// done is the one that all get.
    fn made<E: From<StoreError>>(
        mut self,
        handle: &Handle,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Self, E> {
        if self.path.exists() {
            return Ok(self);
        }
        let new = handle.session.fresh("cache");
        fs::create_dir(&new).at("create", &new)?;
        let filled = fill(&new).and_then(|()| {
            match renameat_with(CWD, &new, CWD, &self.path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::EXIST) => Ok(false),
                Err(error) => Err(error).at("create", &self.path).map_err(E::from),
            }
        });
        if !matches!(filled, Ok(true)) {
            handle.session.discard(new);
        }
        self.is_new = filled?;
        Ok(self)
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the directory was made by this call.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }
}

/// Whether any slot of the mount at `dir` is in use.
pub(crate) fn is_used(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        if is_lock && FileLock::try_exclusive(&path)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
