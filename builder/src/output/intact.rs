//! Whether what goes out is what was built: files in the store may have been damaged since.
//!
//! Archives and pushes notice by themselves, since they make the layer's tar again. Trees are
//! copied as they are, so that their layers are digested first.

use std::error::Error;
use std::io;

use cache::{DiffId, SnapshotId, Store};

use crate::export::ExportError;
use crate::source::{Layer, LayerSource, ResolvedImage, SourceError};

/// Checks the layers that were built here among those of `top`, which holds the files of `image`.
///
/// A layer that came from outside is not checked: its tar cannot be made again from its files.
pub(super) fn check(
    store: &Store,
    image: &ResolvedImage,
    top: &SnapshotId,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::store("read the image's layers")(error);
    let layers: Vec<Layer> = image.each_layer().collect();
    let chain = store.snapshots().chain(top).map_err(failed)?;
    let pairs = chain.iter().zip(layers.iter().rev());
    for (id, layer) in pairs.filter(|(id, _)| id.is_built()) {
        let record = store.layers().get(&layer.diff_id).map_err(failed)?;
        // Of another snapshot that gives the same layer nobody knows with which times.
        let Some(record) = record.filter(|it| it.snapshot.as_ref() == Some(id)) else { continue };
        let snapshot = store.snapshots().get(id).map_err(failed)?;
        let snapshot = snapshot.ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
        let source = LayerSource::Snapshot { upper: snapshot.fs, latest: record.latest };
        source.write_tar(layer.diff_id, io::sink())?;
    }
    Ok(())
}

/// Removes the snapshot that `error` says is damaged, so that it is made anew when it is next
/// needed.
pub(super) fn forget_damaged(store: &Store, error: &ExportError) {
    let Some(diff_id) = damaged_layer(error) else { return };
    let removed = store.layers().get(&diff_id).and_then(|record| {
        let id = record.and_then(|record| record.snapshot);
        id.map_or(Ok(false), |id| store.snapshots().remove(&id))
    });
    match removed {
        Ok(_) => tracing::warn!(%diff_id, "a damaged layer was removed"),
        Err(error) => {
            let error: &dyn Error = &error;
            tracing::warn!(error, %diff_id, "a damaged layer could not be removed");
        }
    }
}

/// Returns the layer whose files in the store were changed, if that is the fault.
pub(crate) fn damaged_layer(error: &ExportError) -> Option<DiffId> {
    let of = |error: &SourceError| match error {
        SourceError::Damaged { expected, .. } => Some(*expected),
        _ => None,
    };
    if let ExportError::Source(error) = error {
        return of(error);
    }
    let causes = std::iter::successors(Error::source(error), |&error| error.source());
    causes.filter_map(|error| error.downcast_ref()).find_map(of)
}
