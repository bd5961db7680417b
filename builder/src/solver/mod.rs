//! Runs what a graph still lacks, as parallel as its edges and the permits allow.
//!
//! Invariants: one task (the caller's) owns all states; workers only return values. The first
//! failure cancels the others, and no task outlives [`solve`]. A result's layer is digested while
//! the vertices after it already run.

mod schedule;

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;

use frontend::{BuildGraph, VertexId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::schedule::Schedule;

/// What the solver needs to be able to do with a vertex.
pub(crate) trait Work: Send + Sync + 'static {
    /// A vertex's result, as its users need it.
    type Root: Clone + Send + 'static;
    /// A result made durable, with what the cache remembers of it.
    type Sealed: Send + 'static;
    /// Why there is no result.
    type Error: Send + 'static;

    /// Returns the result of a vertex found in the cache.
    fn cached(&self, id: VertexId) -> Option<Self::Root>;

    /// Executes a vertex; `inputs` are in the vertex's order.
    fn execute(
        self: Arc<Self>,
        id: VertexId,
        inputs: Vec<Self::Root>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Self::Root, Self::Error>> + Send;

    /// Digests an executed vertex's layer and lets the cache remember it; `None` where it has none.
    fn seal(
        self: Arc<Self>,
        id: VertexId,
        root: Self::Root,
    ) -> impl Future<Output = Result<Option<Self::Sealed>, Self::Error>> + Send;
}

/// The first vertex that failed.
#[derive(Debug)]
pub(crate) struct Failed<E> {
    /// Which.
    pub(crate) vertex: VertexId,
    /// Why.
    pub(crate) error: E,
}

enum Outcome<R, S> {
    Executed(R),
    Sealed(Option<S>),
}

/// Solves `graph`: executes what its output needs and the cache lacks. Returns what the cache
/// shall remember of it.
///
/// # Errors
///
/// The first failure, after all work that ran beside it has ended.
pub(crate) async fn solve<W: Work>(
    graph: &BuildGraph,
    work: Arc<W>,
    parallel: NonZeroUsize,
    cancel: &CancellationToken,
) -> Result<BTreeMap<VertexId, W::Sealed>, Failed<W::Error>> {
    let mut schedule = Schedule::new(graph, |id| work.cached(id).is_some());
    let mut roots: BTreeMap<VertexId, W::Root> = BTreeMap::new();
    let mut sealed = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut executing = 0;
    let mut failure = None;
    let stop = cancel.child_token();
    loop {
        while failure.is_none() && executing < parallel.get() {
            let Some(id) = schedule.take_ready() else { break };
            let inputs = graph.vertices[id.0]
                .inputs
                .iter()
                .map(|input| {
                    let root = roots.get(input).cloned().or_else(|| work.cached(*input));
                    root.expect("a ready vertex has all its inputs")
                })
                .collect();
            let (work, stop) = (Arc::clone(&work), stop.clone());
            executing += 1;
            tasks.spawn(async move {
                (id, work.execute(id, inputs, stop).await.map(Outcome::Executed))
            });
        }
        let Some(joined) = tasks.join_next().await else { break };
        let (id, outcome) = joined.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("no task is aborted"),
        });
        match outcome {
            Ok(Outcome::Executed(root)) => {
                executing -= 1;
                schedule.finish(id);
                roots.insert(id, root.clone());
                let work = Arc::clone(&work);
                tasks.spawn(async move { (id, work.seal(id, root).await.map(Outcome::Sealed)) });
            }
            Ok(Outcome::Sealed(result)) => {
                if let Some(result) = result {
                    sealed.insert(id, result);
                }
            }
            Err(error) => {
                stop.cancel();
                // Later failures are mostly echoes of the first one's cancellation.
                failure.get_or_insert((id, error));
            }
        }
    }
    if let Some((vertex, error)) = failure {
        return Err(Failed { vertex, error });
    }
    debug_assert!(schedule.is_finished(), "no task is left, so nothing is unfinished");
    Ok(sealed)
}
