//! How the result of a vertex is found when its inputs are known: in the store and in shared caches,
//! by its history and by the content of what it is made from.

use std::sync::Arc;

use cache::{CacheKey, Record, SnapshotId};
use frontend::VertexId;

use super::super::imported::{self, Below, Imported};
use super::super::keys::{self, makes_layer};
use super::Execution;
use crate::blocking;
use crate::cache_exchange::Hit;
use crate::key;
use crate::op::{self, OpError, Root};
use crate::solver::InFlight;

/// What a look-up gave.
#[derive(Debug)]
enum Looked {
    Hit(Box<Record>),
    /// With the key by content, where it was made.
    Miss {
        content: Option<CacheKey>,
    },
}

/// What a look-up and a wait for others gave.
#[derive(Debug)]
pub(super) enum Search {
    Hit(Box<Record>),
    Missed { content: Option<CacheKey>, flight: Option<InFlight> },
}

impl Looked {
    /// What comes of it for who has the right to make the result, and looked for it before.
    fn or_make(self, earlier: Option<CacheKey>, flight: InFlight) -> Search {
        match self {
            Self::Hit(record) => Search::Hit(record),
            Self::Miss { content } => {
                Search::Missed { content: content.or(earlier), flight: Some(flight) }
            }
        }
    }
}

