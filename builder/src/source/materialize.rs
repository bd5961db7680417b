//! Layers into snapshots: fetched side by side, unpacked in order.

use std::io::{self, Read};

use cache::{ChainId, Descriptor, DiffId, HashingReader, LayerBlob, SnapshotId, Store};

use super::image::{Layer, ResolvedImage};
use super::layer::{self, LayerSource};
use super::progress::MeteredReader;
use super::{Meter, SourceError, Sources};
use crate::blocking;
use crate::layer::{Limits, apply_layer};
use crate::progress::{Events, TransferPhase};
use crate::relay::ReadAhead;

/// A layer from this many bytes on goes to the disk while the next one comes or steps run on it.
const MUCH: u64 = 32 << 20;

impl Sources {
    /// Makes sure that the image's files are here and returns the snapshot that holds them;
    /// `None` for an image without layers. What is here already is neither fetched nor unpacked.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn materialize(
        &self,
        image: &ResolvedImage,
        events: &Events,
    ) -> Result<Option<SnapshotId>, SourceError> {
        let (store, searched) = (self.store.clone(), image.clone());
        let (present, mut parent) = blocking::run(move || present(&store, &searched)).await?;
        let layers: Vec<Layer> = image.each_layer().collect();
        let chain = image.chain_ids();
        let missing = &layers[present..];
        let mut fetches = self.start_fetches(missing.to_vec(), image, events);
        for (at, layer) in missing.iter().enumerate() {
            fetches.wait_for(at).await?;
            let chain_id = chain[present + at];
            parent = Some(self.unpack(layer, chain_id, parent, image, events).await?);
        }
        Ok(parent)
    }

    /// Unpacks one layer onto `parent`. A blob that was damaged on our disk since it came is
    /// thrown away and fetched again, once.
    async fn unpack(
        &self,
        layer: &Layer,
        chain_id: ChainId,
        parent: Option<SnapshotId>,
        image: &ResolvedImage,
        events: &Events,
    ) -> Result<SnapshotId, SourceError> {
        let mut is_second = false;
        loop {
            let (store, layer_here) = (self.store.clone(), layer.clone());
            let (parent, events_here) = (parent.clone(), events.clone());
            let outcome = blocking::run(move || {
                let outcome = unpack(&store, &layer_here, chain_id, parent.as_ref(), &events_here);
                outcome.or_else(|error| {
                    discard_if_damaged(&store, error).map_or_else(Err, |()| Ok(None))
                })
            })
            .await?;
            match outcome {
                Some(id) => return Ok(id),
                None if is_second => return Err(SourceError::Lost { diff_id: layer.diff_id }),
                None => is_second = true,
            }
            let asked = image.repository();
            self.fetch_layer(layer, asked.as_ref(), events).await?;
        }
    }
}

/// Finds how many layers from the base up have a snapshot, and the topmost of those.
fn present(
    store: &Store,
    image: &ResolvedImage,
) -> Result<(usize, Option<SnapshotId>), SourceError> {
    let chain_ids = image.chain_ids();
    // A snapshot keeps its parents, so the topmost that is there answers for all below.
    for at in (0..chain_ids.len()).rev() {
        if let Some(id) = find_stack(store, &chain_ids[..=at], &image.diff_ids[..=at])? {
            return Ok((at + 1, Some(id)));
        }
    }
    Ok((0, None))
}

