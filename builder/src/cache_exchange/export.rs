//! Results of a build to where others find them.
//!
//! A layer is compressed and sent as soon as its step is sealed, beside the steps after it; what is
//! there already is not sent. The entries go last, when all they promise is there, and are joined
//! with those of whoever wrote meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::{Descriptor, DiffId, LayerRecord, Store};
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use super::blob::layer_blob;
use super::depot::{Depot, Found};
use super::entry::Entry;
use super::error::ExchangeError;
use super::import::Imports;
use super::registry::Form;
use super::sign::Signer;
use super::spec::{CacheMode, CachePlace, CacheTo};
use super::{Asked, inline, open};
use crate::blocking;
use crate::build::unix_now;
use crate::config::CacheConfig;
use crate::progress::{Event, Events, TransferPhase};
use crate::registry::Repository;
use crate::source::{Meter, SourceError, Sources};

/// Layers on their way to one cache at once: one is compressed while another is sent.
const UPLOADS: usize = 2;
/// How often an index is written that others write too.
const TRIES: u32 = 20;
/// How long after a write somebody else's may still arrive that knows nothing of it: several times
/// what lies between a writer's last look and its write.
const SETTLE: Duration = Duration::from_millis(80);
/// Bytes a second at which a layer comes from a cache, about.
const FETCH_RATE: u64 = 40 << 20;
/// Layers up to this size always go: they cost a request.
const SMALL: u64 = 1 << 20;

/// A result that may be exported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) diff_id: DiffId,
    /// Of the layer's tar, bytes.
    pub(crate) size: u64,
    pub(crate) duration_ms: u64,
    /// Whether its layer is one of the image's.
    pub(crate) is_in_image: bool,
}

/// What one build exports. Dropping it ends what is on its way.
pub(crate) struct Exports {
    targets: Vec<Target>,
    /// Whether the image itself shall carry entries.
    is_inline: bool,
    signer: Option<Arc<Signer>>,
    events: Events,
}

struct Target {
    to: CacheTo,
    sender: Sender,
    on_the_way: Mutex<OnTheWay>,
}

#[derive(Default)]
struct OnTheWay {
    asked: BTreeSet<DiffId>,
    tasks: JoinSet<(DiffId, Result<Descriptor, ExchangeError>)>,
}

/// What sends one layer. Cheap to clone.
#[derive(Clone)]
struct Sender {
    depot: Arc<dyn Depot>,
    to: Arc<CacheTo>,
    sources: Sources,
    imports: Arc<Imports>,
    events: Events,
    places: Arc<Semaphore>,
    /// The cache as it was when the first layer was offered.
    before: Arc<OnceCell<Found>>,
}

impl std::fmt::Debug for Exports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exports").field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

impl Exports {
    /// Prepares what is `asked` for; nothing is connected to yet.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Key`] when the key to sign with cannot be used.
    pub(crate) async fn prepare(
        asked: &Asked,
        config: &CacheConfig,
        sources: &Sources,
        imports: &Arc<Imports>,
        events: &Events,
    ) -> Result<Self, ExchangeError> {
        let mut exports =
            Self { targets: Vec::new(), is_inline: false, signer: None, events: events.clone() };
        if asked.to.is_empty() {
            return Ok(exports);
        }
        let config = config.clone();
        exports.signer = blocking::run(move || Signer::load(&config)).await?.map(Arc::new);
        let platform = asked.platform();
        for to in &asked.to {
            exports.is_inline |= to.place == CachePlace::Inline;
            let CacheTo { image_manifest, oci_mediatypes, .. } = *to;
            let form = Form { image_manifest, oci_mediatypes };
            let Some(depot) = open(&to.place, sources, &platform, form) else { continue };
            let sender = Sender {
                depot,
                to: Arc::new(to.clone()),
                sources: sources.clone(),
                imports: Arc::clone(imports),
                events: events.clone(),
                places: Arc::new(Semaphore::new(UPLOADS)),
                before: Arc::default(),
            };
            exports.targets.push(Target { to: to.clone(), sender, on_the_way: Mutex::default() });
        }
        Ok(exports)
    }

