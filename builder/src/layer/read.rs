//! The one reader for tar archives from outside: layers, contexts, archives that ADD unpacks.
//!
//! Invariants: whatever two parsers could read differently is refused: bad checksums, negative or
//! overlong numbers, malformed or doubled extension headers, content behind entries that have
//! none. Where header and PAX record both give a size, the record wins (POSIX) and the settled
//! size is the one that is skipped. Every count, size and length has a bound. After the end
//! marker the rest is read to its end, so that a digest of the whole can be taken in passing.

use std::io::{self, BufReader, Read};

use super::Limits;
use super::entry::{TarEntry, TarKind};
use super::header::{BLOCK, XATTR_RECORD, checksum_fits, lossy, number, padding, records};
use super::sparse::{self, HeadMap, OldMap, SparseMap, SparseRecords};
use crate::rootfs::{Time, is_portable};

/// Bytes of one PAX header or GNU long name at most; Go's reader has the same bound.
const MAX_EXTENSION: u64 = 1 << 20;

/// Read ahead, so that headers do not cost a system call each.
const BUFFER: usize = 256 * 1024;

/// Why an archive is refused, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading or writing failed.
    #[error("could not read or write the archive")]
    Io(#[from] io::Error),
    /// The archive ends inside of an entry.
    #[error("the archive is cut off")]
    Truncated,
    /// A header's checksum does not fit, or the block is no header.
    #[error("the archive holds an invalid header")]
    Header,
    /// A field is not a number, or one that cannot be.
    #[error("the archive holds an invalid {field}")]
    Number {
        /// The field.
        field: &'static str,
    },
    /// Malformed PAX records.
    #[error("the archive holds malformed PAX records")]
    Pax,
    /// Two statements about one entry that contradict, or extension headers that parsers disagree
    /// about.
    #[error("the archive is ambiguous: {reason}")]
    Ambiguous {
        /// What is there twice.
        reason: &'static str,
    },
    /// An entry of a kind that has no place in a file tree.
    #[error("the archive holds `{path}` of unsupported type `{flag}`")]
    Unsupported {
        /// Its path.
        path: String,
        /// Its type flag.
        flag: char,
    },
    /// A bound of [`Limits`] is reached.
    #[error("the archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An attribute's name cannot be written as a PAX record.
    #[error("`{path}` has the extended attribute `{name}`, which an archive cannot hold")]
    Xattr {
        /// Path of the entry.
        path: String,
        /// Name of the attribute.
        name: String,
    },
    /// A file became shorter or longer while it was read.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// Path of the entry.
        path: String,
    },
}

/// Reads entries one by one; between two of them it is a reader of the content.
pub struct TarReader<R> {
    inner: BufReader<R>,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Content of the current entry not yet read, and the padding after it.
    remaining: u64,
    padding: usize,
    /// What of the current entry is stored, where it is a sparse file.
    sparse: Option<SparseMap>,
    ended: bool,
}

