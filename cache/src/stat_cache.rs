//! Digests of files that were read before: what saves reading an unchanged context again.
//!
//! ```text
//! "rbuild stat 2\n"  blocks, each:
//!   number of entries (8)  sha256 of all of them (32)  entries of 88 bytes, sorted:
//!     device major, minor (4 + 4)  inode (8)  size (8)
//!     ctime, mtime: seconds (8), nanoseconds (4), each  digest (32)  zero (8)
//! ```
//!
//! Numbers are little-endian. One file a context directory, loaded once a build. What a build
//! learns is appended as a block, whose entries stand above those before it: most builds learn
//! little of a large context. When that has become much, all is written anew as one block. Whoever
//! does that last wins, and what the other knew is read again. From a block on that is torn or
//! damaged nothing counts.
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
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::document::{Durability, replace_bytes};
use crate::error::{AtPath, Result, found};
use crate::layout::make_dir;
use crate::session::Session;

/// How long a file's times must lie back when it is read. Kernel clocks tick every 1 to 10 ms.
const SETTLED: Duration = Duration::from_millis(50);

/// The same for times without fractions, which some file systems keep (FAT: every 2 s).
const SETTLED_WHOLE_SECONDS: Duration = Duration::from_secs(3);

const MAGIC: &[u8] = b"rbuild stat 2\n";
const ENTRY: usize = 88;
const BLOCK_HEADER: usize = 8 + 32;

/// One file as it is written.
type Encoded = [u8; ENTRY];

/// Contexts remembered; the one unused longest goes first.
const MAX_FILES: usize = 64;

/// Files of one context remembered although no build of late selected them, beyond those it did.
const MAX_UNUSED: usize = 20_000;

/// Files in blocks behind the first up to which another is appended.
const MAX_APPENDED: usize = 512;

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
    /// The file as it was read, whose first block is used where it lies: it may be very long.
    file: Vec<u8>,
    /// How many entries its first block has.
    first: usize,
    /// For each of them, whether it was asked for since.
    used: Vec<bool>,
    /// Where among them the last was found.
    near: usize,
    /// The entries of the blocks behind it: the last of each file, sorted.
    later: Vec<Encoded>,
    /// Whether the file is whole, so that a block may follow.
    is_whole: bool,
    /// Learnt since it was read.
    new: HashMap<Name, (FileStat, Digest)>,
}

impl StatCache {
    /// Returns the digest of the file that `stat` describes, if it is known.
    pub fn get(&mut self, stat: &FileStat) -> Option<Digest> {
        if let Some((known, digest)) = self.new.get(&stat.name()) {
            return (known == stat).then_some(*digest);
        }
        if let Some(at) = find(&self.later, stat.name(), 0) {
            let (known, digest) = decode(&self.later[at])?;
            return (known == *stat).then_some(digest);
        }
        let first = &entries(&self.file)[..self.first];
        let at = find(first, stat.name(), self.near)?;
        self.near = at;
        let (known, digest) = decode(&first[at])?;
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
        // One of another version is none.
        if read.is_err() || !file.starts_with(MAGIC) {
            return Self::default();
        }
        let (blocks, is_whole) = blocks(&file);
        if !is_whole {
            tracing::warn!(path = %path.display(), "damaged: files are read again");
        }
        let first = blocks.first().map_or(0, |block| block.len());
        let mut later: Vec<Encoded> =
            blocks.iter().skip(1).rev().copied().flatten().copied().collect();
        // Of one file's entries the last is first, and stays.
        later.sort_by_key(name_of);
        later.dedup_by_key(|entry| name_of(entry));
        let used = vec![false; first];
        Self { file, first, used, near: 0, later, is_whole, new: HashMap::new() }
    }

    /// Writes what is new to `path`, if anything is.
    pub(crate) fn save(&self, session: &Session, path: &Path) -> Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        if self.is_whole && self.later.len() + self.new.len() <= MAX_APPENDED {
            // It may be gone by now, and one that is made here would have no beginning.
            if let Some(mut file) =
                found(OpenOptions::new().append(true).open(path)).at("open", path)?
            {
                // One write, so that blocks of several processes do not mix.
                let block = encode(self.new.values().copied().collect());
                return file.write_all(&block).at("write", path);
            }
        }
        if let Some(dir) = path.parent() {
            make_dir(dir, true).at("create", dir)?;
            if !path.exists() {
                make_room(dir);
            }
        }
        let unused = self.used.iter().filter(|used| !**used).count();
        let keeps = |used: bool| used || unused <= MAX_UNUSED;
        let first = entries(&self.file).iter().zip(&self.used);
        let first = first.filter(|(entry, used)| {
            keeps(**used) && find(&self.later, name_of(entry), 0).is_none()
        });
        let old = first.map(|(entry, _)| entry).chain(&self.later).filter_map(decode);
        let old = old.filter(|(stat, _)| !self.new.contains_key(&stat.name()));
        let all = old.chain(self.new.values().copied()).collect();
        let file = [MAGIC, &encode(all)].concat();
        replace_bytes(session, path, &file, Durability::Later)
    }
}

