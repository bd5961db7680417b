//! gzip on many threads: a sequence of members (RFC 1952, 2.2), each compressed by itself, so that
//! threads need not know of each other; every reader of layers concatenates them.
//!
//! Invariant: where members end, and how each is made, is settled by what is written, never by the
//! number of threads.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor};

use super::compress::CompressError;

/// Plain bytes of one member.
const MEMBER: usize = 1 << 20;

/// Members that wait for each thread at most. Who makes them gets a share of a processor that is busy
/// compressing: with fewer the threads had to wait for it (measured on two: 3 % of the time).
const WAITING: usize = 2;

/// Bytes that are noise or not: twice what a match of deflate's can reach back, so that little is
/// lost where the one ends and the other begins.
const BLOCK: usize = 64 << 10;

/// libdeflate's level: the size of zlib's default (6) at twice its speed a thread (measured: ratio
/// 0.310 at 122 MB/s against 0.308 at 58 MB/s).
pub(crate) const GZIP_LEVEL: u8 = 4;

type Member = Result<Vec<u8>, CompressError>;

struct Job {
    plain: Vec<u8>,
    done: SyncSender<Member>,
}

/// Members on their way through the threads, written in the order in which they were handed in.
pub(super) struct Members<W: Write> {
    /// `None` once finished.
    out: Option<W>,
    /// `None` once no more comes: the workers end.
    jobs: Option<SyncSender<Job>>,
    pending: VecDeque<Receiver<Member>>,
    /// Members handed out at most, which bounds memory.
    in_flight: usize,
    workers: Vec<JoinHandle<()>>,
    written: u64,
    starts: Vec<u64>,
}

impl<W: Write> Members<W> {
    pub(super) fn new(out: W, level: u8, threads: NonZeroUsize) -> Self {
        let (jobs, queue) = sync_channel::<Job>(WAITING * threads.get());
        let queue = Arc::new(Mutex::new(queue));
        let work = |queue: Arc<Mutex<Receiver<Job>>>| {
            std::thread::spawn(move || compress_all(level, &queue))
        };
        let workers = (0..threads.get()).map(|_| work(Arc::clone(&queue))).collect();
        Self {
            out: Some(out),
            jobs: Some(jobs),
            pending: VecDeque::new(),
            in_flight: (1 + WAITING) * threads.get(),
            workers,
            written: 0,
            starts: Vec::new(),
        }
    }

    /// Hands in the plain bytes of the next member.
    pub(super) fn submit(&mut self, plain: Vec<u8>) -> Result<(), CompressError> {
        while self.pending.len() >= self.in_flight {
            self.collect()?;
        }
        let (done, member) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(CompressError::Compressor)?;
        jobs.send(Job { plain, done }).map_err(|_| CompressError::Compressor)?;
        self.pending.push_back(member);
        Ok(())
    }

    /// Returns how many members were handed in.
    pub(super) fn count(&self) -> usize {
        self.starts.len() + self.pending.len()
    }

    /// Waits until all members are written; returns where each begins, and where the next would.
    pub(super) fn settle(&mut self) -> Result<(&[u64], u64), CompressError> {
        while !self.pending.is_empty() {
            self.collect()?;
        }
        Ok((&self.starts, self.written))
    }

    /// Writes what is left and returns the output.
    pub(super) fn finish(mut self) -> Result<W, CompressError> {
        self.jobs = None;
        self.settle()?;
        self.out.take().ok_or(CompressError::Compressor)
    }

    fn collect(&mut self) -> Result<(), CompressError> {
        let Some(member) = self.pending.pop_front() else { return Ok(()) };
        let member = member.recv().map_err(|_| CompressError::Compressor)??;
        let out = self.out.as_mut().ok_or(CompressError::Compressor)?;
        self.starts.push(self.written);
        self.written += member.len() as u64;
        Ok(out.write_all(&member)?)
    }
}

impl<W: Write> Drop for Members<W> {
    fn drop(&mut self) {
        self.jobs = None;
        self.pending.clear();
        for worker in self.workers.drain(..) {
            // A worker that panicked has dropped its sender, which the writer has reported.
            let _ = worker.join();
        }
    }
}

