//! Regular files of a COPY: gathered by directory, and written by several threads while the
//! directories of those after them are made.
//!
//! No two of the files have one name, so their order does not matter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::draft::{Draft, InOrder};
use super::fill::Asked;
use super::{Copy, CopyError, reserved};
use crate::hand_out::Crew;
use crate::layer::{Piece, Room};
use crate::op::select::{CopyInput, Entry};
use crate::rootfs::{Attributes, InodeId, OpenDir, join, split_last};

/// Files of a batch at most.
const MOST_FILES: usize = 512;

/// Files after which a batch ends with their directory: who creates files in a directory waits for
/// others that do.
const ENOUGH_FILES: usize = 128;

/// Directories of a batch at most: each keeps descriptors open.
const MOST_DIRS: usize = 8;

/// Bytes of files after which a batch ends.
const ENOUGH_BYTES: u64 = 4 << 20;

/// Bytes of one piece of memory that holds paths and contents of small files: one allocation for
/// many, since other threads give them back.
const BUFFER: usize = 64 << 10;

/// Batches on their way at most.
pub(super) const MOST_BATCHES: usize = 8;

/// What one thread writes in a row, and what the layer holds between it.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    /// Counts the batches.
    number: usize,
    parts: Vec<Part<'a>>,
    files: usize,
    bytes: u64,
}

#[derive(Debug)]
enum Part<'a> {
    /// What is made already.
    Told(Vec<Piece>),
    /// Files of the directory `at`, which is `dir` in the source.
    Files { at: OpenDir, dir: &'a [u8], entries: Vec<&'a Entry> },
}

impl<'a> Batch<'a> {
    fn tell(&mut self, pieces: Vec<Piece>) {
        if !pieces.is_empty() {
            self.parts.push(Part::Told(pieces));
        }
    }

    /// Returns the files that it ends with, if they are those of `dir`.
    fn files_of(&mut self, dir: &[u8]) -> Option<&mut Vec<&'a Entry>> {
        match self.parts.last_mut() {
            Some(Part::Files { dir: last, entries, .. }) if *last == dir => Some(entries),
            _ => None,
        }
    }

    fn is_full(&self) -> bool {
        self.files >= MOST_FILES || self.bytes >= ENOUGH_BYTES
    }

    /// Whether it should end before another directory's files.
    fn is_enough(&self) -> bool {
        self.files >= ENOUGH_FILES || self.parts.len() >= 2 * MOST_DIRS
    }
}

/// Files of one source on their way.
pub(super) struct Writing<'w, 'scope, 'env, 'a> {
    crew: &'w mut Crew<'scope, 'env, Batch<'a>, CopyError>,
    files: &'w Files<'a>,
    batch: Batch<'a>,
    /// Where the first name of each file with several names has gone.
    links: HashMap<(usize, InodeId), Vec<u8>>,
}

impl<'w, 'scope, 'env, 'a> Writing<'w, 'scope, 'env, 'a> {
    pub(super) fn new(
        crew: &'w mut Crew<'scope, 'env, Batch<'a>, CopyError>,
        files: &'w Files<'a>,
    ) -> Self {
        Self { crew, files, batch: Batch::default(), links: HashMap::new() }
    }
}

/// What all threads know that write files of one source.
#[derive(Debug)]
pub(super) struct Files<'a> {
    asked: &'a Asked,
    input: &'a CopyInput<'a>,
    /// Who hears of the layer, and where the contents wait.
    draft: Option<(Arc<InOrder>, Room)>,
    /// Bytes written since they were counted last.
    bytes: AtomicU64,
    /// Files in whose place there is something already, with their paths.
    occupied: Mutex<Vec<(&'a Entry, Vec<u8>)>>,
}

impl<'a> Files<'a> {
    pub(super) fn new(asked: &'a Asked, input: &'a CopyInput<'a>, draft: Option<&Draft>) -> Self {
        Self {
            asked,
            input,
            draft: draft.map(|draft| (Arc::clone(&draft.told), draft.room.clone())),
            bytes: AtomicU64::new(0),
            occupied: Mutex::default(),
        }
    }

    /// Writes the files of `batch`.
    pub(super) fn write(&self, batch: Batch<'a>) -> Result<(), CopyError> {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        let mut pieces = Vec::with_capacity(batch.files);
        for part in batch.parts {
            match part {
                Part::Told(told) => pieces.extend(told),
                Part::Files { at, entries, .. } => {
                    for entry in entries {
                        pieces.extend(self.write_one(&at, entry, &mut buffer)?);
                    }
                }
            }
        }
        if let Some((told, _)) = &self.draft {
            told.put(batch.number, pieces);
        }
        Ok(())
    }

