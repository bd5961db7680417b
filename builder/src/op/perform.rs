//! What each op of the graph does to a store: prepare a snapshot, act, commit.
//!
//! Everything here blocks. Nothing here knows the graph: inputs come as [`Root`]s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use cache::{ActiveSnapshot, DiffId, SnapshotId, Store, TempDir};
use frontend::{CopyOp, CopySource, MakeDirOp, Unpack};

use super::copy::{Draft, copy_telling};
use super::error::OpError;
use super::select::Item;
use super::{CopyInput, CopyStats, Selection, copy, make_dir, select};
use crate::context::FileRoot;
use crate::layer::{self, ApplyError, LayerStats, Limits, Room};
use crate::rootfs::LayeredRoot;
use crate::tree::{self, Changes, Digested};

/// What takes long enough to reach the disk that it should begin before more is written. While it
/// does, who creates files waits for directories and inodes that are on their way.
const MUCH_OBJECTS: u64 = 5000;
const MUCH_BYTES: u64 = 32 << 20;

/// Objects from which it is worth to begin when all of them are written.
const SOME_OBJECTS: u64 = 200;

/// Lists of objects that wait to be digested at most.
const PIECES_WAITING: usize = 4;

/// A vertex's result as its users need it.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    /// No files at all.
    Empty,
    /// A committed snapshot with everything below it.
    Snapshot(SnapshotId),
    /// A directory from outside.
    Files(Arc<FileRoot>),
}

impl Root {
    /// The snapshot to stand on; files from outside are nothing to stand on.
    pub(crate) fn snapshot(&self) -> Option<&SnapshotId> {
        match self {
            Self::Snapshot(id) => Some(id),
            Self::Empty | Self::Files(_) => None,
        }
    }
}

/// The directories of a root, top first; none for an empty one.
pub(super) fn lowers_of(store: &Store, root: &Root) -> Result<Vec<PathBuf>, OpError> {
    root.snapshot()
        .map_or_else(|| Ok(Vec::new()), |id| store.snapshots().lowers(id).map_err(OpError::store))
}

/// Begins a snapshot on top of the first input. Nobody knows what a step will write: there is room
/// as long as the store keeps to its policy.
pub(super) fn prepare(store: &Store, inputs: &[Root]) -> Result<ActiveSnapshot, OpError> {
    store.make_room(0).map_err(OpError::store)?;
    let parent = inputs.first().and_then(Root::snapshot);
    store.snapshots().prepare(parent).map_err(OpError::store)
}

/// Ends a snapshot.
pub(super) fn commit(active: ActiveSnapshot) -> Result<Root, OpError> {
    Ok(Root::Snapshot(active.commit(None).map_err(OpError::store)?.id))
}

/// COPY and ADD. `selected` is what the cache key was made of, where it is all that is copied:
/// what changed since then is an error, not content under a key that it does not have.
/// Returns also what was found out of the layer on the way, in which no time is later than `latest`
/// (seconds since 1970).
pub(crate) fn copy_onto(
    store: &Store,
    op: &CopyOp,
    inputs: &[Root],
    selected: Option<Selection>,
    latest: Option<i64>,
) -> Result<(Root, Option<Digested>), OpError> {
    let active = prepare(store, inputs)?;
    let roots = inputs
        .iter()
        .map(|input| Ok(LayeredRoot::open(&lowers_of(store, input)?)?))
        .collect::<Result<Vec<_>, OpError>>()?;
    let views: Vec<CopyInput<'_>> = inputs
        .iter()
        .zip(&roots)
        .map(|(input, root)| match input {
            Root::Files(files) => view(files),
            Root::Empty | Root::Snapshot(_) => CopyInput::Root(root),
        })
        .collect();
    let below = LayeredRoot::open(active.lowers())?;
    let selected = selected.map_or_else(|| select(op, &views), Ok)?;
    let mut begun = 0;
    let mut told = |written: &CopyStats| {
        let much = written.objects / MUCH_OBJECTS + written.bytes / MUCH_BYTES;
        if much > begun {
            begun = much;
            store.sync_early();
        }
    };
    let upper = active.upper();
    let digested = digesting(upper, &selected, latest, |draft| {
        let copied = copy_telling(op, &selected, &views, &below, upper, &mut told, draft);
        let (stats, is_told) = copied?;
        if stats.objects >= SOME_OBJECTS {
            // While the layer is digested and its record is made.
            store.sync_early();
        }
        Ok(is_told)
    })?;
    Ok((commit(active)?, digested))
}