impl<R> std::fmt::Debug for TarReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarReader").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// Extension headers that wait for the entry that they describe.
#[derive(Default)]
struct Extensions {
    pax: Option<Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Reads an uncompressed archive within `limits`.
    pub fn new(inner: R, limits: Limits) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER, inner),
            limits,
            entries: 0,
            bytes: 0,
            remaining: 0,
            padding: 0,
            sparse: None,
            ended: false,
        }
    }

    /// Returns the next entry, skipping what is left of the one before; `None` at the end, when
    /// the underlying reader has been read to its own end.
    ///
    /// # Errors
    ///
    /// [`TarError`]; the reader is of no use afterwards.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        let mut extensions = Extensions::default();
        while let Some(block) = self.header_block()? {
            let size = number(&block[124..136]).and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or(TarError::Number { field: "size" })?;
            match block[156] {
                b'x' => self.extension(&mut extensions.pax, size)?,
                b'L' => self.extension(&mut extensions.long_name, size)?,
                b'K' => self.extension(&mut extensions.long_link, size)?,
                b'g' => self.global_extension(size)?,
                _ => return self.entry(&block, size, extensions).map(Some),
            }
        }
        if extensions.pax.is_some()
            || extensions.long_name.is_some()
            || extensions.long_link.is_some()
        {
            return Err(TarError::Truncated);
        }
        Ok(None)
    }

    /// Reads the next header; `None` at the end marker or where the archive ends without one.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block == [0; BLOCK] {
            if self.block()?.is_some_and(|second| second != [0; BLOCK]) {
                return Err(TarError::Header);
            }
            self.ended = true;
            self.drain()?;
            return Ok(None);
        }
        let stored = number(&block[148..156]).ok_or(TarError::Header)?;
        if !checksum_fits(&block, stored) {
            return Err(TarError::Header);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(TarError::Limit { what: "entries", limit: self.limits.entries });
        }
        Ok(Some(block))
    }

    /// Reads one block; `None` if there is not a single byte more.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    /// What follows the end marker is padding of the medium; it counts against the same bound.
    fn drain(&mut self) -> Result<(), TarError> {
        let limit = self.limits.bytes;
        let read = io::copy(&mut (&mut self.inner).take(limit), &mut io::sink())?;
        if read == limit && limit > 0 && self.block()?.is_some() {
            return Err(TarError::Limit { what: "bytes after its end", limit });
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let rest = self.remaining + self.padding as u64;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        // umoci before 0.5 ends its layers with the last content, unpadded, and Go's reader, which
        // all peers use, takes them.
        let is_whole = skipped >= self.remaining;
        self.remaining = 0;
        self.padding = 0;
        self.sparse = None;
        if is_whole { Ok(()) } else { Err(TarError::Truncated) }
    }

    fn extension(&mut self, slot: &mut Option<Vec<u8>>, size: u64) -> Result<(), TarError> {
        if slot.is_some() {
            return Err(TarError::Ambiguous { reason: "two extension headers for one entry" });
        }
        if size > MAX_EXTENSION {
            return Err(TarError::Limit {
                what: "bytes in an extension header",
                limit: MAX_EXTENSION,
            });
        }
        let mut content = Vec::new();
        (&mut self.inner).take(size).read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return Err(TarError::Truncated);
        }
        self.padding = padding(size);
        self.skip_content()?;
        *slot = Some(content);
        Ok(())
    }

    /// Global records say nothing about a tree, git's comment above all; those that would change
    /// every entry after them are read by some parsers only.
    fn global_extension(&mut self, size: u64) -> Result<(), TarError> {
        let mut content = None;
        self.extension(&mut content, size)?;
        for (key, _) in records(&content.unwrap_or_default())? {
            if matches!(key, b"path" | b"linkpath" | b"size") {
                return Err(TarError::Ambiguous { reason: "a global header that names files" });
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        extensions: Extensions,
    ) -> Result<TarEntry, TarError> {
        let mut entry = plain_entry(block, size)?;
        let mut sparse = SparseRecords::default();
        if let Some(name) = extensions.long_name {
            entry.path = until_nul(&name).to_vec();
        }
        if let Some(link) = extensions.long_link {
            entry.link = until_nul(&link).to_vec();
        }
        let mut is_sparse = false;
        if let Some(pax) = extensions.pax {
            is_sparse = merge(&mut entry, &mut sparse, &pax)?;
        }
        self.remaining = entry.size;
        self.padding = padding(entry.size);
        self.sparse = if block[156] == b'S' {
            Some(self.old_map(block)?)
        } else if is_sparse && entry.kind == TarKind::File {
            entry.path = sparse.name.take().unwrap_or(entry.path);
            Some(self.map_of_records(sparse)?)
        } else {
            None
        };
        if let Some(map) = &self.sparse {
            entry.size = map.size();
        }
        self.check(&entry)?;
        Ok(entry)
    }

    /// Reads the map of a sparse file from its header and the blocks behind it.
    fn old_map(&mut self, header: &[u8; BLOCK]) -> Result<SparseMap, TarError> {
        // Other formats have other fields where the map is.
        if &header[257..265] != b"ustar  \0" {
            return Err(TarError::Header);
        }
        let mut map = OldMap::of_header(header)?;
        while map.continues {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            map.add_block(&block)?;
        }
        map.finish(self.remaining)
    }

    /// Makes the map of a sparse file from its PAX records, or from the head of its content.
    fn map_of_records(&mut self, records: SparseRecords) -> Result<SparseMap, TarError> {
        if !records.is_in_content()? {
            return records.finish(None, self.remaining);
        }
        let mut head = HeadMap::default();
        loop {
            self.remaining = self.remaining.checked_sub(BLOCK as u64).ok_or(TarError::Truncated)?;
            let block = self.block()?.ok_or(TarError::Truncated)?;
            if head.add_block(&block)? {
                return records.finish(Some(head.numbers()), self.remaining);
            }
        }
    }

    /// Skips the hole of a sparse file that is next, and returns its size in bytes: reading it gives
    /// as many zeros.
    pub(crate) fn skip_hole(&mut self) -> u64 {
        let Some(map) = &mut self.sparse else { return 0 };
        let hole = map.hole();
        map.advance(hole);
        hole
    }

    fn check(&mut self, entry: &TarEntry) -> Result<(), TarError> {
        if entry.kind != TarKind::File && entry.size > 0 {
            return Err(TarError::Ambiguous { reason: "content behind an entry that has none" });
        }
        if entry.path.is_empty() || entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(TarError::Number { field: "path" });
        }
        let limit = self.limits.path_bytes;
        if entry.path.len() > limit || entry.link.len() > limit {
            return Err(TarError::Limit { what: "bytes in a path", limit: limit as u64 });
        }
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(TarError::Limit { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bounded = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
        let mut wanted = bounded(self.remaining);
        if let Some(map) = &mut self.sparse {
            let hole = bounded(map.hole());
            if hole > 0 {
                buffer[..hole].fill(0);
                map.advance(hole as u64);
                return Ok(hole);
            }
            wanted = bounded(map.stored());
        }
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Truncated));
        }
        self.remaining -= read as u64;
        if let Some(map) = &mut self.sparse {
            map.advance(read as u64);
        }
        Ok(read)
    }
}

