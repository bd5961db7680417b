//! A client's context kept between builds, so that only what changed must be sent again.
//!
//! ```text
//! cache-mounts/ID/SLOT/   taken alone by one build at a time; gc knows it as a cache mount
//!   list                  its list of files, as `crate::manifest` packs chunks
//!   files/                the context as it was sent last
//!   new                   a file that is arriving
//! ```
//!
//! Invariants: a file gets its name after its digest was found right; nothing outside of `files` is
//! touched, since every path was checked ([`crate::manifest`]) and every directory on the way is
//! one of ours. What is there from before is believed only by its digest.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, FileTimes, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use builder::ErrorKind;
use cache::{CacheMount, Digest, HashingReader, StatCache, Store, StoreError};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use walkdir::WalkDir;

use crate::manifest::{self, Entry, Kind};

/// Bytes copied at a time.
const BUFFER: usize = 128 << 10;

/// Why a context could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    /// Every place for this context is in use.
    #[error("too many builds of this context run at once")]
    Busy,
    /// What was sent is not what was told.
    #[error("`{}` is not what was promised: its digest differs", path.display())]
    Mismatch { path: PathBuf },
    /// More or less was sent than was told.
    #[error("{0}")]
    Length(&'static str),
    /// The client's connection broke.
    #[error("the content could not be received")]
    Receive(#[source] io::Error),
    /// The store's disk failed.
    #[error("could not keep `{}`", path.display())]
    Disk { path: PathBuf, source: io::Error },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MirrorError {
    /// Says who must act.
    pub(super) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { .. } | Self::Store(_) => ErrorKind::Host,
            Self::Busy | Self::Mismatch { .. } | Self::Length(_) | Self::Receive(_) => {
                ErrorKind::User
            }
        }
    }
}

pub(super) trait OnDisk<T> {
    /// Names the file that could not be had.
    fn at(self, path: &Path) -> Result<T, MirrorError>;
}

impl<T> OnDisk<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, MirrorError> {
        self.map_err(|source| MirrorError::Disk { path: path.to_owned(), source })
    }
}

/// The mirror of one context, while it is in use.
#[derive(Debug)]
pub(super) struct Mirror {
    mount: CacheMount,
    entries: Vec<Entry>,
    /// Indexes of files whose content must come.
    missing: Vec<usize>,
    /// When the client's directory itself was changed, in seconds since 1970.
    mtime: i64,
}

impl Mirror {
    /// Makes the mirror in `mount` what `entries` say as far as its content is here. Blocking.
    pub(super) fn open(
        store: &Store,
        mount: CacheMount,
        entries: Vec<Entry>,
        mtime: i64,
    ) -> Result<Self, MirrorError> {
        let mut mirror = Self { mount, entries, missing: Vec::new(), mtime };
        let root = mirror.dir();
        if !root.is_dir() {
            DirBuilder::new().mode(0o755).create(&root).at(&root)?;
        }
        let root = root.canonicalize().at(&root)?;
        let mut known = store.stat_cache(&root);
        mirror.keep_what_is_right(&root, &mut known)?;
        mirror.make_the_rest(&root)?;
        if mirror.missing.is_empty() {
            mirror.finish()?;
        }
        // Losing it costs time.
        drop(store.save_stat_cache(&root, &known));
        Ok(mirror)
    }

