//! The keys of all vertices, and what the cache has under them before any work is done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use cache::{CacheKey, Component, Record, SnapshotId, Store};
use frontend::{BuildGraph, Op, RunNetwork, Vertex, VertexId};

use super::error::BuildError;
use super::execute::Remotes;
use super::imported::{self, Imported, Stack, below_of};
use super::policy::Policy;
use crate::cache_exchange::Imports;
use crate::context::FileRoot;
use crate::explain::Explainer;
use crate::key::{self, Content, InputKey};
use crate::op::{self, Selection, Taken};
use crate::source::ResolvedImage;

/// A vertex's place in the cache.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    /// By its history; `None` for files from outside: their users are keyed by what they select.
    pub(super) key: Option<CacheKey>,
    pub(super) components: Vec<Component>,
    /// What the cache has under the key.
    pub(super) record: Option<Record>,
    /// Where the record is another build's.
    pub(super) imported: Option<Arc<Imported>>,
    /// The layers of its result, where they are known before any work.
    pub(super) stack: Stack,
    /// Must be made anew, whatever the cache has.
    pub(super) is_forced: bool,
    /// What it takes from files from outside.
    pub(super) taken: Taken,
    /// What a COPY copies, where all of it comes from outside; for the one that executes it.
    pub(super) selection: Mutex<Option<Selection>>,
    /// It, or something that it is made of, is made anew: its history says nothing.
    is_doubtful: bool,
}

/// Whether a vertex makes a layer.
pub(super) fn makes_layer(vertex: &Vertex) -> bool {
    match &vertex.op {
        Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => true,
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Git(_) | Op::Http(_) => false,
    }
}

/// What keys are made from and looked up in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup<'a> {
    pub(super) store: &'a Store,
    pub(super) graph: &'a BuildGraph,
    pub(super) files: &'a BTreeMap<VertexId, Arc<FileRoot>>,
    pub(super) remotes: &'a Remotes,
    pub(super) policy: &'a Policy,
    pub(super) images: &'a BTreeMap<VertexId, Arc<ResolvedImage>>,
    pub(super) imports: &'a Imports,
}

