//! Results that others made: looked up like the store's own, brought here when somebody needs them.
//!
//! Before a build the indexes of its caches are read, and nothing else. A hit is a promise: its
//! layer is fetched when a step stands on it or the image holds it, and becomes a snapshot only if
//! it unpacks to the diff_id of the entry. A promise that is not kept is forgotten, and the build
//! begins anew with what it has: see [`crate::build`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cache::{CacheKey, Descriptor, DiffId};
use futures_util::future::join_all;

use super::depot::{Depot, Found};
use super::entry::{CacheIndex, Entry};
use super::error::ExchangeError;
use super::sign::Trust;
use super::{Asked, Form, open};
use crate::blocking;
use crate::config::CacheConfig;
use crate::progress::{Event, Events, TransferPhase};
use crate::source::{Layer, LayerSource, Meter, SourceError, Sources, check_layer, note_checked};

/// Results of others that a build may use.
#[derive(Debug)]
pub(crate) struct Imports {
    sources: Sources,
    events: Events,
    by_key: HashMap<CacheKey, Vec<Arc<Hit>>>,
    by_content: HashMap<CacheKey, Arc<Hit>>,
    by_layer: HashMap<DiffId, Arc<Hit>>,
    ops: HashSet<CacheKey>,
    /// Layers that could not be had.
    lost: Mutex<BTreeSet<DiffId>>,
}

/// An entry, and where its layer is.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) entry: Entry,
    blob: Descriptor,
    depot: Arc<dyn Depot>,
}

impl Imports {
    /// Reads the indexes of the caches that are `asked` for. One that cannot be read is a note and no entry.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Key`] and what else is wrong with the settings themselves.
    pub(crate) async fn load(
        asked: &Asked,
        config: &CacheConfig,
        sources: &Sources,
        events: &Events,
    ) -> Result<Self, ExchangeError> {
        let mut imports = Self {
            sources: sources.clone(),
            events: events.clone(),
            by_key: HashMap::new(),
            by_content: HashMap::new(),
            by_layer: HashMap::new(),
            ops: HashSet::new(),
            lost: Mutex::default(),
        };
        if asked.from.is_empty() {
            return Ok(imports);
        }
        let config = config.clone();
        let trust = blocking::run(move || Trust::load(&config)).await?;
        let platform = asked.platform();
        let open = |from: &super::CacheFrom| {
            let depot = open(&from.place, sources, &platform, Form::DEFAULT);
            depot.map(|depot| (depot, from.require_signed))
        };
        let depots: Vec<_> = asked.from.iter().filter_map(open).collect();
        let indexes = join_all(depots.iter().map(|(depot, _)| depot.load())).await;
        for ((depot, needs_signature), found) in depots.into_iter().zip(indexes) {
            let text = match found {
                Ok(Found { fault: Some(fault), .. }) => {
                    format!("warning: the cache {} is not used: {fault}", depot.name())
                }
                Ok(found) => {
                    let entries = found.index.entries.len();
                    let taken = imports.add(&depot, found.index, needs_signature.then_some(&trust));
                    format!("cache {}: {taken} of {entries} results can be used", depot.name())
                }
                Err(error) => {
                    let causes = crate::error::causes(&error).join(": ");
                    format!("warning: the cache {} is not used: {causes}", depot.name())
                }
            };
            events.send(Event::Note { text }).await;
        }
        Ok(imports)
    }

    /// Takes the entries of a cache in; returns how many. What is there already goes first.
    fn add(&mut self, depot: &Arc<dyn Depot>, index: CacheIndex, trust: Option<&Trust>) -> usize {
        let mut taken = 0;
        for entry in index.entries {
            let Some(blob) = entry.blob.clone() else { continue };
            if trust.is_some_and(|trust| !trust.is_trusted(&entry)) {
                continue;
            }
            taken += 1;
            let hit = Arc::new(Hit { entry, blob, depot: Arc::clone(depot) });
            if let Some(content) = hit.entry.content {
                self.ops.insert(content.op);
                self.by_content.entry(content.key).or_insert_with(|| Arc::clone(&hit));
            }
            self.by_layer.entry(hit.entry.diff_id).or_insert_with(|| Arc::clone(&hit));
            self.by_key.entry(hit.entry.key).or_default().push(hit);
        }
        taken
    }

    /// Returns what was made under `key`, best first.
    pub(crate) fn get(&self, key: &CacheKey) -> impl Iterator<Item = &Arc<Hit>> {
        self.by_key.get(key).into_iter().flatten().filter(|hit| self.is_there(hit))
    }

    /// Whether an op was ever recorded with a content.
    pub(crate) fn knows_op(&self, op: &CacheKey) -> bool {
        self.ops.contains(op)
    }

    /// Returns what was made of one content.
    pub(crate) fn get_by_content(&self, content: &CacheKey) -> Option<&Arc<Hit>> {
        self.by_content.get(content).filter(|hit| self.is_there(hit))
    }

    /// Returns what has the layer `diff_id`.
    pub(crate) fn by_layer(&self, diff_id: DiffId) -> Option<Arc<Hit>> {
        self.by_layer.get(&diff_id).cloned()
    }

    fn is_there(&self, hit: &Hit) -> bool {
        !self.lost().contains(&hit.entry.diff_id)
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, BTreeSet<DiffId>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a layer among those that cannot be had; false when it was one already.
    pub(crate) fn forget(&self, diff_id: DiffId) -> bool {
        self.lost().insert(diff_id)
    }

    /// Brings the bytes of a hit's layer into the store, checked against its diff_id, so that the
    /// store may say from then on that it has this layer.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Lost`] when the cache does not give them, or gives others.
    pub(crate) async fn fetch(&self, hit: &Hit) -> Result<(), ExchangeError> {
        let layer = Layer { descriptor: hit.blob.clone(), diff_id: hit.entry.diff_id };
        let (store, diff_id) = (self.sources.store().clone(), layer.diff_id);
        // A blob of the right name is not enough: who says that it holds this layer is the cache.
        let found = blocking::run(move || LayerSource::find_known(&store, diff_id)).await?;
        if found.is_some() {
            return Ok(());
        }
        let blob = &hit.blob;
        let phase = TransferPhase::Downloading;
        let meter = Meter::new(&self.events, &blob.digest, phase, Some(blob.size));
        match hit.depot.fetch(blob, &|bytes| meter.moved(bytes)).await {
            Ok(()) => {}
            // This disk fails for everybody alike.
            Err(error @ ExchangeError::Source(SourceError::Store { .. }))
                if error.kind() == crate::error::ErrorKind::Host =>
            {
                return Err(error);
            }
            Err(error) => return Err(self.lose(hit, &error).await),
        }
        meter.end(TransferPhase::Done).await;
        let (store, checked) = (self.sources.store().clone(), layer.clone());
        match blocking::run(move || check_layer(&store, &checked)).await {
            Ok(()) => {}
            Err(error) => return Err(self.lose(hit, &error).await),
        }
        let store = self.sources.store().clone();
        Ok(blocking::run(move || note_checked(&store, &layer)).await?)
    }

    async fn lose(&self, hit: &Hit, error: &(dyn std::error::Error + Sync)) -> ExchangeError {
        let causes = crate::error::causes(error).join(": ");
        let (name, step) = (hit.depot.name(), &hit.entry.step);
        let text = format!("warning: the cache {name} does not give `{step}`: {causes}");
        self.events.send(Event::Note { text }).await;
        ExchangeError::Lost { diff_id: hit.entry.diff_id }
    }
}
