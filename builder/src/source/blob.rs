//! Blobs into the store: streamed, checked, each by one fetcher at a time.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use cache::{Descriptor, IngestError, LayerRecord, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::image::{Layer, ResolvedImage};
use super::layer::{LayerSource, described};
use super::{Meter, SourceError, Sources};
use crate::blocking;
use crate::progress::{Events, TransferPhase};
use crate::registry::{RegistryError, Repository, Route, document};

/// Layers fetched at once, as Docker does: more gains little and hurts small connections.
const FETCHES: usize = 3;
/// Chunks that wait for the disk; the network waits then.
const CHUNKS_AHEAD: usize = 64;

impl Sources {
    /// Brings the bytes of every layer into the store, or finds that they can be made here.
    /// Returns whether anything had to move.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn fetch_layers(
        &self,
        image: &ResolvedImage,
        events: &Events,
    ) -> Result<bool, SourceError> {
        let mut fetches = self.start_fetches(image.each_layer().collect(), image, events);
        let mut moved = false;
        while let Some((_, outcome)) = fetches.next().await {
            moved |= outcome?;
        }
        Ok(moved)
    }

    /// Starts to fetch `layers`, in order and a few at a time.
    pub(super) fn start_fetches(
        &self,
        layers: Vec<Layer>,
        image: &ResolvedImage,
        events: &Events,
    ) -> Fetches {
        let permits = Arc::new(Semaphore::new(FETCHES));
        let asked = image.repository();
        let mut tasks = JoinSet::new();
        for (at, layer) in layers.into_iter().enumerate() {
            let (sources, events) = (self.clone(), events.clone());
            let (permits, asked) = (Arc::clone(&permits), asked.clone());
            tasks.spawn(async move {
                let permit = permits.acquire().await;
                let outcome = sources.fetch_layer(&layer, asked.as_ref(), &events).await;
                drop(permit);
                (at, outcome)
            });
        }
        Fetches { tasks, arrived: BTreeSet::new() }
    }

    /// Brings the bytes of one layer here; returns whether they had to move.
    pub(super) async fn fetch_layer(
        &self,
        layer: &Layer,
        asked: Option<&Repository>,
        events: &Events,
    ) -> Result<bool, SourceError> {
        let wanted = &layer.descriptor;
        let (store, searched) = (self.store.clone(), layer.clone());
        let found = blocking::run(move || LayerSource::find(&store, &searched)).await?;
        let meter =
            Meter::new(events, &wanted.digest, TransferPhase::Downloading, Some(wanted.size));
        if found.is_some() {
            meter.end(TransferPhase::AlreadyPresent).await;
            return Ok(false);
        }
        let (store, diff_id) = (self.store.clone(), layer.diff_id);
        let record = blocking::run(move || store.layers().get(&diff_id)).await;
        let record = record.map_err(SourceError::store("read a layer's record"))?;
        let noted = record.iter().flat_map(|record| &record.sources);
        let mut repositories: Vec<_> = noted.filter_map(|text| Repository::parse(text)).collect();
        // The image's own repository is a guess: one that was built here may be nowhere else.
        if repositories.is_empty() {
            repositories.extend(asked.cloned());
        }
        let mut failed = SourceError::Lost { diff_id };
        for wanted in forms(layer, record.as_ref()) {
            match self.fetch_blob(&repositories, &wanted, &|bytes| meter.moved(bytes)).await {
                Ok(()) => {
                    meter.end(TransferPhase::Done).await;
                    return Ok(true);
                }
                Err(error) => failed = error,
            }
        }
        Err(match failed {
            SourceError::Registry(RegistryError::BlobNotFound { digest, .. })
                if document::is_foreign(&wanted.media_type) =>
            {
                SourceError::Foreign { digest }
            }
            failed => failed,
        })
    }

    /// Fetches the blob `wanted` from the first of `repositories` that gives it whole.
    pub(crate) async fn fetch_blob(
        &self,
        repositories: &[Repository],
        wanted: &Descriptor,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        let flight = self.flights.lock_of(wanted.digest);
        let _guard = flight.lock().await;
        let (store, digest) = (self.store.clone(), wanted.digest);
        if blocking::run(move || store.content().contains(&digest)).await {
            return Ok(());
        }
        let (store, size) = (self.store.clone(), wanted.size);
        let room = blocking::run(move || store.make_room(size)).await;
        room.map_err(SourceError::store("make room for a layer"))?;
        let mut failed = SourceError::NoRegistry { digest: wanted.digest };
        for repository in repositories {
            for route in self.registry.routes(repository)? {
                match self.fetch_from(&route, wanted, moved).await {
                    Ok(()) => return Ok(()),
                    // This machine fails for every place alike.
                    Err(error @ SourceError::Store { .. }) => return Err(error),
                    Err(error) => {
                        tracing::debug!(host = route.host(), %error, "no blob from here");
                        failed = error;
                    }
                }
            }
        }
        Err(failed)
    }

    /// Streams one blob from one place to the disk: the network side and the disk side run at
    /// once, and the disk side has the last word.
    async fn fetch_from(
        &self,
        route: &Route,
        wanted: &Descriptor,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), SourceError> {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (store, expected) = (self.store.clone(), wanted.clone());
        let disk = blocking::run(move || write_chunks(&store, receiver, &expected));
        let network = async {
            let outcome = route.blob(wanted, &sender, moved).await;
            drop(sender);
            outcome
        };
        let (network, disk) = tokio::join!(network, disk);
        match (network, disk) {
            // The sink broke because the disk did, or the disk saw too little because the network
            // broke: the first cause is the one to tell.
            (Err(RegistryError::Local { .. }) | Ok(()), Err(error)) => Err(blame(error, route)),
            (Err(error), _) => Err(error.into()),
            (Ok(()), Ok(())) => Ok(()),
        }
    }
}

