//! Images for FROM, COPY --from and pull: found in the store or at a registry, their layers
//! fetched only when somebody needs their files. Files by URL and git checkouts beside them.
//!
//! Invariants: nothing enters the store under a digest that was not computed from the bytes; a
//! layer becomes a snapshot only if it unpacks to the diff_id that the config names; several
//! builds, and several processes, may want the same layer at once.

mod blob;
mod error;
mod git;
mod http;
mod image;
mod layer;
mod layout;
mod materialize;
mod name;
mod progress;
mod remote;
mod resolve;
mod secrets;
mod target;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cache::{CacheMount, Digest, Store, StoreError};

use crate::blocking;
use crate::progress::Events;
use crate::registry::Registry;

pub use error::SourceError;
pub use git::GitError;
pub(crate) use git::checkout_time;
pub use http::HttpError;
pub use image::{Layer, ResolvedImage, read_image, write_image};
pub use layer::{LayerSource, built_layer};
pub use remote::RemoteError;
pub use resolve::{Distribution, PullPolicy};
pub use target::{Target, read_target};

pub(crate) use image::{CONFIG_LIMIT, MANIFEST_LIMIT, keep, manifest_bytes, wire};
pub(crate) use layer::open_tar;
pub(crate) use materialize::{check_layer, unpack_as};
pub(crate) use name::{manifest_name, repository};
pub(crate) use progress::Meter;
pub(crate) use remote::{RemoteContext, RemoteFiles, parse_remote};
pub(crate) use resolve::{name_image, name_target, named, note_checked, note_layer};
pub(crate) use secrets::SourceSecrets;
pub(crate) use target::{manifest_below, platform_value};

/// How often a directory that somebody else has is asked for again.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// Takes the directory that keeps what came from `name`, waiting for whoever has it.
async fn fetched(store: &Store, kind: &'static str, name: &str) -> Result<CacheMount, StoreError> {
    loop {
        let (store, name) = (store.clone(), name.to_owned());
        let taken = blocking::run(move || store.fetched(kind, &name)).await?;
        match taken {
            Some(taken) => return Ok(taken),
            None => tokio::time::sleep(BUSY_INTERVAL).await,
        }
    }
}

/// Where images come from: one store and the registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    store: Store,
    registry: Registry,
    flights: Flights,
}

/// Blobs on their way, so that two builds of one process do not fetch the same one twice. Two
/// processes may: the store takes whichever comes last, and both are the same bytes.
#[derive(Clone, Debug, Default)]
struct Flights(Arc<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>>);

impl Sources {
    /// Joins a store and the client of the registries.
    #[must_use]
    pub fn new(store: Store, registry: Registry) -> Self {
        Self { store, registry, flights: Flights::default() }
    }

    /// Returns sources that ask with other credentials; blobs on their way are shared.
    #[must_use]
    pub fn with_registry(&self, registry: Registry) -> Self {
        Self { registry, ..self.clone() }
    }

    /// Returns sources that work through another handle of the store; blobs on their way are
    /// shared.
    #[must_use]
    pub fn with_store(&self, store: Store) -> Self {
        Self { store, ..self.clone() }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the client of the registries.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Asks for `reference` anew, fetches all its layers into the store and gives it its name.
    /// Nothing is unpacked. Returns the image, and whether all of it was there already.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn pull(
        &self,
        reference: &frontend::Reference,
        platform: &frontend::Platform,
        events: &Events,
    ) -> Result<(ResolvedImage, bool), SourceError> {
        let reference = reference.clone().with_default_tag();
        let before = self.stored(&reference, platform).await?;
        let image = self.resolve(&reference, platform, PullPolicy::Always).await?;
        let moved = self.fetch_layers(&image, events).await?;
        let is_same = before.is_some_and(|before| before.manifest == image.manifest);
        Ok((image, is_same && !moved))
    }
}

impl Flights {
    /// Returns the lock of the one who fetches `digest`.
    fn lock_of(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = flights.get(&digest).and_then(Weak::upgrade) {
            return lock;
        }
        flights.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(digest, Arc::downgrade(&lock));
        lock
    }
}
