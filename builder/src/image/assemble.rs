//! From an output and its layers to a config and the list of its layers (OCI image-spec, config.md).
//!
//! Times come from the cache records, so a fully cached rebuild gives the same image ID.

use std::collections::BTreeMap;

use cache::{Descriptor, Digest, Record};
use frontend::{BuildGraph, HistoryEntry, ImageConfig, Op, Output, VertexId};

use crate::source::built_layer;

/// Comment of every history entry, as BuildKit writes it: tools tell build histories by it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What an image is made of.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    /// With times, layers and history filled in.
    pub(crate) config: ImageConfig,
    /// Base first; layers made here are named uncompressed.
    pub(crate) layers: Vec<Descriptor>,
}

/// Returns the base image, if any, and the vertices whose layers are put on it, lowest first.
pub(crate) fn layer_chain(
    graph: &BuildGraph,
    output: VertexId,
) -> (Option<VertexId>, Vec<VertexId>) {
    let mut layers = Vec::new();
    let mut next = Some(output);
    let mut base = None;
    while let Some(id) = next {
        let vertex = &graph.vertices[id.0];
        next = match &vertex.op {
            Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => {
                layers.push(id);
                vertex.inputs.first().copied()
            }
            Op::Image(_) => {
                base = Some(id);
                None
            }
            Op::Scratch | Op::Context(_) | Op::Git(_) | Op::Http(_) => None,
        };
    }
    layers.reverse();
    (base, layers)
}

/// Makes the config and lists the layers. `base_layers` are the base manifest's, `records` those
/// of the vertices in `chain`, which is what [`layer_chain`] returned. `epoch` (seconds since 1970)
/// stands for every time of this build, if given.
pub(crate) fn assemble(
    output: &Output,
    base_layers: Vec<Descriptor>,
    chain: &[VertexId],
    records: &BTreeMap<VertexId, Record>,
    epoch: Option<i64>,
) -> Assembled {
    let mut config = output.config.clone();
    let fixed = epoch.and_then(|seconds| u64::try_from(seconds).ok()).map(rfc3339);
    let base_created = config.history.iter().rev().find_map(|entry| entry.created.clone());
    let mut created = base_created.or_else(|| config.created.clone());
    for step in &output.history {
        if let Some(record) = step.vertex.and_then(|vertex| records.get(&vertex)) {
            // What was made of older things is no younger than they are.
            let latest = record.latest.and_then(|time| u64::try_from(time).ok());
            created = Some(rfc3339(latest.map_or(record.created, |it| it.min(record.created))));
        }
        if fixed.is_some() {
            created.clone_from(&fixed);
        }
        config.history.push(HistoryEntry {
            created: created.clone(),
            created_by: Some(step.created_by.clone()),
            author: step.author.clone(),
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: step.vertex.is_none(),
        });
    }
    // A config without any time would surprise every reader: the epoch says "unknown".
    config.created = Some(fixed.or(created).unwrap_or_else(|| rfc3339(0)));
    let mut layers = base_layers;
    for record in chain.iter().filter_map(|id| records.get(id)) {
        config.rootfs.diff_ids.push(record.diff_id.to_string());
        layers.push(built_layer(record.diff_id, record.size));
    }
    Assembled { config, layers }
}

impl Assembled {
    /// Puts the layer of `squashed` in the place of the `layers` topmost ones. `steps` is how many
    /// entries of the history are this build's: as Docker's classic builder writes it, they have no
    /// layer any more, and one more entry tells which image (by its ID) was merged onto which.
    pub(crate) fn squash(
        &mut self,
        squashed: &Record,
        layers: usize,
        steps: usize,
        base: Option<&Digest>,
    ) {
        let config = &mut self.config;
        let id = Digest::of(&serde_json::to_vec(config).expect("a config is JSON"));
        let comment = match base {
            Some(base) => format!("merge {id} to {base}"),
            None => format!("create new from {id}"),
        };
        let first = config.history.len().saturating_sub(steps);
        for entry in &mut config.history[first..] {
            entry.empty_layer = true;
        }
        config.history.push(HistoryEntry {
            // Not the time of day: the same layers give the same image.
            created: config.created.clone(),
            created_by: None,
            author: None,
            comment: Some(comment),
            empty_layer: false,
        });
        let diff_ids = &mut config.rootfs.diff_ids;
        diff_ids.truncate(diff_ids.len().saturating_sub(layers));
        diff_ids.push(squashed.diff_id.to_string());
        self.layers.truncate(self.layers.len().saturating_sub(layers));
        self.layers.push(built_layer(squashed.diff_id, squashed.size));
    }
}

/// Formats seconds since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}
