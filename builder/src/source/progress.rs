//! Transfers as events: often enough to be seen moving, seldom enough to cost nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cache::Digest;

use crate::progress::{Event, Events, Transfer, TransferPhase};

/// Reports of one transfer are at least this far apart.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reports on one transfer.
#[derive(Debug)]
pub(crate) struct Meter {
    events: Events,
    id: String,
    phase: TransferPhase,
    total: Option<u64>,
    last: Mutex<Option<Instant>>,
}

impl Meter {
    /// Watches `phase` of the blob `digest`.
    pub(crate) fn new(
        events: &Events,
        digest: &Digest,
        phase: TransferPhase,
        total: Option<u64>,
    ) -> Self {
        Self::named(events, &digest.short(), phase, total)
    }

    /// Watches `phase` of something that has no digest yet.
    pub(crate) fn named(
        events: &Events,
        id: &str,
        phase: TransferPhase,
        total: Option<u64>,
    ) -> Self {
        Self { events: events.clone(), id: id.to_owned(), phase, total, last: Mutex::new(None) }
    }

    /// Says how many bytes have moved. May be called for every chunk.
    pub(crate) fn moved(&self, current: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        self.events.offer(self.event(self.phase, current));
    }

    /// Says that it is over, or that nothing had to move. This report is never lost.
    pub(crate) async fn end(&self, phase: TransferPhase) {
        self.events.send(self.event(phase, self.total.unwrap_or(0))).await;
    }

    /// As [`Self::end`], for blocking code.
    pub(crate) fn end_blocking(&self, phase: TransferPhase) {
        self.events.send_blocking(self.event(phase, self.total.unwrap_or(0)));
    }

    fn event(&self, phase: TransferPhase, current: u64) -> Event {
        Event::Transfer(Transfer { id: self.id.clone(), phase, current, total: self.total })
    }
}

/// Counts what is read through it.
#[derive(Debug)]
pub(crate) struct MeteredReader<R> {
    inner: R,
    read: u64,
    meter: Meter,
}

impl<R> MeteredReader<R> {
    /// Reports reads from `inner` to `meter`.
    pub(crate) fn new(inner: R, meter: Meter) -> Self {
        Self { inner, read: 0, meter }
    }
}

impl<R: std::io::Read> std::io::Read for MeteredReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        self.meter.moved(self.read);
        Ok(read)
    }
}
