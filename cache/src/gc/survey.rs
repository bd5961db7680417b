//! Reads the whole store: what there is, what must stay, and what may be asked to go.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::graph::{Graph, Node};
use crate::cache_mount;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{AtPath, Result, found};
use crate::image;
use crate::index;
use crate::layer::{self, LayerRecord};
use crate::lease::{Alone, Held, held_by_all};
use crate::measure::{BLOCK, disk_bytes, disk_bytes_around, own_bytes, snapshot_bytes};
use crate::reach::Reach;
use crate::snapshot::SnapshotId;
use crate::store::Store;
use crate::{build_record, build_steps};

/// The state of a store at one moment, while nobody can change what is held.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) graph: Graph,
    pub(super) candidates: Vec<Candidate>,
    pub(super) tagged_images: usize,
    /// Bytes of what is neither in the graph nor a candidate: directories, tags, locks, the making.
    pub(super) rest: u64,
}

/// Something that keeps other things, and that prune may remove.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) kind: CandidateKind,
    pub(super) path: PathBuf,
    pub(super) names: Vec<Node>,
    pub(super) last_used: SystemTime,
    /// Its own bytes, without those of what it names.
    pub(super) bytes: u64,
    /// Milliseconds that it takes to make it again, about.
    pub(super) cost_ms: u64,
    /// In use now, so it stays.
    pub(super) is_held: bool,
    /// For people: a step, a mount's id.
    pub(super) title: String,
}

/// What making one of these again costs, in milliseconds: nobody has measured it. A mount and an
/// image are fetched again over a network.
const FETCH_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CandidateKind {
    /// A cache record of no tagged image.
    Record,
    /// A cache record whose files are part of a tagged image.
    RecordOfImage,
    /// A record that can never be a hit again.
    DeadRecord,
    Untagged,
    CacheMount,
    /// The record of a past build.
    Build,
    /// What a step of a past build had left when it failed.
    FailedStep,
    /// What explains the next miss.
    Note,
}

/// Measures what was not measured yet, which may take long, while builds go on.
pub(super) fn measure(store: &Store) -> Result<()> {
    for name in names(&store.handle().layout.snapshots())? {
        // One that gc in another process removes meanwhile needs no measuring.
        if let Ok(id) = SnapshotId::parse(&name) {
            let _may_vanish = snapshot_bytes(&store.snapshots().dir(&id));
        }
    }
    Ok(())
}

impl Survey {
    pub(super) fn take(store: &Store, alone: &Alone) -> Result<Self> {
        let mut graph = Graph::default();
        add_blobs(store, &mut graph)?;
        add_snapshots(store, &mut graph)?;
        add_layers(store, &mut graph)?;
        for held in held_by_all(alone, &store.handle().layout)? {
            graph.retain(&held_nodes(store, held)?);
        }
        let mut candidates = cache_mounts(store)?;
        candidates.extend(past_builds(store)?);
        candidates.extend(notes(store)?);
        let tagged_images = add_images(store, &mut graph, &mut candidates)?;
        // After the images, so that a record knows whether it belongs to one.
        candidates.extend(records(store, &graph)?);
        for candidate in &candidates {
            graph.retain(&candidate.names);
        }
        Ok(Self { graph, candidates, tagged_images, rest: rest(store)? })
    }
}

fn add_blobs(store: &Store, graph: &mut Graph) -> Result<()> {
    let dir = store.handle().layout.blobs();
    for name in names(&dir)? {
        let path = dir.join(&name);
        let data = found(fs::symlink_metadata(&path)).at("read", &path)?;
        if let (Ok(digest), Some(data)) = (Digest::parse_hex(&name), data) {
            graph.add(Node::Blob(digest), data.blocks() * BLOCK, Vec::new());
        }
    }
    Ok(())
}

