//! The tar that carries an archive: plain files and directories with fixed headers.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use cache::{Blob, Descriptor, Digest, Store, StoreError};
use rustix::fs::{Advice, fadvise};

use super::error::ExportError;
use crate::growing::{Growing, Grown};
use crate::source::SourceError;

/// Copied at once, bytes: as often as progress is told.
const STEP: u64 = 8 << 20;

/// What headers are and files are filled up to, bytes.
const BLOCK: usize = 512;

/// Read at once to be checked, bytes.
const BUFFER: usize = 256 << 10;

/// Where an archive goes.
pub(crate) trait Out: Write {
    /// Writes the next bytes of `file`, at most `limit`; returns how many those were.
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64>;

    /// Returns where the next byte goes, if what lies before it can still be changed.
    fn place(&mut self) -> io::Result<Option<u64>>;

    /// Changes what was written at `place`.
    fn change(&mut self, place: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Out for BufWriter<File> {
    /// In the kernel, where the file systems can.
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64> {
        self.flush()?;
        let start = self.place()?;
        let copied = io::copy(&mut file.take(limit), self.get_mut())?;
        if let Some(start) = start {
            // The disk begins to write at once, and the sync at the end finds less to do. No more
            // than advice: it may fail.
            let _ = fadvise(self.get_ref(), start, NonZeroU64::new(copied), Advice::DontNeed);
        }
        Ok(copied)
    }

    fn place(&mut self) -> io::Result<Option<u64>> {
        // It may be a pipe or a device, in the place of the file.
        let is_file = self.get_ref().metadata()?.is_file();
        if is_file { self.stream_position().map(Some) } else { Ok(None) }
    }

    fn change(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.get_ref().write_all_at(bytes, place)
    }
}

impl Out for Box<dyn Write + Send> {
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64> {
        io::copy(&mut file.take(limit), self)
    }

    fn place(&mut self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn change(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotSeekable.into())
    }
}

/// A tar in the making. The same files in the same order give the same bytes.
pub(super) struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Out>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(out: &'a mut dyn Out) -> Self {
        Self { tar: tar::Builder::new(out) }
    }

    pub(super) fn directory(&mut self, path: &str) -> Result<(), ExportError> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.tar.append_data(&mut header, path, io::empty()).map_err(fault)
    }

    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        self.tar.append_data(&mut header, path, bytes).map_err(fault)
    }

    /// Copies a blob of the store, and checks it meanwhile: its bytes may have rotted on disk.
    pub(super) fn blob(
        &mut self,
        store: &Store,
        path: &str,
        wanted: &Descriptor,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        let damaged = || ExportError::Damaged { digest: wanted.digest };
        let unopened = |source: StoreError| SourceError::store("open a blob")(source);
        let file = store.content().open(&wanted.digest).map_err(unopened)?.ok_or_else(damaged)?;
        if file.metadata().map_err(fault)?.len() != wanted.size {
            return Err(damaged());
        }
        let checked = store.content().reader(&wanted.digest).map_err(unopened)?;
        let mut checked = BufReader::with_capacity(BUFFER, checked.ok_or_else(damaged)?);
        std::thread::scope(|scope| {
            let checking = scope.spawn(|| io::copy(&mut checked, &mut io::sink()));
            let copied =
                self.streamed(path, wanted.size, |out| copy(out, &file, 0..wanted.size, moved));
            let checked = checking.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
            match checked {
                Ok(_) => copied,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged()),
                Err(error) => Err(fault(error)),
            }
        })
    }

    /// Copies a blob while it is made, under the path that its digest gives it; returns the digest.
    ///
    /// Its header says how long it is, and comes first: it is filled in at the end. Into what cannot
    /// be changed any more the blob goes when it is whole.
    pub(super) fn growing(
        &mut self,
        growing: &Growing,
        path: impl FnOnce(&Digest) -> String,
    ) -> Result<Digest, ExportError> {
        let out = &mut **self.tar.get_mut();
        let Some(place) = out.place().map_err(fault)? else {
            let Blob { digest, size } = growing.wait().map_err(fault)?;
            self.streamed(&path(&digest), size, |out| {
                copy(out, growing.file(), 0..size, &mut |_| ())
            })?;
            return Ok(digest);
        };
        out.write_all(&[0; BLOCK]).map_err(fault)?;
        let mut copied = 0;
        loop {
            let Grown { bytes, whole } = growing.wait_for(copied + STEP).map_err(fault)?;
            copy(out, growing.file(), copied..bytes, &mut |_| ())?;
            copied = bytes;
            let Some(digest) = whole else { continue };
            pad(out, copied)?;
            let header = file_header(&path(&digest), copied)?;
            out.change(place, header.as_bytes()).map_err(fault)?;
            return Ok(digest);
        }
    }

    /// Has `write` stream exactly `size` bytes into a file.
    pub(super) fn streamed(
        &mut self,
        path: &str,
        size: u64,
        write: impl FnOnce(&mut dyn Out) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let header = file_header(path, size)?;
        let out = &mut **self.tar.get_mut();
        out.write_all(header.as_bytes()).map_err(fault)?;
        write(out)?;
        pad(out, size)
    }

    pub(super) fn finish(self) -> Result<(), ExportError> {
        self.tar.into_inner().and_then(Write::flush).map_err(fault)
    }
}

/// Copies the bytes `range` of a blob, which are the next ones of `file`.
fn copy(
    out: &mut dyn Out,
    file: &File,
    range: Range<u64>,
    moved: &mut dyn FnMut(u64),
) -> Result<(), ExportError> {
    let mut copied = range.start;
    while copied < range.end {
        let step = out.copy_from(file, STEP.min(range.end - copied));
        match step.map_err(fault)? {
            0 => return Err(fault(io::ErrorKind::UnexpectedEof.into())),
            step => copied += step,
        }
        moved(copied);
    }
    Ok(())
}

/// Fills the last block of a file of `size` bytes.
fn pad(out: &mut dyn Out, size: u64) -> Result<(), ExportError> {
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    let padding = usize::try_from(padding).expect("it is less than a block");
    out.write_all(&[0; BLOCK][..padding]).map_err(fault)
}

fn file_header(path: &str, size: u64) -> Result<tar::Header, ExportError> {
    let mut header = header(tar::EntryType::Regular, 0o644, size);
    header.set_path(path).map_err(fault)?;
    header.set_cksum();
    Ok(header)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn fault(source: io::Error) -> ExportError {
    ExportError::Archive { source }
}
