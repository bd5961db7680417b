//! What the solver's abstract work means here. How results are found, made and told of is in the
//! modules below.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cache::{CacheKey, Record, SnapshotId};
use frontend::{BuildGraph, Op, Vertex, VertexId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

mod look_up;
mod perform;
mod report;

use self::look_up::Search;
use self::report::saved_by;
use super::Prepared;
use super::error::BuildError;
use super::exported;
use super::imported::{Arrivals, Stack};
use super::keys::{Keyed, Lookup, makes_layer, unix_now};
use super::latest::Latest;
use super::policy::Policy;
use super::steps::Steps;
use crate::blocking;
use crate::builder::Inner;
use crate::cache_exchange::{Entry, Exports, Imports, Offer};
use crate::context::FileRoot;
use crate::image::assemble::layer_chain;
use crate::op::{OpError, Root, RunSettings};
use crate::progress::{Events, Saved};
use crate::sandbox::{Network, Sandbox, SandboxError};
use crate::solver::{InFlight, Resolved, Work};
use crate::source::{RemoteFiles, ResolvedImage, Sources};
use crate::tree::{Digested, Trees};

/// Imported layers of the image fetched at once.
const FETCHES: usize = 3;

/// Files by URL, settled.
pub(super) type Remotes = BTreeMap<VertexId, Arc<RemoteFiles>>;

/// How a result was made: what its record will say, and who else may make it.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Unix seconds of its end.
    created: u64,
    duration_ms: u64,
    /// By the content of its inputs, where that was digested already.
    content: Option<CacheKey>,
    inputs: Vec<Root>,
    /// Ends when the record is there for the others.
    _flight: Option<InFlight>,
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
    policy: Policy,
    latest: Arc<Latest>,
    trees: Arc<Trees>,
    steps: Arc<Steps>,
    events: Events,
    /// Vertices whose results this build may use and no other.
    unrecorded: Mutex<BTreeSet<VertexId>>,
    /// RUN steps executing at once.
    running: Arc<Semaphore>,
    /// Results found when their inputs were there.
    found_late: Mutex<BTreeMap<VertexId, Saved>>,
    /// Records that the cache did not have from the beginning.
    sealed: Mutex<BTreeMap<VertexId, Record>>,
    /// Results that the cache did not have from the beginning.
    made: Mutex<BTreeMap<VertexId, SnapshotId>>,
    /// What was found out of layers while they were made, until they are sealed.
    digested: Mutex<BTreeMap<VertexId, Digested>>,
    /// What commands left that failed; `None` where nobody will ask.
    failed: Option<Mutex<BTreeMap<VertexId, SnapshotId>>>,
    arrivals: Arrivals,
    exports: Arc<Exports>,
    /// The sandbox, which knows of the steps that are expected.
    sandbox: OnceLock<Sandbox>,
}

/// The shared caches of one build.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) imports: Arc<Imports>,
    pub(super) exports: Arc<Exports>,
}

impl Execution {
    /// Makes the key of every vertex and looks each up, unless the cache is not to be used.
    pub(super) async fn prepare(
        inner: &Arc<Inner>,
        sources: &Sources,
        prepared: &Prepared,
        events: &Events,
    ) -> Result<Self, BuildError> {
        let Prepared { plan, settings, shared, steps, keeps_failed, .. } = prepared;
        let graph = Arc::clone(&plan.graph);
        let ids = || (0..graph.vertices.len()).map(VertexId);
        let images: BTreeMap<_, _> =
            ids().filter_map(|id| Some((id, Arc::clone(plan.image(id)?)))).collect();
        let files: BTreeMap<_, _> =
            ids().filter_map(|id| Some((id, Arc::clone(plan.files(id)?)))).collect();
        let (store, network) = (inner.store.clone(), settings.network);
        let keyed = {
            let (graph, files) = (Arc::clone(&graph), files.clone());
            let (policy, forced) = (plan.policy.clone(), plan.forced.clone());
            let explainer = Arc::clone(steps.explainer());
            let remotes = plan.remotes.clone();
            let (images, imports) = (images.clone(), Arc::clone(&shared.imports));
            blocking::run(move || {
                let lookup = Lookup {
                    store: &store,
                    graph: &graph,
                    files: &files,
                    remotes: &remotes,
                    policy: &policy,
                    images: &images,
                    imports: &imports,
                };
                lookup.key_all(&forced, network, &explainer)
            })
            .await?
        };
        steps.looked_up().await;
        let arrivals = Arrivals::new(&shared.imports, sources);
        keyed.iter().filter_map(|keyed| keyed.imported.as_ref()).for_each(|it| arrivals.expect(it));
        let this = Self {
            inner: Arc::clone(inner),
            sources: sources.clone(),
            graph,
            keyed,
            images,
            files,
            remotes: plan.remotes.clone(),
            settings: Arc::clone(settings),
            policy: plan.policy.clone(),
            latest: Arc::clone(&plan.latest),
            trees: Arc::new(Trees::new(inner.store.clone())),
            steps: Arc::clone(steps),
            events: events.clone(),
            unrecorded: Mutex::default(),
            running: Arc::new(Semaphore::new(inner.config.parallel_steps.get())),
            found_late: Mutex::default(),
            sealed: Mutex::default(),
            made: Mutex::default(),
            digested: Mutex::default(),
            failed: keeps_failed.then(Mutex::default),
            arrivals,
            exports: Arc::clone(&shared.exports),
            sandbox: OnceLock::new(),
        };
        for (id, record) in this.records() {
            this.offer(id, &record);
        }
        Ok(this)
    }

