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

/// What tells a file from all others: device and inode.
type Name = ((u32, u32), u64);

impl FileStat {
    const fn name(&self) -> Name {
        (self.device, self.inode)
    }
}

/// What is known of one context's files.
#[derive(Debug, Default)]
pub struct StatCache {
    /// The file as it was read, whose entries are used where they lie: there may be very many.
    file: Vec<u8>,
    /// For each of its entries, whether it was asked for since.
    used: Vec<bool>,
    /// Learnt since it was read.
    new: HashMap<Name, (FileStat, Digest)>,
}

impl StatCache {
    /// Returns the digest of the file that `stat` describes, if it is known.
    pub fn get(&mut self, stat: &FileStat) -> Option<Digest> {
        if let Some((known, digest)) = self.new.get(&stat.name()) {
            return (known == stat).then_some(*digest);
        }
        let at = find(entries(&self.file), stat.name())?;
        let (known, digest) = decode_entry(&entries(&self.file)[at])?;
        (known == *stat).then(|| {
            self.used[at] = true;
            digest
        })
    }

    /// Learns the digest of a file that was read, beginning at `since`, while it was as `stat`
    /// says; forgotten if the file had not settled by then.
    pub fn put(&mut self, stat: FileStat, digest: Digest, since: SystemTime) {
        if stat.is_settled(since) {
            self.new.insert(stat.name(), (stat, digest));
        }
    }

    pub(crate) fn load(path: &Path) -> Self {
        let mut file = Vec::new();
        let read = File::open(path).and_then(|mut opened| opened.read_to_end(&mut file));
        if read.is_err() {
            return Self::default();
        }
        if !is_whole(&file) {
            tracing::warn!(path = %path.display(), "damaged: all files are read again");
            return Self::default();
        }
        let used = vec![false; entries(&file).len()];
        Self { file, used, new: HashMap::new() }
    }

    /// Writes what is new to `path`, if anything is.
    pub(crate) fn save(&self, session: &Session, path: &Path) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            make_dir(dir, true).at("create", dir)?;
            if !path.exists() {
                make_room(dir);
            }
        }
        let unused = self.used.iter().filter(|used| !**used).count();
        let keeps = |used: bool| used || unused <= MAX_UNUSED;
        let old = entries(&self.file).iter().zip(&self.used).filter(|(_, used)| keeps(**used));
        let old = old.filter_map(|(entry, _)| decode_entry(entry));
        let old = old.filter(|(stat, _)| !self.new.contains_key(&stat.name()));
        let all = old.chain(self.new.values().copied()).collect();
        replace_bytes(session, path, &encode(all), Durability::Later)
    }
}

/// Returns what stands under the header.
fn entries(file: &[u8]) -> &[[u8; ENTRY]] {
    file.get(HEADER..).unwrap_or_default().as_chunks().0
}

/// Whether the file is as it was written.
fn is_whole(file: &[u8]) -> bool {
    let Some((header, body)) = file.split_at_checked(HEADER) else { return false };
    header.starts_with(MAGIC)
        && body.len() % ENTRY == 0
        && header[MAGIC.len()..] == *Digest::of(body).as_bytes()
}

fn find(entries: &[[u8; ENTRY]], name: Name) -> Option<usize> {
    let name_of = |entry: &[u8; ENTRY]| decode_entry(entry).map(|(stat, _)| stat.name());
    entries.binary_search_by(|entry| name_of(entry).cmp(&Some(name))).ok()
}

fn encode(mut all: Vec<(FileStat, Digest)>) -> Vec<u8> {
    all.sort_unstable();
    let mut file = Vec::with_capacity(HEADER + all.len() * ENTRY);
    file.extend(MAGIC);
    file.extend([0; 32]);
    for (stat, digest) in all {
        file.extend(stat.device.0.to_le_bytes());
        file.extend(stat.device.1.to_le_bytes());
        file.extend(stat.inode.to_le_bytes());
        file.extend(stat.size.to_le_bytes());
        for (seconds, nanoseconds) in [stat.ctime, stat.mtime] {
            file.extend(seconds.to_le_bytes());
            file.extend(nanoseconds.to_le_bytes());
        }
        file.extend(digest.as_bytes());
        file.extend([0; 8]);
    }
    let digest = Digest::of(&file[HEADER..]);
    file[MAGIC.len()..HEADER].copy_from_slice(digest.as_bytes());
    file
}

/// Reads one entry; only a shape that no entry has gives `None`.
fn decode_entry(entry: &[u8; ENTRY]) -> Option<(FileStat, Digest)> {
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
    Some((stat, Digest::from_bytes(entry[48..80].try_into().ok()?)))
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
    fn what_was_saved_is_found_and_the_newer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stat");
        let of = |inode: u64, size: u64| FileStat { size, ..stat(inode, (5, 1), (4, 1)) };
        let all: Vec<_> = (0..200).rev().map(|inode| (of(inode, 1), Digest::of(b"x"))).collect();
        fs::write(&path, encode(all)).unwrap();
        let mut cache = StatCache::load(&path);
        for inode in 0..200 {
            assert_eq!(cache.get(&of(inode, 1)), Some(Digest::of(b"x")), "inode {inode}");
        }
        assert_eq!(cache.get(&of(200, 1)), None);
        cache.put(of(7, 2), Digest::of(b"y"), at(100, 0));
        assert_eq!(cache.get(&of(7, 1)), None);
        assert_eq!(cache.get(&of(7, 2)), Some(Digest::of(b"y")));
    }

    #[test]
    fn damage_at_any_byte_is_an_empty_cache() {
        let stats = [
            (stat(1, (5, 1), (4, 1)), Digest::of(b"x")),
            (stat(2, (-5, 7), (i64::MAX, 999_999_999)), Digest::of(b"y")),
        ];
        let whole = encode(stats.to_vec());
        assert_eq!(whole.len(), HEADER + 2 * ENTRY);
        assert!(is_whole(&whole), "what is written is read");
        let read: Vec<_> = entries(&whole).iter().filter_map(decode_entry).collect();
        assert_eq!(read, stats);
        for at in 0..whole.len() {
            assert!(!is_whole(&whole[..at]), "cut at byte {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(!is_whole(&flipped), "flipped at byte {at}");
        }
    }
}
