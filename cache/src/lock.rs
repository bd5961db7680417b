//! Advisory file locks (flock(2)): they belong to an open file, so the kernel drops them with the
//! process, however it ends. Nothing here writes a process id.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};

/// A lock that lasts as long as this value.
///
/// Each lock opens the file anew, so that two threads of one process exclude each other as two
/// processes do.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Waits until nobody holds the file at `path` exclusively, then holds it with others.
    pub(crate) fn shared(path: &Path) -> io::Result<Self> {
        Self::wait(open_file(path)?, FlockOperation::LockShared)
    }

    /// Waits until nobody holds the file at `path`, then holds it alone.
    pub(crate) fn exclusive(path: &Path) -> io::Result<Self> {
        Self::wait(open_file(path)?, FlockOperation::LockExclusive)
    }

    /// Holds the file at `path` with others; `None` when somebody holds it alone.
    pub(crate) fn try_shared(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(open_file(path)?, FlockOperation::NonBlockingLockShared)
    }

    /// Holds the file at `path` alone; `None` when anybody else holds it.
    pub(crate) fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(open_file(path)?, FlockOperation::NonBlockingLockExclusive)
    }

    /// As [`FileLock::shared`], on a directory.
    pub(crate) fn shared_dir(path: &Path) -> io::Result<Self> {
        Self::wait(open_dir(path)?, FlockOperation::LockShared)
    }

    /// As [`FileLock::exclusive`], on a directory.
    pub(crate) fn exclusive_dir(path: &Path) -> io::Result<Self> {
        Self::wait(open_dir(path)?, FlockOperation::LockExclusive)
    }

    /// As [`FileLock::try_exclusive`], on a directory.
    pub(crate) fn try_exclusive_dir(path: &Path) -> io::Result<Option<Self>> {
        Self::attempt(open_dir(path)?, FlockOperation::NonBlockingLockExclusive)
    }

    fn wait(file: File, operation: FlockOperation) -> io::Result<Self> {
        retry_on_intr(|| flock(&file, operation))?;
        Ok(Self { _file: file })
    }

    fn attempt(file: File, operation: FlockOperation) -> io::Result<Option<Self>> {
        match retry_on_intr(|| flock(&file, operation)) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed())
        .open(path)
}
