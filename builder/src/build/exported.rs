//! A build's results in the form that other machines understand.

use std::collections::{BTreeMap, BTreeSet};

use cache::{Record, Store};
use frontend::{BuildGraph, Op, RunNetwork, VertexId};

use super::imported::{Arrivals, Stack};
use super::keys::makes_layer;
use crate::cache_exchange::{ByContent, Entry, Offer};
use crate::image::assemble::layer_chain;
use crate::key;

/// What is exported of a record.
pub(super) fn offer(graph: &BuildGraph, id: VertexId, record: &Record) -> Offer {
    let Record { diff_id, size, duration_ms, .. } = *record;
    let mut chains = graph.outputs().map(|output| layer_chain(graph, output.vertex).1);
    let is_in_image = chains.any(|chain| chain.contains(&id));
    Offer { diff_id, size, duration_ms, is_in_image }
}

/// Translates the records of a build, but for those in `secret`. Blocking.
pub(super) fn entries(
    store: &Store,
    graph: &BuildGraph,
    network: RunNetwork,
    arrivals: &Arrivals,
    secret: &BTreeSet<VertexId>,
    bases: &BTreeMap<VertexId, Stack>,
    records: &BTreeMap<VertexId, Record>,
) -> Vec<(Entry, Offer)> {
    let mut stacks: Vec<Stack> = Vec::with_capacity(graph.vertices.len());
    let mut entries = Vec::new();
    for (index, vertex) in graph.vertices.iter().enumerate() {
        let id = VertexId(index);
        let below = vertex.inputs.first().map_or(Stack::Unknown, |below| stacks[below.0]);
        let stack = match (&vertex.op, records.get(&id)) {
            (Op::Scratch, _) => Stack::Empty,
            (Op::Image(_), _) => bases.get(&id).copied().unwrap_or_default(),
            (_, Some(record)) => below.push(record.diff_id),
            (_, None) => Stack::Unknown,
        };
        stacks.push(stack);
        let Some(record) = records.get(&id).filter(|_| !secret.contains(&id)) else { continue };
        let imported = arrivals.get(&record.snapshot);
        let op = key::of_op(vertex, network);
        let content = store.index().content_of(&op, &record.snapshot);
        let content = content.map(|key| ByContent { op, key });
        let content = content.or_else(|| imported.as_ref()?.entry().content);
        let built = vertex.inputs.iter().filter(|it| makes_layer(&graph.vertices[it.0]));
        let inputs: Option<Vec<_>> = built
            .map(|input| match stacks[input.0] {
                Stack::Of(chain) => Some(chain),
                Stack::Unknown | Stack::Empty => None,
            })
            .collect();
        // What a hit made unnecessary to look at was what it was then.
        let inputs = inputs.or_else(|| Some(imported.as_ref()?.entry().inputs.clone()));
        if inputs.is_none() && content.is_none() {
            continue;
        }
        let entry = Entry {
            key: record.key,
            content,
            diff_id: record.diff_id,
            size: record.size,
            blob: None,
            inputs: inputs.unwrap_or_default(),
            created: record.created,
            duration_ms: record.duration_ms,
            used: 0,
            step: Entry::step_of(&record.step),
            signature: None,
        };
        entries.push((entry, offer(graph, id, record)));
    }
    entries
}