    /// Returns the context's directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.mount.path().join("files")
    }

    /// Returns the indexes of the entries whose content must be sent, in this order.
    pub(super) fn missing(&self) -> &[usize] {
        &self.missing
    }

    /// Removes what is not in the list, or is there as something else, and finds out which files
    /// are right.
    fn keep_what_is_right(
        &mut self,
        root: &Path,
        known: &mut StatCache,
    ) -> Result<(), MirrorError> {
        let wanted: HashMap<&Path, usize> =
            self.entries.iter().enumerate().map(|(at, entry)| (entry.path.as_path(), at)).collect();
        let mut is_right = vec![false; self.entries.len()];
        let mut walk = WalkDir::new(root).min_depth(1).into_iter();
        while let Some(found) = walk.next() {
            let found = found.map_err(io::Error::from).at(root)?;
            let full = found.path();
            let path = full.strip_prefix(root).expect("a walk stays below its root");
            let metadata = found.metadata().map_err(io::Error::from).at(full)?;
            let entry = wanted.get(path).map(|&at| (at, &self.entries[at]));
            let is_dir = metadata.is_dir();
            match entry {
                Some((at, entry)) if is_same(entry, full, &metadata, known)? => {
                    is_right[at] = true;
                    if let Kind::File { .. } = entry.kind {
                        set_attributes(entry, full, &metadata)?;
                    }
                }
                _ if is_dir => {
                    fs::remove_dir_all(full).at(full)?;
                    walk.skip_current_dir();
                }
                _ => fs::remove_file(full).at(full)?,
            }
        }
        let is_missing =
            |&at: &usize| !is_right[at] && matches!(self.entries[at].kind, Kind::File { .. });
        self.missing = (0..self.entries.len()).filter(is_missing).collect();
        Ok(())
    }

    /// Makes the directories, links and pipes that are not there.
    fn make_the_rest(&self, root: &Path) -> Result<(), MirrorError> {
        for entry in &self.entries {
            let full = root.join(&entry.path);
            if full.symlink_metadata().is_ok() {
                continue;
            }
            match &entry.kind {
                Kind::Dir => DirBuilder::new().mode(0o700).create(&full).at(&full)?,
                Kind::Link { target } => {
                    std::os::unix::fs::symlink(target, &full).at(&full)?;
                    let times = timestamps(entry.mtime);
                    rustix::fs::utimensat(CWD, &full, &times, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(io::Error::from)
                        .at(&full)?;
                }
                Kind::Fifo => {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, entry.mode.into());
                    rustix::fs::mknodat(CWD, &full, kind, mode, 0)
                        .map_err(io::Error::from)
                        .at(&full)?;
                }
                Kind::File { .. } => {}
            }
        }
        Ok(())
    }

    /// Takes in the content of the missing files, one after the other without anything between.
    /// Blocking.
    pub(super) fn receive(&mut self, mut content: impl Read) -> Result<(), MirrorError> {
        let root = self.dir();
        for at in std::mem::take(&mut self.missing) {
            let entry = &self.entries[at];
            let Kind::File { size, digest } = entry.kind else { continue };
            self.receive_file(entry, size, digest, &root, &mut content)?;
        }
        match content.read(&mut [0]) {
            Ok(0) => self.finish(),
            Ok(_) => Err(MirrorError::Length("more was sent than was missing")),
            Err(error) => Err(MirrorError::Receive(error)),
        }
    }

    fn receive_file(
        &self,
        entry: &Entry,
        size: u64,
        digest: Digest,
        root: &Path,
        content: &mut impl Read,
    ) -> Result<(), MirrorError> {
        let new = self.mount.path().join("new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .at(&new)?;
        let mut reader = HashingReader::new(content.take(size));
        let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER)).max(1)];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(MirrorError::Receive(error)),
            };
            file.write_all(&buffer[..count]).at(&new)?;
        }
        let (_, found, read) = reader.finish();
        if read < size {
            return Err(MirrorError::Length("less was sent than was missing"));
        }
        if found != digest {
            return Err(MirrorError::Mismatch { path: entry.path.clone() });
        }
        let full = root.join(&entry.path);
        file.set_permissions(Permissions::from_mode(entry.mode)).at(&new)?;
        file.set_times(FileTimes::new().set_modified(time(entry.mtime))).at(&new)?;
        fs::rename(&new, &full).at(&full)
    }

    /// Gives directories their modes and times, once nothing is put into them any more.
    fn finish(&self) -> Result<(), MirrorError> {
        let root = self.dir();
        for entry in self.entries.iter().rev().filter(|entry| entry.kind == Kind::Dir) {
            let full = root.join(&entry.path);
            let metadata = full.symlink_metadata().at(&full)?;
            set_attributes(entry, &full, &metadata)?;
        }
        rustix::fs::utimensat(CWD, &root, &timestamps(self.mtime), AtFlags::empty())
            .map_err(io::Error::from)
            .at(&root)
    }
}

/// Whether what lies at `full` is the content that `entry` tells of.
fn is_same(
    entry: &Entry,
    full: &Path,
    metadata: &fs::Metadata,
    known: &mut StatCache,
) -> Result<bool, MirrorError> {
    let kind = metadata.file_type();
    Ok(match &entry.kind {
        Kind::Dir => kind.is_dir(),
        Kind::Link { target } => {
            kind.is_symlink()
                && metadata.mtime() == entry.mtime
                && fs::read_link(full).at(full)? == *target
        }
        Kind::File { size, digest } if kind.is_file() && metadata.len() == *size => {
            let found = manifest::digest(metadata, known, || File::open(full)).at(full)?;
            found == (*digest, *size)
        }
        Kind::Fifo | Kind::File { .. } => false,
    })
}

/// Sets mode and time where they differ: each change makes the file one that is not known.
fn set_attributes(entry: &Entry, full: &Path, found: &fs::Metadata) -> Result<(), MirrorError> {
    if found.mode() & 0o7777 != entry.mode {
        fs::set_permissions(full, Permissions::from_mode(entry.mode)).at(full)?;
    }
    if (found.mtime(), found.mtime_nsec()) != (entry.mtime, 0) {
        rustix::fs::utimensat(CWD, full, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .at(full)?;
    }
    Ok(())
}

fn time(seconds: i64) -> SystemTime {
    let away = Duration::from_secs(seconds.unsigned_abs());
    let time =
        if seconds < 0 { UNIX_EPOCH.checked_sub(away) } else { UNIX_EPOCH.checked_add(away) };
    time.unwrap_or(UNIX_EPOCH)
}

fn timestamps(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