fn compress_all(level: u8, queue: &Mutex<Receiver<Job>>) {
    let compressor =
        |level: u8| Compressor::new(CompressionLvl::new(i32::from(level)).unwrap_or_default());
    let (mut packer, mut storer) = (compressor(level), compressor(0));
    loop {
        // Only `recv` runs under the lock, and it does not panic.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { plain, done }) = job else { return };
        // The writer is gone when it failed itself; nobody waits for the member then.
        let _ = done.send(compress(&plain, &mut packer, &mut storer));
    }
}

/// Compresses one member, or makes several of it where some of it is noise, which is stored.
fn compress(plain: &[u8], packer: &mut Compressor, storer: &mut Compressor) -> Member {
    let mut out = Vec::new();
    let mut rest = plain;
    while !rest.is_empty() || out.is_empty() {
        let mut kinds = rest.chunks(BLOCK).map(|block| is_noise(block, packer));
        let is_stored = kinds.next().unwrap_or(false);
        let same = 1 + kinds.take_while(|kind| *kind == is_stored).count();
        let (run, more) = rest.split_at(rest.len().min(same * BLOCK));
        let way = if is_stored { &mut *storer } else { &mut *packer };
        let start = out.len();
        out.resize(start + way.gzip_compress_bound(run.len()), 0);
        let made = way.gzip_compress(run, &mut out[start..]);
        out.truncate(start + made.map_err(|_| CompressError::Compressor)?);
        rest = more;
    }
    Ok(out)
}

/// Whether `block` is packed or random already: it is stored then, since to find out that it gets
/// no smaller takes longer than to compress anything else (measured: 80 MB/s at any level).
///
/// Samples tell: noise has all bytes about as often as each other, and gets no smaller by itself.
fn is_noise(block: &[u8], packer: &mut Compressor) -> bool {
    const SAMPLE: usize = 16 << 10;
    if block.len() < BLOCK {
        return false;
    }
    let sample = &block[(BLOCK - SAMPLE) / 2..][..SAMPLE];
    let mut smaller = [0; SAMPLE - SAMPLE / 100];
    is_flat(block) && packer.deflate_compress(sample, &mut smaller).is_err()
}

/// Whether all bytes are about as frequent in some places of `block`: their squared counts sum up
/// to at most a tenth more than if they were equally so. Rules out nearly everything but noise, at
/// the cost of reading an eighth.
fn is_flat(block: &[u8]) -> bool {
    let mut counts = [0_usize; 256];
    let mut total = 0;
    for place in block.chunks_exact(BLOCK / 8) {
        for &byte in &place[..BLOCK / 64] {
            counts[usize::from(byte)] += 1;
            total += 1;
        }
    }
    let squares: usize = counts.iter().map(|count| count * count).sum();
    squares * 256 * 10 <= total * total * 11
}

/// Compresses to gzip on `threads` threads. Call [`GzipWriter::finish`] at the end: dropping the
/// writer ends its threads but loses what they still hold.
pub fn gzip_writer<W: Write>(out: W, threads: NonZeroUsize) -> GzipWriter<W> {
    gzip_level_writer(out, GZIP_LEVEL, threads)
}

/// As [`gzip_writer`], at a level of libdeflate's (0 to 12).
pub fn gzip_level_writer<W: Write>(out: W, level: u8, threads: NonZeroUsize) -> GzipWriter<W> {
    let members = Members::new(out, level, threads);
    GzipWriter { members, plain: Vec::with_capacity(MEMBER) }
}

/// See [`gzip_writer`].
pub struct GzipWriter<W: Write> {
    members: Members<W>,
    plain: Vec<u8>,
}

impl<W: Write> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").field("members", &self.members.count()).finish_non_exhaustive()
    }
}

impl<W: Write> GzipWriter<W> {
    /// Compresses what is left and returns the output, flushed. No input makes one empty member.
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn finish(mut self) -> Result<W, CompressError> {
        if !self.plain.is_empty() || self.members.count() == 0 {
            self.submit()?;
        }
        let mut out = self.members.finish()?;
        out.flush()?;
        Ok(out)
    }

    fn submit(&mut self) -> Result<(), CompressError> {
        self.members.submit(std::mem::replace(&mut self.plain, Vec::with_capacity(MEMBER)))
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
