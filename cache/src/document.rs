//! Small JSON files that know when they are damaged.
//!
//! ```text
//! rbuild KIND 1 sha256:<hex of all bytes after this line>
//! {...}
//! ```
//!
//! Invariant: a file that is empty, torn or of another format is never half-read: it counts as
//! damaged, and its reader goes on as if it were absent.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{AtPath, Result, found};
use crate::session::Session;

/// Documents larger than this are damaged, in bytes.
const MAX_DOCUMENT: u64 = 16 << 20;

/// Most documents are smaller, in bytes: one read takes all of them.
const USUAL: usize = 4096;

/// The kinds of documents; each name stands in the first line and changes with the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Snapshot,
    Record,
    Layer,
    Image,
    Trail,
    Files,
    Build,
    Steps,
    Failed,
    Cutoff,
}

impl Kind {
    const fn header(self) -> &'static str {
        match self {
            Self::Snapshot => "rbuild snapshot 1 ",
            Self::Record => "rbuild record 1 ",
            Self::Layer => "rbuild layer 1 ",
            Self::Image => "rbuild image 1 ",
            Self::Trail => "rbuild trail 1 ",
            Self::Files => "rbuild files 1 ",
            Self::Build => "rbuild build 1 ",
            Self::Steps => "rbuild steps 1 ",
            Self::Failed => "rbuild failed 1 ",
            Self::Cutoff => "rbuild cutoff 2 ",
        }
    }
}

/// What lies at a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded<T> {
    Absent,
    /// With what is wrong, for the log.
    Damaged(&'static str),
    Whole(T),
}

impl<T> Loaded<T> {
    /// Speaks of damage once, in the log; `None` unless whole.
    pub(crate) fn or_warn(self, path: &Path) -> Option<T> {
        match self {
            Self::Whole(value) => Some(value),
            Self::Absent => None,
            Self::Damaged(fault) => {
                tracing::warn!(path = %path.display(), fault, "damaged: treated as absent");
                None
            }
        }
    }
}

/// Returns whether the document at `path` is there and has its checksum; its fields are not read.
pub(crate) fn is_whole(kind: Kind, path: &Path) -> Result<bool> {
    let Some(bytes) = found(std::fs::read(path)).at("read", path)? else { return Ok(false) };
    Ok(body(kind, &bytes).is_ok())
}

/// Reads the document at `path`.
pub(crate) fn load<T: DeserializeOwned>(kind: Kind, path: &Path) -> Result<Loaded<T>> {
    Ok(read(path)?.map_or(Loaded::Absent, |bytes| decode(kind, &bytes)))
}

/// Reads the document at `path` as text: its user parses what he needs of it.
pub(crate) fn load_text(kind: Kind, path: &Path) -> Result<Loaded<String>> {
    let Some(mut bytes) = read(path)? else { return Ok(Loaded::Absent) };
    let length = match body(kind, &bytes) {
        Ok(body) => body.len(),
        Err(fault) => return Ok(Loaded::Damaged(fault)),
    };
    bytes.drain(..bytes.len() - length);
    let text = String::from_utf8(bytes);
    Ok(text.map_or(Loaded::Damaged("it is no text"), Loaded::Whole))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = found(File::open(path)).at("open", path)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(USUAL);
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).at("read", path)?;
    Ok(Some(bytes))
}

fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Loaded<T> {
    match body(kind, bytes).map(serde_json::from_slice) {
        Ok(Ok(value)) => Loaded::Whole(value),
        Ok(Err(_)) => Loaded::Damaged("its fields are of another format"),
        Err(fault) => Loaded::Damaged(fault),
    }
}

/// Returns what stands under the first line, if it is what that line promises.
fn body(kind: Kind, bytes: &[u8]) -> Result<&[u8], &'static str> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err("it is too large");
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("it has no first line")?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    let digest = line.strip_prefix(kind.header().as_bytes());
    let digest = digest.and_then(|text| Digest::parse(str::from_utf8(text).ok()?).ok());
    let digest = digest.ok_or("its first line is of another format")?;
    if Digest::of(body) == digest { Ok(body) } else { Err("its checksum differs") }
}

fn encode<T: Serialize>(kind: Kind, value: &T) -> io::Result<Vec<u8>> {
    encode_with(kind, |bytes| Ok(serde_json::to_writer(bytes, value)?))
}

