//! Events that wait for their reader: in memory while they are few, on disk when they are many.
//! The build's record and trace are made on the way in, so that they keep time and order.
//!
//! Invariants: who sends an event never waits for who reads it; the order is kept; memory is
//! bounded by [`MEMORY_BYTES`] and disk by a limit, beyond which output of steps is refused and
//! everything else, which is little, is kept in memory.
//!
//! ```text
//! file: record ...            record: length (u32, little-endian), kind (u8), then
//!   kind 0: the event as JSON
//!   kind 1, 2: step (u64), stream (u8), output as text (1) or base64 (2)
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cache::{Store, TempDir};

use crate::history::Recorder;
use crate::progress::{Event, Events, OutputBytes, OutputStream};
use crate::telemetry::Trace;

/// Bytes of events that wait in memory before others go to disk.
const MEMORY_BYTES: usize = 4 << 20;

/// Bytes read from disk at once.
const READ_BYTES: usize = 1 << 20;

/// What an event that is no output counts for in memory.
const SMALL_EVENT_BYTES: usize = 256;

/// Output that waits for its reader on disk at most, in bytes, for one build.
pub(crate) const OUTPUT_LIMIT: u64 = 16 << 30;

/// Bytes before the content of a record.
const HEAD: usize = 5;

/// Why output of a step cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The reader is too slow, or the step writes without end.
    #[error("output waits for its reader beyond the limit of {limit} bytes")]
    Full { limit: u64 },
    /// The disk does not take it.
    #[error("could not keep output until its reader takes it")]
    Write(#[source] io::Error),
}

/// Where events wait. Senders and the one reader share it.
#[derive(Debug)]
pub(crate) struct Spool {
    store: Store,
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest events.
    queue: VecDeque<Event>,
    queued_bytes: usize,
    /// Those after them.
    disk: Option<Disk>,
    /// Those that the disk could not take.
    rest: VecDeque<Event>,
    is_closed: bool,
    recorder: Option<Recorder>,
    trace: Option<Trace>,
}

/// A file of records; those between `read` and `written` wait.
#[derive(Debug)]
struct Disk {
    file: File,
    read: u64,
    written: u64,
    _dir: TempDir,
}

/// Ends the spool when dropped: what is sent later is dropped, what is in it is still read.
#[derive(Debug)]
pub(crate) struct SpoolEnd(Arc<Spool>);

impl Drop for SpoolEnd {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let recorder = state.recorder.take();
        drop(state);
        self.0.changed.notify_all();
        if let Some(recorder) = recorder {
            recorder.finish();
        }
    }
}

impl Spool {
    /// Makes an empty one, whose file will be in the temporary directory of `store`.
    pub(crate) fn new(
        store: Store,
        limit: u64,
        recorder: Option<Recorder>,
        trace: Option<Trace>,
    ) -> (Arc<Self>, SpoolEnd) {
        let state = Mutex::new(State { recorder, trace, ..State::default() });
        let changed = Condvar::new();
        let spool = Arc::new(Self { store, limit, state, changed });
        let end = SpoolEnd(Arc::clone(&spool));
        (spool, end)
    }

