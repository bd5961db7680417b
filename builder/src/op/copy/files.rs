//! Regular files of a COPY: gathered by directory, then written side by side.
//!
//! Files of directories that the lowers do not have wait until there are many; by then the
//! directories are made, and no two of the files have one name, so their order does not matter.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cache::Digest;

use super::draft::Draft;
use super::{Copy, CopyError, Source, check_unchanged, open_unchanged};
use crate::layer::{Piece, Room, SmallFile, What};
use crate::op::select::Entry;
use crate::rootfs::{
    Attributes, Metadata, OpenDir, UpperError, copy_small_content, display_path, join, split_last,
};
use crate::side_by_side::try_each;

/// Files that wait at most.
const MOST_FILES: usize = 2048;

/// Directories that wait at most: each keeps descriptors open.
const MOST_DIRS: usize = 64;

/// Files of one directory that one thread writes in a row: those that create files in one directory
/// at once wait for each other.
const SHARE: usize = 512;

/// Files that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Gathered<'a> {
    shares: Vec<Share<'a>>,
    files: usize,
}

/// Files of one directory.
#[derive(Debug)]
struct Share<'a> {
    at: OpenDir,
    files: Vec<&'a Entry>,
    /// What comes before them in the layer, and after the share before.
    before: Vec<Piece>,
}

impl<'a> Gathered<'a> {
    /// Adds a file that comes after `before` in the layer.
    fn add(&mut self, at: OpenDir, entry: &'a Entry, before: Vec<Piece>) {
        match self.shares.last_mut() {
            Some(last)
                if before.is_empty() && last.files.len() < SHARE && last.at.path == at.path =>
            {
                last.files.push(entry);
            }
            _ => self.shares.push(Share { at, files: vec![entry], before }),
        }
        self.files += 1;
    }

    fn is_full(&self) -> bool {
        self.files >= MOST_FILES || self.shares.len() >= MOST_DIRS
    }
}

impl Copy<'_> {
    /// Takes the file `entry`, which is to be `target`.
    pub(super) fn gather<'a>(
        &mut self,
        gathered: &mut Gathered<'a>,
        source: &mut Source<'_>,
        entry: &'a Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let metadata = &entry.node.metadata;
        if metadata.links > 1 {
            let key = (entry.node.layer, metadata.inode);
            if let Some(first) = source.links.get(&key) {
                let first = first.clone();
                self.give_up();
                self.write(source, gathered)?;
                return self.link(&first, target);
            }
            source.links.insert(key, target.to_vec());
        }
        let at = self.parent(target)?;
        if !at.is_new() {
            return self.file(source, entry, target);
        }
        let before = self.draft.as_mut().map_or_else(Vec::new, Draft::take);
        gathered.add(at, entry, before);
        if gathered.is_full() { self.write(source, gathered) } else { Ok(()) }
    }

    /// Writes what was gathered.
    pub(super) fn write(
        &mut self,
        source: &Source<'_>,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), CopyError> {
        let Gathered { mut shares, .. } = std::mem::take(gathered);
        let before = shares.iter_mut().map(|share| std::mem::take(&mut share.before)).collect();
        let told = self.draft.as_ref().map(|draft| draft.in_order(before));
        let room = self.draft.as_ref().map(|draft| &draft.room);
        let bytes = AtomicU64::new(0);
        // An earlier source of the instruction has put something in their place.
        let occupied = Mutex::new(Vec::new());
        let this = &*self;
        let numbered: Vec<(usize, &Share<'_>)> = shares.iter().enumerate().collect();
        try_each(&numbered, |(number, Share { at, files, .. })| {
            let mut pieces = Vec::new();
            for &entry in files {
                let (_, name) = split_last(entry.path());
                let target = join(&at.path, name);
                let mode = this.creation_mode(source, entry);
                if let Some(file) = at.create_if_absent(name, mode)? {
                    let filled = this.fill(source, entry, &target, &file, room)?;
                    bytes.fetch_add(filled.bytes, Ordering::Relaxed);
                    if told.is_some() {
                        pieces.push(Piece { path: target, what: filled.what(at, name) });
                    }
                } else {
                    let mut occupied = occupied.lock().unwrap_or_else(PoisonError::into_inner);
                    occupied.push((entry, target));
                }
            }
            if let Some(told) = &told {
                told.put(*number, pieces);
            }
            Ok::<(), CopyError>(())
        })?;
        self.stats.bytes += bytes.into_inner();
        for (entry, target) in occupied.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.give_up();
            self.file(source, entry, &target)?;
        }
        (self.told)(&self.stats);
        Ok(())
    }

    fn creation_mode(&self, source: &Source<'_>, entry: &Entry) -> u32 {
        self.upper.creation_mode(&self.attributes(source.input, entry, Vec::new()))
    }

    /// Copies one file to `target`, in the place of what may be there.
    pub(super) fn file(
        &mut self,
        source: &Source<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let mode = self.creation_mode(source, entry);
        let (at, file) = self.create(target, mode)?;
        let room = self.draft.as_ref().map(|draft| &draft.room);
        let filled = self.fill(source, entry, target, &file, room)?;
        self.stats.bytes += filled.bytes;
        if let Some(draft) = &mut self.draft {
            draft.push(target, filled.what(&at, split_last(target).1));
        }
        Ok(())
    }

    /// Gives the new file `to`, which is `target`, all that `entry` has. Its content is kept where
    /// it finds `room`.
    fn fill(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        target: &[u8],
        to: &File,
        room: Option<&Room>,
    ) -> Result<Filled, CopyError> {
        let (from, xattrs) = open_unchanged(source.input.root(), entry)?;
        let attributes = self.attributes(source.input, entry, xattrs);
        let copied = copy_small_content(&from, to, &entry.node.metadata);
        let (bytes, content) = copied.map_err(|source| UpperError::Io {
            action: "write",
            path: display_path(target),
            source,
        })?;
        check_unchanged(&from, entry)?;
        let made = self.upper.describe_file(to, target, &attributes)?;
        let small = content.and_then(|content| small(content, made, &attributes, room?));
        Ok(Filled { bytes, small })
    }

    /// Makes `target` a further name of the file `first`.
    fn link(&mut self, first: &[u8], target: &[u8]) -> Result<(), CopyError> {
        let at = self.clear(target)?;
        let from = self.parent(first)?;
        Ok(at.hard_link(split_last(target).1, &from, split_last(first).1)?)
    }
}

/// A file that was written.
#[derive(Debug)]
struct Filled {
    bytes: u64,
    /// All of it, where it found room.
    small: Option<SmallFile>,
}

impl Filled {
    /// Says what the layer holds: the file `name` of the directory `at`.
    fn what(self, at: &OpenDir, name: &[u8]) -> What {
        match self.small {
            Some(small) => What::Small(small),
            None => What::File { dir: at.upper().clone(), name: name.to_vec() },
        }
    }
}

/// Keeps the file whose content was just written, and which is as `made` says; `None` where there
/// is more to it, or no room.
fn small(
    content: Vec<u8>,
    made: Metadata,
    attributes: &Attributes,
    room: &Room,
) -> Option<SmallFile> {
    let is_plain = made.links == 1 && !made.may_be_marked() && attributes.xattrs.is_empty();
    if !is_plain || made.size != content.len() as u64 || !room.take(made.size) {
        return None;
    }
    let digest = Some(Digest::of(&content));
    Some(SmallFile { metadata: made, xattrs: Vec::new(), content, digest })
}
