//! Who executes a step: of all that want the same one, in any process, one at a time.
//!
//! Each key is one byte of the file `flights`, locked by an open file description
//! (`F_OFD_SETLK`, fcntl(2)). The kernel drops a lock with its process, so a step whose process
//! was killed is free for the next; and no file is left behind for each key, as flock(2) would
//! need. Two keys that share their first 62 bits wait for each other, which costs time and nothing
//! else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{AtPath, Result};
use crate::key::CacheKey;

/// The right to execute the step of one key, until it is dropped.
#[derive(Debug)]
pub struct Flight {
    /// Holds the lock: it ends when the description is closed.
    _file: File,
}

/// Takes the right to `key` if nobody has it now.
pub(crate) fn take(path: &Path, key: &CacheKey) -> Result<Option<Flight>> {
    let file = open(path).at("open", path)?;
    let range = libc::flock {
        l_type: truncate(libc::F_WRLCK),
        l_whence: truncate(libc::SEEK_SET),
        l_start: offset(key),
        l_len: 1,
        // Must be 0: the lock belongs to no process.
        l_pid: 0,
    };
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(Some(Flight { _file: file })),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(error) => Err(io::Error::from(error)).at("lock", path),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The kernel's type for two constants that fit.
fn truncate(constant: libc::c_int) -> libc::c_short {
    constant.try_into().expect("the constants of fcntl(2) are small")
}

/// The byte that stands for `key`; offsets are positive.
fn offset(key: &CacheKey) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&key.digest().as_bytes()[..8]);
    (u64::from_be_bytes(first) >> 2).cast_signed()
}