/// Finds the snapshot that holds exactly the layers `diff_ids`: one of a pulled image, or one that
/// was built here on top of such a one.
fn find_stack(
    store: &Store,
    chain_ids: &[ChainId],
    diff_ids: &[DiffId],
) -> Result<Option<SnapshotId>, SourceError> {
    let names = |at: usize| -> Result<[Option<SnapshotId>; 2], SourceError> {
        let record = store
            .layers()
            .get(&diff_ids[at])
            .map_err(SourceError::store("read a layer's record"))?;
        let built = record.and_then(|record| record.snapshot);
        Ok([Some(SnapshotId::for_chain(&chain_ids[at])), built])
    };
    let top = diff_ids.len() - 1;
    for id in names(top)?.into_iter().flatten() {
        if store.snapshots().get(&id).map_err(SourceError::store("read a snapshot"))?.is_none() {
            continue;
        }
        let mut stack =
            store.snapshots().chain(&id).map_err(SourceError::store("read a snapshot"))?;
        stack.reverse();
        if stack.len() != diff_ids.len() {
            continue;
        }
        let mut is_same = true;
        for (at, id) in stack.iter().enumerate() {
            is_same &= names(at)?.iter().flatten().any(|name| name == id);
        }
        if is_same {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn unpack(
    store: &Store,
    layer: &Layer,
    chain_id: ChainId,
    parent: Option<&SnapshotId>,
    events: &Events,
) -> Result<Option<SnapshotId>, SourceError> {
    let id = SnapshotId::for_chain(&chain_id);
    let there = store.snapshots().get(&id).map_err(SourceError::store("read a snapshot"))?;
    if there.is_some() {
        return Ok(Some(id));
    }
    let Some(source) = LayerSource::find(store, layer)? else { return Ok(None) };
    let active =
        store.snapshots().prepare(parent).map_err(SourceError::store("prepare a snapshot"))?;
    let meter = Meter::new(events, &layer.descriptor.digest, TransferPhase::Extracting, None);
    let (size, content_size) = match &source {
        LayerSource::Blob { blob, path } => {
            let tar = MeteredReader::new(layer::open_tar(blob, path)?, meter);
            apply_checked(tar, blob, layer, active.upper(), active.lowers())?
        }
        LayerSource::Snapshot { .. } => {
            let blob = layer::built_layer(layer.diff_id, 0);
            piped(&source, layer, |tar| {
                let tar = MeteredReader::new(tar, meter);
                apply_checked(tar, &blob, layer, active.upper(), active.lowers())
            })?
        }
    };
    active.commit(Some(id.clone())).map_err(SourceError::store("keep a snapshot"))?;
    if size >= MUCH {
        store.sync_early();
    }
    store
        .layers()
        .update(&layer.diff_id, |record| {
            if let LayerSource::Blob { blob, .. } = &source {
                let Descriptor { digest, size, media_type } = blob.clone();
                record.note(LayerBlob { digest, size, media_type, checked: true });
            }
            record.tar_size = Some(size);
            record.content_size = Some(content_size);
        })
        .map_err(SourceError::store("note a layer"))?;
    Meter::new(events, &layer.descriptor.digest, TransferPhase::Extracting, Some(size))
        .end_blocking(TransferPhase::Done);
    Ok(Some(id))
}

/// Applies the tar and checks that it was the right one; returns its size and that of the files
/// in it, in bytes.
fn apply_checked(
    tar: impl Read + Send + 'static,
    blob: &Descriptor,
    layer: &Layer,
    upper: &std::path::Path,
    lowers: &[std::path::PathBuf],
) -> Result<(u64, u64), SourceError> {
    let digest = blob.digest;
    // Decompressed and hashed beside this thread, which makes the files.
    let mut tar = ReadAhead::new(HashingReader::new(tar));
    let stats = apply_layer(&mut tar, upper, lowers, &Limits::LAYER)
        .map_err(|source| SourceError::Apply { digest, source: Box::new(source) })?;
    // The digest is over everything, also over what follows the archive's end.
    io::copy(&mut tar, &mut io::sink())
        .map_err(|source| SourceError::Decompress { digest, source })?;
    let (_, found, size) = tar.finish().finish();
    layer::check_diff_id(&digest, layer.diff_id, found)?;
    Ok((size, stats.bytes))
}

/// Unpacks the layer, whose blob is in the store, onto `parent` as the snapshot `id`; returns the
/// size of its tar in bytes. Blocking.
///
/// # Errors
///
/// [`SourceError::DiffId`] when it is another layer, and what else can be wrong with it.
pub(crate) fn unpack_as(
    store: &Store,
    layer: &Layer,
    id: &SnapshotId,
    parent: Option<&SnapshotId>,
) -> Result<u64, SourceError> {
    let source = LayerSource::find(store, layer)?;
    let source = source.ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
    let active =
        store.snapshots().prepare(parent).map_err(SourceError::store("prepare a snapshot"))?;
    let (size, _) = match &source {
        LayerSource::Blob { blob, path } => {
            let tar = layer::open_tar(blob, path)?;
            apply_checked(tar, blob, layer, active.upper(), active.lowers())?
        }
        LayerSource::Snapshot { .. } => {
            let blob = layer::built_layer(layer.diff_id, 0);
            piped(&source, layer, |tar| {
                apply_checked(tar, &blob, layer, active.upper(), active.lowers())
            })?
        }
    };
    active.commit(Some(id.clone())).map_err(SourceError::store("keep a snapshot"))?;
    Ok(size)
}

/// Checks that the blob of `layer` in the store holds the layer that it is said to hold. Blocking.
///
/// # Errors
///
/// [`SourceError::DiffId`] and [`SourceError::Decompress`].
pub(crate) fn check_layer(store: &Store, layer: &Layer) -> Result<(), SourceError> {
    let blob = &layer.descriptor;
    let mut tar = HashingReader::new(layer::open_tar(blob, &store.content().path(&blob.digest))?);
    io::copy(&mut tar, &mut io::sink())
        .map_err(|source| SourceError::Decompress { digest: blob.digest, source })?;
    layer::check_diff_id(&blob.digest, layer.diff_id, tar.finish().1)
}

/// Runs `read` on the tar of `source` while another thread makes it.
fn piped<T>(
    source: &LayerSource,
    layer: &Layer,
    read: impl FnOnce(io::PipeReader) -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    let (reader, writer) = io::pipe().map_err(SourceError::store("make a pipe"))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || source.write_tar(layer.diff_id, writer));
        let outcome = read(reader);
        let written = match writing.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // A broken pipe on the writer's side follows from the reader's error, not the reverse.
        outcome.and_then(|value| written.map(|_| value))
    })
}

/// Throws the blob away whose bytes are no longer those of its name; else gives `error` back.
fn discard_if_damaged(store: &Store, error: SourceError) -> Result<(), SourceError> {
    let digest = match &error {
        SourceError::Apply { digest, .. }
        | SourceError::Decompress { digest, .. }
        | SourceError::DiffId { digest, .. } => *digest,
        _ => return Err(error),
    };
    let Ok(Some(file)) = store.content().open(&digest) else { return Err(error) };
    let mut blob = HashingReader::new(file);
    let is_read = io::copy(&mut blob, &mut io::sink()).is_ok();
    if is_read && blob.finish().1 == digest {
        return Err(error);
    }
    tracing::warn!(%digest, "a layer was damaged on disk and is fetched again");
    store.content().remove(&digest).map_err(SourceError::store("remove a damaged layer"))?;
    Ok(())
}
