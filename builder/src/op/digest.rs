//! The content key of a selection: what a COPY brings, however it came to be there.
//!
//! What enters: names as they will appear, kinds, modes, link targets, device numbers, which files
//! are one, extended attributes, every byte of every file; of a stage's files also the owner.
//! What does not: times, inodes, the owner of context files (reset to root), where the source
//! lies, and mode and owner of a directory whose content is copied (the destination keeps its own).

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::SystemTime;

use cache::{Digest, FileList, FileMark, HashingReader, HashingWriter};

use super::copy::{check_unchanged, open_unchanged};
use super::select::{CopyInput, Entry, Item, Match, SelectError, Selection};
use crate::context::KnownFiles;
use crate::rootfs::{InodeId, Kind, Metadata, RootError, Xattrs, display_path};
use crate::side_by_side::Hands;

/// Changes whenever the same selection would hash to something else.
const DOMAIN: &str = "rbuild copy selection 2";

/// Files beyond which it saves more, however small they are.
const WORTH_A_THREAD_FILES: usize = 256;

/// Files from which it saves time to hash their fields while more are gathered.
const WORTH_A_HASHER: usize = 2048;

/// Full buffers of fields that wait to be hashed at most.
const BUFFERS: usize = 4;

/// Bytes in all files together below which another thread costs more than it saves.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Returns the digest of what `selection` will bring from `inputs`.
///
/// # Errors
///
/// [`SelectError::Changed`] when a file is written to meanwhile, [`SelectError::Root`].
pub fn selection_digest(
    selection: &Selection,
    inputs: &[CopyInput<'_>],
) -> Result<Digest, SelectError> {
    Ok(digest_selection(selection, inputs, &[])?.0)
}

/// The digests of a selection's files, in its order.
pub(crate) type FileDigests = Vec<Digest>;

/// What is known of an input's files from earlier builds.
pub(crate) type Known<'a> = Option<&'a KnownFiles>;

/// As [`selection_digest`], with the digests of the files; `known` has one for each input, or for
/// none.
pub(super) fn digest_selection(
    selection: &Selection,
    inputs: &[CopyInput<'_>],
    known: &[Known<'_>],
) -> Result<(Digest, FileDigests), SelectError> {
    let hashed = hash_files(selection, inputs, known)?;
    let digest = if hashed.len() < WORTH_A_HASHER {
        let mut hashing = HashingWriter::new(io::sink());
        add_selection(selection, inputs, &hashed, &mut |fields| hash(&mut hashing, &fields))?;
        hashing.finish().1
    } else {
        let (to, from) = sync_channel::<Vec<u8>>(BUFFERS);
        thread::scope(|scope| {
            let beside = scope.spawn(move || {
                let mut hashing = HashingWriter::new(io::sink());
                for fields in from {
                    hash(&mut hashing, &fields);
                }
                hashing.finish().1
            });
            let mut send = move |fields| to.send(fields).expect("it takes all there is");
            let added = add_selection(selection, inputs, &hashed, &mut send);
            drop(send);
            let digest = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            added.map(|()| digest)
        })?
    };
    Ok((digest, hashed.into_iter().map(|file| file.digest).collect()))
}

fn hash(hashing: &mut HashingWriter<io::Sink>, fields: &[u8]) {
    hashing.write_all(fields).expect("a sink takes everything");
}

/// Tells `full` the fields that make the digest of a selection, whose files are `hashed`.
fn add_selection(
    selection: &Selection,
    inputs: &[CopyInput<'_>],
    hashed: &[Hashed],
    full: &mut dyn FnMut(Vec<u8>),
) -> Result<(), SelectError> {
    let mut fields = Fields::new(full);
    fields.add("domain", DOMAIN.as_bytes());
    let mut files = hashed.iter();
    for item in &selection.items {
        match item {
            Item::Inline { name, content } => {
                fields.add("inline", name.as_bytes());
                fields.add("content", content.as_bytes());
            }
            Item::Match(found) => {
                let input = inputs.get(found.input);
                let input = input.ok_or(SelectError::Input { input: found.input })?;
                add_match(&mut fields, found, input, &mut files)?;
            }
        }
    }
    fields.finish();
    Ok(())
}

/// Lists the files of a selection by name, to say later which of them changed; `digests` are what
/// [`digest_selection`] gave of it. `None` when there are too many.
pub(super) fn list_files(selection: &Selection, digests: &[Digest]) -> Option<FileList> {
    let mut files = Vec::new();
    let mut digests = digests.iter();
    for item in &selection.items {
        let Item::Match(found) = item else { continue };
        let is_dir = found.top().node.metadata.is_dir();
        for entry in &found.entries[usize::from(is_dir)..] {
            let Metadata { mode, kind, .. } = entry.node.metadata;
            let mark = match kind {
                Kind::File => {
                    FileMark::file(mode, digests.next().expect("every file has been hashed"))
                }
                Kind::Symlink => FileMark::link(mode, &String::from_utf8_lossy(&entry.link)),
                _ => FileMark::other(mode, name_of(kind)),
            };
            if files.len() == FileList::MOST {
                return None;
            }
            files.push((String::from_utf8_lossy(&entry.source).into_owned(), mark));
        }
    }
    FileList::of(files)
}

/// Fields with name and length, so that none can be read as part of another. Gathered before they
/// are hashed: there may be very many, and all are short.
struct Fields<'a> {
    gathered: Vec<u8>,
    full: &'a mut dyn FnMut(Vec<u8>),
}

impl<'a> Fields<'a> {
    /// Bytes that are hashed at once.
    const GATHERED: usize = 32 << 10;

    fn new(full: &'a mut dyn FnMut(Vec<u8>)) -> Self {
        Self { gathered: Self::room(), full }
    }

    fn room() -> Vec<u8> {
        Vec::with_capacity(Self::GATHERED + 4096)
    }

    /// Inlined for the sake of the names, all of which are constants.
    #[inline]
    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.gathered.extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.gathered.extend_from_slice(part);
        }
    }

    /// Adds numbers with a colon in between.
    fn add_pair(&mut self, name: &str, pair: (u32, u32)) {
        match pair {
            // What hardly anything else is.
            (0, 0) => self.add(name, b"0:0"),
            (first, second) => self.add(name, format!("{first}:{second}").as_bytes()),
        }
    }

    /// Has what is gathered hashed, if that is worth it.
    fn settle(&mut self) {
        if self.gathered.len() >= Self::GATHERED {
            (self.full)(std::mem::replace(&mut self.gathered, Self::room()));
        }
    }

    fn finish(self) {
        (self.full)(self.gathered);
    }
}

/// The octal digits of a mode.
struct Octal {
    mode: u32,
    text: String,
}

impl Octal {
    /// Returns the digits of `mode`. Files in a row mostly have the same.
    fn of(&mut self, mode: u32) -> &[u8] {
        if self.text.is_empty() || self.mode != mode {
            *self = Self { mode, text: format!("{mode:o}") };
        }
        self.text.as_bytes()
    }
}

/// What was found out about the content of one file.
struct Hashed {
    digest: Digest,
    /// Boxed, since hardly any file has some.
    xattrs: Option<Box<Xattrs>>,
}

fn add_match<'a>(
    fields: &mut Fields<'_>,
    found: &Match,
    input: &CopyInput<'_>,
    files: &mut impl Iterator<Item = &'a Hashed>,
) -> Result<(), SelectError> {
    let is_dir = found.top().node.metadata.is_dir();
    fields.add("match", if is_dir { b"" } else { &found.name });
    let mut links: HashMap<(usize, InodeId), usize> = HashMap::new();
    let mut octal = Octal { mode: 0, text: String::new() };
    for (index, entry) in found.entries.iter().enumerate() {
        if is_dir && index == 0 {
            continue;
        }
        let metadata = &entry.node.metadata;
        fields.add("path", entry.path());
        fields.add("kind", name_of(metadata.kind).as_bytes());
        fields.add("implied", if entry.is_implied { b"true" } else { b"false" });
        fields.add("mode", octal.of(metadata.mode));
        fields.add("link", &entry.link);
        fields.add_pair("device", metadata.device);
        if !input.is_context() {
            fields.add_pair("owner", (metadata.uid, metadata.gid));
        }
        let xattrs = match metadata.kind {
            Kind::File => {
                let hashed = files.next().expect("every file has been hashed");
                fields.add("content", &hashed.digest.text());
                if metadata.links > 1 {
                    let first = *links.entry((entry.node.layer, metadata.inode)).or_insert(index);
                    // Names outside of the selection are nobody's business.
                    if first != index {
                        fields.add("same as", first.to_string().as_bytes());
                    }
                }
                hashed.xattrs.as_deref().cloned().unwrap_or_default()
            }
            Kind::Dir => {
                let xattrs = input.root().dir_xattrs(&entry.source, &entry.node);
                xattrs.map_err(|error| RootError::io(&entry.source, error))?
            }
            _ => Vec::new(),
        };
        for (name, value) in xattrs {
            fields.add("xattr", &name);
            fields.add("value", &value);
        }
        fields.settle();
    }
    Ok(())
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "char device",
        Kind::BlockDevice => "block device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

/// One file of a selection.
#[derive(Clone, Copy)]
struct Job<'a> {
    input: &'a CopyInput<'a>,
    known: Known<'a>,
    entry: &'a Entry,
}

