//! What goes first: what is large and unused for its cost, and of a stack its top.
//!
//! The loss of a thing is the time to make it again; the gain is its bytes, and the longer it lay
//! unused the less likely is the loss. So the order is by `cost / (bytes * age)`, lowest first, as
//! GreedyDual-Size weighs cost against size (Cao, Irani: "Cost-Aware WWW Proxy Caching", 1997).
//!
//! A record is only reached through the records under it, so those count as used when the youngest
//! on top of them was, whenever they were looked up last, and never go before it.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::iter::once;
use std::time::SystemTime;

use super::graph::{Graph, Node};
use super::survey::{Candidate, CandidateKind};

/// Ages below this are all alike, in seconds: what a build made last is not better than what it
/// made first.
const MIN_AGE: f64 = 60.0;

/// Bytes below this cost a record's file all the same.
const MIN_BYTES: u64 = 4096;

/// Puts `candidates` into the order in which they may go.
pub(super) fn cheapest_first(
    graph: &Graph,
    candidates: Vec<Candidate>,
    now: SystemTime,
) -> Vec<Candidate> {
    let used = last_uses(graph, &candidates);
    let mut above: HashMap<&Node, usize> = HashMap::new();
    let mut on: HashMap<&Node, Vec<usize>> = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let Some(top) = snapshot(candidate) else { continue };
        on.entry(top).or_default().push(index);
        graph.stack(top).for_each(|node| *above.entry(node).or_default() += 1);
    }
    let place = |index: usize| {
        let candidate = &candidates[index];
        let top = snapshot(candidate);
        let last_used = top.and_then(|top| used.get(top)).copied().unwrap_or(candidate.last_used);
        let age = now.duration_since(last_used).unwrap_or_default().as_secs_f64().max(MIN_AGE);
        let bytes = candidate.bytes + top.map_or(0, |top| graph.bytes(top));
        let is_dead = candidate.kind == CandidateKind::DeadRecord;
        Place { worth: if is_dead { 0.0 } else { worth(candidate.cost_ms, bytes, age) }, index }
    };
    let is_free = |above: &HashMap<&Node, usize>, index: usize| {
        snapshot(&candidates[index]).is_none_or(|top| above.get(top).is_none_or(|&n| n == 0))
    };
    let all = 0..candidates.len();
    let mut free: BinaryHeap<Place> =
        all.filter(|&index| is_free(&above, index)).map(place).collect();
    let mut order = Vec::with_capacity(candidates.len());
    while let Some(Place { index, .. }) = free.pop() {
        order.push(index);
        let Some(top) = snapshot(&candidates[index]) else { continue };
        for node in graph.stack(top) {
            let Some(count) = above.get_mut(node) else { continue };
            *count -= 1;
            if *count == 0 {
                free.extend(on.get(node).into_iter().flatten().map(|&index| place(index)));
            }
        }
    }
    let mut slots: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| slots[index].take()).collect()
}

/// Milliseconds of work that keeping a byte for a second saves.
#[expect(clippy::cast_precision_loss, reason = "an order among guesses needs no last digit")]
fn worth(cost_ms: u64, bytes: u64, age_seconds: f64) -> f64 {
    cost_ms.max(1) as f64 / (bytes.max(MIN_BYTES) as f64 * age_seconds)
}

/// A candidate that nothing lies on; the greatest one goes first.
#[derive(Debug)]
struct Place {
    worth: f64,
    index: usize,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        other.worth.total_cmp(&self.worth).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

/// Returns when each snapshot was used last, by itself or by what lies on it.
fn last_uses(graph: &Graph, candidates: &[Candidate]) -> HashMap<Node, SystemTime> {
    let mut used: HashMap<Node, SystemTime> = HashMap::new();
    for candidate in candidates {
        let Some(top) = snapshot(candidate) else { continue };
        for node in once(top).chain(graph.stack(top)) {
            let last = used.entry(node.clone()).or_insert(candidate.last_used);
            *last = candidate.last_used.max(*last);
        }
    }
    used
}

/// Returns the snapshot of a cache record, or of a failed step.
fn snapshot(candidate: &Candidate) -> Option<&Node> {
    match candidate.kind {
        CandidateKind::Record | CandidateKind::RecordOfImage | CandidateKind::FailedStep => {
            candidate.names.iter().find(|node| matches!(node, Node::Snapshot(_)))
        }
        CandidateKind::DeadRecord
        | CandidateKind::Untagged
        | CandidateKind::CacheMount
        | CandidateKind::Build
        | CandidateKind::Note => None,
    }
}
