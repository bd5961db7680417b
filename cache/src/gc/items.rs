//! Everything in a store, one by one, for people to choose from.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::graph::Node;
use super::survey::{self, CandidateKind, Survey};
use crate::error::Result;
use crate::store::Store;

/// The kinds of things that can be listed and pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// A cached step: its record and its files; or what a failed one left.
    Step,
    /// An image without a tag.
    Image,
    /// A cache mount, or what was fetched by git or HTTP.
    Mount,
    /// The record of a past build.
    Build,
    /// What explains the next miss.
    Note,
    /// Files of a layer that no cached step names: of an image, or of running work.
    Layer,
    /// A manifest, a config or a compressed layer.
    Blob,
    /// All else: tags, directories, what is in the making.
    Metadata,
}

/// One thing in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its name in the store.
    pub id: String,
    /// Bytes on the disk, of what is listed nowhere else.
    pub bytes: u64,
    /// Unix seconds of its last use, where that is known.
    pub last_used: Option<u64>,
    /// For people: an instruction, a mount's id.
    pub title: String,
    /// Whether a prune of its kind would remove it now.
    pub is_reclaimable: bool,
}

impl CandidateKind {
    pub(super) const fn item(self) -> ItemKind {
        match self {
            Self::Record | Self::RecordOfImage | Self::DeadRecord | Self::FailedStep => {
                ItemKind::Step
            }
            Self::Untagged => ItemKind::Image,
            Self::CacheMount => ItemKind::Mount,
            Self::Build => ItemKind::Build,
            Self::Note => ItemKind::Note,
        }
    }
}

pub(crate) fn items(store: &Store) -> Result<Vec<Item>> {
    survey::measure(store)?;
    let alone = store.handle().alone()?;
    let Survey { mut graph, candidates, rest, .. } = Survey::take(store, &alone)?;
    let mut items = Vec::new();
    for candidate in &candidates {
        // What only cached things name goes with the last of them.
        let freed = graph.release(&candidate.names);
        let of_nodes: u64 = freed.iter().map(|node| graph.bytes(node)).sum();
        let id = match candidate.kind {
            CandidateKind::Build => candidate.title.clone(),
            CandidateKind::FailedStep => candidate.path.parent().map(name_of).unwrap_or_default(),
            _ => name_of(&candidate.path),
        };
        items.push(Item {
            kind: candidate.kind.item(),
            id,
            bytes: candidate.bytes + of_nodes,
            last_used: unix_seconds(candidate.last_used),
            title: candidate.title.clone(),
            is_reclaimable: !candidate.is_held,
        });
        for node in freed {
            graph.forget(&node);
        }
    }
    let mut metadata = rest;
    for node in graph.nodes() {
        let (kind, id, path) = match node {
            Node::Blob(digest) => {
                (ItemKind::Blob, digest.to_string(), store.content().path(digest))
            }
            Node::Snapshot(id) => (ItemKind::Layer, id.to_string(), store.snapshots().dir(id)),
            Node::Layer(_) => {
                metadata += graph.bytes(node);
                continue;
            }
        };
        let used = fs::metadata(&path).and_then(|data| data.modified()).ok();
        items.push(Item {
            kind,
            id,
            bytes: graph.bytes(node),
            last_used: used.and_then(unix_seconds),
            title: String::new(),
            is_reclaimable: !graph.is_retained(node),
        });
    }
    items.push(Item {
        kind: ItemKind::Metadata,
        id: "-".to_owned(),
        bytes: metadata,
        last_used: None,
        title: "tags, directories, what is in the making".to_owned(),
        is_reclaimable: false,
    });
    items.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
    Ok(items)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn unix_seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
