//! Entries written as a tar archive, in the order that the caller gives.

use std::fs::File;
use std::io::{self, Write};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::LayerStats;
use super::entry::{TarEntry, TarKind};
use super::header::{BLOCK, lossy, pad, write_header};
use super::read::TarError;
use crate::rootfs::{Metadata, Time};

/// Gathers headers and small files, so that hashing and writing see large pieces.
const BUFFER: usize = 1 << 20;

/// Writes entries of a tar archive. The caller gives their order.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    pub(super) stats: LayerStats,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER), stats: LayerStats::default() }
    }

    /// Writes an entry without content.
    ///
    /// # Errors
    ///
    /// [`TarError::Xattr`] and [`TarError::Io`].
    pub fn entry(&mut self, entry: &TarEntry) -> Result<(), TarError> {
        self.stats.entries += 1;
        if self.buffer.len() > BUFFER - 16 * BLOCK {
            self.flush()?;
        }
        write_header(entry, &mut self.buffer)
    }

    /// Writes a regular file: `entry.size` bytes of `file`.
    ///
    /// # Errors
    ///
    /// [`TarError::Changed`] when the file has fewer, beside those of [`Self::entry`].
    pub fn file(&mut self, entry: &TarEntry, file: &File) -> Result<(), TarError> {
        self.file_seen(entry, file, |_| ())
    }

    /// As [`Self::file`], of a file that was read already: `content` is all of it.
    pub(super) fn small_file(&mut self, entry: &TarEntry, content: &[u8]) -> Result<(), TarError> {
        debug_assert_eq!(entry.size, content.len() as u64, "the content is all of it");
        self.entry(entry)?;
        if self.buffer.len() + content.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(content);
        pad(&mut self.buffer, entry.size);
        self.stats.bytes += entry.size;
        Ok(())
    }

    /// As [`Self::file`]; shows the content to `see`, piece by piece.
    pub(super) fn file_seen(
        &mut self,
        entry: &TarEntry,
        file: &File,
        mut see: impl FnMut(&[u8]),
    ) -> Result<(), TarError> {
        self.entry(entry)?;
        let changed = || TarError::Changed { path: lossy(&entry.path) };
        let mut left = entry.size;
        while left > 0 {
            if self.buffer.len() + BLOCK > BUFFER {
                self.flush()?;
            }
            let start = self.buffer.len();
            // Not by `Read`, which wants the room to be filled with something first.
            match rustix::io::read(file, spare_capacity(&mut self.buffer)) {
                Ok(0) => return Err(changed()),
                Ok(read) => {
                    let read = read.min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.buffer.truncate(start + read);
                    see(&self.buffer[start..]);
                    left -= read as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        pad(&mut self.buffer, entry.size);
        self.stats.bytes += entry.size;
        Ok(())
    }

    /// Writes `path` as another name of `target`, an entry before it.
    ///
    /// # Errors
    ///
    /// [`TarError::Io`].
    pub fn hard_link(
        &mut self,
        path: &[u8],
        target: &[u8],
        metadata: &Metadata,
    ) -> Result<(), TarError> {
        self.entry(&TarEntry {
            path: path.to_vec(),
            kind: TarKind::HardLink,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            size: 0,
            mtime: metadata.mtime,
            link: target.to_vec(),
            device: (0, 0),
            xattrs: Vec::new(),
        })
    }

    /// Writes the empty file that records a deletion; its attributes mean nothing.
    pub(super) fn whiteout(&mut self, path: Vec<u8>) -> Result<(), TarError> {
        self.entry(&TarEntry {
            path,
            kind: TarKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        })
    }

    fn flush(&mut self) -> Result<(), TarError> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end marker and returns the output, flushed, with what went through.
    ///
    /// # Errors
    ///
    /// [`TarError::Io`].
    pub fn finish(mut self) -> Result<(W, LayerStats), TarError> {
        self.buffer.resize(self.buffer.len() + 2 * BLOCK, 0);
        self.flush()?;
        self.out.flush()?;
        Ok((self.out, self.stats))
    }
}
