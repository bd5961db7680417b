//! What goes first: the longest unused, and of a stack its top.
//!
//! A record is only reached through the records under it, so those count as used when the youngest
//! on top of them was, whenever they were looked up last.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::iter::once;
use std::time::SystemTime;

use super::graph::{Graph, Node};
use super::survey::{Candidate, CandidateKind};

/// Puts `candidates` into the order in which they may go: dead records, then by age.
pub(super) fn leaves_first(graph: &Graph, candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut used: HashMap<Node, SystemTime> = HashMap::new();
    for candidate in &candidates {
        let Some(top) = snapshot(candidate) else { continue };
        for node in once(top).chain(graph.stack(top)) {
            let last = used.entry(node.clone()).or_insert(candidate.last_used);
            *last = candidate.last_used.max(*last);
        }
    }
    let key = |candidate: &Candidate| {
        let top = snapshot(candidate);
        let last_used = top.and_then(|top| used.get(top)).copied();
        let height = top.map_or(0, |top| graph.stack(top).count());
        let is_alive = candidate.kind != CandidateKind::DeadRecord;
        (is_alive, last_used.unwrap_or(candidate.last_used), Reverse(height))
    };
    let mut keyed: Vec<_> = candidates.into_iter().map(|one| (key(&one), one)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Returns the snapshot of a cache record.
fn snapshot(candidate: &Candidate) -> Option<&Node> {
    match candidate.kind {
        CandidateKind::Record | CandidateKind::RecordOfImage => {
            candidate.names.iter().find(|node| matches!(node, Node::Snapshot(_)))
        }
        CandidateKind::DeadRecord | CandidateKind::Untagged | CandidateKind::CacheMount => None,
    }
}
