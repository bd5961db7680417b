//! Layers compressed for the way out: same input, same bytes, whatever the number of threads.
//!
//! gzip is a sequence of members (RFC 1952, 2.2) of [`MEMBER`] plain bytes each, so that threads
//! need not know of each other; every reader of layers concatenates them. zstd runs with at least
//! one worker: with none it would cut its blocks elsewhere.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor};

/// Plain bytes of one gzip member.
const MEMBER: usize = 1 << 20;

/// libdeflate's level: the size of zlib's default (6) at twice its speed a thread (measured: ratio
/// 0.310 at 122 MB/s against 0.308 at 58 MB/s).
const GZIP_LEVEL: i32 = 4;

/// zstd's level: its own default.
const ZSTD_LEVEL: i32 = 3;

/// Why something cannot be compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The compressor refused its input, which it never should.
    #[error("the compressor failed")]
    Compressor,
    /// The output takes no more.
    #[error("could not write compressed data")]
    Io(#[from] io::Error),
}

impl From<CompressError> for io::Error {
    fn from(error: CompressError) -> Self {
        match error {
            CompressError::Io(error) => error,
            CompressError::Compressor => Self::other(error),
        }
    }
}

/// Compresses to gzip on `threads` threads. Call [`GzipWriter::finish`] at the end: dropping the
/// writer ends its threads but loses what they still hold.
pub fn gzip_writer<W: Write>(out: W, threads: NonZeroUsize) -> GzipWriter<W> {
    let (jobs, queue) = sync_channel::<Job>(threads.get());
    let queue = Arc::new(Mutex::new(queue));
    let work = |queue: Arc<Mutex<Receiver<Job>>>| std::thread::spawn(move || compress_all(&queue));
    let workers = (0..threads.get()).map(|_| work(Arc::clone(&queue))).collect();
    GzipWriter {
        out: Some(out),
        plain: Vec::with_capacity(MEMBER),
        jobs: Some(jobs),
        pending: VecDeque::new(),
        in_flight: 2 * threads.get(),
        workers,
        is_empty: true,
    }
}

type Member = Result<Vec<u8>, CompressError>;

struct Job {
    plain: Vec<u8>,
    done: SyncSender<Member>,
}

/// See [`gzip_writer`].
pub struct GzipWriter<W: Write> {
    /// `None` once finished.
    out: Option<W>,
    plain: Vec<u8>,
    /// `None` once no more comes: the workers end.
    jobs: Option<SyncSender<Job>>,
    /// Members handed out, in their order.
    pending: VecDeque<Receiver<Member>>,
    /// Members handed out at most, which bounds memory.
    in_flight: usize,
    workers: Vec<JoinHandle<()>>,
    is_empty: bool,
}

impl<W: Write> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl<W: Write> GzipWriter<W> {
    /// Compresses what is left and returns the output, flushed. No input makes one empty member.
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn finish(mut self) -> Result<W, CompressError> {
        if !self.plain.is_empty() || self.is_empty {
            self.submit()?;
        }
        self.jobs = None;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        let mut out = self.out.take().ok_or(CompressError::Compressor)?;
        out.flush()?;
        Ok(out)
    }

    fn submit(&mut self) -> Result<(), CompressError> {
        self.is_empty = false;
        while self.pending.len() >= self.in_flight {
            self.collect()?;
        }
        let plain = std::mem::replace(&mut self.plain, Vec::with_capacity(MEMBER));
        let (done, member) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(CompressError::Compressor)?;
        jobs.send(Job { plain, done }).map_err(|_| CompressError::Compressor)?;
        self.pending.push_back(member);
        Ok(())
    }

    fn collect(&mut self) -> Result<(), CompressError> {
        let Some(member) = self.pending.pop_front() else { return Ok(()) };
        let member = member.recv().map_err(|_| CompressError::Compressor)??;
        let out = self.out.as_mut().ok_or(CompressError::Compressor)?;
        Ok(out.write_all(&member)?)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MEMBER - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        if self.plain.len() == MEMBER {
            self.submit()?;
        }
        Ok(taken)
    }

    /// Writes nothing yet: where members end must not depend on who flushes when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for GzipWriter<W> {
    fn drop(&mut self) {
        self.jobs = None;
        self.pending.clear();
        for worker in self.workers.drain(..) {
            // A worker that panicked has dropped its sender, which the writer has reported.
            let _ = worker.join();
        }
    }
}

fn compress_all(queue: &Mutex<Receiver<Job>>) {
    let level = CompressionLvl::new(GZIP_LEVEL).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    loop {
        // Only `recv` runs under the lock, and it does not panic.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { plain, done }) = job else { return };
        let mut member = vec![0; compressor.gzip_compress_bound(plain.len())];
        let result = match compressor.gzip_compress(&plain, &mut member) {
            Ok(length) => {
                member.truncate(length);
                Ok(member)
            }
            Err(_) => Err(CompressError::Compressor),
        };
        // The writer is gone when it failed itself; nobody waits for the member then.
        let _ = done.send(result);
    }
}

/// Compresses to zstd on `threads` threads. Call [`ZstdWriter::finish`] at the end.
///
/// # Errors
///
/// [`CompressError::Io`] when the compressor cannot be set up.
pub fn zstd_writer<W: Write>(
    out: W,
    threads: NonZeroUsize,
) -> Result<ZstdWriter<W>, CompressError> {
    let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
    encoder.multithread(u32::try_from(threads.get()).unwrap_or(u32::MAX))?;
    Ok(ZstdWriter { encoder })
}

/// See [`zstd_writer`].
pub struct ZstdWriter<W: Write> {
    encoder: zstd::Encoder<'static, W>,
}

impl<W: Write> std::fmt::Debug for ZstdWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdWriter").finish_non_exhaustive()
    }
}

impl<W: Write> ZstdWriter<W> {
    /// Compresses what is left and returns the output, flushed.
    ///
    /// # Errors
    ///
    /// [`CompressError::Io`].
    pub fn finish(self) -> Result<W, CompressError> {
        let mut out = self.encoder.finish()?;
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for ZstdWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write(bytes)
    }

    /// Writes nothing yet: where blocks end must not depend on who flushes when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