    /// Keeps for later builds what was learnt of files. None of it is needed before.
    pub(super) async fn keep_notes(&self) {
        let (store, files) = (self.inner.store.clone(), self.files.clone());
        let explainer = Arc::clone(self.steps.explainer());
        blocking::run(move || {
            for known in files.values().filter_map(|files| files.known()) {
                known.save(&store);
            }
            explainer.save_files();
        })
        .await;
    }

    fn offer(&self, id: VertexId, record: &Record) {
        if !self.exports.is_empty() && !self.is_secret(id) {
            self.exports.offer(&exported::offer(&self.graph, id, record));
        }
    }

    fn is_secret(&self, id: VertexId) -> bool {
        lock(&self.unrecorded).contains(&id)
    }

    /// Brings the imported layers of the image here. Their files are needed only `with_files`.
    pub(super) async fn fetch_output(
        &self,
        records: &BTreeMap<VertexId, Record>,
        with_files: bool,
    ) -> Result<(), (VertexId, OpError)> {
        let ids = self.graph.outputs().flat_map(|it| layer_chain(&self.graph, it.vertex).1);
        let fetches = ids.filter_map(|id| Some((id, records.get(&id)?))).map(|(id, record)| {
            let fetch = async move {
                if with_files {
                    self.arrivals.bring(&record.snapshot, &self.events).await
                } else {
                    self.arrivals.fetch(&record.snapshot).await
                }
            };
            async move { fetch.await.map_err(|error| (id, error)) }
        });
        let fetches: Vec<_> = fetches.collect();
        stream::iter(fetches).buffer_unordered(FETCHES).try_collect().await
    }

    /// Returns what shared caches are told of `records`.
    pub(super) async fn entries(
        self: &Arc<Self>,
        records: &BTreeMap<VertexId, Record>,
    ) -> Vec<(Entry, Offer)> {
        if self.exports.is_empty() {
            return Vec::new();
        }
        let (this, records) = (Arc::clone(self), records.clone());
        let bases =
            self.images.iter().map(|(id, it)| (*id, Stack::of_image(&it.diff_ids))).collect();
        let secret = lock(&self.unrecorded).clone();
        blocking::run(move || {
            let (store, network) = (&this.inner.store, this.settings.network);
            exported::entries(
                store,
                &this.graph,
                network,
                &this.arrivals,
                &secret,
                &bases,
                &records,
            )
        })
        .await
    }

    /// Which vertices the solver will resolve: what the output needs and the cache lacks.
    fn will_run(&self) -> Vec<bool> {
        let mut will_run = vec![false; self.graph.vertices.len()];
        let mut wanted: Vec<VertexId> = self.graph.outputs().map(|output| output.vertex).collect();
        while let Some(id) = wanted.pop() {
            if !will_run[id.0] && self.cached(id).is_none() {
                will_run[id.0] = true;
                let vertex = &self.graph.vertices[id.0];
                wanted.extend(vertex.inputs.iter().chain(&vertex.after));
            }
        }
        will_run
    }