fn encode_with(
    kind: Kind,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    // Every digest is as long as any: the body is written once, where it stays.
    let line = |digest: &Digest| format!("{}{digest}\n", kind.header()).into_bytes();
    let mut bytes = line(&Digest::of(b""));
    let body = bytes.len();
    write(&mut bytes)?;
    let digest = Digest::of(&bytes[body..]);
    bytes[..body].copy_from_slice(&line(&digest));
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the document is too large"));
    }
    Ok(bytes)
}

/// When a replaced document must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Some time: losing it costs a miss.
    Later,
    /// Before the call returns.
    Now,
}

/// Writes `value` to `path`, which is new and lies in `tmp`: a rename of what holds it follows.
pub(crate) fn write_new<T: Serialize>(kind: Kind, path: &Path, value: &T) -> Result<()> {
    let bytes = encode(kind, value).at("write", path)?;
    File::create_new(path).and_then(|mut file| file.write_all(&bytes)).at("write", path)
}

/// Puts `value` at `path`, whole or not at all.
pub(crate) fn replace<T: Serialize>(
    session: &Session,
    kind: Kind,
    path: &Path,
    value: &T,
    durability: Durability,
) -> Result<()> {
    let bytes = encode(kind, value).at("write", path)?;
    replace_bytes(session, path, &bytes, durability)
}

/// As [`replace`], with what [`load_text`] reads.
pub(crate) fn replace_text(
    session: &Session,
    kind: Kind,
    path: &Path,
    text: &str,
    durability: Durability,
) -> Result<()> {
    let bytes = encode_with(kind, |bytes| {
        bytes.extend_from_slice(text.as_bytes());
        Ok(())
    });
    replace_bytes(session, path, &bytes.at("write", path)?, durability)
}

/// Puts `bytes` at `path`, whole or not at all.
pub(crate) fn replace_bytes(
    session: &Session,
    path: &Path,
    bytes: &[u8],
    durability: Durability,
) -> Result<()> {
    let draft = Draft::of_bytes(session, path, bytes)?;
    if durability == Durability::Now {
        draft.sync()?;
    }
    draft.publish()?;
    match (durability, path.parent()) {
        (Durability::Now, Some(parent)) => sync_names(parent),
        _ => Ok(()),
    }
}

/// Brings the names in the directory `dir` to the disk.
pub(crate) fn sync_names(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).at("sync", dir)
}

/// A document that is written and does not have its name yet; removed when it is dropped without.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    session: &'a Session,
    file: File,
    new: PathBuf,
    path: PathBuf,
    has_name: bool,
}

impl<'a> Draft<'a> {
    /// Writes `value`, which is to be at `path`.
    pub(crate) fn of<T: Serialize>(
        session: &'a Session,
        kind: Kind,
        path: &Path,
        value: &T,
    ) -> Result<Self> {
        Self::of_bytes(session, path, &encode(kind, value).at("write", path)?)
    }

    fn of_bytes(session: &'a Session, path: &Path, bytes: &[u8]) -> Result<Self> {
        let new = session.fresh("document");
        let file = File::create_new(&new).at("write", path)?;
        let mut draft = Self { session, file, new, path: path.to_owned(), has_name: false };
        draft.file.write_all(bytes).at("write", path)?;
        Ok(draft)
    }

    /// Brings it to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().at("write", &self.path)
    }

    /// Gives it its name.
    pub(crate) fn publish(mut self) -> Result<()> {
        fs::rename(&self.new, &self.path).at("write", &self.path)?;
        self.has_name = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.has_name {
            self.session.discard(self.new.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_at_any_byte_is_damage() {
        let value = vec!["a".to_owned(), "bc".to_owned()];
        let whole = encode(Kind::Record, &value).expect("a list of texts is JSON");
        assert_eq!(decode(Kind::Record, &whole), Loaded::Whole(value));
        for end in 0..whole.len() {
            let torn = decode::<Vec<String>>(Kind::Record, &whole[..end]);
            assert!(matches!(torn, Loaded::Damaged(_)), "cut at byte {end}: {torn:?}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            let flipped = decode::<Vec<String>>(Kind::Record, &flipped);
            assert!(matches!(flipped, Loaded::Damaged(_)), "flipped at byte {at}: {flipped:?}");
        }
    }

    #[test]
    fn another_kind_is_damage() {
        let bytes = encode(Kind::Layer, &1).expect("a number is JSON");
        let read = decode::<u32>(Kind::Record, &bytes);
        assert_eq!(read, Loaded::Damaged("its first line is of another format"));
    }
}