/// Hashes every regular file of the selection, in its order; reads only what is not known.
fn hash_files(
    selection: &Selection,
    inputs: &[CopyInput<'_>],
    known: &[Known<'_>],
) -> Result<Vec<Hashed>, SelectError> {
    let mut jobs = Vec::new();
    for item in &selection.items {
        let Item::Match(found) = item else { continue };
        let input = inputs.get(found.input).ok_or(SelectError::Input { input: found.input })?;
        let known = known.get(found.input).copied().flatten();
        let files = found.entries.iter().filter(|entry| entry.node.metadata.kind == Kind::File);
        jobs.extend(files.map(|entry| Job { input, known, entry }));
    }
    let mut hashed: Vec<Option<Hashed>> = jobs.iter().map(Job::recall).collect();
    let unknown: Vec<usize> = (0..jobs.len()).filter(|&at| hashed[at].is_none()).collect();
    for (&at, now) in unknown.iter().zip(hash_all(&jobs, &unknown)?) {
        hashed[at] = Some(now);
    }
    Ok(hashed.into_iter().map(|it| it.expect("what was not known has been hashed")).collect())
}

impl Job<'_> {
    fn recall(&self) -> Option<Hashed> {
        let digest = self.known?.get(&self.entry.node.metadata)?;
        // Only files without attributes are remembered.
        Some(Hashed { digest, xattrs: None })
    }

    fn run(&self) -> Result<Hashed, SelectError> {
        let since = SystemTime::now();
        let hashed = hash_file(self.input, self.entry)?;
        if let Some(known) = self.known.filter(|_| hashed.xattrs.is_none()) {
            known.put(&self.entry.node.metadata, hashed.digest, since);
        }
        Ok(hashed)
    }
}

/// Hashes the files at `unknown`, by several threads where that pays.
fn hash_all(jobs: &[Job<'_>], unknown: &[usize]) -> Result<Vec<Hashed>, SelectError> {
    let run = |&at: &usize| jobs[at].run();
    let total: u64 = unknown.iter().map(|&at| jobs[at].entry.node.metadata.size).sum();
    if total < WORTH_A_THREAD && unknown.len() < WORTH_A_THREAD_FILES {
        return unknown.iter().map(run).collect();
    }
    Hands::new().try_map(unknown, run)
}

fn hash_file(input: &CopyInput<'_>, entry: &Entry) -> Result<Hashed, SelectError> {
    let (file, xattrs) = open_unchanged(input.root(), entry)?;
    let mut reader = HashingReader::new(&file);
    let size = entry.node.metadata.size;
    let mut buffer = vec![0; usize::try_from(size.min(256 * 1024)).unwrap_or(0)];
    let mut left = size;
    // Not to its end: a file that has grown meanwhile is found out below.
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match io::Read::read(&mut reader, &mut buffer[..wanted]) {
            Ok(0) => return Err(SelectError::Changed { path: display_path(&entry.source) }),
            Ok(read) => left -= read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RootError::io(&entry.source, error).into()),
        }
    }
    let (_, digest, _) = reader.finish();
    check_unchanged(&file, entry)?;
    Ok(Hashed { digest, xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)) })
}
