//! The tar that carries an archive: plain files and directories with fixed headers.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::num::NonZeroU64;

use cache::{Descriptor, Store, StoreError};
use rustix::fs::{Advice, fadvise};

use super::error::ExportError;
use crate::source::SourceError;

/// Copied at once, bytes: as often as progress is told.
const STEP: u64 = 8 << 20;

/// Read at once to be checked, bytes.
const BUFFER: usize = 256 << 10;

/// Where an archive goes.
pub(crate) trait Out: Write {
    /// Writes the next bytes of `file`, at most `limit`; returns how many those were.
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64>;
}

impl Out for BufWriter<File> {
    /// In the kernel, where the file systems can.
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64> {
        let start = self.stream_position()?;
        let copied = io::copy(&mut file.take(limit), self.get_mut())?;
        // The disk begins to write at once, and the sync at the end finds less to do. No more than
        // advice: it may fail.
        let _ = fadvise(self.get_ref(), start, NonZeroU64::new(copied), Advice::DontNeed);
        Ok(copied)
    }
}

impl Out for Box<dyn Write + Send> {
    fn copy_from(&mut self, file: &File, limit: u64) -> io::Result<u64> {
        io::copy(&mut file.take(limit), self)
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

    /// Copies a blob of the store, and checks it meanwhile (its bytes may have rotted on disk)
    /// unless it `is_fresh`.
    pub(super) fn blob(
        &mut self,
        store: &Store,
        path: &str,
        wanted: &Descriptor,
        is_fresh: bool,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        let damaged = || ExportError::Damaged { digest: wanted.digest };
        let unopened = |source: StoreError| SourceError::store("open a blob")(source);
        let file = store.content().open(&wanted.digest).map_err(unopened)?.ok_or_else(damaged)?;
        if file.metadata().map_err(fault)?.len() != wanted.size {
            return Err(damaged());
        }
        if is_fresh {
            return self.copy(path, &file, wanted, moved);
        }
        let checked = store.content().reader(&wanted.digest).map_err(unopened)?;
        let mut checked = BufReader::with_capacity(BUFFER, checked.ok_or_else(damaged)?);
        std::thread::scope(|scope| {
            let checking = scope.spawn(|| io::copy(&mut checked, &mut io::sink()));
            let copied = self.copy(path, &file, wanted, moved);
            let checked = checking.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
            copied?;
            match checked {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged()),
                Err(error) => Err(fault(error)),
            }
        })
    }

    fn copy(
        &mut self,
        path: &str,
        file: &File,
        wanted: &Descriptor,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        self.streamed(path, wanted.size, |out| {
            let mut copied = 0;
            while copied < wanted.size {
                let step = out.copy_from(file, STEP.min(wanted.size - copied));
                match step.map_err(fault)? {
                    0 => return Err(ExportError::Damaged { digest: wanted.digest }),
                    step => copied += step,
                }
                moved(copied);
            }
            Ok(())
        })
    }

    /// Has `write` stream exactly `size` bytes into a file.
    pub(super) fn streamed(
        &mut self,
        path: &str,
        size: u64,
        write: impl FnOnce(&mut dyn Out) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        header.set_path(path).map_err(fault)?;
        header.set_cksum();
        let out = &mut **self.tar.get_mut();
        out.write_all(header.as_bytes()).map_err(fault)?;
        write(out)?;
        let padding = usize::try_from((512 - size % 512) % 512).expect("it is less than 512");
        out.write_all(&[0; 512][..padding]).map_err(fault)
    }

    pub(super) fn finish(self) -> Result<(), ExportError> {
        self.tar.into_inner().and_then(Write::flush).map_err(fault)
    }
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