impl Execution {
    /// Finds the result of a vertex that makes a layer, or the right to make it.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: VertexId,
        inputs: &[Root],
    ) -> Result<Search, OpError> {
        if self.keyed[id.0].is_forced {
            return Ok(Search::Missed { content: None, flight: None });
        }
        let (this, given) = (Arc::clone(self), inputs.to_vec());
        if let Some(found) = blocking::run(move || this.find_at_once(id, &given)).await? {
            return Ok(found);
        }
        let content = match self.look_up(id, inputs).await? {
            Looked::Hit(record) => return Ok(Search::Hit(record)),
            Looked::Miss { content } => content,
        };
        let flight = self.inner.flights.take(&self.inner.store, self.key(id)).await?;
        // Somebody else may have made it meanwhile.
        Ok(self.look_up(id, inputs).await?.or_make(content, flight))
    }

    /// As [`Self::find`], where there is nothing to wait for, as for most steps: in one go, since to
    /// change threads takes longer than all of it. `None` where there is.
    fn find_at_once(&self, id: VertexId, inputs: &[Root]) -> Result<Option<Search>, OpError> {
        let content = match self.look_at_once(id, inputs)? {
            Some(Looked::Hit(record)) => return Ok(Some(Search::Hit(record))),
            Some(Looked::Miss { content }) => content,
            None => return Ok(None),
        };
        let Some(flight) = self.inner.flights.try_take(&self.inner.store, self.key(id))? else {
            return Ok(None);
        };
        Ok(self.look_at_once(id, inputs)?.map(|later| later.or_make(content, flight)))
    }

    /// Looks a vertex up whose inputs are known: by its history, then by their content. What of them
    /// is imported comes here for the second.
    async fn look_up(self: &Arc<Self>, id: VertexId, inputs: &[Root]) -> Result<Looked, OpError> {
        let (this, given) = (Arc::clone(self), inputs.to_vec());
        if let Some(looked) = blocking::run(move || this.look_at_once(id, &given)).await? {
            return Ok(looked);
        }
        self.bring(inputs).await?;
        let (this, given) = (Arc::clone(self), inputs.to_vec());
        blocking::run(move || this.by_content(id, &this.op_key(id), &given)).await
    }

    /// As [`Self::look_up`]; `None` where something must come here first.
    fn look_at_once(&self, id: VertexId, inputs: &[Root]) -> Result<Option<Looked>, OpError> {
        if let Some(record) = self.by_history(id, inputs) {
            return Ok(Some(Looked::Hit(Box::new(record))));
        }
        let op = self.op_key(id);
        if !self.inner.store.index().knows_op(&op) && !self.arrivals.imports().knows_op(&op) {
            return Ok(Some(Looked::Miss { content: None }));
        }
        let is_imported = |id| self.arrivals.get(id).is_some();
        if inputs.iter().filter_map(Root::snapshot).any(is_imported) {
            return Ok(None);
        }
        self.by_content(id, &op, inputs).map(Some)
    }

    /// Brings those inputs here that are imported.
    pub(super) async fn bring(&self, inputs: &[Root]) -> Result<(), OpError> {
        for id in inputs.iter().filter_map(Root::snapshot) {
            self.arrivals.bring(id, &self.events).await?;
        }
        Ok(())
    }

    fn by_history(&self, id: VertexId, inputs: &[Root]) -> Option<Record> {
        let (vertex, key) = (self.vertex(id), self.key(id));
        let snapshot = |wanted: VertexId| {
            let at = vertex.inputs.iter().position(|input| *input == wanted)?;
            inputs[at].snapshot().cloned()
        };
        let is_fresh = |record: &Record| self.policy.is_fresh(vertex, record);
        let fits = |record: &Record| keys::fits(record, vertex, &self.graph, snapshot);
        let own = self.inner.store.index().get(&key).filter(|record| fits(record));
        if let Some(record) = own.filter(is_fresh) {
            return Some(record);
        }
        let stack = |input: VertexId| self.keyed[input.0].stack;
        let mut hits = self.arrivals.imports().get(&key);
        let hit = hits.find(|hit| imported::fits(&hit.entry, vertex, &self.graph, false, stack))?;
        let imported = self.take_over(id, hit, inputs);
        is_fresh(&imported.record).then(|| imported.record.clone())
    }

    /// Makes a result of another build one of this build.
    fn take_over(&self, id: VertexId, hit: &Arc<Hit>, inputs: &[Root]) -> Arc<Imported> {
        let below = inputs.first().and_then(Root::snapshot).cloned();
        let below = below.map_or(Below::Nothing, Below::Snapshot);
        let like = Record {
            key: self.key(id),
            snapshot: SnapshotId::for_import("", &hit.entry.diff_id),
            diff_id: hit.entry.diff_id,
            size: 0,
            latest: None,
            created: 0,
            duration_ms: 0,
            inputs: self.built_inputs(id, inputs),
            components: self.keyed[id.0].components.clone(),
            step: self.step_text(id),
        };
        let imported = Arc::new(Imported::new(hit, below, like));
        self.arrivals.expect(&imported);
        imported
    }

    fn by_content(&self, id: VertexId, op: &CacheKey, inputs: &[Root]) -> Result<Looked, OpError> {
        let (vertex, keyed) = (self.vertex(id), &self.keyed[id.0]);
        let index = self.inner.store.index();
        let content = self.content_key(id, op, inputs)?;
        let is_fresh = |record: &Record| self.policy.is_fresh(vertex, record);
        if let Some(found) = index.get_by_content(op, &content).filter(is_fresh) {
            let record = Record {
                key: self.key(id),
                inputs: self.built_inputs(id, inputs),
                components: keyed.components.clone(),
                step: self.step_text(id),
                ..found
            };
            // The next build finds it by its history.
            index.put(&record).map_err(OpError::store)?;
            return Ok(Looked::Hit(Box::new(record)));
        }
        let hit = self.arrivals.imports().get_by_content(&content);
        let imported = hit.map(|hit| self.take_over(id, hit, inputs));
        Ok(match imported.filter(|it| is_fresh(&it.record)) {
            Some(imported) => Looked::Hit(Box::new(imported.record.clone())),
            None => Looked::Miss { content: Some(content) },
        })
    }

    /// The key by history of a vertex that makes a layer.
    pub(super) fn key(&self, id: VertexId) -> CacheKey {
        self.keyed[id.0].key.expect("a vertex that makes a layer has a key")
    }

    /// What a vertex does, whatever to.
    pub(super) fn op_key(&self, id: VertexId) -> CacheKey {
        key::of_op(self.vertex(id), self.settings.network)
    }

    /// Makes a vertex's key by content; reads what it takes from its inputs.
    pub(super) fn content_key(
        &self,
        id: VertexId,
        op: &CacheKey,
        inputs: &[Root],
    ) -> Result<CacheKey, OpError> {
        let vertex = self.vertex(id);
        let root = self.trees.digest(inputs.first().and_then(Root::snapshot))?;
        let known = &self.keyed[id.0].taken;
        let taken = if known.is_all {
            known.digest
        } else {
            op::taken_from_all(&self.inner.store, &self.trees, vertex, inputs)?.digest
        };
        Ok(key::by_content(op, &root, taken.as_ref()))
    }

    /// Returns the snapshots of the inputs that were built.
    pub(super) fn built_inputs(&self, id: VertexId, inputs: &[Root]) -> Vec<SnapshotId> {
        let vertex = self.vertex(id);
        let built = vertex.inputs.iter().zip(inputs);
        let built = built.filter(|(input, _)| makes_layer(self.vertex(**input)));
        built.filter_map(|(_, root)| root.snapshot().cloned()).collect()
    }
}
