//! What earlier builds learnt of a directory's files: their digests, as long as they are unchanged.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use cache::{Digest, FileStat, StatCache, Store};

use crate::rootfs::{LayeredRoot, Metadata};

/// File systems of this machine's kernel that stamp every change with their own clock, which is the
/// machine's (`linux/magic.h`). The clock of a server, or of a program behind FUSE, is not.
const LOCAL: [u64; 6] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // f2fs
];

/// The stat cache of one directory.
#[derive(Debug)]
pub(crate) struct KnownFiles {
    dir: PathBuf,
    /// Files of other file systems, mounted below, are not known.
    device: (u32, u32),
    /// Read, and checked to be whole, while the build is planned.
    cache: Loading,
}

/// A stat cache that is there when it is needed.
type Loading = LazyLock<Mutex<StatCache>, Box<dyn FnOnce() -> Mutex<StatCache> + Send>>;

impl KnownFiles {
    /// Loads what `store` has of `dir`, opened as `root`; `None` where times cannot be relied on.
    pub(crate) fn load(store: &Store, dir: &Path, root: &LayeredRoot) -> Option<Self> {
        let kind = rustix::fs::statfs(dir).ok()?.f_type;
        if !LOCAL.contains(&u64::try_from(kind).ok()?) {
            return None;
        }
        let dir = dir.canonicalize().ok()?;
        let device = root.metadata("").ok()??.inode.device();
        let load = {
            let (store, dir) = (store.clone(), dir.clone());
            move || store.stat_cache(&dir)
        };
        let begun = thread::Builder::new().name("stat-cache".into()).spawn(load.clone());
        let cache: Loading = LazyLock::new(Box::new(move || {
            // Without a thread it is loaded where it is needed.
            let loaded = begun.ok().and_then(|thread| thread.join().ok());
            Mutex::new(loaded.unwrap_or_else(load))
        }));
        Some(Self { dir, device, cache })
    }

    /// Returns the digest of the file that `metadata` describes, if it is known to have no
    /// extended attributes.
    pub(crate) fn get(&self, metadata: &Metadata) -> Option<Digest> {
        let stat = self.stat(metadata)?;
        self.cache().get(&stat)
    }

    /// Learns the digest of a file without extended attributes, whose reading began at `since`.
    pub(crate) fn put(&self, metadata: &Metadata, digest: Digest, since: SystemTime) {
        if let Some(stat) = self.stat(metadata) {
            self.cache().put(stat, digest, since);
        }
    }

    /// Keeps what was learnt. Losing it costs time, so a failure is told in the log alone.
    pub(crate) fn save(&self, store: &Store) {
        let cache = self.cache();
        if let Err(error) = store.save_stat_cache(&self.dir, &cache) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what was read of the context is not remembered");
        }
    }

    fn cache(&self) -> MutexGuard<'_, StatCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stat(&self, metadata: &Metadata) -> Option<FileStat> {
        let device = metadata.inode.device();
        let time = |time: crate::rootfs::Time| (time.seconds, time.nanoseconds);
        (device == self.device).then(|| FileStat {
            device,
            inode: metadata.inode.number(),
            size: metadata.size,
            ctime: time(metadata.ctime),
            mtime: time(metadata.mtime),
        })
    }
}
