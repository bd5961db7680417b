//! Making the result of a vertex: what each op does to the store, told to whoever watches, and then
//! sealed: its layer digested, its record written.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cache::{Record, SnapshotId};
use frontend::{Op, VertexId};
use tokio_util::sync::CancellationToken;

use super::{Draft, Execution, lock};
use crate::blocking;
use crate::op::{self, OpError, Root, Step};

impl Execution {
    /// Executes a vertex, whatever the cache has.
    async fn perform(
        &self,
        id: VertexId,
        inputs: Vec<Root>,
        cancel: CancellationToken,
    ) -> Result<Root, OpError> {
        let store = self.inner.store.clone();
        match &self.vertex(id).op {
            Op::Scratch => Ok(Root::Empty),
            Op::Image(_) => {
                let image = self.images.get(&id).expect("the plan resolved every image");
                // Dropped, it stops: what has come whole stays, and the rest is nobody's.
                let pull = self.sources.materialize(image, &self.events);
                let pulled = cancel.run_until_cancelled(pull).await;
                let snapshot = pulled.ok_or(OpError::Cancelled)??;
                Ok(snapshot.map_or(Root::Empty, Root::Snapshot))
            }
            Op::Context(_) => {
                let files = self.files.get(&id).expect("the plan loaded every source of files");
                Ok(Root::Files(Arc::clone(files)))
            }
            Op::Git(_) | Op::Http(_) => {
                let remote = self.remotes.get(&id).expect("every URL was settled before keys were");
                let fetch = remote.files(&self.sources, &self.events);
                let fetched = cancel.run_until_cancelled(fetch).await;
                Ok(Root::Files(fetched.ok_or(OpError::Cancelled)??))
            }
            Op::Copy(op) => {
                let (op, selection) = (op.clone(), lock(&self.keyed[id.0].selection).take());
                let latest = self.latest.for_new().await;
                let copied =
                    blocking::run(move || op::copy_onto(&store, &op, &inputs, selection, latest));
                let (root, digested) = copied.await?;
                if let Some(digested) = digested {
                    lock(&self.digested).insert(id, digested);
                }
                Ok(root)
            }
            Op::MakeDir(op) => {
                let op = op.clone();
                blocking::run(move || op::make_dir_in(&store, &op, &inputs)).await
            }
            Op::Merge => blocking::run(move || op::merge(&store, &inputs)).await,
            Op::Run(op) => {
                let (op, settings) = (op.clone(), Arc::clone(&self.settings));
                let sandbox = self.sandbox()?;
                let (index, events) = (self.steps.index_of(id), self.events.clone());
                let left = self.failed.as_ref().map(|_| Arc::new(OnceLock::new()));
                let step = Step { index, events, cancel, failed: left.clone() };
                let ran = blocking::run(move || {
                    op::run(&store, &sandbox, &op, &inputs, &settings, &step)
                })
                .await;
                if let (Some(failed), Some(left)) =
                    (&self.failed, left.as_ref().and_then(|left| left.get()))
                {
                    lock(failed).insert(id, left.clone());
                }
                let ran = ran?;
                if ran.has_secret {
                    lock(&self.unrecorded).insert(id);
                }
                Ok(ran.root)
            }
        }
    }

    /// Executes a vertex and reports it.
    pub(super) async fn execute(
        &self,
        id: VertexId,
        inputs: Vec<Root>,
        cancel: CancellationToken,
    ) -> Result<(Root, u64), OpError> {
        let running = self.steps.start(id).await;
        let since = Instant::now();
        match self.perform(id, inputs, cancel).await {
            Ok(root) => {
                let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.steps.finish(id, running, &self.short_id(id)).await;
                Ok((root, duration_ms))
            }
            Err(error) => {
                self.steps.fail(id, running).await;
                Err(error)
            }
        }
    }

    pub(super) fn seal_blocking(
        &self,
        id: VertexId,
        snapshot: SnapshotId,
        draft: &Draft,
        latest: Option<i64>,
    ) -> Result<Record, OpError> {
        let store = &self.inner.store;
        let layer = store.snapshots().get(&snapshot).map_err(OpError::store)?;
        if let (Op::Run(_), Some(layer)) = (&self.vertex(id).op, layer) {
            // What is remembered from here on tells others of the layer, who may mount it.
            self.inner.sandbox()?.settle(&layer.fs);
        }
        let digested = lock(&self.digested).remove(&id);
        let (diff_id, size, changes) = op::seal(store, &snapshot, latest, digested)?;
        self.trees.learn(&snapshot, changes)?;
        let record = Record {
            key: self.key(id),
            snapshot,
            diff_id,
            size,
            latest,
            created: draft.created,
            duration_ms: draft.duration_ms,
            inputs: self.built_inputs(id, &draft.inputs),
            components: self.keyed[id.0].components.clone(),
            step: self.step_text(id),
        };
        if self.is_secret(id) {
            return Ok(record);
        }
        let op = self.op_key(id);
        let content = match draft.content {
            Some(content) => content,
            None => self.content_key(id, &op, &draft.inputs)?,
        };
        // The name comes last: whatever it promises is in the store.
        store.index().put(&record).map_err(OpError::store)?;
        store.index().put_by_content(&op, &content, &record).map_err(OpError::store)?;
        Ok(record)
    }
}
