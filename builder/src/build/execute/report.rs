//! What an execution tells of itself: hits, savings, records, failures.

use std::collections::BTreeMap;

use cache::{Record, SnapshotId};
use frontend::VertexId;

use super::{Execution, lock};
use crate::build::error::BuildError;
use crate::build::remotes;
use crate::op::OpError;
use crate::progress::Saved;
use crate::shell::{Known, RecordedSteps};

impl Execution {
    /// Tells the RUN steps, and what the one that failed had left.
    pub(in crate::build) fn remember(
        &self,
        failed: Option<VertexId>,
    ) -> (RecordedSteps, Option<SnapshotId>) {
        let of_cache = self.keyed.iter().enumerate().filter_map(|(index, keyed)| {
            Some((VertexId(index), keyed.record.as_ref()?.snapshot.clone()))
        });
        let mut results: BTreeMap<VertexId, SnapshotId> = of_cache.collect();
        results.extend(lock(&self.made).clone());
        let (graph, images, files) = (&self.graph, &self.images, &self.files);
        let known = Known { graph, images, files, results: &results, settings: &self.settings };
        let left = || lock(self.failed.as_ref()?).remove(&failed?);
        (known.record(failed), left())
    }

    /// Reports every step that needs no work and returns (cached steps, steps with work).
    pub(in crate::build) async fn report_hits(&self) -> (usize, usize) {
        let mut hits = 0;
        let mut total = 0;
        let will_run = self.will_run();
        for id in (0..self.graph.vertices.len()).map(VertexId) {
            if self.steps.index_of(id).is_none() {
                continue;
            }
            total += 1;
            if will_run[id.0] {
                self.steps.reopen(id);
            } else {
                hits += 1;
                self.steps.cached(id, &self.short_id(id)).await;
            }
        }
        (hits, total)
    }

    /// Returns how many steps were found only when their inputs were there.
    pub(in crate::build) fn found_late(&self) -> usize {
        lock(&self.found_late).len()
    }

    /// Returns what the steps would have cost that were found.
    pub(in crate::build) fn saved(&self) -> Saved {
        let known = self.keyed.iter().filter_map(|keyed| keyed.record.as_ref()).map(saved_by);
        let late = lock(&self.found_late);
        known.chain(late.values().copied()).fold(Saved::default(), |sum, one| Saved {
            millis: sum.millis.saturating_add(one.millis),
            bytes: sum.bytes.saturating_add(one.bytes),
        })
    }

    /// Returns the records that were found.
    pub(in crate::build) fn records(&self) -> BTreeMap<VertexId, Record> {
        self.keyed
            .iter()
            .enumerate()
            .filter_map(|(index, keyed)| Some((VertexId(index), keyed.record.clone()?)))
            .collect()
    }

    /// Returns all records there are, also of a build that did not come to its end.
    pub(in crate::build) fn finished(&self) -> BTreeMap<VertexId, Record> {
        let mut records = self.records();
        records.extend(lock(&self.sealed).clone());
        records
    }

    /// Wraps the failure of a vertex with the name of its step.
    pub(in crate::build) fn step_error(
        &self,
        vertex: VertexId,
        error: OpError,
        kept_by: Option<String>,
    ) -> BuildError {
        let index = remotes::step_of(&self.graph, vertex);
        let step = index.map_or_else(String::new, |index| self.graph.steps[index].text.clone());
        BuildError::Step { step, index, source: Box::new(error), kept_by }
    }
}

/// Returns what a hit on `record` saves.
pub(super) const fn saved_by(record: &Record) -> Saved {
    Saved { millis: record.duration_ms, bytes: record.size }
}
