//! A file that is read while it is still being written: by who sends it away, or copies it into an
//! archive.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cache::{Blob, Digest};

/// A file and how much of it is there. One thread writes, one other reads what was written.
#[derive(Debug)]
pub(crate) struct Growing {
    /// What people are shown of it; its digest is not known yet.
    pub(crate) name: String,
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

/// How far a file has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grown {
    /// Bytes that can be read.
    pub(crate) bytes: u64,
    /// Digest of all, once that is there.
    pub(crate) whole: Option<Digest>,
}

/// Whether more comes.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    #[default]
    Ahead,
    /// All is there, and this is its digest.
    Reached(Digest),
    /// The writer failed.
    Lost,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// What the reader waits for: it is not woken for less.
    wanted: u64,
    end: End,
}

impl Growing {
    /// Watches `file`, a descriptor of its own of what is being written, and calls it `name`.
    pub(crate) fn new(name: String, file: File) -> Self {
        Self { name, file, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns the file, which begins at its first byte for the one who reads it.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Says that no more comes; `digest` is that of all, `None` that it is to be forgotten.
    pub(crate) fn end(&self, digest: Option<Digest>) {
        let mut state = self.lock();
        if matches!(state.end, End::Ahead) {
            state.end = digest.map_or(End::Lost, End::Reached);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until `bytes` are there, or all.
    ///
    /// # Errors
    ///
    /// When the writer failed.
    pub(crate) fn wait_for(&self, bytes: u64) -> io::Result<Grown> {
        let waits = |state: &mut State| state.written < bytes && matches!(state.end, End::Ahead);
        let mut state = self.lock();
        state.wanted = bytes;
        let state = self.changed.wait_while(state, waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let bytes = state.written;
        match state.end {
            End::Ahead => Ok(Grown { bytes, whole: None }),
            End::Reached(digest) => Ok(Grown { bytes, whole: Some(digest) }),
            End::Lost => Err(io::Error::other("the blob was not finished")),
        }
    }

    /// Waits until all is there.
    ///
    /// # Errors
    ///
    /// When the writer failed.
    pub(crate) fn wait(&self) -> io::Result<Blob> {
        loop {
            let Grown { bytes, whole } = self.wait_for(u64::MAX)?;
            if let Some(digest) = whole {
                return Ok(Blob { digest, size: bytes });
            }
        }
    }

    fn grew(&self, by: usize) {
        let mut state = self.lock();
        state.written += by as u64;
        let is_enough = state.written >= state.wanted;
        drop(state);
        if is_enough {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes, and lets a [`Growing`] know of it.
#[derive(Debug)]
pub(crate) struct GrowingWriter<W> {
    pub(crate) inner: W,
    pub(crate) growing: Option<Arc<Growing>>,
}

impl<W: Write> Write for GrowingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(growing) = &self.growing {
            growing.grew(written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_what_it_wants_or_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        let inner = File::create(&path).unwrap();
        let growing = Arc::new(Growing::new("blob".to_owned(), File::open(&path).unwrap()));
        let mut writer = GrowingWriter { inner, growing: Some(Arc::clone(&growing)) };
        let whole = Digest::of(b"onetwothree");
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let first = growing.wait_for(6).unwrap();
                (first.bytes, growing.wait().unwrap())
            });
            for part in [&b"one"[..], b"two", b"three"] {
                writer.write_all(part).unwrap();
            }
            growing.end(Some(whole));
            let (first, all) = reading.join().unwrap();
            assert!(first >= 6, "{first}");
            assert_eq!(all, Blob { digest: whole, size: 11 });
        });
        assert_eq!(growing.wait_for(99).unwrap().whole, Some(whole));
    }

    #[test]
    fn a_writer_that_fails_leaves_nothing_to_wait_for() {
        let growing = Growing::new("blob".to_owned(), File::open("/dev/null").unwrap());
        growing.end(None);
        growing.end(Some(Digest::of(b"too late")));
        assert!(growing.wait_for(1).is_err() && growing.wait().is_err());
    }
}
