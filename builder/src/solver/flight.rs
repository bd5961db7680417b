//! Equal steps of builds that run at the same time: one executes, the others wait for its record.
//!
//! Within this process they wait in a queue; for other processes on the store they ask again and
//! again, since a file lock cannot be awaited together with a cancellation. Whoever gets the right
//! looks the record up once more, so it does not matter whether the one before finished, failed,
//! was cancelled or was killed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cache::{CacheKey, Flight, Store};
use tokio::sync::OwnedMutexGuard;

use crate::blocking;
use crate::op::OpError;

/// How long after the first refusal by another process it is asked again; doubled up to the
/// second.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The steps that this process executes, and those that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<CacheKey, Weak<tokio::sync::Mutex<()>>>>);

/// The right to execute the step of one key, among all processes, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    // Dropped in this order: the next one in this process finds the file free.
    _everywhere: Flight,
    _here: OwnedMutexGuard<()>,
}

impl Flights {
    /// Waits for the right to execute the step of `key`. May be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`OpError::Store`] when the file cannot be locked.
    pub(crate) async fn take(&self, store: &Store, key: CacheKey) -> Result<InFlight, OpError> {
        let here = self.queue(key).lock_owned().await;
        let (mut pause, longest) = ASK_AGAIN;
        loop {
            let store = store.clone();
            let taken = blocking::run(move || store.try_flight(&key)).await;
            if let Some(everywhere) = taken.map_err(OpError::store)? {
                return Ok(InFlight { _everywhere: everywhere, _here: here });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Takes the right to execute the step of `key` if nobody has it now. Blocks on the disk alone.
    ///
    /// # Errors
    ///
    /// [`OpError::Store`] when the file cannot be locked.
    pub(crate) fn try_take(
        &self,
        store: &Store,
        key: CacheKey,
    ) -> Result<Option<InFlight>, OpError> {
        let Ok(here) = self.queue(key).try_lock_owned() else { return Ok(None) };
        let everywhere = store.try_flight(&key).map_err(OpError::store)?;
        Ok(everywhere.map(|everywhere| InFlight { _everywhere: everywhere, _here: here }))
    }

    fn queue(&self, key: CacheKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::default();
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}
