//! Results from shared caches among a build's own: which fit, and how they come here.
//!
//! An imported result has the name of a snapshot before it has one: [`SnapshotId::for_import`]. It
//! comes into being when a step stands on it, with all that lies under it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cache::{ChainId, DiffId, Record, SnapshotId, Store};
use frontend::{BuildGraph, Op, Vertex, VertexId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::keys::makes_layer;
use crate::blocking;
use crate::cache_exchange::{Entry, ExchangeError, Hit, Imports};
use crate::op::OpError;
use crate::progress::Events;
use crate::source::{Layer, ResolvedImage, SourceError, Sources, built_layer, unpack_as};

/// Layers of one stack fetched at once.
const FETCHES: usize = 3;

/// What is known of the layers that make a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stack {
    /// Nothing, yet.
    #[default]
    Unknown,
    /// There are none.
    Empty,
    /// All of them.
    Of(ChainId),
}

impl Stack {
    /// The stack of an image.
    pub(super) fn of_image(diff_ids: &[DiffId]) -> Self {
        cache::chain_id(diff_ids).map_or(Self::Empty, Self::Of)
    }

    /// The stack with one more layer.
    pub(super) fn push(self, layer: DiffId) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Empty => Self::Of(ChainId(layer.0)),
            Self::Of(chain) => Self::Of(chain.push(layer)),
        }
    }
}

/// What an imported layer lies on.
#[derive(Clone, Debug)]
pub(super) enum Below {
    Nothing,
    /// A base that may not be here yet.
    Image(Arc<ResolvedImage>),
    Snapshot(SnapshotId),
}

impl Below {
    fn name(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Image(image) => match Stack::of_image(&image.diff_ids) {
                Stack::Of(chain) => chain.0.to_string(),
                Stack::Unknown | Stack::Empty => String::new(),
            },
            Self::Snapshot(id) => id.to_string(),
        }
    }
}

/// A result that another build made.
#[derive(Debug)]
pub(super) struct Imported {
    hit: Arc<Hit>,
    below: Below,
    /// As this store will have it.
    pub(super) record: Record,
}

impl Imported {
    /// Takes over what `hit` promises, under the names of `like`.
    pub(super) fn new(hit: &Arc<Hit>, below: Below, like: Record) -> Self {
        let Entry { diff_id, size, created, duration_ms, .. } = hit.entry;
        let snapshot = SnapshotId::for_import(&below.name(), &diff_id);
        let record = Record { snapshot, diff_id, size, created, duration_ms, ..like };
        Self { hit: Arc::clone(hit), below, record }
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.hit.entry
    }
}

/// Whether an entry was made from the stacks that the inputs of `vertex` have now. With
/// `takes_unknown` an input besides the first of which nothing is known is taken to be what it was.
pub(super) fn fits(
    entry: &Entry,
    vertex: &Vertex,
    graph: &BuildGraph,
    takes_unknown: bool,
    stack: impl Fn(VertexId) -> Stack,
) -> bool {
    let built = vertex.inputs.iter().filter(|input| makes_layer(&graph.vertices[input.0]));
    let built: Vec<VertexId> = built.copied().collect();
    let first = vertex.inputs.first();
    built.len() == entry.inputs.len()
        && built.iter().zip(&entry.inputs).all(|(input, made_from)| match stack(*input) {
            Stack::Of(chain) => chain == *made_from,
            Stack::Unknown => takes_unknown && first != Some(input),
            Stack::Empty => false,
        })
}

/// The snapshots that the record of an imported result names as its inputs; one that is not known
/// gets a name that no other has.
pub(super) fn made_from(
    entry: &Entry,
    vertex: &Vertex,
    graph: &BuildGraph,
    snapshot: impl Fn(VertexId) -> Option<SnapshotId>,
) -> Vec<SnapshotId> {
    let built = vertex.inputs.iter().filter(|input| makes_layer(&graph.vertices[input.0]));
    let named = built.zip(&entry.inputs).map(|(input, chain)| {
        snapshot(*input).unwrap_or_else(|| SnapshotId::for_import("?", &DiffId(chain.0)))
    });
    named.collect()
}