/// Returns what stands in the first block and behind it.
fn entries(file: &[u8]) -> &[Encoded] {
    file.get(MAGIC.len() + BLOCK_HEADER..).unwrap_or_default().as_chunks().0
}

/// Returns the blocks of a file up to the first that is not as it was written, and whether that is
/// all of it.
fn blocks(file: &[u8]) -> (Vec<&[Encoded]>, bool) {
    let mut rest = file.get(MAGIC.len()..).unwrap_or_default();
    let mut blocks = Vec::new();
    while let Some((block, behind)) = split_block(rest) {
        blocks.push(block);
        rest = behind;
    }
    let is_whole = rest.is_empty() && !blocks.is_empty();
    (blocks, is_whole)
}

fn split_block(bytes: &[u8]) -> Option<(&[Encoded], &[u8])> {
    let (header, rest) = bytes.split_at_checked(BLOCK_HEADER)?;
    let (count, digest) = header.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(ENTRY)?;
    let (body, behind) = rest.split_at_checked(length)?;
    (digest == Digest::of(body).as_bytes()).then_some((body.as_chunks().0, behind))
}

/// Finds `name` among sorted entries. The search begins at `near`: files of one directory are asked
/// for in a row, and their inodes mostly lie together.
fn find(entries: &[Encoded], name: Name, near: usize) -> Option<usize> {
    let (mut from, mut to) = (near.min(entries.len()), near.min(entries.len()));
    let mut step = 1;
    while from > 0 && name_of(&entries[from - 1]) >= name {
        from = from.saturating_sub(step);
        step *= 2;
    }
    while to < entries.len() && name_of(&entries[to]) <= name {
        to = (to + step).min(entries.len());
        step *= 2;
    }
    let found = entries[from..to].binary_search_by(|entry| name_of(entry).cmp(&name));
    found.ok().map(|at| from + at)
}

/// Writes a block.
fn encode(mut all: Vec<(FileStat, Digest)>) -> Vec<u8> {
    all.sort_unstable();
    let mut block = Vec::with_capacity(BLOCK_HEADER + all.len() * ENTRY);
    block.extend((all.len() as u64).to_le_bytes());
    block.extend([0; 32]);
    for (stat, digest) in all {
        block.extend(stat.device.0.to_le_bytes());
        block.extend(stat.device.1.to_le_bytes());
        block.extend(stat.inode.to_le_bytes());
        block.extend(stat.size.to_le_bytes());
        for (seconds, nanoseconds) in [stat.ctime, stat.mtime] {
            block.extend(seconds.to_le_bytes());
            block.extend(nanoseconds.to_le_bytes());
        }
        block.extend(digest.as_bytes());
        block.extend([0; 8]);
    }
    let digest = Digest::of(&block[BLOCK_HEADER..]);
    block[8..BLOCK_HEADER].copy_from_slice(digest.as_bytes());
    block
}

/// Reads which file an entry is of.
fn name_of(entry: &Encoded) -> Name {
    ((u32_at(entry, 0), u32_at(entry, 4)), u64_at(entry, 8))
}

/// Reads one entry.
fn decode(entry: &Encoded) -> Option<(FileStat, Digest)> {
    let time_at = |at: usize| (u64_at(entry, at).cast_signed(), u32_at(entry, at + 8));
    let (device, inode) = name_of(entry);
    let stat =
        FileStat { device, inode, size: u64_at(entry, 16), ctime: time_at(24), mtime: time_at(36) };
    Some((stat, Digest::from_bytes(entry[48..80].try_into().ok()?)))
}

/// Reads a number of an entry, whose fields lie at fixed places within it.
fn u32_at(entry: &Encoded, at: usize) -> u32 {
    entry[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(entry: &Encoded, at: usize) -> u64 {
    entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
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
mod tests;