/// Layers on their way. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Fetches {
    tasks: JoinSet<(usize, Result<bool, SourceError>)>,
    arrived: BTreeSet<usize>,
}

impl Fetches {
    /// Waits until layer `at` is here, or any layer has failed.
    pub(super) async fn wait_for(&mut self, at: usize) -> Result<(), SourceError> {
        while !self.arrived.contains(&at) {
            let (which, outcome) =
                self.next().await.expect("every layer that was asked for arrives or fails");
            outcome?;
            self.arrived.insert(which);
        }
        Ok(())
    }

    /// Waits for the next layer that arrives, in any order: its position and how it went.
    async fn next(&mut self) -> Option<(usize, Result<bool, SourceError>)> {
        match self.tasks.join_next().await? {
            Ok(outcome) => Some(outcome),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => unreachable!("nobody but the owner of the set cancels its tasks"),
            },
        }
    }
}

/// Returns the blobs that hold a layer and that a registry may have: the one that the manifest
/// names, unless it stands for a snapshot of ours, and those that were pushed or pulled before.
fn forms(layer: &Layer, record: Option<&LayerRecord>) -> Vec<Descriptor> {
    let named = &layer.descriptor;
    let mut forms: Vec<_> =
        (named.digest != layer.diff_id.0).then(|| named.clone()).into_iter().collect();
    let noted = record.into_iter().flat_map(|record| &record.blobs);
    let mut noted: Vec<_> = noted.filter(|blob| blob.digest != named.digest).collect();
    noted.sort_by_key(|blob| !blob.checked);
    forms.extend(noted.into_iter().map(described));
    if forms.is_empty() {
        forms.push(named.clone());
    }
    forms
}

fn write_chunks(
    store: &Store,
    mut chunks: mpsc::Receiver<Bytes>,
    wanted: &Descriptor,
) -> Result<(), IngestError> {
    let mut writer = store.content().writer()?;
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write_all(&chunk).map_err(|source| IngestError::Read { source })?;
    }
    writer.commit(Some((wanted.digest, wanted.size))).map(drop)
}

/// Says whose fault it is that the bytes were not kept: the one who sent them, or this disk.
fn blame(error: IngestError, route: &Route) -> SourceError {
    match error {
        IngestError::Mismatch { expected, found } => {
            RegistryError::Mismatch { host: route.host().to_owned(), expected, found }.into()
        }
        other => SourceError::store("keep the blob")(other),
    }
}
