//! Compares the files of built layers with their digests: what the store alone cannot.
//!
//! The tar of a built layer is made again from its snapshot, byte for byte, so its `diff_id` tells
//! every change of a name, an attribute or a byte. Pulled layers keep the blob that they came as,
//! which the store checks itself; their unpacked files have no digest to be compared with.

use std::io;

use cache::{
    CheckReport, DiffId, Fault, HashingWriter, LayerRecord, SnapshotId, Store, StoreError,
};

use crate::layer;

/// How the ids of snapshots begin that a step made.
const BUILT: &str = "built-";

/// Adds to `report` each built layer whose files are not what they were; `repair` removes it.
pub(crate) fn built_layers(
    store: &Store,
    repair: bool,
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    for LayerRecord { diff_id, snapshot, latest, .. } in store.layers().list()? {
        let Some(id) = snapshot.filter(|id| id.as_str().starts_with(BUILT)) else { continue };
        let Some(problem) = problem(store, diff_id, &id, latest)? else { continue };
        if repair {
            store.snapshots().remove(&id)?;
        }
        let path = store.root().join("snapshots").join(id.as_str());
        report.faults.push(Fault { path, problem, images: Vec::new(), is_repaired: repair });
    }
    Ok(())
}

fn problem(
    store: &Store,
    want: DiffId,
    id: &SnapshotId,
    latest: Option<i64>,
) -> Result<Option<String>, StoreError> {
    // One that is gone was told already, or is made again when it is needed.
    let Some(snapshot) = store.snapshots().get(id)? else { return Ok(None) };
    let mut hasher = HashingWriter::new(io::sink());
    if let Err(error) = layer::write_layer_until(&snapshot.fs, latest, &mut hasher) {
        return Ok(Some(format!("its files cannot be read: {error}")));
    }
    let found = hasher.finish().1;
    Ok((found != want.0).then(|| format!("its files make the layer {found}, not {}", want.0)))
}
