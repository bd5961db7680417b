//! How many blobs move between this process and one registry at once, over all images and builds.
//!
//! Registries count connections and answer 429 to those who open many; and every transfer has its
//! buffers. What a build asks for beyond that waits its turn.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::endpoint::{Endpoint, origin_of};

/// Transfers at once where the configuration says nothing: two images of three layers each.
pub const DEFAULT_TRANSFERS: NonZeroUsize = NonZeroUsize::new(6).expect("six is not zero");
/// Blobs up to this size, bytes, take no lane: they are gone as soon as a request is, and a plan
/// that waits for the config of its base must not wait for the layers of another image.
const SMALL: u64 = 64 << 10;

/// The lanes of all registries.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Arc<Semaphore>>>);

/// A transfer that may go on. It is held over pauses too: a registry that wants to be left alone
/// does not get another transfer instead.
pub(super) type Lane = Option<OwnedSemaphorePermit>;

impl Lanes {
    /// Waits until a blob of `size` bytes, where that is known, may move; `count` is how many may.
    pub(super) async fn enter(
        &self,
        endpoint: &Endpoint,
        size: Option<u64>,
        count: NonZeroUsize,
    ) -> Lane {
        if size.is_some_and(|size| size <= SMALL) {
            return None;
        }
        let lanes = self.of(endpoint, count);
        Some(lanes.acquire_owned().await.expect("nobody closes the semaphore"))
    }

    fn of(&self, endpoint: &Endpoint, count: NonZeroUsize) -> Arc<Semaphore> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = origin_of(&endpoint.base);
        if let Some(lanes) = all.get(&name) {
            return Arc::clone(lanes);
        }
        // Each permit that is out holds its semaphore.
        all.retain(|_, lanes| Arc::strong_count(lanes) > 1);
        let lanes = Arc::new(Semaphore::new(count.get()));
        all.insert(name, Arc::clone(&lanes));
        lanes
    }
}
