//! Reclaiming: what no tag and no running build needs.
//!
//! Roots are the tagged images and the leases of living processes; they always stay, with all they
//! name. Cache records, images without a tag and idle cache mounts stay until they are asked to go,
//! the longest unused first. Everything else is garbage and goes at once.
//!
//! gc holds the store alone while it reads, decides and moves the victims to `tmp/`: names first,
//! then what they named, so a crash in the middle leaves garbage and no lie. Deleting the bytes
//! comes after, in the background. The clock decides only what goes first, never what may go.

mod graph;
mod items;
mod order;
mod policy;
mod survey;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use self::graph::Node;
use self::survey::{Candidate, CandidateKind, Survey};
use crate::cutoff;
use crate::digest::Digest;
use crate::error::{AtPath, Result, found};
use crate::store::Store;

pub(crate) use self::items::items;
pub use self::items::{Item, ItemKind};
pub use self::policy::{Amount, GcPolicy};
pub(crate) use self::policy::{Budget, make_room, settle};

/// What [`Store::prune`] may remove besides garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Also cache mounts, past builds, old notes and, without `keep_bytes`, records of tagged images.
    pub all: bool,
    /// Stop once the store takes no more than this, in bytes.
    pub keep_bytes: Option<u64>,
    /// Leave what was used more recently than this ago.
    pub older_than: Option<Duration>,
    /// Only things of this kind, besides what nothing names; asking for a kind is asking for all of
    /// it.
    pub only: Option<ItemKind>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What a prune removed, or would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Records, images without a tag, cache mounts, layers, snapshots and blobs.
    pub items: usize,
    /// Room they took, in bytes.
    pub bytes: u64,
}

/// A number of things and the room they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub count: usize,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tags.
    pub images: usize,
    /// Images without one.
    pub untagged_images: usize,
    /// Cache records.
    pub records: usize,
    /// Manifests, configs and compressed layers.
    pub blobs: Sum,
    /// Unpacked layers.
    pub snapshots: Sum,
    /// Cache mounts.
    pub cache_mounts: Sum,
    /// Records of past builds.
    pub builds: Sum,
    /// Cache records, tags and all else that is small.
    pub metadata: u64,
    /// Bytes of everything, as du(1) counts them.
    pub bytes: u64,
    /// Bytes that a prune of all would free now.
    pub reclaimable: u64,
}

/// Age from which notes go with the rest: nobody asks any more why that build differs.
const NOTE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to go.
#[derive(Debug, Default)]
struct Plan {
    files: Vec<PathBuf>,
    trees: Vec<PathBuf>,
    nodes: Vec<Node>,
    bytes: u64,
}

pub(crate) fn prune(store: &Store, options: &PruneOptions) -> Result<Pruned> {
    survey::measure(store)?;
    let alone = store.handle().alone()?;
    let survey = Survey::take(store, &alone)?;
    let before = total(&survey);
    let plan = plan(survey, options, SystemTime::now());
    let items = plan.files.len() + plan.trees.len() + plan.nodes.len();
    let pruned = Pruned { items, bytes: plan.bytes };
    if !options.dry_run {
        carry_out(store, &plan)?;
        policy::note_used(store, before - plan.bytes)?;
    }
    Ok(pruned)
}

/// Returns the bytes of everything.
fn total(survey: &Survey) -> u64 {
    let candidates: u64 = survey.candidates.iter().map(|candidate| candidate.bytes).sum();
    survey.graph.total() + candidates + survey.rest
}

