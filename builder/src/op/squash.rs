//! Several layers as one (`--squash`).

use cache::{SnapshotId, Store};

use super::error::OpError;
use super::perform::{Root, commit, piped, prepare};
use crate::layer::{self, Limits};

/// One of the layers that become one.
#[derive(Clone, Debug)]
pub(crate) struct Squashed {
    pub(crate) snapshot: SnapshotId,
    /// Stands for all later times in it, in seconds since 1970.
    pub(crate) latest: Option<i64>,
}

/// Makes one layer of `layers`, lowest first, on what the lowest one lies on: what a higher one
/// deletes or replaces is not in it. The result depends on the layers' bytes and on the names that
/// the tree below has, and on nothing else. The snapshots are left as they are.
pub(crate) fn squash(store: &Store, layers: &[Squashed]) -> Result<Root, OpError> {
    let layers = layers.iter().map(|layer| {
        let found = store.snapshots().get(&layer.snapshot).map_err(OpError::store)?;
        let snapshot = found.ok_or_else(|| OpError::lost("a layer of the image"))?;
        Ok((snapshot, layer.latest))
    });
    let layers: Vec<_> = layers.collect::<Result<_, OpError>>()?;
    let below = layers.first().and_then(|(lowest, _)| lowest.parent.clone());
    let below = below.map_or(Root::Empty, Root::Snapshot);
    let active = prepare(store, &[below])?;
    let (to, lowers) = (active.upper(), active.lowers());
    for (layer, latest) in &layers {
        piped(&layer.fs, *latest, |tar| layer::merge_layer(tar, to, lowers, &Limits::LAYER))?;
    }
    commit(active)
}