    /// Writes one file into the directory `at`; returns what its layer holds, if that is told.
    fn write_one(
        &self,
        at: &OpenDir,
        entry: &'a Entry,
        buffer: &mut BytesMut,
    ) -> Result<Option<Piece>, CopyError> {
        let (_, name) = split_last(entry.path());
        let path = join_in(buffer, &at.path, name);
        // A directory of the lowers does not give way.
        let is_free = at.is_new() || !at.lookup(name)?.is_some_and(|node| node.metadata.is_dir());
        let mode = self.asked.creation_mode(self.input, entry);
        let created = if is_free { at.create_if_absent(name, mode)? } else { None };
        let Some(file) = created else {
            self.occupied
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((entry, path.to_vec()));
            return Ok(None);
        };
        let room = self.draft.as_ref().map(|(_, room)| room);
        let filled = self.asked.fill(self.input, entry, &path, &file, buffer, room)?;
        self.bytes.fetch_add(filled.bytes, Ordering::Relaxed);
        Ok(room.map(|_| Piece { path, what: filled.what(at, name) }))
    }

    fn take_occupied(&self) -> Vec<(&'a Entry, Vec<u8>)> {
        std::mem::take(&mut *self.occupied.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// As [`join`], in memory of `buffer`.
fn join_in(buffer: &mut BytesMut, dir: &[u8], name: &[u8]) -> Bytes {
    buffer.clear();
    for part in [dir, if dir.is_empty() { b"" } else { b"/" }, name] {
        buffer.extend_from_slice(part);
    }
    buffer.split().freeze()
}

impl Copy<'_> {
    /// Takes the file `entry`, which is to lie below `destination` as it does in the source.
    pub(super) fn gather<'a>(
        &mut self,
        writing: &mut Writing<'_, '_, '_, 'a>,
        entry: &'a Entry,
        destination: &[u8],
    ) -> Result<(), CopyError> {
        let (dir, name) = split_last(entry.path());
        reserved(name)?;
        let metadata = &entry.node.metadata;
        if metadata.links > 1 {
            let key = (entry.node.layer, metadata.inode);
            let target = join(destination, entry.path());
            if let Some(first) = writing.links.get(&key) {
                let first = first.clone();
                self.give_up();
                self.settle(writing)?;
                return self.link(&first, &target);
            }
            writing.links.insert(key, target);
        }
        let pieces = self.draft.as_mut().map_or_else(Vec::new, Draft::take);
        let is_next = pieces.is_empty() && writing.batch.files_of(dir).is_some();
        if !is_next && writing.batch.is_enough() {
            self.hand_out(writing)?;
        }
        writing.batch.tell(pieces);
        if let Some(entries) = writing.batch.files_of(dir) {
            entries.push(entry);
        } else {
            let at = self.upper.dir(&join(destination, dir), &Attributes::implied_dir())?;
            writing.batch.parts.push(Part::Files { at, dir, entries: vec![entry] });
        }
        writing.batch.files += 1;
        writing.batch.bytes += metadata.size;
        if writing.batch.is_full() { self.hand_out(writing) } else { Ok(()) }
    }

    /// Has the files written that were gathered.
    fn hand_out(&mut self, writing: &mut Writing<'_, '_, '_, '_>) -> Result<(), CopyError> {
        let next = Batch { number: writing.batch.number + 1, ..Batch::default() };
        writing.crew.push(std::mem::replace(&mut writing.batch, next))?;
        self.count(writing.files);
        Ok(())
    }

    /// As [`Self::hand_out`], when much was told.
    pub(super) fn hand_out_told(
        &mut self,
        writing: &mut Writing<'_, '_, '_, '_>,
    ) -> Result<(), CopyError> {
        if !self.draft.as_ref().is_some_and(Draft::is_full) {
            return Ok(());
        }
        writing.batch.tell(self.draft.as_mut().map_or_else(Vec::new, Draft::take));
        self.hand_out(writing)
    }

    /// Waits until all is written that was gathered.
    pub(super) fn settle(
        &mut self,
        writing: &mut Writing<'_, '_, '_, '_>,
    ) -> Result<(), CopyError> {
        writing.batch.tell(self.draft.as_mut().map_or_else(Vec::new, Draft::take));
        self.hand_out(writing)?;
        writing.crew.wait()?;
        for (entry, path) in writing.files.take_occupied() {
            self.give_up();
            self.file(writing.files.input, entry, &path)?;
        }
        self.count(writing.files);
        Ok(())
    }

    fn count(&mut self, files: &Files<'_>) {
        self.stats.bytes += files.bytes.swap(0, Ordering::Relaxed);
        (self.told)(&self.stats);
    }

    /// Copies one file to `target`, in the place of what may be there.
    pub(super) fn file(
        &mut self,
        input: &CopyInput<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let (_, file) = self.create(target, self.asked.creation_mode(input, entry))?;
        let mut buffer = BytesMut::new();
        let filled = self.asked.fill(input, entry, target, &file, &mut buffer, None)?;
        self.stats.bytes += filled.bytes;
        Ok(())
    }

    /// Makes `target` a further name of the file `first`.
    fn link(&mut self, first: &[u8], target: &[u8]) -> Result<(), CopyError> {
        let at = self.clear(target)?;
        let from = self.parent(first)?;
        Ok(at.hard_link(split_last(target).1, &from, split_last(first).1)?)
    }
}
