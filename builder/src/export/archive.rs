//! The tar that carries an archive: plain files and directories with fixed headers.

use std::io::{self, Read, Write};

use cache::{Descriptor, HashingReader, Store};

use super::error::ExportError;

/// A tar in the making. The same files in the same order give the same bytes.
pub(super) struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
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

    /// Copies a blob of the store and checks it on the way (its bytes may have rotted on disk).
    pub(super) fn blob(
        &mut self,
        store: &Store,
        path: &str,
        wanted: &Descriptor,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        let damaged = || ExportError::Damaged { digest: wanted.digest };
        let file = store.content().open(&wanted.digest).map_err(|source| {
            ExportError::Source(crate::source::SourceError::store("open a blob")(source))
        })?;
        let mut reader = HashingReader::new(file.ok_or_else(damaged)?);
        let mut header = header(tar::EntryType::Regular, 0o644, wanted.size);
        let counting = Counting { inner: (&mut reader).take(wanted.size), count: 0, moved };
        self.tar.append_data(&mut header, path, counting).map_err(fault)?;
        let (mut file, found, size) = reader.finish();
        let is_longer = file.read(&mut [0]).map_err(fault)? > 0;
        if found != wanted.digest || size != wanted.size || is_longer {
            return Err(damaged());
        }
        Ok(())
    }

    /// Has `write` stream exactly `size` bytes into a file.
    pub(super) fn streamed(
        &mut self,
        path: &str,
        size: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        header.set_path(path).map_err(fault)?;
        header.set_cksum();
        let out = self.tar.get_mut();
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

struct Counting<'a, R> {
    inner: R,
    count: u64,
    moved: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        (self.moved)(self.count);
        Ok(read)
    }
}
