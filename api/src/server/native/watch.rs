//! The record of a build as it grows.

use std::sync::Arc;
use std::time::Duration;

use builder::{Builder, blocking};
use cache::{EventLines, EventTail};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::Service;
use crate::server::error::ApiError;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// How long a record is left alone where nobody tells of its growth: builds of other processes.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a record is read at most while it grows: a reader who keeps up with every line of a
/// long log takes from its step the processor that it needs. What comes alone is told at once.
const PACE: Duration = Duration::from_millis(10);

/// A reader of one record.
#[derive(Debug)]
pub(super) struct Watch {
    tail: EventTail,
    /// Read and not handed out.
    next: EventLines,
    /// When it was read last.
    read_at: Option<Instant>,
    /// Of a build of this service.
    growth: Option<watch::Receiver<u64>>,
    /// Whether to wait for what is still to come.
    follows: bool,
    /// Readers of all records that may be at it at once: each takes a thread meanwhile.
    readers: Arc<Semaphore>,
    ending: CancellationToken,
}

impl Watch {
    /// Opens the record of the build `id`, from its first event or from byte `after` on.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotFound`] for a build that is not known, and [`ApiError::Parameter`] for a place
    /// that is none.
    pub(super) async fn open(
        service: &Service,
        id: &str,
        after: Option<u64>,
        follows: bool,
    ) -> Result<Self, ApiError> {
        let growth = service.running().get(id).and_then(|build| build.growth.clone());
        let (builder, asked) = (service.builder().clone(), id.to_owned());
        let tail = blocking::run(move || open_tail(&builder, &asked, after)).await?;
        let (readers, ending) = (service.0.readers.clone(), service.0.ending.clone());
        let next = EventLines::default();
        let read_at = None;
        Self { tail, next, read_at, growth, follows, readers, ending }.read().await
    }

    /// Whether the build is over and nothing is left to be read.
    pub(super) fn is_at_end(&self) -> bool {
        self.next.is_over && self.next.bytes.is_empty()
    }

    async fn read(mut self) -> Result<Self, ApiError> {
        self.read_at = Some(Instant::now());
        // Marked as seen before the record is read, so that nothing is slept through.
        if let Some(growth) = &mut self.growth {
            growth.borrow_and_update();
        }
        let permit = self.readers.clone().acquire_owned().await;
        blocking::run(move || {
            let _permit = permit;
            self.next = self.tail.read(CHUNK)?;
            Ok(self)
        })
        .await
    }

    /// Returns the next lines, waiting for them where the build goes on; `None` at the end.
    pub(super) async fn next(mut self) -> Result<Option<(EventLines, Self)>, ApiError> {
        loop {
            let lines = std::mem::take(&mut self.next);
            if !lines.bytes.is_empty() {
                // There is more where this came from, or the next call finds out.
                return Ok(Some((lines, self)));
            }
            if lines.is_over || (lines != EventLines::default() && !self.may_wait().await) {
                return Ok(None);
            }
            self = self.read().await?;
        }
    }

    async fn may_wait(&mut self) -> bool {
        self.follows && self.wait().await
    }

    /// Waits for growth; false when the service ends and has no more to tell.
    async fn wait(&mut self) -> bool {
        if let Some(growth) = &mut self.growth {
            if growth.changed().await.is_err() {
                // It is complete, or nearly so: then the record says that it is over.
                self.growth = None;
                return true;
            }
            if let Some(read_at) = self.read_at {
                tokio::time::sleep_until(read_at + PACE).await;
            }
            return true;
        }
        self.ending.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some()
    }
}

fn open_tail(builder: &Builder, id: &str, after: Option<u64>) -> Result<EventTail, ApiError> {
    let builds = builder.builds();
    if let Some(tail) = builds.follow(id, after)? {
        return Ok(tail);
    }
    if after.is_some() && builds.follow(id, None)?.is_some() {
        return Err(ApiError::parameter("Last-Event-ID", "no event of this build has this id"));
    }
    Err(ApiError::NotFound(format!("no such build: {id}")))
}