fn add_snapshots(store: &Store, graph: &mut Graph) -> Result<()> {
    for name in names(&store.handle().layout.snapshots())? {
        let Ok(id) = SnapshotId::parse(&name) else { continue };
        let Some(meta) = store.snapshots().meta(&id)? else { continue };
        let dir = store.snapshots().dir(&id);
        let bytes = snapshot_bytes(&dir).at("measure", &dir)?;
        let names = meta.parent.into_iter().map(Node::Snapshot).collect();
        graph.add(Node::Snapshot(id), bytes, names);
    }
    Ok(())
}

fn add_layers(store: &Store, graph: &mut Graph) -> Result<()> {
    for path in store.layers().paths()? {
        let Some(layer) = layer::load(&path)? else { continue };
        let LayerRecord { diff_id, snapshot, blobs, forms, .. } = layer;
        let forms = forms.into_values().map(|form| form.blob);
        let blobs = blobs.into_iter().chain(forms).map(|blob| Node::Blob(blob.digest));
        let names = snapshot.into_iter().map(Node::Snapshot).chain(blobs).collect();
        graph.add(Node::Layer(diff_id), own_bytes(&path), names);
    }
    Ok(())
}

fn held_nodes(store: &Store, held: Held) -> Result<Vec<Node>> {
    Ok(match held {
        Held::Blob(digest) => vec![Node::Blob(digest)],
        Held::Snapshot(id) => vec![Node::Snapshot(id)],
        Held::Layer(diff_id) => vec![Node::Layer(diff_id)],
        Held::Image(manifest) => image_nodes(store, &manifest)?,
    })
}

/// Returns all that an image names, whether it is in the store or not.
fn image_nodes(store: &Store, manifest: &Digest) -> Result<Vec<Node>> {
    let reach = Reach::of(store.content(), manifest)?;
    let blobs = reach.documents.iter().chain(&reach.missing).chain(&reach.layers);
    let mut nodes: Vec<Node> = blobs.copied().map(Node::Blob).collect();
    for stack in &reach.stacks {
        nodes.extend(stack.iter().copied().map(Node::Layer));
        nodes.extend(chain_snapshots(stack).map(Node::Snapshot));
    }
    Ok(nodes)
}

/// Returns the snapshots that a pulled stack has when it was unpacked.
fn chain_snapshots(stack: &[DiffId]) -> impl Iterator<Item = SnapshotId> {
    stack.iter().scan(None, |below: &mut Option<ChainId>, &layer| {
        let chain_id = below.map_or(ChainId(layer.0), |below| below.push(layer));
        *below = Some(chain_id);
        Some(SnapshotId::for_chain(&chain_id))
    })
}

/// Retains the tagged images and returns their number; those without a tag become candidates.
fn add_images(store: &Store, graph: &mut Graph, candidates: &mut Vec<Candidate>) -> Result<usize> {
    let mut tagged = 0;
    for path in store.images().paths()? {
        let Some(image) = image::load(&path)? else { continue };
        let mut names = image_nodes(store, &image.manifest.digest)?;
        names.push(Node::Blob(image.config));
        if image.reference.is_some() {
            graph.retain(&names);
            tagged += 1;
            continue;
        }
        let last_used = last_used(&path);
        candidates.push(Candidate {
            kind: CandidateKind::Untagged,
            path,
            names,
            last_used,
            // Its file is counted with those of the tags.
            bytes: 0,
            cost_ms: FETCH_MS,
            is_held: false,
            title: image.config.to_string(),
        });
    }
    Ok(tagged)
}