/// The imported results of one build.
#[derive(Debug)]
pub(super) struct Arrivals {
    imports: Arc<Imports>,
    sources: Sources,
    known: Mutex<HashMap<SnapshotId, Arc<Imported>>>,
    /// One stack comes here at a time: what two share is unpacked once.
    turn: tokio::sync::Mutex<()>,
}

impl Arrivals {
    pub(super) fn new(imports: &Arc<Imports>, sources: &Sources) -> Self {
        let (imports, sources) = (Arc::clone(imports), sources.clone());
        Self { imports, sources, known: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn imports(&self) -> &Imports {
        &self.imports
    }

    /// Takes note of a result that somebody may stand on.
    pub(super) fn expect(&self, imported: &Arc<Imported>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(imported.record.snapshot.clone(), Arc::clone(imported));
    }

    /// Returns the imported result that a snapshot stands for.
    pub(super) fn get(&self, id: &SnapshotId) -> Option<Arc<Imported>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Brings the layer of a snapshot here, without unpacking it, if it is imported.
    pub(super) async fn fetch(&self, id: &SnapshotId) -> Result<(), OpError> {
        match self.get(id) {
            Some(imported) => Ok(self.imports.fetch(&imported.hit).await?),
            None => Ok(()),
        }
    }

    /// Brings a snapshot here, and what lies under it, if it is imported.
    pub(super) async fn bring(&self, id: &SnapshotId, events: &Events) -> Result<(), OpError> {
        if self.get(id).is_none() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let mut missing: Vec<Arc<Imported>> = Vec::new();
        let mut below = Below::Snapshot(id.clone());
        while let Below::Snapshot(id) = &below {
            let Some(imported) = self.get(id) else { break };
            if is_here(self.sources.store(), id).await? {
                break;
            }
            below = imported.below.clone();
            missing.push(imported);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let fetches = missing.iter().rev().map(|imported| self.imports.fetch(&imported.hit));
        let fetches = stream::iter(fetches.collect::<Vec<_>>()).buffered(FETCHES);
        let base = async {
            Ok::<_, OpError>(match &below {
                Below::Nothing => None,
                Below::Image(image) => self.sources.materialize(image, events).await?,
                Below::Snapshot(id) => Some(id.clone()),
            })
        };
        let layers = async { Ok(fetches.try_collect::<Vec<()>>().await?) };
        let (mut parent, _) = tokio::try_join!(base, layers)?;
        for imported in missing.into_iter().rev() {
            let store = self.sources.store().clone();
            parent =
                blocking::run(move || unpack(&store, &imported, parent.as_ref())).await?.into();
        }
        Ok(())
    }
}

async fn is_here(store: &Store, id: &SnapshotId) -> Result<bool, OpError> {
    let (store, id) = (store.clone(), id.clone());
    let found = blocking::run(move || store.snapshots().get(&id)).await;
    Ok(found.map_err(OpError::store)?.is_some())
}

/// Unpacks a layer that is here, and remembers the result as if it had been made here.
fn unpack(
    store: &Store,
    imported: &Imported,
    parent: Option<&SnapshotId>,
) -> Result<SnapshotId, OpError> {
    let Record { diff_id, snapshot, .. } = &imported.record;
    let layer = Layer { descriptor: built_layer(*diff_id, 0), diff_id: *diff_id };
    let size = unpack_as(store, &layer, snapshot, parent).map_err(|error| match error {
        error @ SourceError::Store { .. } => OpError::from(error),
        error => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an imported layer is damaged"
            );
            ExchangeError::Lost { diff_id: *diff_id }.into()
        }
    })?;
    let record = Record { size, ..imported.record.clone() };
    store.index().put(&record).map_err(OpError::store)?;
    if let Some(content) = imported.entry().content {
        let index = store.index();
        index.put_by_content(&content.op, &content.key, &record).map_err(OpError::store)?;
    }
    Ok(snapshot.clone())
}

/// Returns the base of a vertex as an imported layer lies on it: before anything is there.
pub(super) fn below_of(
    op: &Op,
    image: Option<&Arc<ResolvedImage>>,
    snapshot: Option<SnapshotId>,
) -> Below {
    match (op, image, snapshot) {
        (Op::Image(_), Some(image), _) => Below::Image(Arc::clone(image)),
        (_, _, Some(snapshot)) => Below::Snapshot(snapshot),
        _ => Below::Nothing,
    }
}
