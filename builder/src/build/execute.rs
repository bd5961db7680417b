//! What the solver's abstract work means here: keys, look-ups, ops, seals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cache::{CacheKey, Component, Record, Store};
use frontend::{BuildGraph, Op, RunNetwork, Vertex, VertexId};
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::plan::Plan;
use super::remotes;
use super::steps::Steps;
use crate::blocking;
use crate::builder::Inner;
use crate::context::FileRoot;
use crate::explain::Explainer;
use crate::key::{self, Content, InputKey};
use crate::op::{self, OpError, Root, RunSettings, Selection, Step};
use crate::progress::Events;
use crate::solver::Work;
use crate::source::{RemoteFiles, ResolvedImage, Sources};

/// A vertex's place in the cache.
#[derive(Debug, Default)]
struct Keyed {
    /// `None` for files from outside: their users are keyed by what they select.
    key: Option<CacheKey>,
    components: Vec<Component>,
    /// What the cache has under the key.
    record: Option<Record>,
    /// What a COPY's key was made of.
    selection: Option<Arc<Selection>>,
}

/// Files by URL, settled.
pub(super) type Remotes = BTreeMap<VertexId, Arc<RemoteFiles>>;

/// When a vertex ran.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Unix seconds of its end.
    created: u64,
    duration_ms: u64,
}

/// One build's vertices with their keys and what the cache knows of them.
#[derive(Debug)]
pub(crate) struct Execution {
    inner: Arc<Inner>,
    sources: Sources,
    graph: Arc<BuildGraph>,
    keyed: Vec<Keyed>,
    images: BTreeMap<VertexId, Arc<ResolvedImage>>,
    files: BTreeMap<VertexId, Arc<FileRoot>>,
    remotes: Remotes,
    settings: Arc<RunSettings>,
    steps: Arc<Steps>,
    events: Events,
    timings: Mutex<BTreeMap<VertexId, Timing>>,
    /// Vertices whose results this build may use and no other.
    unrecorded: Mutex<BTreeSet<VertexId>>,
}

impl Execution {
    /// Makes the key of every vertex and looks each up, unless the cache is not to be used.
    pub(super) async fn prepare(
        inner: &Arc<Inner>,
        sources: &Sources,
        plan: &Plan,
        settings: RunSettings,
        no_cache: bool,
        steps: &Arc<Steps>,
        events: &Events,
    ) -> Result<Self, BuildError> {
        let graph = Arc::clone(&plan.graph);
        let ids = || (0..graph.vertices.len()).map(VertexId);
        let images = ids().filter_map(|id| Some((id, Arc::clone(plan.image(id)?)))).collect();
        let files: BTreeMap<_, _> =
            ids().filter_map(|id| Some((id, Arc::clone(plan.files(id)?)))).collect();
        let (store, network) = (inner.store.clone(), settings.network);
        let keyed = {
            let (graph, files) = (Arc::clone(&graph), files.clone());
            let explainer = Arc::clone(steps.explainer());
            let remotes = plan.remotes.clone();
            blocking::run(move || {
                key_all(&store, &graph, &files, &remotes, network, no_cache, &explainer)
            })
            .await?
        };
        steps.looked_up().await;
        Ok(Self {
            inner: Arc::clone(inner),
            sources: sources.clone(),
            graph,
            keyed,
            images,
            files,
            remotes: plan.remotes.clone(),
            settings: Arc::new(settings),
            steps: Arc::clone(steps),
            events: events.clone(),
            timings: Mutex::default(),
            unrecorded: Mutex::default(),
        })
    }

    /// Reports every step that needs no work and returns (cached steps, steps with work).
    pub(super) async fn report_hits(&self) -> (usize, usize) {
        let mut hits = 0;
        let mut total = 0;
        let will_run = self.will_run();
        for id in (0..self.graph.vertices.len()).map(VertexId) {
            if self.steps.index_of(id).is_none() {
                continue;
            }
            total += 1;
            if !will_run[id.0] {
                hits += 1;
                self.steps.cached(id, &self.short_id(id)).await;
            }
        }
        (hits, total)
    }

    /// Which vertices the solver will execute: what the output needs and the cache lacks.
    fn will_run(&self) -> Vec<bool> {
        let mut will_run = vec![false; self.graph.vertices.len()];
        let mut wanted = vec![self.graph.output.vertex];
        while let Some(id) = wanted.pop() {
            if !will_run[id.0] && self.cached(id).is_none() {
                will_run[id.0] = true;
                let vertex = &self.graph.vertices[id.0];
                wanted.extend(vertex.inputs.iter().chain(&vertex.after));
            }
        }
        will_run
    }

    /// Returns the records that were found.
    pub(super) fn records(&self) -> BTreeMap<VertexId, Record> {
        self.keyed
            .iter()
            .enumerate()
            .filter_map(|(index, keyed)| Some((VertexId(index), keyed.record.clone()?)))
            .collect()
    }

    /// Wraps the failure of a vertex with the name of its step.
    pub(super) fn step_error(&self, vertex: VertexId, error: OpError) -> BuildError {
        let index = remotes::step_of(&self.graph, vertex);
        let step = index.map_or_else(String::new, |index| self.graph.steps[index].text.clone());
        BuildError::Step { step, index, source: Box::new(error) }
    }

    fn vertex(&self, id: VertexId) -> &Vertex {
        &self.graph.vertices[id.0]
    }

    fn short_id(&self, id: VertexId) -> String {
        self.keyed[id.0].key.map(|key| key.digest().short()).unwrap_or_default()
    }

