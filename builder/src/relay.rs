//! A second thread for one stream: it reads ahead of its user, or writes behind it.
//!
//! Bytes go through a few buffers that are used again and again, so memory is bounded and neither
//! side runs far ahead. Invariant: what comes out is what went in, whatever the threads do.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes of one buffer: what it costs to hand it over does not show.
const PIECE: usize = 256 << 10;

/// Buffers that wait for the other side: enough to bridge the bursts of both.
const WAITING: usize = 4;

/// Bytes below which another thread costs more than it saves.
const WORTH_A_THREAD: usize = 2 << 20;

/// Reads from a thread of its own, ahead of who reads it.
#[derive(Debug)]
pub(crate) struct ReadAhead<R> {
    /// `None` only while it is dropped: the thread ends then.
    pieces: Option<Receiver<io::Result<Vec<u8>>>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<R>>,
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    /// Begins to read `inner`.
    pub(crate) fn new(mut inner: R) -> Self {
        let (filled, pieces) = sync_channel(WAITING);
        let (used, empty) = channel();
        let thread = std::thread::spawn(move || {
            read_all(&mut inner, &filled, &empty);
            inner
        });
        Self { pieces: Some(pieces), used, piece: Vec::new(), at: 0, thread: Some(thread) }
    }

    /// Gives the reader back, which is where its last piece was read, or further.
    pub(crate) fn finish(mut self) -> R {
        self.pieces = None;
        joined(self.thread.take().expect("only this and drop take it"))
    }

    /// Takes the next piece; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(next) = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok()) else {
            return Ok(false);
        };
        let used = std::mem::replace(&mut self.piece, next?);
        self.at = 0;
        // The thread has come to the end when nobody takes it.
        let _ = self.used.send(used);
        Ok(true)
    }
}

impl<R: Read + Send + 'static> Read for ReadAhead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.advance()? {
            return Ok(0);
        }
        let read = buffer.len().min(self.piece.len() - self.at);
        buffer[..read].copy_from_slice(&self.piece[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

impl<R> Drop for ReadAhead<R> {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // Nobody wants the rest, so it does not matter how it ended.
            let _ = thread.join();
        }
    }
}

/// Reads to the end, to the first error, or until nobody takes what was read.
fn read_all(
    inner: &mut impl Read,
    filled: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut length = 0;
        let failed = loop {
            match inner.read(&mut piece[length..]) {
                Ok(0) => break None,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
            if length == PIECE {
                break None;
            }
        };
        let is_last = length < PIECE;
        piece.truncate(length);
        let is_taken = length == 0 || filled.send(Ok(piece)).is_ok();
        if let Some(error) = failed {
            // Nobody wants to know of it when nobody reads.
            let _ = filled.send(Err(error));
            return;
        }
        if is_last || !is_taken {
            return;
        }
    }
}

/// Writes in a thread of its own, behind who writes to it, once there is enough to write.
#[derive(Debug)]
pub(crate) struct WriteBehind<W>(State<W>);

#[derive(Debug)]
enum State<W> {
    Here(W, usize),
    Behind {
        pieces: SyncSender<Vec<u8>>,
        used: Receiver<Vec<u8>>,
        thread: JoinHandle<io::Result<W>>,
    },
    /// The writer has failed; its error was told.
    Failed,
}

impl<W: Write + Send + 'static> WriteBehind<W> {
    /// Writes to `inner`.
    pub(crate) const fn new(inner: W) -> Self {
        Self(State::Here(inner, 0))
    }

    /// Waits until all is written and gives the writer back.
    ///
    /// # Errors
    ///
    /// What the writer said, if nobody was told before.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.0 {
            State::Here(inner, _) => Ok(inner),
            State::Behind { pieces, thread, .. } => {
                drop(pieces);
                joined(thread)
            }
            State::Failed => Err(io::Error::other("writing has failed before")),
        }
    }

    fn begin(mut inner: W) -> State<W> {
        let (pieces, filled) = sync_channel::<Vec<u8>>(WAITING);
        let (empty, used) = channel();
        let thread = std::thread::spawn(move || {
            for piece in filled {
                inner.write_all(&piece)?;
                // Who writes has finished when nobody takes it.
                let _ = empty.send(piece);
            }
            Ok(inner)
        });
        State::Behind { pieces, used, thread }
    }
}

impl<W: Write + Send + 'static> Write for WriteBehind<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let State::Here(inner, written) = &mut self.0 {
            if *written < WORTH_A_THREAD {
                let more = inner.write(bytes)?;
                *written += more;
                return Ok(more);
            }
            let State::Here(inner, _) = std::mem::replace(&mut self.0, State::Failed) else {
                unreachable!("it was a moment ago")
            };
            self.0 = Self::begin(inner);
        }
        let State::Behind { pieces, used, .. } = &self.0 else {
            return Err(io::Error::other("writing has failed before"));
        };
        let taken = bytes.len().min(PIECE);
        let mut piece = used.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(&bytes[..taken]);
        if pieces.send(piece).is_ok() {
            return Ok(taken);
        }
        let failed = Self(std::mem::replace(&mut self.0, State::Failed)).finish();
        Err(failed.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))
    }

    /// Flushes nothing: what is behind is written when it is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives and takes uneven pieces, then fails.
    #[derive(Debug)]
    struct Uneven {
        left: usize,
        turn: usize,
    }

    impl Read for Uneven {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn += 1;
            if self.left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let read = buffer.len().min(self.left).min(1 + self.turn * 7919 % 100_000);
            buffer[..read].fill(u8::try_from(self.turn % 251).unwrap());
            self.left -= read;
            Ok(read)
        }
    }

    impl Write for Uneven {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = bytes.len().min(self.left);
            self.left -= written;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 31 % 253).unwrap()).collect()
    }

    #[test]
    fn what_is_read_ahead_is_what_was_there() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5_000_000] {
            let source = pattern(length);
            let mut ahead = ReadAhead::new(io::Cursor::new(source.clone()));
            let mut found = Vec::new();
            ahead.read_to_end(&mut found).unwrap();
            assert!(found == source, "{length}");
            assert_eq!(ahead.finish().position(), length as u64);
        }
    }

    #[test]
    fn errors_come_after_the_bytes_before_them() {
        let mut ahead = ReadAhead::new(Uneven { left: 3_000_000, turn: 0 });
        let mut found = Vec::new();
        let error = ahead.read_to_end(&mut found).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(found.len(), 3_000_000);
    }

    #[test]
    fn a_reader_that_nobody_reads_to_its_end_goes() {
        let mut ahead = ReadAhead::new(io::repeat(7));
        ahead.read_exact(&mut [0; 10]).unwrap();
        drop(ahead);
    }

    #[test]
    fn what_is_written_behind_is_what_was_given() {
        for length in [0, 1, WORTH_A_THREAD, WORTH_A_THREAD + 1, 9_000_001] {
            let source = pattern(length);
            let mut behind = WriteBehind::new(Vec::new());
            for piece in source.chunks(777_777) {
                behind.write_all(piece).unwrap();
            }
            assert!(behind.finish().unwrap() == source, "{length}");
        }
    }

    #[test]
    fn a_writer_that_fails_is_told_of() {
        for left in [1000, WORTH_A_THREAD + 1000] {
            let mut behind = WriteBehind::new(Uneven { left, turn: 0 });
            let written = behind.write_all(&vec![0; 20 << 20]);
            let error = written.and_then(|()| behind.finish().map(drop)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{left}");
        }
    }
}
