//! `--squash`: the layers that a build adds to its base, as one.
//!
//! The steps are cached as ever, each with its layer. What is made of their layers is kept under a
//! key of its own, made of the base's layers and theirs, so that it is made once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cache::{CacheKey, Component, DiffId, KeyHasher, Record, Store};
use frontend::{Output, VertexId};

use super::error::BuildError;
use super::keys::unix_now;
use super::plan::Plan;
use crate::blocking;
use crate::builder::Inner;
use crate::image::assemble::{Assembled, layer_chain};
use crate::op::{self, OpError, Squashed};

/// Changes with how layers are merged.
const VERSION: u32 = 1;

/// What the records say in the place of an instruction.
const STEP: &str = "--squash";

/// Makes one layer of those that `output` adds, and puts it in their place; one alone stays as it
/// is. `records` are those of all vertices; their layers' files are here.
pub(super) async fn squash(
    inner: &Arc<Inner>,
    plan: &Plan,
    output: &Output,
    records: &BTreeMap<VertexId, Record>,
    assembled: &mut Assembled,
) -> Result<(), BuildError> {
    let (base, chain) = layer_chain(&plan.graph, output.vertex);
    let layers: Vec<Record> = chain.iter().filter_map(|id| records.get(id)).cloned().collect();
    if layers.len() < 2 {
        return Ok(());
    }
    let base = base.and_then(|base| plan.image(base));
    let below = base.map(|base| base.diff_ids.clone()).unwrap_or_default();
    let count = layers.len();
    let store = inner.store.clone();
    let _place = Arc::clone(&inner.cores).acquire_owned().await;
    let made = blocking::run(move || merged(&store, &below, &layers)).await;
    let squashed = made.map_err(BuildError::store)?;
    let base = base.map(|base| base.config_digest);
    assembled.squash(&squashed, count, output.history.len(), base.as_ref());
    Ok(())
}

/// Finds or makes what `layers` are together on the image of the layers `below`.
fn merged(store: &Store, below: &[DiffId], layers: &[Record]) -> Result<Record, OpError> {
    let (key, components) = key(below, layers);
    if let Some(record) = store.index().get(&key) {
        return Ok(record);
    }
    let since = Instant::now();
    let parts = layers.iter().map(|layer| {
        let Record { snapshot, latest, .. } = layer.clone();
        Squashed { snapshot, latest }
    });
    let root = op::squash(store, &parts.collect::<Vec<_>>())?;
    let snapshot = root.snapshot().cloned();
    let snapshot = snapshot.ok_or_else(|| OpError::lost("the squashed layer"))?;
    // Each layer has the times that count already.
    let (diff_id, size, _) = op::seal(store, &snapshot, None, None)?;
    let record = Record {
        key,
        snapshot,
        diff_id,
        size,
        latest: None,
        created: unix_now(),
        duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        inputs: Vec::new(),
        components,
        step: STEP.to_owned(),
    };
    store.index().put(&record).map_err(OpError::store)?;
    Ok(record)
}

fn key(below: &[DiffId], layers: &[Record]) -> (CacheKey, Vec<Component>) {
    let texts = |ids: &mut dyn Iterator<Item = DiffId>| ids.map(|id| id.to_string()).collect();
    let below: Vec<String> = texts(&mut below.iter().copied());
    let layers: Vec<String> = texts(&mut layers.iter().map(|layer| layer.diff_id));
    KeyHasher::new("rbuild squash", VERSION)
        .list("base", below)
        .list("layers", layers)
        .finish_with_components()
}