fn records(store: &Store, graph: &Graph) -> Result<Vec<Candidate>> {
    let mut records = Vec::new();
    for path in store.index().paths()? {
        let last_used = last_used(&path);
        let mut cost_ms = 0;
        let mut title = String::new();
        let (kind, names) = match index::load(&path)? {
            Some(record) => {
                (cost_ms, title) = (record.duration_ms, record.step);
                let snapshot = Node::Snapshot(record.snapshot);
                let kind = match (graph.contains(&snapshot), graph.is_retained(&snapshot)) {
                    (false, _) => CandidateKind::DeadRecord,
                    (true, true) => CandidateKind::RecordOfImage,
                    (true, false) => CandidateKind::Record,
                };
                (kind, vec![snapshot, Node::Layer(record.diff_id)])
            }
            None => (CandidateKind::DeadRecord, Vec::new()),
        };
        let bytes = own_bytes(&path);
        let is_held = false;
        let record = Candidate { kind, path, names, last_used, bytes, cost_ms, is_held, title };
        records.push(record);
    }
    Ok(records)
}

/// Returns the cache mounts; those that a step uses are held.
fn cache_mounts(store: &Store) -> Result<Vec<Candidate>> {
    let root = store.handle().layout.cache_mounts();
    let mut mounts = Vec::new();
    for name in names(&root)? {
        let path = root.join(name);
        if !path.is_dir() {
            continue;
        }
        mounts.push(Candidate {
            kind: CandidateKind::CacheMount,
            names: Vec::new(),
            last_used: last_used(&path.join("0.lock")),
            bytes: disk_bytes(&path),
            cost_ms: FETCH_MS,
            is_held: cache_mount::is_used(&path).at("read", &path)?,
            title: fs::read_to_string(path.join("id")).unwrap_or_default(),
            path,
        });
    }
    Ok(mounts)
}

/// Returns the records of past builds; those that run are held.
fn past_builds(store: &Store) -> Result<Vec<Candidate>> {
    let mut builds = Vec::new();
    for path in store.builds().dirs()? {
        let last_used = last_used(&path.join("events"));
        let is_held = build_record::is_running(&path)?;
        let title = build_record::id_of(&path).unwrap_or_default().to_owned();
        if let Some(snapshot) = build_steps::failed(&path)? {
            builds.push(Candidate {
                kind: CandidateKind::FailedStep,
                path: build_steps::failed_file(&path),
                names: vec![Node::Snapshot(snapshot)],
                last_used,
                // Its file is counted with the build's.
                bytes: 0,
                cost_ms: 1,
                is_held,
                title: format!("the failed step of build {title}"),
            });
        }
        builds.push(Candidate {
            kind: CandidateKind::Build,
            names: Vec::new(),
            last_used,
            bytes: disk_bytes(&path),
            // They cannot be had again, so they outlast what can.
            cost_ms: FETCH_MS,
            is_held,
            title,
            path,
        });
    }
    Ok(builds)
}

fn notes(store: &Store) -> Result<Vec<Candidate>> {
    let root = store.handle().layout.trails();
    let mut notes = Vec::new();
    for dir in [root.clone(), root.join("files")] {
        for path in names(&dir)?.into_iter().map(|name| dir.join(name)) {
            if path.is_dir() {
                continue;
            }
            notes.push(Candidate {
                kind: CandidateKind::Note,
                names: Vec::new(),
                last_used: last_used(&path),
                bytes: own_bytes(&path),
                cost_ms: 1,
                is_held: false,
                title: String::new(),
                path,
            });
        }
    }
    Ok(notes)
}

/// Measures all that is counted nowhere else.
fn rest(store: &Store) -> Result<u64> {
    let layout = &store.handle().layout;
    let (blobs, files) = (layout.blobs(), layout.trails().join("files"));
    let mut closed: HashSet<PathBuf> =
        [&blobs, &layout.snapshots(), &layout.layers(), &layout.cache_mounts(), &layout.builds()]
            .into_iter()
            .cloned()
            .collect();
    closed.insert(layout.trails());
    let index = layout.index();
    closed.extend(names(&index)?.into_iter().map(|shard| index.join(shard)));
    Ok(disk_bytes_around(layout.root(), &closed) + own_bytes(&files))
}

/// Returns when a file was used last; one that nobody can date goes first.
fn last_used(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.at("read", dir)?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