/// Has `copy` fill the snapshot in the directory `upper` with `selection`, and digests the layer
/// that it tells meanwhile; `copy` says whether it told it whole.
fn digesting(
    upper: &Path,
    selection: &Selection,
    latest: Option<i64>,
    copy: impl FnOnce(Option<Draft>) -> Result<bool, OpError>,
) -> Result<Option<Digested>, OpError> {
    let (to, from) = sync_channel(PIECES_WAITING);
    let room = Room::default();
    let Some(draft) = Draft::of(selection, to, room.clone()) else {
        copy(None)?;
        return Ok(None);
    };
    std::thread::scope(|scope| {
        let pieces = from.into_iter().flatten();
        let digesting = scope.spawn(move || tree::digest_pieces(upper, pieces, &room, latest));
        let is_whole = copy(Some(draft))?;
        let digested = digesting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What went wrong goes wrong again where the finished snapshot is read.
        Ok(digested.ok().flatten().filter(|_| is_whole))
    })
}

/// Returns when the newest file was changed that the rules leave, in seconds since 1970.
/// Directories do not count: their times tell when they were written here.
pub(crate) fn newest_file(files: &FileRoot) -> Result<Option<i64>, OpError> {
    let selection = select(&tree_copy(".", false), &[view(files)])?;
    let entries = selection.items.iter().flat_map(|item| match item {
        Item::Match(found) => found.entries.as_slice(),
        Item::Inline { .. } => &[],
    });
    let files = entries.filter(|entry| !entry.node.metadata.is_dir());
    Ok(files.map(|entry| entry.node.metadata.mtime.seconds).max())
}

pub(super) fn view(files: &FileRoot) -> CopyInput<'_> {
    CopyInput::Context { root: &files.root, rules: files.rules() }
}

/// WORKDIR.
pub(crate) fn make_dir_in(store: &Store, op: &MakeDirOp, inputs: &[Root]) -> Result<Root, OpError> {
    let active = prepare(store, inputs)?;
    make_dir(op, &LayeredRoot::open(active.lowers())?, active.upper())?;
    commit(active)
}

/// `COPY --link`: the layer of input 1 on top of input 0. Its tar is applied anew, so that the
/// two snapshots share no inode and either can be deleted alone.
pub(crate) fn merge(store: &Store, inputs: &[Root]) -> Result<Root, OpError> {
    let active = prepare(store, inputs)?;
    if let Some(linked) = inputs.get(1).and_then(Root::snapshot) {
        let linked = store.snapshots().get(linked).map_err(OpError::store)?;
        let linked = linked.ok_or_else(|| OpError::lost("the linked layer"))?;
        let (to, lowers) = (active.upper(), active.lowers());
        piped(&linked.fs, None, |tar| layer::apply_layer(tar, to, lowers, &Limits::LAYER))?;
    }
    commit(active)
}

/// Has `apply` read the layer of the snapshot in the directory `from`, in which no time is later
/// than `latest` (seconds since 1970), while it is written.
pub(super) fn piped(
    from: &Path,
    latest: Option<i64>,
    apply: impl FnOnce(io::PipeReader) -> Result<LayerStats, ApplyError>,
) -> Result<(), OpError> {
    let (reader, writer) = io::pipe().map_err(OpError::store)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || layer::write_layer_until(from, latest, writer));
        let applied = apply(reader);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied?;
        written?;
        Ok(())
    })
}

/// Digests a committed snapshot's layer, unless that was done when it was made; returns its
/// diff_id, the size of its tar in bytes, and what it changes.
pub(crate) fn seal(
    store: &Store,
    snapshot: &SnapshotId,
    latest: Option<i64>,
    digested: Option<Digested>,
) -> Result<(DiffId, u64, Changes), OpError> {
    let digested = digested.filter(|digested| digested.latest == latest);
    let digested = digested.map_or_else(|| tree::digest_layer(store, snapshot, latest), Ok)?;
    let Digested { diff_id, size, bytes, changes, .. } = digested;
    let note = |record: &mut cache::LayerRecord| {
        record.snapshot = Some(snapshot.clone());
        record.latest = latest;
        record.tar_size = Some(size);
        record.content_size = Some(bytes);
    };
    store.layers().update(&diff_id, note).map_err(OpError::store)?;
    Ok((diff_id, size, changes))
}

/// The copy that brings `path` of input 0: at its place, or its content to the root.
pub(super) fn tree_copy(path: &str, keeps_path: bool) -> CopyOp {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path }.to_owned();
    CopyOp {
        sources: vec![CopySource::Path { input: 0, path, wildcard: false }],
        destination: "/".to_owned(),
        destination_is_dir: true,
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: keeps_path,
        unpack: Unpack::Never,
    }
}

/// Makes a directory that holds `path` of `files`, at its place, and nothing that the ignore rules
/// leave out.
pub(super) fn bound_tree(store: &Store, files: &FileRoot, path: &str) -> Result<TempDir, OpError> {
    let dir = store.temp_dir().map_err(OpError::store)?;
    let (op, views) = (tree_copy(path, true), [view(files)]);
    let selection = select(&op, &views)?;
    copy(&op, &selection, &views, &LayeredRoot::open(&[])?, dir.path())?;
    Ok(dir)
}

#[cfg(test)]
mod tests;
