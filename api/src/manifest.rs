//! What a context consists of, as a client tells it to a service before any content.
//!
//! ```text
//! list:   chunk ...
//! chunk:  entry ...
//!   entry: KIND SP MODE(octal) SP MTIME(seconds) SP SIZE SP DIGEST(hex, of files) NUL PATH NUL TARGET(of links) NUL
//! ```
//!
//! Where a chunk ends is told by the path of its last entry alone, so that a file which changed
//! changes one chunk, and one that came or went changes one or two; the service is sent those.
//!
//! Invariants of a list that was decoded: every path is relative, of names without `.` and `..`,
//! there once, and comes after the directory that it lies in, which is one.

mod chunks;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use cache::{Digest, FileStat, HashingReader, StatCache};

pub(crate) use chunks::{ANNOUNCEMENT_LIMIT, Chunk, LIST_LIMIT, announce, announced, pack, unpack};

/// Entries of one; as many as an archive may have.
const ENTRY_LIMIT: usize = 4_000_000;

/// Bytes of a path, and names in one.
const PATH_LIMIT: usize = 4095;
const DEPTH_LIMIT: usize = 512;

/// A file, directory or link of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Below the context's root.
    pub(crate) path: PathBuf,
    /// Permissions, set-uid bits among them.
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File { size: u64, digest: Digest },
    Link { target: PathBuf },
    Fifo,
}

/// Why a manifest is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// It is damaged, or something else.
    #[error("the list of the context's files cannot be read: {0}")]
    Format(String),
    /// A path that leads elsewhere.
    #[error("the context's files cannot include `{}`", .0.display())]
    Path(PathBuf),
    /// More than anybody has.
    #[error("the context has more than {ENTRY_LIMIT} files")]
    Entries,
}

impl ManifestError {
    fn damaged(what: &str) -> Self {
        Self::Format(what.to_owned())
    }
}

/// Writes entries, parents before what is in them, in chunks.
pub(crate) fn encode(entries: &[Entry]) -> Vec<Chunk> {
    let (mut chunks, mut text) = (Vec::new(), Vec::new());
    for entry in entries {
        write(&mut text, entry);
        if ends_chunk(&entry.path) {
            chunks.push(Chunk::of(std::mem::take(&mut text)));
        }
    }
    if !text.is_empty() {
        chunks.push(Chunk::of(text));
    }
    chunks
}

/// Whether a chunk ends behind this path: one in 256 does.
fn ends_chunk(path: &Path) -> bool {
    Digest::of(path.as_os_str().as_bytes()).as_bytes()[0] == 0
}

fn write(text: &mut Vec<u8>, entry: &Entry) {
    let (letter, size, digest, target) = match &entry.kind {
        Kind::Dir => ('d', 0, String::new(), Path::new("")),
        Kind::File { size, digest } => ('f', *size, digest.hex(), Path::new("")),
        Kind::Link { target } => ('l', 0, String::new(), target.as_path()),
        Kind::Fifo => ('p', 0, String::new(), Path::new("")),
    };
    let Entry { mode, mtime, .. } = entry;
    text.extend(format!("{letter} {mode:o} {mtime} {size} {digest}\0").bytes());
    text.extend(entry.path.as_os_str().as_bytes());
    text.push(0);
    text.extend(target.as_os_str().as_bytes());
    text.push(0);
}

/// Reads the entries of all chunks.
///
/// # Errors
///
/// [`ManifestError`] for what does not keep the promises of this module.
pub(crate) fn decode<'a>(
    chunks: impl IntoIterator<Item = &'a Chunk>,
) -> Result<Vec<Entry>, ManifestError> {
    let mut entries = Vec::new();
    let mut dirs: BTreeMap<PathBuf, bool> = [(PathBuf::new(), true)].into();
    for chunk in chunks {
        let mut fields = chunk.text().split(|&byte| byte == 0);
        while let (Some(head), Some(path), Some(target)) =
            (fields.next(), fields.next(), fields.next())
        {
            let path = PathBuf::from(OsStr::from_bytes(path));
            let entry = entry(head, path, OsStr::from_bytes(target));
            let entry = entry.ok_or_else(|| ManifestError::damaged("an entry is damaged"))?;
            let parent = entry.path.parent().map(|parent| dirs.get(parent).copied());
            let is_new = dirs.insert(entry.path.clone(), entry.kind == Kind::Dir).is_none();
            if !is_plain(&entry.path) || parent != Some(Some(true)) || !is_new {
                return Err(ManifestError::Path(entry.path));
            }
            entries.push(entry);
            if entries.len() > ENTRY_LIMIT {
                return Err(ManifestError::Entries);
            }
        }
    }
    Ok(entries)
}

fn entry(head: &[u8], path: PathBuf, target: &OsStr) -> Option<Entry> {
    let words: Vec<&str> = std::str::from_utf8(head).ok()?.split(' ').collect();
    let [kind, mode, mtime, size, digest] = words[..] else { return None };
    let size = size.parse().ok()?;
    let kind = match kind {
        "d" => Kind::Dir,
        "f" => Kind::File { size, digest: Digest::parse(&format!("sha256:{digest}")).ok()? },
        "l" if !target.is_empty() => Kind::Link { target: target.into() },
        "p" => Kind::Fifo,
        _ => return None,
    };
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?;
    Some(Entry { path, mode, mtime: mtime.parse().ok()?, kind })
}

fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let names: Vec<Component<'_>> = path.components().collect();
    let is_name = |name: &Component<'_>| matches!(name, Component::Normal(it) if it.len() <= 255);
    // Components leave out what is doubled; so does no path of ours.
    let length: usize = names.iter().map(|name| name.as_os_str().len() + 1).sum();
    (1..=PATH_LIMIT).contains(&bytes.len())
        && length == bytes.len() + 1
        && names.len() <= DEPTH_LIMIT
        && names.iter().all(is_name)
}

/// Returns the digest and the number of the bytes of a file, as `known` has it or as they are.
///
/// # Errors
///
/// What `open` says, and a file that cannot be read.
pub(crate) fn digest(
    metadata: &Metadata,
    known: &mut StatCache,
    open: impl FnOnce() -> io::Result<File>,
) -> io::Result<(Digest, u64)> {
    let stat = stat(metadata);
    if let Some(digest) = known.get(&stat) {
        return Ok((digest, stat.size));
    }
    let since = SystemTime::now();
    let mut reader = HashingReader::new(open()?);
    io::copy(&mut reader, &mut io::sink())?;
    let (_, digest, size) = reader.finish();
    if size == stat.size {
        known.put(stat, digest, since);
    }
    Ok((digest, size))
}

/// Returns what must be the same for a file to be unchanged.
fn stat(metadata: &Metadata) -> FileStat {
    let time = |seconds, nanoseconds: i64| (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let device = metadata.dev();
    FileStat {
        device: (rustix::fs::major(device), rustix::fs::minor(device)),
        inode: metadata.ino(),
        size: metadata.len(),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let kind = Kind::File { size: 3, digest: Digest::of(b"abc") };
        Entry { path: path.into(), mode: 0o644, mtime: -7, kind }
    }

    fn dir(path: &str) -> Entry {
        Entry { path: path.into(), mode: 0o1755, mtime: 5, kind: Kind::Dir }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry {
            path: path.into(),
            mode: 0o777,
            mtime: 5,
            kind: Kind::Link { target: target.into() },
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let odd = PathBuf::from(OsStr::from_bytes(b"d/\xff \n"));
        let entries = [
            dir("d"),
            Entry { path: odd, ..file("x") },
            link("l", "../../etc/passwd"),
            Entry { kind: Kind::Fifo, ..dir("p") },
        ];
        assert_eq!(decode(&encode(&entries)).unwrap(), entries);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        #[rustfmt::skip]
        let cases: [(&str, Vec<Entry>); 12] = [
            ("absolute",       vec![file("/etc/passwd")]),
            ("upwards",        vec![file("..")]),
            ("through",        vec![dir("a"), file("a/../b")]),
            ("dot",            vec![file(".")]),
            ("empty",          vec![file("")]),
            ("doubled",        vec![dir("a"), file("a//b")]),
            ("slash at end",   vec![dir("a/")]),
            ("no parent",      vec![file("a/b")]),
            ("below a link",   vec![link("a", "/etc"), file("a/passwd")]),
            ("below a file",   vec![file("a"), file("a/b")]),
            ("twice",          vec![file("a"), dir("a")]),
            ("too long",       vec![file(&"x".repeat(256))]),
        ];
        for (name, entries) in cases {
            let decoded = decode(&encode(&entries));
            assert!(matches!(decoded, Err(ManifestError::Path(_))), "{name}: {decoded:?}");
        }
    }

    #[test]
    fn damage_is_told() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8]); 6] = [
            ("no digest",   b"f 644 0 3 \0a\0\0"),
            ("odd mode",    b"d 999 0 0 \0a\0\0"),
            ("large mode",  b"d 100644 0 0 \0a\0\0"),
            ("odd kind",    b"x 644 0 0 \0a\0\0"),
            ("no target",   b"l 777 0 0 \0a\0\0"),
            ("few words",   b"d 755\0a\0\0"),
        ];
        for (name, text) in cases {
            let decoded = decode(&[Chunk::of(text.to_vec())]);
            assert!(matches!(decoded, Err(ManifestError::Format(_))), "{name}");
        }
    }

    #[test]
    fn a_change_stays_in_its_chunk() {
        let entries: Vec<Entry> = (0..20_000).map(|at| file(&format!("f{at:05}"))).collect();
        let before = encode(&entries);
        assert!((40..160).contains(&before.len()), "{} chunks", before.len());
        let new_ones = |entries: &[Entry]| {
            encode(entries).iter().filter(|chunk| !before.contains(chunk)).count()
        };
        let mut edited = entries.clone();
        edited[7000].mtime = 1;
        assert_eq!(new_ones(&edited), 1);
        let mut more = entries.clone();
        more.insert(9000, file("f08999x"));
        assert!((1..=2).contains(&new_ones(&more)));
        let mut fewer = entries;
        fewer.remove(11_000);
        assert_eq!(new_ones(&fewer), 1);
    }
}