/// Reads the fields of a header block.
fn plain_entry(block: &[u8; BLOCK], size: u64) -> Result<TarEntry, TarError> {
    let is_posix = &block[257..263] == b"ustar\0";
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    let path =
        if is_posix && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() };
    let kind = kind_of(block[156], &path)?;
    let small = |range: std::ops::Range<usize>, field: &'static str| {
        let value = number(&block[range]).and_then(|value| u32::try_from(value).ok());
        value.filter(|&value| value < u32::MAX).ok_or(TarError::Number { field })
    };
    let device = match kind {
        TarKind::CharDevice | TarKind::BlockDevice => {
            (small(329..337, "device number")?, small(337..345, "device number")?)
        }
        _ => (0, 0),
    };
    let seconds = number(&block[136..148]).ok_or(TarError::Number { field: "time" })?;
    Ok(TarEntry {
        kind,
        mode: small(100..108, "mode")? & 0o7777,
        uid: small(108..116, "user id")?,
        gid: small(116..124, "group id")?,
        size,
        mtime: Time { seconds, nanoseconds: 0 },
        link: until_nul(&block[157..257]).to_vec(),
        device,
        xattrs: Vec::new(),
        path,
    })
}

fn kind_of(flag: u8, path: &[u8]) -> Result<TarKind, TarError> {
    match flag {
        // Archives older than ustar have no flag for directories.
        0 if path.ends_with(b"/") => Ok(TarKind::Dir),
        0 | b'0' | b'7' | b'S' => Ok(TarKind::File),
        b'1' => Ok(TarKind::HardLink),
        b'2' => Ok(TarKind::Symlink),
        b'3' => Ok(TarKind::CharDevice),
        b'4' => Ok(TarKind::BlockDevice),
        b'5' => Ok(TarKind::Dir),
        b'6' => Ok(TarKind::Fifo),
        flag => Err(TarError::Unsupported { path: lossy(path), flag: char::from(flag) }),
    }
}

/// Applies PAX records: later ones win, empty ones say nothing (POSIX pax). Returns whether they
/// are those of a sparse file.
fn merge(entry: &mut TarEntry, sparse: &mut SparseRecords, pax: &[u8]) -> Result<bool, TarError> {
    let mut is_sparse = false;
    for (key, value) in records(pax)? {
        if value.is_empty() {
            continue;
        }
        match key {
            b"path" => entry.path = value.to_vec(),
            b"linkpath" => entry.link = value.to_vec(),
            b"size" => entry.size = decimal(value).ok_or(TarError::Number { field: "size" })?,
            b"uid" => entry.uid = id(value).ok_or(TarError::Number { field: "user id" })?,
            b"gid" => entry.gid = id(value).ok_or(TarError::Number { field: "group id" })?,
            b"mtime" => entry.mtime = time(value).ok_or(TarError::Number { field: "time" })?,
            _ => {
                if let Some(key) = key.strip_prefix(sparse::RECORD) {
                    is_sparse = true;
                    sparse.add(key, value)?;
                }
                let xattr = key.strip_prefix(XATTR_RECORD);
                if let Some(name) = xattr.filter(|name| is_portable(name)) {
                    entry.xattrs.retain(|(known, _)| known != name);
                    entry.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    entry.xattrs.sort();
    Ok(is_sparse)
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// All bits set is no id: to chown(2) it means "leave it".
fn id(text: &[u8]) -> Option<u32> {
    decimal(text).and_then(|id| u32::try_from(id).ok()).filter(|&id| id < u32::MAX)
}

/// Parses `SECONDS[.FRACTION]`, possibly negative; digits beyond nanoseconds are cut.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Time {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Time { seconds, nanoseconds })
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}