    /// Whether nothing is exported.
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty() && !self.is_inline
    }

    /// Sends the layer of a result to the caches that take it. Never waits.
    pub(crate) fn offer(&self, offer: &Offer) {
        for target in &self.targets {
            if takes(target.to.mode, offer) {
                target.ask(offer.diff_id);
            }
        }
    }

    /// Puts entries into the config of the image, where that is asked for; those of its base never
    /// stay.
    pub(crate) fn put_inline(
        &self,
        config: &mut frontend::ImageConfig,
        entries: &[(Entry, Offer)],
    ) {
        inline::remove(config);
        if self.is_inline {
            let own = entries.iter().filter(|(_, offer)| takes(CacheMode::Min, offer));
            let own: Vec<_> = own.map(|(entry, _)| self.signed(entry.clone())).collect();
            inline::put(config, &own);
        }
    }

    fn signed(&self, mut entry: Entry) -> Entry {
        if let Some(signer) = &self.signer {
            signer.sign(&mut entry);
        }
        entry
    }

    /// Waits for the layers, and writes the entries.
    ///
    /// # Errors
    ///
    /// The first failure of a cache without `ignore-error`.
    pub(crate) async fn finish(&self, entries: &[(Entry, Offer)]) -> Result<(), ExchangeError> {
        for target in &self.targets {
            match self.finish_one(target, entries).await {
                Ok(text) => self.events.send(Event::Note { text }).await,
                Err(error) if target.to.ignore_error => self.warn(target, &error).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As [`Exports::finish`], for what a build finished that failed: the failure is what is told.
    pub(crate) async fn finish_failed(&self, entries: &[(Entry, Offer)]) {
        for target in &self.targets {
            match self.finish_one(target, entries).await {
                Ok(text) => self.events.send(Event::Note { text }).await,
                Err(error) => self.warn(target, &error).await,
            }
        }
    }

    async fn warn(&self, target: &Target, error: &ExchangeError) {
        let (name, causes) = (target.sender.depot.name(), crate::error::causes(error).join(": "));
        let text = format!("warning: the cache {name} is not written: {causes}");
        self.events.send(Event::Note { text }).await;
    }

    async fn finish_one(
        &self,
        target: &Target,
        entries: &[(Entry, Offer)],
    ) -> Result<String, ExchangeError> {
        let mine: Vec<_> =
            entries.iter().filter(|(_, offer)| takes(target.to.mode, offer)).collect();
        for (_, offer) in &mine {
            target.ask(offer.diff_id);
        }
        let blobs = target.arrived().await?;
        let mine: Vec<Entry> = mine
            .into_iter()
            .filter_map(|(entry, _)| {
                let blob = Some(blobs.get(&entry.diff_id)?.clone());
                Some(self.signed(Entry { blob, ..entry.clone() }))
            })
            .collect();
        let depot = &target.sender.depot;
        let is_changed = write_entries(&**depot, &mine).await?;
        let name = depot.name();
        Ok(if is_changed {
            format!("cache {name}: {} results are there", mine.len())
        } else {
            format!("cache {name}: all {} results were there", mine.len())
        })
    }
}

/// Whether a cache of `mode` takes a result.
fn takes(mode: CacheMode, offer: &Offer) -> bool {
    match mode {
        CacheMode::Min => offer.is_in_image,
        CacheMode::Max => true,
        CacheMode::Auto => {
            let fetch_ms = offer.size.saturating_mul(1000) / FETCH_RATE;
            offer.size <= SMALL || offer.duration_ms > fetch_ms
        }
    }
}

impl Target {
    fn ask(&self, diff_id: DiffId) {
        let mut on_the_way = self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner);
        if on_the_way.asked.insert(diff_id) {
            let sender = self.sender.clone();
            on_the_way.tasks.spawn(async move { (diff_id, sender.send(diff_id).await) });
        }
    }

    /// Waits for all that was asked for, and returns the blobs.
    async fn arrived(&self) -> Result<BTreeMap<DiffId, Descriptor>, ExchangeError> {
        let mut tasks = {
            let mut on_the_way = self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut on_the_way.tasks)
        };
        let mut blobs = BTreeMap::new();
        while let Some(joined) = tasks.join_next().await {
            let (diff_id, sent) = joined.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => unreachable!("nobody but the owner of the set cancels its tasks"),
            });
            match sent {
                Ok(blob) => drop(blobs.insert(diff_id, blob)),
                // A result that another cache promised: it is left out.
                Err(ExchangeError::Lost { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blobs)
    }
}

impl Sender {
    /// Brings the layer to the depot and returns the blob that it is there.
    async fn send(&self, diff_id: DiffId) -> Result<Descriptor, ExchangeError> {
        let _place = self.places.acquire().await.expect("nobody closes the semaphore");
        if let Some(blob) = self.is_there(diff_id).await? {
            return Ok(blob);
        }
        if let Some(hit) = self.imports.by_layer(diff_id) {
            self.imports.fetch(&hit).await?;
        }
        let (store, to, events) =
            (self.sources.store().clone(), Arc::clone(&self.to), self.events.clone());
        let blob = blocking::run(move || layer_blob(&store, diff_id, &to, &events)).await?;
        let record = layer_record(self.sources.store(), diff_id).await?;
        let noted = record.map(|record| record.sources).unwrap_or_default();
        let noted: Vec<_> = noted.iter().filter_map(|text| Repository::parse(text)).collect();
        let phase = TransferPhase::Pushing;
        let meter = Meter::new(&self.events, &blob.digest, phase, Some(blob.size));
        let has_moved = self.depot.put(&blob, &noted, &|bytes| meter.moved(bytes)).await?;
        let end = if has_moved { TransferPhase::Done } else { TransferPhase::AlreadyPresent };
        meter.end(end).await;
        Ok(blob)
    }

    /// Finds a layer among those that the cache had, in a form that will do.
    async fn is_there(&self, diff_id: DiffId) -> Result<Option<Descriptor>, ExchangeError> {
        // A cache that cannot be read is one that cannot be written either: the end tells.
        let before =
            self.before.get_or_init(|| async { self.depot.load().await.unwrap_or_default() });
        let found = before.await.index.entries.iter().find(|entry| entry.diff_id == diff_id);
        let Some(blob) = found.and_then(|entry| entry.blob.clone()) else { return Ok(None) };
        if self.to.force_compression && !super::blob::is_of(&blob, self.to.compression) {
            return Ok(None);
        }
        Ok(self.depot.has(&blob).await?.then_some(blob))
    }
}

async fn layer_record(
    store: &Store,
    diff_id: DiffId,
) -> Result<Option<LayerRecord>, ExchangeError> {
    let store = store.clone();
    let record = blocking::run(move || store.layers().get(&diff_id)).await;
    Ok(record.map_err(SourceError::store("read a layer's record"))?)
}

/// Joins `mine` with what the depot has, until it is there; returns whether anything was written.
async fn write_entries(depot: &dyn Depot, mine: &[Entry]) -> Result<bool, ExchangeError> {
    let mut is_changed = false;
    for attempt in 0..TRIES {
        let found = depot.load().await?;
        if found.is_image {
            return Err(ExchangeError::NotACache { name: depot.name().to_owned() });
        }
        let Some(merged) = found.index.merge(mine, unix_now()) else { return Ok(is_changed) };
        if !depot.replace(&merged, found.version).await? {
            tokio::time::sleep(pause(attempt)).await;
            continue;
        }
        is_changed = true;
        if depot.is_exact() {
            return Ok(true);
        }
        tokio::time::sleep(SETTLE).await;
        if depot.load().await?.index.holds(mine) {
            return Ok(true);
        }
    }
    Err(ExchangeError::Contended { name: depot.name().to_owned(), tries: TRIES })
}

/// Waits longer each time, and never as long as another writer does.
fn pause(attempt: u32) -> Duration {
    let random = u64::from(getrandom::u32().unwrap_or(0) % 50);
    Duration::from_millis(10 * u64::from(attempt.min(10)) + random)
}
