//! Regular files of a COPY: gathered by directory, then written side by side.
//!
//! Files of directories that the lowers do not have wait until there are many; by then the
//! directories are made, and no two of the files have one name, so their order does not matter.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Copy, CopyError, Source, check_unchanged, open_unchanged};
use crate::op::select::Entry;
use crate::rootfs::{OpenDir, UpperError, copy_content, display_path, join, split_last};
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
}

impl<'a> Gathered<'a> {
    fn add(&mut self, at: OpenDir, entry: &'a Entry) {
        match self.shares.last_mut() {
            Some(last) if last.files.len() < SHARE && last.at.path == at.path => {
                last.files.push(entry);
            }
            _ => self.shares.push(Share { at, files: vec![entry] }),
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
                self.write(source, gathered)?;
                return self.link(&first, target);
            }
            source.links.insert(key, target.to_vec());
        }
        let at = self.parent(target)?;
        if !at.is_new() {
            return self.file(source, entry, target);
        }
        gathered.add(at, entry);
        if gathered.is_full() { self.write(source, gathered) } else { Ok(()) }
    }

    /// Writes what was gathered.
    pub(super) fn write(
        &mut self,
        source: &Source<'_>,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), CopyError> {
        let Gathered { shares, .. } = std::mem::take(gathered);
        let bytes = AtomicU64::new(0);
        // An earlier source of the instruction has put something in their place.
        let occupied = Mutex::new(Vec::new());
        let this = &*self;
        try_each(&shares, |Share { at, files }| {
            for &entry in files {
                let (_, name) = split_last(entry.path());
                let target = join(&at.path, name);
                if let Some(file) = at.create_if_absent(name)? {
                    let written = this.fill(source, entry, &target, &file)?;
                    bytes.fetch_add(written, Ordering::Relaxed);
                } else {
                    let mut occupied = occupied.lock().unwrap_or_else(PoisonError::into_inner);
                    occupied.push((entry, target));
                }
            }
            Ok::<(), CopyError>(())
        })?;
        self.stats.bytes += bytes.into_inner();
        for (entry, target) in occupied.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.file(source, entry, &target)?;
        }
        (self.told)(&self.stats);
        Ok(())
    }

    /// Copies one file to `target`, in the place of what may be there.
    pub(super) fn file(
        &mut self,
        source: &Source<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let file = self.create(target)?;
        self.stats.bytes += self.fill(source, entry, target, &file)?;
        Ok(())
    }

    /// Gives the new file `to`, which is `target`, all that `entry` has; returns its bytes.
    fn fill(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        target: &[u8],
        to: &File,
    ) -> Result<u64, CopyError> {
        let (from, xattrs) = open_unchanged(source.input.root(), entry)?;
        let attributes = self.attributes(source.input, entry, xattrs);
        let copied = copy_content(&from, to, &entry.node.metadata);
        let bytes = copied.map_err(|source| UpperError::Io {
            action: "write",
            path: display_path(target),
            source,
        })?;
        check_unchanged(&from, entry)?;
        self.upper.describe_file(to, target, &attributes)?;
        Ok(bytes)
    }

    /// Makes `target` a further name of the file `first`.
    fn link(&mut self, first: &[u8], target: &[u8]) -> Result<(), CopyError> {
        let at = self.clear(target)?;
        let from = self.parent(first)?;
        Ok(at.hard_link(split_last(target).1, &from, split_last(first).1)?)
    }
}
