//! Which vertex may run next: the one owner of all vertex states.
//!
//! Invariants: pure (no I/O, no clock, no async), so that every order can be tested; a state moves
//! only in [`VertexState::next`]. A vertex is needed when the output or a needed vertex lacks it;
//! what is found in the cache needs none of its inputs.

use std::collections::VecDeque;

use frontend::{BuildGraph, Vertex, VertexId};

/// Life of one vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VertexState {
    /// Nobody asked for it.
    Idle,
    /// Needed; so many of its needed inputs are not there yet.
    Waiting { inputs: usize },
    /// Handed out by [`Schedule::take_ready`].
    Running,
    /// Its result is there.
    Done,
}

/// What can happen to a vertex.
#[derive(Clone, Copy, Debug)]
enum Transition {
    Needed { inputs: usize },
    Cached,
    InputDone,
    Started,
    Finished,
}

impl VertexState {
    fn next(self, transition: Transition) -> Self {
        match (self, transition) {
            (Self::Idle, Transition::Needed { inputs }) => Self::Waiting { inputs },
            (Self::Idle, Transition::Cached) | (Self::Running, Transition::Finished) => Self::Done,
            (Self::Waiting { inputs: 0 }, Transition::Started) => Self::Running,
            (Self::Waiting { inputs: 1.. }, Transition::InputDone) => match self {
                Self::Waiting { inputs } => Self::Waiting { inputs: inputs - 1 },
                other => other,
            },
            (state, transition) => {
                unreachable!("a vertex that is {state:?} cannot take {transition:?}")
            }
        }
    }
}

/// The order of work for one graph.
#[derive(Debug)]
pub(super) struct Schedule {
    states: Vec<VertexState>,
    users: Vec<Vec<VertexId>>,
    ready: VecDeque<VertexId>,
    unfinished: usize,
}

impl Schedule {
    /// Plans the work for `graph`; `is_cached` tells which vertices need none.
    pub(super) fn new(graph: &BuildGraph, is_cached: impl Fn(VertexId) -> bool) -> Self {
        let count = graph.vertices.len();
        let mut schedule = Self {
            states: vec![VertexState::Idle; count],
            users: vec![Vec::new(); count],
            ready: VecDeque::new(),
            unfinished: 0,
        };
        let mut wanted: Vec<VertexId> = graph.outputs().map(|output| output.vertex).collect();
        while let Some(id) = wanted.pop() {
            if schedule.states[id.0] != VertexState::Idle {
                continue;
            }
            if is_cached(id) {
                schedule.apply(id, Transition::Cached);
                continue;
            }
            let inputs = distinct_inputs(&graph.vertices[id.0]);
            // Inputs that turn out to be cached are taken off below, once all is known.
            schedule.apply(id, Transition::Needed { inputs: inputs.len() });
            schedule.unfinished += 1;
            for input in inputs {
                schedule.users[input.0].push(id);
                wanted.push(input);
            }
        }
        for index in 0..count {
            if schedule.states[index] == VertexState::Done {
                schedule.release_users(VertexId(index));
            }
        }
        for index in 0..count {
            let id = VertexId(index);
            let has_no_inputs = graph.vertices[index].inputs.is_empty();
            if has_no_inputs && schedule.states[index] == (VertexState::Waiting { inputs: 0 }) {
                schedule.ready.push_back(id);
            }
        }
        schedule
    }

    /// Hands out the next vertex whose inputs are all there, smallest number first.
    pub(super) fn take_ready(&mut self) -> Option<VertexId> {
        let id = self.ready.pop_front()?;
        self.apply(id, Transition::Started);
        Some(id)
    }

    /// Takes note that a vertex handed out has its result.
    pub(super) fn finish(&mut self, id: VertexId) {
        self.apply(id, Transition::Finished);
        self.unfinished -= 1;
        self.release_users(id);
    }