pub(crate) fn usage(store: &Store) -> Result<Usage> {
    survey::measure(store)?;
    let alone = store.handle().alone()?;
    let survey = Survey::take(store, &alone)?;
    let mut usage = Usage { images: survey.tagged_images, ..Usage::default() };
    for node in survey.graph.nodes() {
        let sum = match node {
            Node::Blob(_) => &mut usage.blobs,
            Node::Snapshot(_) => &mut usage.snapshots,
            Node::Layer(_) => {
                usage.metadata += survey.graph.bytes(node);
                continue;
            }
        };
        sum.count += 1;
        sum.bytes += survey.graph.bytes(node);
    }
    for candidate in &survey.candidates {
        let sum = match candidate.kind {
            CandidateKind::CacheMount => &mut usage.cache_mounts,
            CandidateKind::Build => &mut usage.builds,
            kind => {
                match kind {
                    CandidateKind::Record | CandidateKind::RecordOfImage => usage.records += 1,
                    CandidateKind::Untagged => usage.untagged_images += 1,
                    _ => {}
                }
                usage.metadata += candidate.bytes;
                continue;
            }
        };
        sum.count += 1;
        sum.bytes += candidate.bytes;
    }
    usage.metadata += survey.rest;
    usage.bytes = total(&survey);
    policy::note_used(store, usage.bytes)?;
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    usage.reclaimable = plan(survey, &all, SystemTime::now()).bytes;
    Ok(usage)
}

/// Decides what goes: garbage, dead records, then candidates until the store is small enough.
fn plan(survey: Survey, options: &PruneOptions, now: SystemTime) -> Plan {
    let total = total(&survey);
    let Survey { mut graph, candidates, .. } = survey;
    let mut plan = Plan::default();
    for node in graph.garbage() {
        plan.bytes += graph.bytes(&node);
        plan.nodes.push(node);
    }
    for candidate in order::cheapest_first(&graph, candidates, now) {
        let is_dead = candidate.kind == CandidateKind::DeadRecord;
        let is_small = options.keep_bytes.is_some_and(|keep| total - plan.bytes <= keep);
        if !is_dead && (is_small || !may_go(&candidate, options, now)) {
            continue;
        }
        let freed = graph.release(&candidate.names);
        plan.bytes += candidate.bytes;
        plan.bytes += freed.iter().map(|node| graph.bytes(node)).sum::<u64>();
        plan.nodes.extend(freed);
        match candidate.kind {
            CandidateKind::CacheMount | CandidateKind::Build => plan.trees.push(candidate.path),
            _ => plan.files.push(candidate.path),
        }
    }
    plan
}

fn may_go(candidate: &Candidate, options: &PruneOptions, now: SystemTime) -> bool {
    // A use in the future is a clock that was set back: as good as now.
    let age = now.duration_since(candidate.last_used).unwrap_or_default();
    let is_old = options.older_than.is_none_or(|older_than| age >= older_than);
    if let Some(only) = options.only {
        return is_old && !candidate.is_held && candidate.kind.item() == only;
    }
    let is_meant = match candidate.kind {
        CandidateKind::Record
        | CandidateKind::Untagged
        | CandidateKind::DeadRecord
        | CandidateKind::FailedStep => true,
        CandidateKind::CacheMount | CandidateKind::Build => options.all,
        // They say why what goes now will be missed, and are small.
        CandidateKind::Note => options.all && age >= NOTE_AGE,
        // Its files stay in any case: with a budget in mind, removing it would help nobody.
        CandidateKind::RecordOfImage => options.all && options.keep_bytes.is_none(),
    };
    is_old && is_meant && !candidate.is_held
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Removes names before what they name.
fn carry_out(store: &Store, plan: &Plan) -> Result<()> {
    let index = store.handle().layout.index();
    let records = plan.files.iter().filter(|path| path.starts_with(&index));
    let keys = records.filter_map(|path| Digest::parse_hex(path.file_name()?.to_str()?).ok());
    store.trails().note_evicted(&keys.collect::<Vec<_>>(), unix_seconds(SystemTime::now()))?;
    for path in &plan.files {
        found(fs::remove_file(path)).at("remove", path)?;
    }
    for node in &plan.nodes {
        if let Node::Layer(diff_id) = node {
            store.layers().remove(diff_id)?;
        }
    }
    let session = &store.handle().session;
    for node in &plan.nodes {
        match node {
            // Unlinking a big file takes its time, so it is moved away first, as trees are.
            Node::Blob(digest) => session.remove_later(&store.content().path(digest))?,
            Node::Snapshot(id) => store.snapshots().remove(id)?,
            Node::Layer(_) => continue,
        };
    }
    for tree in &plan.trees {
        session.remove_later(tree)?;
    }
    cutoff::sweep(store.index())
}
