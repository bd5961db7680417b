//! Digests of files that were read before: what saves reading an unchanged context again.
//!
//! ```text
//! "rbuild stat 1\n"  sha256 of all that follows (32)  entries of 88 bytes, sorted:
//!   device major, minor (4 + 4)  inode (8)  size (8)
//!   ctime, mtime: seconds (8), nanoseconds (4), each  digest (32)  zero (8)
//! ```
//!
//! Numbers are little-endian. One file a context directory, loaded once a build; whoever saves last
//! wins, and what the other knew is read again. A file that is torn or damaged is empty.
//!
//! Invariants: an entry is used only while device, inode, size, ctime and mtime are the same, all
//! to the nanosecond. It is kept only if the file had been left alone for `SETTLED` when it was
//! read (git's "racily clean" rule, `Documentation/technical/racy-git.txt`): a write in the same
//! tick of the clock cannot hide behind the times of the one before it. A clock set back makes
//! times that lie in the future, which are never settled.
//!
//! What is not seen: a write through a shared mapping whose page has been dirty since before the
//! file was read; the kernel stamps the file when a page becomes writable, not at every store.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::document::{Durability, replace_bytes};
use crate::error::{AtPath, Result};
use crate::layout::make_dir;
use crate::session::Session;

/// How long a file's times must lie back when it is read. Kernel clocks tick every 1 to 10 ms.
const SETTLED: Duration = Duration::from_millis(50);

/// The same for times without fractions, which some file systems keep (FAT: every 2 s).
const SETTLED_WHOLE_SECONDS: Duration = Duration::from_secs(3);

const MAGIC: &[u8] = b"rbuild stat 1\n";
const ENTRY: usize = 88;
const HEADER: usize = MAGIC.len() + 32;

/// Contexts remembered; the one unused longest goes first.
const MAX_FILES: usize = 64;

/// Files of one context remembered although no build of late selected them, beyond those it did.
const MAX_UNUSED: usize = 20_000;

/// What must be the same for a file to be unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileStat {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of anything: seconds since 1970 and nanoseconds.
    pub ctime: (i64, u32),
    /// Last change of the content: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
}

impl FileStat {
    /// Whether a read that began at `now` saw the last write that these times can tell of.
    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        [self.ctime, self.mtime].into_iter().all(|(seconds, nanoseconds)| {
            let slack = if nanoseconds == 0 { SETTLED_WHOLE_SECONDS } else { SETTLED };
            // Before 1970 is long ago.
            let Ok(seconds) = u64::try_from(seconds) else { return true };
            Duration::new(seconds, nanoseconds).saturating_add(slack) < now
        })
    }
}

/// Files by device and inode.
type Files = HashMap<(u32, u32, u64), (FileStat, Digest)>;

/// What is known of one context's files.
#[derive(Debug, Default)]
pub struct StatCache {
    known: Files,
    /// Looked up or learnt since it was loaded.
    used: Files,
    has_new: bool,
}

impl StatCache {
    /// Returns the digest of the file that `stat` describes, if it is known.
    pub fn get(&mut self, stat: &FileStat) -> Option<Digest> {
        let name = (stat.device.0, stat.device.1, stat.inode);
        let found = self.known.get(&name).filter(|(known, _)| known == stat)?;
        self.used.insert(name, *found);
        Some(found.1)
    }

    /// Learns the digest of a file that was read, beginning at `since`, while it was as `stat`
    /// says; forgotten if the file had not settled by then.
    pub fn put(&mut self, stat: FileStat, digest: Digest, since: SystemTime) {
        let name = (stat.device.0, stat.device.1, stat.inode);
        if stat.is_settled(since) {
            self.known.insert(name, (stat, digest));
            self.used.insert(name, (stat, digest));
            self.has_new = true;
        }
    }

    /// Returns how many files are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn load(path: &Path) -> Self {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
        if read.is_err() {
            return Self::default();
        }
        let known = decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "damaged: all files are read again");
            HashMap::new()
        });
        Self { known, ..Self::default() }
    }

    /// Writes what is new to `path`, if anything is.
    pub(crate) fn save(&self, session: &Session, path: &Path) -> Result<()> {
        if !self.has_new {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            make_dir(dir, true).at("create", dir)?;
            if !path.exists() {
                make_room(dir);
            }
        }
        let unused = self.known.len() - self.used.len();
        let kept = if unused > MAX_UNUSED { &self.used } else { &self.known };
        replace_bytes(session, path, &encode(kept.values()), Durability::Later)
    }
}

