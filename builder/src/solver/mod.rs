//! Solves a graph: finds or makes what its output needs, as parallel as its edges allow.
//!
//! Invariants: one task (the caller's) owns all states; workers only return values. The first
//! failure cancels the others, and no task outlives [`solve`]. A result's layer is digested while
//! the vertices after it already run. Every vertex whose inputs are there has a task at once: how
//! many of them execute is theirs to settle, so one that waits keeps nobody from working.

mod flight;
mod schedule;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use frontend::{BuildGraph, VertexId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use flight::{Flights, InFlight};

use self::schedule::Schedule;

/// What the solver needs to be able to do with a vertex.
pub(crate) trait Work: Send + Sync + 'static {
    /// A vertex's result, as its users need it.
    type Root: Clone + Send + 'static;
    /// What sealing needs to know of how a result was made.
    type Draft: Send + 'static;
    /// A result made durable, with what the cache remembers of it.
    type Sealed: Send + 'static;
    /// Why there is no result.
    type Error: Send + 'static;

    /// Returns the result of a vertex that the cache had from the beginning.
    fn cached(&self, id: VertexId) -> Option<Self::Root>;

    /// Finds or makes the result of a vertex; `inputs` are in the vertex's order.
    fn resolve(
        self: Arc<Self>,
        id: VertexId,
        inputs: Vec<Self::Root>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<ResolvedOf<Self>, Self::Error>> + Send;

    /// Digests the layer of a result that was made, and lets the cache remember it.
    fn seal(
        self: Arc<Self>,
        id: VertexId,
        root: Self::Root,
        draft: Self::Draft,
    ) -> impl Future<Output = Result<Self::Sealed, Self::Error>> + Send;
}

/// What [`Work::resolve`] returns.
pub(crate) type ResolvedOf<W> =
    Resolved<<W as Work>::Root, <W as Work>::Draft, <W as Work>::Sealed>;

/// How a vertex came to its result.
#[derive(Debug)]
pub(crate) enum Resolved<R, D, S> {
    /// There is nothing to seal: it was remembered, or has no layer of its own.
    Found(R, Option<S>),
    /// It was made, and its layer is yet to be sealed.
    Made(R, D),
}

/// The first vertex that failed.
#[derive(Debug)]
pub(crate) struct Failed<E> {
    /// Which.
    pub(crate) vertex: VertexId,
    /// Why.
    pub(crate) error: E,
}

enum Outcome<W: Work> {
    Resolved(ResolvedOf<W>),
    Sealed(W::Sealed),
}

/// What a task returns.
type Joined<W> = (VertexId, Result<Outcome<W>, <W as Work>::Error>);

/// Solves `graph`: makes what its output needs and the cache lacks. Returns what the cache
/// remembers of it.
///
/// # Errors
///
/// The first failure, after all work that ran beside it has ended.
pub(crate) async fn solve<W: Work>(
    graph: &BuildGraph,
    work: Arc<W>,
    cancel: &CancellationToken,
) -> Result<BTreeMap<VertexId, W::Sealed>, Failed<W::Error>> {
    let mut schedule = Schedule::new(graph, |id| work.cached(id).is_some());
    let mut roots: BTreeMap<VertexId, W::Root> = BTreeMap::new();
    let mut sealed = BTreeMap::new();
    let mut tasks: JoinSet<Joined<W>> = JoinSet::new();
    let mut failure = None;
    let stop = cancel.child_token();
    loop {
        while failure.is_none() {
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
            tasks.spawn(async move {
                (id, work.resolve(id, inputs, stop).await.map(Outcome::Resolved))
            });
        }
        let Some(joined) = tasks.join_next().await else { break };
        let (id, outcome) = joined.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("no task is aborted"),
        });
        match outcome {
            Ok(Outcome::Resolved(resolved)) => {
                schedule.finish(id);
                match resolved {
                    Resolved::Found(root, result) => {
                        roots.insert(id, root);
                        sealed.extend(result.map(|result| (id, result)));
                    }
                    Resolved::Made(root, draft) => {
                        roots.insert(id, root.clone());
                        let work = Arc::clone(&work);
                        tasks.spawn(async move {
                            (id, work.seal(id, root, draft).await.map(Outcome::Sealed))
                        });
                    }
                }
            }
            Ok(Outcome::Sealed(result)) => {
                sealed.insert(id, result);
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
