//! Files by URL: what each stands for, settled before keys are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::{BuildGraph, VertexId};
use futures_util::future::try_join_all;

use super::error::BuildError;
use super::execute::Remotes;
use crate::op::OpError;
use crate::progress::Events;
use crate::source::{RemoteFiles, SourceSecrets, Sources};

/// Settles all files by URL at once. A failure is that of the first step that uses the files.
pub(super) async fn settle(
    graph: &BuildGraph,
    sources: &Sources,
    secrets: &SourceSecrets,
    events: &Events,
) -> Result<Remotes, BuildError> {
    let settled = graph.vertices.iter().enumerate().map(async |(index, vertex)| {
        let id = VertexId(index);
        match RemoteFiles::settle(&vertex.op, sources, secrets, events).await {
            Ok(files) => Ok(files.map(|files| (id, Arc::new(files)))),
            Err(error) => Err(step_error(graph, id, error.into())),
        }
    });
    let settled = try_join_all(settled).await?;
    Ok(settled.into_iter().flatten().collect::<BTreeMap<_, _>>())
}

/// Returns the step that `id` is work of: its own, or the first that uses it.
pub(super) fn step_of(graph: &BuildGraph, id: VertexId) -> Option<usize> {
    let inputs = |vertex: VertexId| &graph.vertices[vertex.0].inputs;
    let uses = |vertex: VertexId| inputs(vertex).contains(&id);
    let position = |is_it: &dyn Fn(VertexId) -> bool| {
        graph.steps.iter().position(|step| step.vertex.is_some_and(is_it))
    };
    position(&|vertex| vertex == id)
        .or_else(|| position(&uses))
        // The layer of `COPY --link` is merged: the step's own vertex is one further on.
        .or_else(|| position(&|vertex| inputs(vertex).iter().any(|&input| uses(input))))
}

fn step_error(graph: &BuildGraph, id: VertexId, source: OpError) -> BuildError {
    let index = step_of(graph, id);
    let step = index.map_or_else(String::new, |index| graph.steps[index].text.clone());
    BuildError::Step { step, index, source: Box::new(source), kept_by: None }
}