fn encode<'a>(known: impl Iterator<Item = &'a (FileStat, Digest)>) -> Vec<u8> {
    let mut sorted: Vec<&(FileStat, Digest)> = known.collect();
    sorted.sort_unstable();
    let mut body = Vec::with_capacity(sorted.len() * ENTRY);
    for (stat, digest) in sorted {
        body.extend(stat.device.0.to_le_bytes());
        body.extend(stat.device.1.to_le_bytes());
        body.extend(stat.inode.to_le_bytes());
        body.extend(stat.size.to_le_bytes());
        for (seconds, nanoseconds) in [stat.ctime, stat.mtime] {
            body.extend(seconds.to_le_bytes());
            body.extend(nanoseconds.to_le_bytes());
        }
        body.extend(digest.as_bytes());
        body.extend([0; 8]);
    }
    [MAGIC, Digest::of(&body).as_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Files> {
    let body = bytes.strip_prefix(MAGIC)?.get(32..)?;
    if Digest::of(body).as_bytes() != &bytes[MAGIC.len()..HEADER] || body.len() % ENTRY != 0 {
        return None;
    }
    let entry = |entry: &[u8]| {
        let u32_at = |at: usize| entry[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let u64_at = |at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let time_at = |at: usize| Some((u64_at(at)?.cast_signed(), u32_at(at + 8)?));
        let stat = FileStat {
            device: (u32_at(0)?, u32_at(4)?),
            inode: u64_at(8)?,
            size: u64_at(16)?,
            ctime: time_at(24)?,
            mtime: time_at(36)?,
        };
        let digest = Digest::from_bytes(entry[48..80].try_into().ok()?);
        Some(((stat.device.0, stat.device.1, stat.inode), (stat, digest)))
    };
    body.chunks_exact(ENTRY).map(entry).collect()
}

/// Removes the file unused longest where there are too many. A failure costs room, nothing else.
fn make_room(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort_unstable();
    let surplus = (files.len() + 1).saturating_sub(MAX_FILES);
    for (_, path) in &files[..surplus] {
        drop(fs::remove_file(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(inode: u64, ctime: (i64, u32), mtime: (i64, u32)) -> FileStat {
        FileStat { device: (8, 1), inode, size: 10, ctime, mtime }
    }

    fn at(seconds: u64, millis: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)
    }

    #[test]
    fn only_settled_files_are_kept() {
        let (old, ms) = ((90, 1), 1_000_000);
        #[rustfmt::skip]
        let cases = [
            ("long ago",                  old,           old,           at(100, 0),  true),
            ("just written",              (100, 1),      (100, 1),      at(100, 0),  false),
            ("within the slack",          (100, 10 * ms), old,          at(100, 40), false),
            ("after the slack",           (100, 10 * ms), old,          at(100, 61), true),
            ("mtime in the future",       old,           (200, 1),      at(100, 0),  false),
            ("clock set back since",      (200, 1),      old,           at(100, 0),  false),
            ("whole seconds, close",      (99, 0),       (99, 0),       at(101, 0),  false),
            ("whole seconds, far",        (90, 0),       (90, 0),       at(101, 0),  true),
            ("before 1970",               old,           (-5, 1),       at(100, 0),  true),
            ("no clock at all",           old,           old,           UNIX_EPOCH,  false),
        ];
        for (name, ctime, mtime, since, want) in cases {
            let mut cache = StatCache::default();
            let stat = stat(1, ctime, mtime);
            cache.put(stat, Digest::of(b"x"), since);
            assert_eq!(cache.get(&stat).is_some(), want, "{name}");
        }
    }

    #[test]
    fn any_other_stat_is_a_miss() {
        let mut cache = StatCache::default();
        let known = stat(1, (5, 1), (4, 1));
        cache.put(known, Digest::of(b"x"), at(100, 0));
        #[rustfmt::skip]
        let others = [
            ("device", FileStat { device: (8, 2), ..known }),
            ("inode",  FileStat { inode: 2, ..known }),
            ("size",   FileStat { size: 11, ..known }),
            ("ctime",  FileStat { ctime: (5, 2), ..known }),
            ("mtime",  FileStat { mtime: (4, 2), ..known }),
        ];
        for (name, other) in others {
            assert_eq!(cache.get(&other), None, "{name}");
        }
        assert_eq!(cache.get(&known), Some(Digest::of(b"x")));
    }

    #[test]
    fn damage_at_any_byte_is_an_empty_cache() {
        let entries = [
            (stat(1, (5, 1), (4, 1)), Digest::of(b"x")),
            (stat(2, (-5, 7), (i64::MAX, 999_999_999)), Digest::of(b"y")),
        ];
        let whole = encode(entries.iter());
        assert_eq!(whole.len(), HEADER + 2 * ENTRY);
        let read = decode(&whole).expect("what is written is read");
        assert_eq!(read.len(), 2);
        assert!(entries.iter().all(|entry| read.values().any(|it| it == entry)));
        for at in 0..whole.len() {
            assert_eq!(decode(&whole[..at]), None, "cut at byte {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "flipped at byte {at}");
        }
    }
}