    /// Takes the build's trace, which is complete once the spool has ended.
    pub(crate) fn take_trace(&self) -> Option<Trace> {
        self.lock().trace.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event. Appending to files is all that it may wait for.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], for output of steps alone.
    pub(crate) fn push(&self, event: Event) -> Result<(), SpoolError> {
        let mut state = self.lock();
        if state.is_closed {
            return Ok(());
        }
        if let Some(recorder) = &mut state.recorder {
            recorder.note(&event);
        }
        if let Some(trace) = &mut state.trace {
            trace.note(&event);
        }
        let bytes = bytes_of(&event);
        if state.has_room(bytes) {
            state.queued_bytes += bytes;
            state.queue.push_back(event);
        } else if let Err(error) = self.write(&mut state, &event) {
            if matches!(event, Event::StepOutput { .. }) {
                return Err(error);
            }
            state.rest.push_back(event);
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn write(&self, state: &mut State, event: &Event) -> Result<(), SpoolError> {
        // What is behind must not overtake.
        if !state.rest.is_empty() {
            return Err(SpoolError::Full { limit: self.limit });
        }
        if state.disk.is_none() {
            state.disk = Some(Disk::create(&self.store).map_err(SpoolError::Write)?);
        }
        let disk = state.disk.as_mut().expect("it was just made");
        let record = record_of(event);
        if disk.written - disk.read + record.len() as u64 > self.limit {
            return Err(SpoolError::Full { limit: self.limit });
        }
        disk.file.write_all_at(&record, disk.written).map_err(SpoolError::Write)?;
        disk.written += record.len() as u64;
        Ok(())
    }

    /// Waits for the next event; `None` after the last. Blocks.
    fn pop(&self) -> Option<Event> {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.queue.pop_front() {
                state.queued_bytes -= bytes_of(&event);
                return Some(event);
            }
            if let Err(error) = state.refill() {
                tracing::warn!(%error, "output of steps was lost: it could not be read back");
                state.disk = None;
            }
            if state.queue.is_empty() {
                if state.is_closed {
                    return None;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Hands every event on until the spool has ended. Blocks for as long as the reader takes.
    pub(crate) fn drain(&self, events: &Events) {
        while let Some(event) = self.pop() {
            events.send_blocking(event);
        }
    }
}

impl State {
    fn has_room(&self, bytes: usize) -> bool {
        let is_disk_empty = self.disk.as_ref().is_none_or(|disk| disk.read == disk.written);
        let fits = self.queue.is_empty() || self.queued_bytes + bytes <= MEMORY_BYTES;
        is_disk_empty && self.rest.is_empty() && fits
    }

    /// Fills the empty queue with what comes next.
    fn refill(&mut self) -> io::Result<()> {
        if let Some(disk) = self.disk.as_mut().filter(|disk| disk.read < disk.written) {
            disk.read_into(&mut self.queue)?;
        } else {
            std::mem::swap(&mut self.queue, &mut self.rest);
        }
        self.queued_bytes = self.queue.iter().map(bytes_of).sum();
        Ok(())
    }
}

impl Disk {
    fn create(store: &Store) -> io::Result<Self> {
        let dir = store.temp_dir().map_err(io::Error::other)?;
        let path = dir.path().join("events");
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, read: 0, written: 0, _dir: dir })
    }

    /// Reads some records, at least one.
    fn read_into(&mut self, queue: &mut VecDeque<Event>) -> io::Result<()> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, self.read)?;
        let first = HEAD + length_of(&head);
        let waiting = usize::try_from(self.written - self.read).unwrap_or(usize::MAX);
        let mut chunk = vec![0; READ_BYTES.max(first).min(waiting)];
        self.file.read_exact_at(&mut chunk, self.read)?;
        let mut rest = chunk.as_slice();
        while let Some((head, after)) = rest.split_at_checked(HEAD) {
            let Some((content, next)) = after.split_at_checked(length_of(head)) else { break };
            queue.push_back(event_of(head[4], content)?);
            rest = next;
        }
        self.read += (chunk.len() - rest.len()) as u64;
        if self.read == self.written {
            (self.read, self.written) = (0, 0);
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

fn bytes_of(event: &Event) -> usize {
    match event {
        Event::StepOutput { data: OutputBytes::Text(text) | OutputBytes::Base64(text), .. } => {
            text.len() + SMALL_EVENT_BYTES
        }
        _ => SMALL_EVENT_BYTES,
    }
}

fn length_of(head: &[u8]) -> usize {
    u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize
}

fn record_of(event: &Event) -> Vec<u8> {
    let mut record = vec![0; HEAD];
    match event {
        Event::StepOutput { step, stream, data } => {
            let (kind, text) = match data {
                OutputBytes::Text(text) => (1, text),
                OutputBytes::Base64(text) => (2, text),
            };
            record[4] = kind;
            record.reserve(text.len() + 9);
            record.extend_from_slice(&(*step as u64).to_le_bytes());
            record.push(u8::from(*stream == OutputStream::Stderr));
            record.extend_from_slice(text.as_bytes());
        }
        _ => serde_json::to_writer(&mut record, event).expect("events are JSON"),
    }
    let length = u32::try_from(record.len() - HEAD).expect("an event is far smaller than 4 GiB");
    record[..4].copy_from_slice(&length.to_le_bytes());
    record
}

fn event_of(kind: u8, content: &[u8]) -> io::Result<Event> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    if kind == 0 {
        return serde_json::from_slice(content).map_err(|_| damaged());
    }
    let (step, rest) = content.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (stream, text) = rest.split_first().ok_or_else(damaged)?;
    let step = usize::try_from(u64::from_le_bytes(*step)).map_err(|_| damaged())?;
    let stream = if *stream == 0 { OutputStream::Stdout } else { OutputStream::Stderr };
    let text = String::from_utf8(text.to_vec()).map_err(|_| damaged())?;
    let data = if kind == 1 { OutputBytes::Text(text) } else { OutputBytes::Base64(text) };
    Ok(Event::StepOutput { step, stream, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(limit: u64) -> (tempfile::TempDir, Arc<Spool>, SpoolEnd) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (spool, end) = Spool::new(store, limit, None, None);
        (dir, spool, end)
    }

    fn output(step: usize, bytes: Vec<u8>) -> Event {
        let stream =
            if step.is_multiple_of(2) { OutputStream::Stdout } else { OutputStream::Stderr };
        Event::StepOutput { step, stream, data: OutputBytes::new(bytes) }
    }

    fn note(number: usize) -> Event {
        Event::Note { text: format!("note {number}") }
    }

    #[test]
    fn order_and_bytes_are_kept_through_memory_and_disk() {
        let (_dir, spool, end) = spool(OUTPUT_LIMIT);
        let event = |number: usize| match number % 3 {
            0 => note(number),
            1 => output(number, vec![b'a'; 50_000 + number]),
            _ => output(number, vec![0xff; 50_000 + number]),
        };
        // Twice: the file is used again when it was read to its end.
        for round in 0..2 {
            for number in 0..600 {
                spool.push(event(number)).unwrap();
            }
            let on_disk = spool.lock().disk.as_ref().unwrap().written;
            assert!(on_disk > 8 << 20, "round {round}: {on_disk}");
            for number in 0..600 {
                assert_eq!(spool.pop().unwrap(), event(number), "round {round}");
                assert!(spool.lock().queued_bytes <= MEMORY_BYTES + (1 << 20));
            }
            assert_eq!(spool.lock().disk.as_ref().unwrap().written, 0);
        }
        drop(end);
        assert_eq!(spool.pop(), None);
    }

    #[test]
    fn the_limit_refuses_output_and_keeps_all_else() {
        let (_dir, spool, end) = spool(1 << 20);
        let mut kept = 0;
        let error = loop {
            match spool.push(output(kept, vec![b'x'; 60_000])) {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
        };
        assert!(kept > 70, "{kept}");
        assert_eq!(
            error.to_string(),
            "output waits for its reader beyond the limit of 1048576 bytes"
        );
        // It fits the disk, then does not; the order holds.
        for number in 0..10_000 {
            spool.push(note(number)).unwrap();
        }
        drop(end);
        for _ in 0..kept {
            assert!(matches!(spool.pop(), Some(Event::StepOutput { .. })));
        }
        for number in 0..10_000 {
            assert_eq!(spool.pop(), Some(note(number)));
        }
        assert_eq!(spool.pop(), None);
    }

    #[test]
    fn what_is_sent_after_the_end_is_dropped() {
        let (_dir, spool, end) = spool(OUTPUT_LIMIT);
        spool.push(note(1)).unwrap();
        drop(end);
        spool.push(note(2)).unwrap();
        assert_eq!(spool.pop(), Some(note(1)));
        assert_eq!(spool.pop(), None);
    }
}
