//! eStargz (stargz-snapshotter, `docs/estargz.md`): a layer whose files can be fetched one by one.
//!
//! Each file's content is a gzip member of its own, in pieces of [`CHUNK`] bytes; behind the files
//! follow a table of contents that says where each begins, and a footer that says where the table
//! is. The table and the landmark are entries of the tar: such a layer has a `diff_id` of its own.
//!
//! Invariant: same tar, same bytes, whatever the number of threads.

use std::io::{Read, Write};
use std::num::NonZeroUsize;

use base64::Engine as _;
use cache::{DiffId, Digest, HashingWriter};
use serde::Serialize;

use super::compress::CompressError;
use super::entry::{TarEntry, TarKind};
use super::gzip::Members;
use super::header::{BLOCK, lossy, pad, write_header};
use super::{Limits, TarReader};
use crate::rootfs::Time;

/// Annotation of the layer's descriptor: the digest of the table of contents.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of the layer's descriptor: bytes of the uncompressed layer.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

const TOC_NAME: &str = "stargz.index.json";
/// Says that nothing is to be fetched ahead.
const LANDMARK: &str = ".no.prefetch.landmark";
const OTHER_LANDMARK: &str = ".prefetch.landmark";
const LANDMARK_CONTENT: &[u8] = &[0xf];
/// Plain bytes of one piece of a file, as stargz-snapshotter cuts them.
const CHUNK: usize = 4 << 20;

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estargz {
    /// Digest of the whole tar, table and landmark included.
    pub diff_id: DiffId,
    /// Bytes of that tar.
    pub tar_size: u64,
    /// Digest of the table of contents.
    pub toc_digest: Digest,
}

/// Writes the files of `tar` to `out` as eStargz.
///
/// # Errors
///
/// [`CompressError`].
pub fn write_estargz<W: Write>(
    tar: impl Read,
    out: W,
    level: u8,
    threads: NonZeroUsize,
) -> Result<(W, Estargz), CompressError> {
    let mut writer = Writer {
        members: Members::new(out, level, threads),
        between: Vec::new(),
        hasher: HashingWriter::new(std::io::sink()),
        rows: Vec::new(),
    };
    writer.entry(&landmark(), &mut { LANDMARK_CONTENT })?;
    let mut reader = TarReader::new(tar, Limits::LAYER);
    while let Some(mut entry) = reader.next_entry()? {
        while entry.path.len() > 1 && entry.path.ends_with(b"/") {
            entry.path.pop();
        }
        // What an earlier conversion has added is made anew.
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        if ![TOC_NAME, LANDMARK, OTHER_LANDMARK].iter().any(|own| own.as_bytes() == name) {
            writer.entry(&entry, &mut reader)?;
        }
    }
    writer.finish()
}

fn landmark() -> TarEntry {
    regular(LANDMARK, LANDMARK_CONTENT.len())
}