impl Lookup<'_> {
    /// Keys and looks up all vertices, inputs first; `forced` has those that are made anew.
    pub(super) fn key_all(
        &self,
        forced: &[bool],
        default_network: RunNetwork,
        explainer: &Explainer,
    ) -> Result<Vec<Keyed>, BuildError> {
        let mut keyed: Vec<Keyed> = Vec::with_capacity(self.graph.vertices.len());
        for (index, vertex) in self.graph.vertices.iter().enumerate() {
            if self.files.contains_key(&VertexId(index)) {
                keyed.push(Keyed::default());
                continue;
            }
            let inputs: Vec<InputKey> = vertex
                .inputs
                .iter()
                .map(|input| keyed[input.0].key.map_or(InputKey::Files, InputKey::Key))
                .collect();
            let taken = self.taken(index)?;
            let identity = self.remotes.get(&VertexId(index)).map(|remote| remote.identity());
            let content = Content { selection: taken.digest.or(identity), default_network };
            let (key, components) = key::of(vertex, &inputs, &content);
            let mut this = Keyed {
                key: Some(key),
                components,
                record: None,
                imported: None,
                stack: Stack::Unknown,
                is_forced: forced[index],
                taken,
                selection: Mutex::default(),
                is_doubtful: forced[index]
                    || vertex.inputs.iter().any(|input| keyed[input.0].is_doubtful),
            };
            if !this.is_doubtful && below_is_cached(self.graph, &keyed, vertex) {
                this.record = self.find(vertex, &key, &keyed);
                if this.record.is_none() {
                    this.imported = self.find_imported(index, &this, &keyed).map(Arc::new);
                    this.record = this.imported.as_ref().map(|it| it.record.clone());
                }
                let is_fresh = |record| self.policy.is_fresh(vertex, record);
                this.is_doubtful = this.record.as_ref().is_some_and(|record| !is_fresh(record));
                this.record = this.record.filter(|_| !this.is_doubtful);
            }
            this.stack = self.stack(index, this.record.as_ref(), &keyed);
            let looked_up = (key, this.components.clone());
            let (record, files) = (this.record.as_ref(), || this.taken.files());
            explainer.note(VertexId(index), looked_up, record, files, forced[index]);
            let selection = this.taken.take_selection();
            this.selection = Mutex::new(selection.filter(|_| this.record.is_none()));
            keyed.push(this);
        }
        Ok(keyed)
    }

    fn taken(&self, index: usize) -> Result<Taken, BuildError> {
        let vertex = &self.graph.vertices[index];
        op::taken_from_outside(vertex, |input| self.files.get(&input)).map_err(|source| {
            let steps = &self.graph.steps;
            let step = steps.iter().position(|step| step.vertex == Some(VertexId(index)));
            BuildError::Step {
                step: step.map_or_else(String::new, |step| steps[step].text.clone()),
                index: step,
                source: Box::new(source),
                kept_by: None,
            }
        })
    }

    fn stack(&self, index: usize, record: Option<&Record>, keyed: &[Keyed]) -> Stack {
        let vertex = &self.graph.vertices[index];
        match (&vertex.op, record) {
            (Op::Scratch, _) => Stack::Empty,
            (Op::Image(_), _) => {
                let image = self.images.get(&VertexId(index));
                image.map_or(Stack::Unknown, |image| Stack::of_image(&image.diff_ids))
            }
            (_, Some(record)) => {
                let below = vertex.inputs.first().map(|below| keyed[below.0].stack);
                below.unwrap_or_default().push(record.diff_id)
            }
            (_, None) => Stack::Unknown,
        }
    }

    /// Returns what another build made under the vertex's key, if it was made from what the inputs
    /// are now.
    fn find_imported(&self, index: usize, this: &Keyed, keyed: &[Keyed]) -> Option<Imported> {
        let (vertex, key) = (&self.graph.vertices[index], this.key?);
        let stack = |input: VertexId| keyed[input.0].stack;
        let mut hits = self.imports.get(&key);
        let hit = hits.find(|hit| imported::fits(&hit.entry, vertex, self.graph, true, stack))?;
        let snapshot = |input: VertexId| Some(keyed[input.0].record.as_ref()?.snapshot.clone());
        let first = *vertex.inputs.first()?;
        let below_op = &self.graph.vertices[first.0].op;
        let below = below_of(below_op, self.images.get(&first), snapshot(first));
        let step = self.graph.steps.iter().find(|step| step.vertex == Some(VertexId(index)));
        let like = Record {
            key,
            snapshot: SnapshotId::for_import("", &hit.entry.diff_id),
            diff_id: hit.entry.diff_id,
            size: 0,
            latest: None,
            created: 0,
            duration_ms: 0,
            inputs: imported::made_from(&hit.entry, vertex, self.graph, snapshot),
            components: this.components.clone(),
            step: step.map_or_else(String::new, |step| step.text.clone()),
        };
        Some(Imported::new(hit, below, like))
    }

    /// Returns the record under `key`, if it was made from what the inputs are now.
    fn find(&self, vertex: &Vertex, key: &CacheKey, keyed: &[Keyed]) -> Option<Record> {
        let snapshot = |input: VertexId| Some(keyed[input.0].record.as_ref()?.snapshot.clone());
        let record = self.store.index().get(key);
        record.filter(|record| fits(record, vertex, self.graph, snapshot))
    }
}

/// Whether `record` was made from the snapshots that the inputs of `vertex` have now. An input
/// besides the first of which nothing is known is taken to be what it was.
pub(super) fn fits(
    record: &Record,
    vertex: &Vertex,
    graph: &BuildGraph,
    snapshot: impl Fn(VertexId) -> Option<SnapshotId>,
) -> bool {
    let built = vertex.inputs.iter().filter(|input| makes_layer(&graph.vertices[input.0]));
    let built: Vec<VertexId> = built.copied().collect();
    let first = vertex.inputs.first();
    built.len() == record.inputs.len()
        && built.iter().zip(&record.inputs).all(|(input, made_from)| match snapshot(*input) {
            Some(snapshot) => snapshot == *made_from,
            None => first != Some(input),
        })
}

/// Whether the layers below a vertex are known: without them its own record makes no image.
fn below_is_cached(graph: &BuildGraph, keyed: &[Keyed], vertex: &Vertex) -> bool {
    let Some(below) = vertex.inputs.first() else { return false };
    match &graph.vertices[below.0].op {
        Op::Scratch | Op::Image(_) => true,
        Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => keyed[below.0].record.is_some(),
        Op::Context(_) | Op::Git(_) | Op::Http(_) => false,
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