    /// Has made ready what RUN steps need that are not cached, while what they begin with is made.
    pub(super) fn expect_steps(&self) {
        let will_run = self.will_run();
        let ops = self.graph.vertices.iter().zip(will_run).filter(|(_, will_run)| *will_run);
        let networks = ops.filter_map(|(vertex, _)| match &vertex.op {
            Op::Run(op) => Some(self.settings.network_of(op).into()),
            _ => None,
        });
        let networks: Vec<Network> = networks.collect();
        // Whatever is wrong with it is told by the step that needs it.
        if !networks.is_empty()
            && let Ok(sandbox) = self.inner.sandbox()
        {
            self.sandbox.get_or_init(|| sandbox.for_steps(networks));
        }
    }

    fn sandbox(&self) -> Result<Sandbox, SandboxError> {
        self.sandbox.get().cloned().map_or_else(|| self.inner.sandbox(), Ok)
    }

    fn vertex(&self, id: VertexId) -> &Vertex {
        &self.graph.vertices[id.0]
    }

    fn short_id(&self, id: VertexId) -> String {
        self.keyed[id.0].key.map(|key| key.digest().short()).unwrap_or_default()
    }

    fn step_text(&self, id: VertexId) -> String {
        let index = self.steps.index_of(id);
        index.map_or_else(String::new, |index| self.graph.steps[index].text.clone())
    }

    /// Waits for a place among what executes at once. A command mostly waits for itself and has a
    /// limit of its own; what rbuild does itself keeps a processor busy.
    async fn place(&self, id: VertexId) -> OwnedSemaphorePermit {
        let places = match &self.vertex(id).op {
            Op::Run(_) => &self.running,
            _ => &self.inner.cores,
        };
        Arc::clone(places).acquire_owned().await.expect("nobody closes the semaphores")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work for Execution {
    type Root = Root;
    type Draft = Draft;
    type Sealed = Record;
    type Error = OpError;

    fn cached(&self, id: VertexId) -> Option<Root> {
        let keyed = &self.keyed[id.0];
        keyed.record.as_ref().map(|record| Root::Snapshot(record.snapshot.clone()))
    }

    async fn resolve(
        self: Arc<Self>,
        id: VertexId,
        inputs: Vec<Root>,
        cancel: CancellationToken,
    ) -> Result<Resolved<Root, Draft, Record>, OpError> {
        if !makes_layer(self.vertex(id)) {
            if cancel.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            let (root, _) = self.execute(id, inputs, cancel).await?;
            return Ok(Resolved::Found(root, None));
        }
        let search = async {
            let search = self.find(id, &inputs).await?;
            let place = match &search {
                Search::Hit(_) => None,
                Search::Missed { .. } => Some(self.place(id).await),
            };
            Ok::<_, OpError>((search, place))
        };
        // Nothing of it needs to be ended: it reads and waits.
        let found = cancel.run_until_cancelled(search).await;
        let (search, _place) = found.ok_or(OpError::Cancelled)??;
        match search {
            Search::Hit(record) => {
                lock(&self.found_late).insert(id, saved_by(&record));
                self.steps.cached(id, &self.short_id(id)).await;
                lock(&self.made).insert(id, record.snapshot.clone());
                self.offer(id, &record);
                lock(&self.sealed).insert(id, (*record).clone());
                Ok(Resolved::Found(Root::Snapshot(record.snapshot.clone()), Some(*record)))
            }
            Search::Missed { content, flight } => {
                let brought = cancel.run_until_cancelled(self.bring(&inputs)).await;
                brought.ok_or(OpError::Cancelled)??;
                let (root, duration_ms) = self.execute(id, inputs.clone(), cancel).await?;
                if let Some(snapshot) = root.snapshot() {
                    lock(&self.made).insert(id, snapshot.clone());
                }
                let created = unix_now();
                let draft = Draft { created, duration_ms, content, inputs, _flight: flight };
                Ok(Resolved::Made(root, draft))
            }
        }
    }

    async fn seal(
        self: Arc<Self>,
        id: VertexId,
        root: Root,
        draft: Draft,
    ) -> Result<Record, OpError> {
        let _place = Arc::clone(&self.inner.cores).acquire_owned().await;
        let snapshot = root.snapshot().cloned();
        let snapshot = snapshot.ok_or_else(|| OpError::lost("the snapshot of a step"))?;
        let this = Arc::clone(&self);
        let latest = self.latest.for_new().await;
        let record =
            blocking::run(move || this.seal_blocking(id, snapshot, &draft, latest)).await?;
        self.offer(id, &record);
        lock(&self.sealed).insert(id, record.clone());
        Ok(record)
    }
}
