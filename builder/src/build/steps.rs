//! Tells the progress of vertices as progress of instructions.
//!
//! An instruction that only changes the config ends when the work before it in its stage has
//! ended; one whose result another build of the graph shares ends with that vertex.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use frontend::{BuildGraph, VertexId};

use crate::explain::Explainer;
use crate::progress::{Event, Events, PlannedStep, StepOutcome};

/// Where the steps of one build stand.
#[derive(Debug)]
pub(crate) struct Steps {
    events: Events,
    explainer: Arc<Explainer>,
    rows: Vec<Row>,
    ended: Mutex<BTreeSet<usize>>,
}

#[derive(Debug)]
struct Row {
    stage: Option<String>,
    vertex: Option<VertexId>,
}

/// A step that runs: ends with [`Steps::finish`] or [`Steps::fail`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    since: Instant,
}

impl Steps {
    /// Announces the plan.
    pub(crate) async fn announce(
        graph: &BuildGraph,
        explainer: &Arc<Explainer>,
        events: &Events,
    ) -> Self {
        let inputs = inputs(graph);
        let steps = graph.steps.iter().zip(inputs).map(|(step, inputs)| PlannedStep {
            stage: step.stage.clone(),
            number: step.number,
            total: step.total,
            text: step.text.clone(),
            span: (step.span.start, step.span.end),
            has_work: step.vertex.is_some(),
            inputs,
        });
        events.send(Event::Planned { steps: steps.collect() }).await;
        let rows = graph
            .steps
            .iter()
            .map(|step| Row { stage: step.stage.clone(), vertex: step.vertex })
            .collect();
        let (events, explainer) = (events.clone(), Arc::clone(explainer));
        let steps = Self { events, explainer, rows, ended: Mutex::default() };
        steps.begin().await;
        steps
    }

    /// Ends what has nothing to wait for: `FROM scratch`, and what follows it in the config alone.
    async fn begin(&self) {
        for (index, row) in self.rows.iter().enumerate() {
            let is_first = index.checked_sub(1).is_none_or(|it| self.rows[it].stage != row.stage);
            if is_first && row.vertex.is_none() {
                self.ended().insert(index);
                self.send_end(index, StepOutcome::Executed { reason: None }, 0, "").await;
            }
        }
    }

    fn ended(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_end(&self, step: usize, outcome: StepOutcome, millis: u64, id: &str) {
        let id = id.to_owned();
        self.events.send(Event::StepFinished { step, outcome, millis, id }).await;
    }

    /// Returns what explains the look-ups.
    pub(crate) const fn explainer(&self) -> &Arc<Explainer> {
        &self.explainer
    }

    /// Takes the end of a step back that was to be found and must be made after all.
    pub(crate) fn reopen(&self, vertex: VertexId) {
        let mut ended = self.ended();
        for (index, _) in self.rows.iter().enumerate().filter(|(_, it)| it.vertex == Some(vertex)) {
            ended.remove(&index);
        }
    }

    /// Reports all look-ups noted so far.
    pub(crate) async fn looked_up(&self) {
        for (step, lookup) in self.explainer.lookups() {
            self.events.send(Event::StepLookup { step, lookup: Box::new(lookup) }).await;
        }
    }

    /// Returns the first step that `vertex` does the work of.
    pub(crate) fn index_of(&self, vertex: VertexId) -> Option<usize> {
        self.rows.iter().position(|row| row.vertex == Some(vertex))
    }

    /// Reports that `vertex` began.
    pub(crate) async fn start(&self, vertex: VertexId) -> Running {
        if let Some(step) = self.index_of(vertex) {
            self.events.send(Event::StepStarted { step }).await;
        }
        Running { since: Instant::now() }
    }

    /// Reports that `vertex` ended well.
    pub(crate) async fn finish(&self, vertex: VertexId, running: Running, id: &str) {
        self.explainer.done(vertex);
        let reason = self.explainer.reason(vertex);
        let millis = elapsed_millis(running.since);
        self.end(vertex, &StepOutcome::Executed { reason }, millis, id).await;
    }

    /// Reports that `vertex` was found in the cache.
    pub(crate) async fn cached(&self, vertex: VertexId, id: &str) {
        self.explainer.done(vertex);
        self.end(vertex, &StepOutcome::Cached, 0, id).await;
    }

    /// Reports that `vertex` failed.
    pub(crate) async fn fail(&self, vertex: VertexId, running: Running) {
        if let Some(step) = self.index_of(vertex) {
            let millis = elapsed_millis(running.since);
            self.events.send(Event::StepFailed { step, millis }).await;
        }
    }

    async fn end(&self, vertex: VertexId, outcome: &StepOutcome, millis: u64, id: &str) {
        for (step, outcome) in self.take_ended(vertex, outcome) {
            self.send_end(step, outcome, millis, id).await;
        }
    }

    /// Marks the steps of `vertex` and those after them that have no work left to wait for.
    fn take_ended(&self, vertex: VertexId, outcome: &StepOutcome) -> Vec<(usize, StepOutcome)> {
        let mut ended = self.ended();
        let mut events = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            let is_of_vertex = row.vertex == Some(vertex);
            let follows = row.vertex.is_none()
                && index.checked_sub(1).is_some_and(|before| {
                    self.rows[before].stage == row.stage && ended.contains(&before)
                });
            if (is_of_vertex || follows) && ended.insert(index) {
                let outcome = if is_of_vertex {
                    outcome.clone()
                } else {
                    StepOutcome::Executed { reason: None }
                };
                events.push((index, outcome));
            }
        }
        events
    }
}

/// Returns, for each step, the steps that it needs. Vertices that are no step's (contexts, downloads)
/// are looked through; a step without work needs the one before it in its stage.
fn inputs(graph: &BuildGraph) -> Vec<Vec<usize>> {
    let mut owners: BTreeMap<VertexId, usize> = BTreeMap::new();
    for (index, step) in graph.steps.iter().enumerate() {
        if let Some(vertex) = step.vertex {
            owners.entry(vertex).or_insert(index);
        }
    }
    // Inputs come before their users, so one pass settles every vertex.
    let mut needs: Vec<BTreeSet<usize>> = Vec::with_capacity(graph.vertices.len());
    for vertex in &graph.vertices {
        let of_vertex =
            vertex.inputs.iter().chain(&vertex.after).flat_map(|input| match owners.get(input) {
                Some(owner) => BTreeSet::from([*owner]),
                None => needs[input.0].clone(),
            });
        let of_vertex = of_vertex.collect();
        needs.push(of_vertex);
    }
    let of_step = |(index, step): (usize, &frontend::Step)| {
        if let Some(vertex) = step.vertex {
            // Equal instructions share a vertex, which one of them owns.
            return needs[vertex.0].iter().copied().filter(|&it| it != index).collect();
        }
        let before = index.checked_sub(1);
        before.filter(|&it| graph.steps[it].stage == step.stage).into_iter().collect()
    };
    graph.steps.iter().enumerate().map(of_step).collect()
}

fn elapsed_millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