    async fn perform(
        &self,
        id: VertexId,
        inputs: Vec<Root>,
        cancel: CancellationToken,
    ) -> Result<Root, OpError> {
        let store = self.inner.store.clone();
        match &self.vertex(id).op {
            Op::Scratch => Ok(Root::Empty),
            Op::Image(_) => {
                let image = self.images.get(&id).expect("the plan resolved every image");
                let snapshot = self.sources.materialize(image, &self.events).await?;
                Ok(snapshot.map_or(Root::Empty, Root::Snapshot))
            }
            Op::Context(_) => {
                let files = self.files.get(&id).expect("the plan loaded every source of files");
                Ok(Root::Files(Arc::clone(files)))
            }
            Op::Git(_) | Op::Http(_) => {
                let remote = self.remotes.get(&id).expect("every URL was settled before keys were");
                Ok(Root::Files(remote.files(&self.sources, &self.events).await?))
            }
            Op::Copy(op) => {
                let (op, selected) = (op.clone(), self.keyed[id.0].selection.clone());
                blocking::run(move || op::copy_onto(&store, &op, &inputs, selected.as_deref()))
                    .await
            }
            Op::MakeDir(op) => {
                let op = op.clone();
                blocking::run(move || op::make_dir_in(&store, &op, &inputs)).await
            }
            Op::Merge => blocking::run(move || op::merge(&store, &inputs)).await,
            Op::Run(op) => {
                let (op, settings) = (op.clone(), Arc::clone(&self.settings));
                let sandbox = self.inner.sandbox()?;
                let step =
                    Step { index: self.steps.index_of(id), events: self.events.clone(), cancel };
                let ran = blocking::run(move || {
                    op::run(&store, &sandbox, &op, &inputs, &settings, &step)
                })
                .await?;
                if ran.has_secret {
                    self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                }
                Ok(ran.root)
            }
        }
    }
}

impl Work for Execution {
    type Root = Root;
    type Sealed = Record;
    type Error = OpError;

    fn cached(&self, id: VertexId) -> Option<Root> {
        let keyed = &self.keyed[id.0];
        keyed.record.as_ref().map(|record| Root::Snapshot(record.snapshot.clone()))
    }

    async fn execute(
        self: Arc<Self>,
        id: VertexId,
        inputs: Vec<Root>,
        cancel: CancellationToken,
    ) -> Result<Root, OpError> {
        if cancel.is_cancelled() {
            return Err(OpError::Cancelled);
        }
        let running = self.steps.start(id).await;
        let since = Instant::now();
        let result = self.perform(id, inputs, cancel).await;
        match &result {
            Ok(_) => {
                let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let timing = Timing { created: unix_now(), duration_ms };
                self.timings.lock().unwrap_or_else(PoisonError::into_inner).insert(id, timing);
                self.steps.finish(id, running, &self.short_id(id)).await;
            }
            Err(_) => self.steps.fail(id, running).await,
        }
        result
    }

    async fn seal(self: Arc<Self>, id: VertexId, root: Root) -> Result<Option<Record>, OpError> {
        let makes_layer = match &self.vertex(id).op {
            Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => true,
            Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Git(_) | Op::Http(_) => false,
        };
        let (Root::Snapshot(snapshot), Some(key), true) = (root, self.keyed[id.0].key, makes_layer)
        else {
            return Ok(None);
        };
        let timing = self
            .timings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .copied()
            .expect("a vertex is sealed after it was executed");
        let step = self
            .steps
            .index_of(id)
            .map_or_else(String::new, |index| self.graph.steps[index].text.clone());
        let components = self.keyed[id.0].components.clone();
        let store = self.inner.store.clone();
        let is_recorded =
            !self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
        blocking::run(move || {
            let (diff_id, size) = op::seal(&store, &snapshot)?;
            let Timing { created, duration_ms } = timing;
            let record =
                Record { key, snapshot, diff_id, size, created, duration_ms, components, step };
            // The name comes last: whatever it promises is in the store.
            if is_recorded {
                store.index().put(&record).map_err(OpError::store)?;
            }
            Ok(Some(record))
        })
        .await
    }
}

/// Keys and looks up all vertices, inputs first.
fn key_all(
    store: &Store,
    graph: &BuildGraph,
    files: &BTreeMap<VertexId, Arc<FileRoot>>,
    remotes: &Remotes,
    default_network: RunNetwork,
    no_cache: bool,
    explainer: &Explainer,
) -> Result<Vec<Keyed>, BuildError> {
    let mut keyed: Vec<Keyed> = Vec::with_capacity(graph.vertices.len());
    for (index, vertex) in graph.vertices.iter().enumerate() {
        if files.contains_key(&VertexId(index)) {
            keyed.push(Keyed::default());
            continue;
        }
        let inputs: Vec<InputKey> = vertex
            .inputs
            .iter()
            .map(|input| keyed[input.0].key.map_or(InputKey::Files, InputKey::Key))
            .collect();
        let taken = op::taken(vertex, |input| files.get(&input)).map_err(|source| {
            let step = graph.steps.iter().position(|step| step.vertex == Some(VertexId(index)));
            BuildError::Step {
                step: step.map_or_else(String::new, |step| graph.steps[step].text.clone()),
                index: step,
                source: Box::new(source),
            }
        })?;
        let identity = remotes.get(&VertexId(index)).map(|remote| remote.identity());
        let content = Content { selection: taken.digest.or(identity), default_network };
        let (key, components) = key::of(vertex, &inputs, &content);
        let record = if no_cache || !below_is_cached(graph, &keyed, vertex) {
            None
        } else {
            store.index().get(&key)
        };
        let looked_up = (key, components.clone());
        explainer.note(VertexId(index), looked_up, record.as_ref(), taken.files.as_ref(), no_cache);
        let selection = taken.selection.filter(|_| record.is_none()).map(Arc::new);
        keyed.push(Keyed { key: Some(key), components, record, selection });
    }
    Ok(keyed)
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