fn regular(name: &str, size: usize) -> TarEntry {
    TarEntry {
        path: name.as_bytes().to_vec(),
        kind: TarKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: size as u64,
        mtime: Time { seconds: 0, nanoseconds: 0 },
        link: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

/// One row of the table of contents. The names are the format's.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    xattrs: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
    /// The member that holds it, until its place is known.
    #[serde(skip)]
    member: Option<usize>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Toc<'a> {
    version: u8,
    entries: &'a [Row],
}

struct Writer<W: Write> {
    members: Members<W>,
    /// Headers and padding since the last content.
    between: Vec<u8>,
    hasher: HashingWriter<std::io::Sink>,
    rows: Vec<Row>,
}

impl<W: Write> Writer<W> {
    fn entry(&mut self, entry: &TarEntry, content: &mut impl Read) -> Result<(), CompressError> {
        write_header(entry, &mut self.between)?;
        let at = self.rows.len();
        self.rows.push(row(entry));
        if entry.kind != TarKind::File || entry.size == 0 {
            self.flush_if_large()?;
            return Ok(());
        }
        self.flush()?;
        let mut whole = HashingWriter::new(std::io::sink());
        let mut done = 0;
        while done < entry.size {
            let length = (entry.size - done).min(CHUNK as u64);
            let mut piece = vec![0; usize::try_from(length).unwrap_or(CHUNK)];
            content.read_exact(&mut piece)?;
            whole.write_all(&piece)?;
            self.piece(at, done, entry.size, &piece);
            self.submit(piece)?;
            done += length;
        }
        self.rows[at].digest = whole.finish().1.to_string();
        pad(&mut self.between, entry.size);
        Ok(())
    }

    /// Notes one piece of the file of row `at`.
    fn piece(&mut self, at: usize, offset: u64, size: u64, bytes: &[u8]) {
        let member = Some(self.members.count());
        let is_last = offset + bytes.len() as u64 == size;
        let chunk_size = if is_last { 0 } else { bytes.len() as u64 };
        let chunk_digest = Digest::of(bytes).to_string();
        if offset == 0 {
            let first = &mut self.rows[at];
            (first.member, first.chunk_size, first.chunk_digest) =
                (member, chunk_size, chunk_digest);
            return;
        }
        let name = self.rows[at].name.clone();
        self.rows.push(Row {
            name,
            kind: "chunk",
            chunk_offset: offset,
            chunk_size,
            chunk_digest,
            member,
            ..Row::default()
        });
    }

    fn submit(&mut self, plain: Vec<u8>) -> Result<(), CompressError> {
        self.hasher.write_all(&plain)?;
        self.members.submit(plain)
    }

    /// Makes a member of what lies between contents.
    fn flush(&mut self) -> Result<(), CompressError> {
        if self.between.is_empty() {
            return Ok(());
        }
        let between = std::mem::take(&mut self.between);
        self.submit(between)
    }

    fn flush_if_large(&mut self) -> Result<(), CompressError> {
        if self.between.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn finish(mut self) -> Result<(W, Estargz), CompressError> {
        self.flush()?;
        let (starts, toc_offset) = self.members.settle()?;
        for row in &mut self.rows {
            row.offset = row.member.map_or(0, |member| starts[member]);
        }
        let toc = serde_json::to_vec(&Toc { version: 1, entries: &self.rows })
            .map_err(std::io::Error::from)?;
        let mut end = Vec::new();
        write_header(&regular(TOC_NAME, toc.len()), &mut end)?;
        end.extend_from_slice(&toc);
        pad(&mut end, toc.len() as u64);
        end.extend_from_slice(&[0; 2 * BLOCK]);
        self.submit(end)?;
        let Self { members, hasher, .. } = self;
        let (_, diff_id, tar_size) = hasher.finish();
        let mut out = members.finish()?;
        out.write_all(&footer(toc_offset))?;
        out.flush()?;
        let written = Estargz { diff_id: DiffId(diff_id), tar_size, toc_digest: Digest::of(&toc) };
        Ok((out, written))
    }
}

fn row(entry: &TarEntry) -> Row {
    let kind = match entry.kind {
        TarKind::File => "reg",
        TarKind::HardLink => "hardlink",
        TarKind::Symlink => "symlink",
        TarKind::CharDevice => "char",
        TarKind::BlockDevice => "block",
        TarKind::Dir => "dir",
        TarKind::Fifo => "fifo",
    };
    let mut name = lossy(&entry.path);
    if entry.kind == TarKind::Dir && !name.ends_with('/') {
        name.push('/');
    }
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let modtime = jiff::Timestamp::from_second(entry.mtime.seconds).ok();
    Row {
        name,
        kind,
        size: entry.size,
        modtime: modtime.map(|time| time.to_string()).unwrap_or_default(),
        link_name: lossy(&entry.link),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        dev_major: u64::from(entry.device.0),
        dev_minor: u64::from(entry.device.1),
        xattrs: entry.xattrs.iter().map(|(name, value)| (lossy(name), encode(value))).collect(),
        ..Row::default()
    }
}

/// Returns an empty gzip member whose extra field names the place of the table of contents.
fn footer(toc_offset: u64) -> Vec<u8> {
    let place = format!("{toc_offset:016x}STARGZ");
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    // The length of the field, its name, and the length of what it holds.
    footer.extend_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    footer.extend_from_slice(place.as_bytes());
    // One stored block without content; then checksum and size, both zero.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}
