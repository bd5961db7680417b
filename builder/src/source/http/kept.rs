//! What is kept of a URL, so that an unchanged file is not downloaded again.
//!
//! ```text
//! cache-mounts/<hash of the URL>/0/
//!   body           the bytes as they came, 0600, with the server's time
//!   record.json    their digest and size, and what the server calls this version
//!   partial        a download under way, or one that was broken off
//! ```
//!
//! Invariants: whoever has the directory has it alone; the record comes after the body, by rename;
//! a body is used only after its bytes gave the record's digest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cache::{CacheMount, Digest, HashingReader, TempDir};
use serde::{Deserialize, Serialize};

/// What the server said with the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// `sha256:<hex>` of the body.
    pub(super) digest: String,
    /// In bytes.
    pub(super) size: u64,
    /// `ETag`, as it was sent.
    pub(super) etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub(super) last_modified: Option<String>,
}

impl Record {
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest).ok()
    }
}

/// The directory of one URL, had alone.
#[derive(Debug)]
pub(super) struct Kept {
    mount: CacheMount,
}

impl Kept {
    pub(super) fn new(mount: CacheMount) -> Self {
        Self { mount }
    }

    fn body(&self) -> PathBuf {
        self.mount.path().join("body")
    }

    fn record_path(&self) -> PathBuf {
        self.mount.path().join("record.json")
    }

    /// Where a download goes.
    pub(super) fn partial(&self) -> PathBuf {
        self.mount.path().join("partial")
    }

    /// Returns what is known of the body; `None` where there is none, or nothing can be believed.
    pub(super) fn record(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record_path()).ok()?).ok()?;
        record.digest()?;
        let size = fs::metadata(self.body()).ok()?.len();
        (size == record.size).then_some(record)
    }

    /// Puts the finished download in the place of what was there.
    pub(super) fn replace(&self, record: &Record) -> io::Result<()> {
        self.forget()?;
        fs::rename(self.partial(), self.body())?;
        let new = self.mount.path().join("record.new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(new, self.record_path())
    }

    /// Drops what was found to be damaged.
    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.record_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the body a second name in `dir`, where it stays although it may be replaced here.
    pub(super) fn link(&self, dir: &TempDir, name: &str) -> io::Result<()> {
        fs::hard_link(self.body(), dir.path().join(name))
    }
}

/// Digests a file.
pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut reader = HashingReader::new(File::open(path)?);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish().1)
}