    /// Whether all that is needed is there.
    pub(super) fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    fn release_users(&mut self, id: VertexId) {
        for user in self.users[id.0].clone() {
            self.apply(user, Transition::InputDone);
            if self.states[user.0] == (VertexState::Waiting { inputs: 0 }) {
                let place = self.ready.partition_point(|&other| other < user);
                self.ready.insert(place, user);
            }
        }
    }

    fn apply(&mut self, id: VertexId, transition: Transition) {
        self.states[id.0] = self.states[id.0].next(transition);
    }
}

fn distinct_inputs(vertex: &Vertex) -> Vec<VertexId> {
    let mut inputs = [vertex.inputs.as_slice(), &vertex.after].concat();
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

#[cfg(test)]
mod tests {
    use frontend::{ImageConfig, Op, Output, Platform};

    use super::*;

    /// A graph whose vertex `i` has inputs `shape[i]`; the last one is the output.
    fn graph(shape: &[&[usize]]) -> BuildGraph {
        let vertices = shape
            .iter()
            .map(|inputs| Vertex {
                op: Op::Scratch,
                inputs: inputs.iter().copied().map(VertexId).collect(),
                after: Vec::new(),
                platform: Platform::host(),
            })
            .collect();
        let output = Output {
            vertex: VertexId(shape.len() - 1),
            platform: Platform::host(),
            config: ImageConfig::default(),
            history: Vec::new(),
        };
        BuildGraph {
            vertices,
            steps: Vec::new(),
            output,
            warnings: Vec::new(),
            more_outputs: Vec::new(),
            source_date_epoch: None,
        }
    }

    /// Runs the schedule one vertex at a time and returns the order.
    fn order(shape: &[&[usize]], cached: &[usize]) -> Vec<usize> {
        let mut schedule = Schedule::new(&graph(shape), |id| cached.contains(&id.0));
        let mut order = Vec::new();
        while let Some(id) = schedule.take_ready() {
            order.push(id.0);
            schedule.finish(id);
        }
        assert!(schedule.is_finished(), "work is left over");
        order
    }

    /// Name, shape, cached vertices, order wanted.
    type Case<'a> = (&'a str, &'a [&'a [usize]], &'a [usize], &'a [usize]);

    #[test]
    fn only_what_is_needed_runs_and_inputs_come_first() {
        #[rustfmt::skip]
        let cases: [Case; 6] = [
            ("chain",                 &[&[], &[0], &[1]],               &[],        &[0, 1, 2]),
            ("all cached",            &[&[], &[0], &[1]],               &[0, 1, 2], &[]),
            ("tail missed",           &[&[], &[0], &[1]],               &[0, 1],    &[2]),
            ("hit hides a miss",      &[&[], &[0], &[1]],               &[2],       &[]),
            ("unused stage",          &[&[], &[0], &[], &[2]],          &[],        &[2, 3]),
            ("diamond, twice an input", &[&[], &[0], &[0], &[1, 2, 1]], &[],        &[0, 1, 2, 3]),
        ];
        for (name, shape, cached, want) in cases {
            assert_eq!(order(shape, cached), want, "{name}");
        }
    }

    #[test]
    fn work_waits_for_what_it_only_stands_behind() {
        let mut graph = graph(&[&[], &[0], &[0]]);
        graph.vertices[2].after = vec![VertexId(1)];
        let mut schedule = Schedule::new(&graph, |id| id.0 == 0);
        assert_eq!(schedule.take_ready(), Some(VertexId(1)));
        assert_eq!(schedule.take_ready(), None);
        schedule.finish(VertexId(1));
        assert_eq!(schedule.take_ready(), Some(VertexId(2)));
    }

    #[test]
    fn independent_vertices_are_ready_together() {
        let mut schedule = Schedule::new(&graph(&[&[], &[0], &[0], &[1, 2]]), |id| id.0 == 0);
        let ready: Vec<_> = std::iter::from_fn(|| schedule.take_ready()).collect();
        assert_eq!(ready, [VertexId(1), VertexId(2)]);
    }
}
