//! The vertices made so far, each only once.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::{Op, Output, Platform, Step, Vertex, VertexId};

/// An arena that gives equal work the same id.
#[derive(Debug, Default)]
pub(super) struct Vertices {
    list: Vec<Vertex>,
    /// By hash; equality decides.
    known: HashMap<u64, Vec<VertexId>>,
    /// What the work of the stage at hand must wait for.
    pub(super) after: Vec<VertexId>,
}

impl Vertices {
    /// Returns the vertex that does this work.
    pub(super) fn add(&mut self, op: Op, inputs: Vec<VertexId>, platform: Platform) -> VertexId {
        let after = if does_work(&op) { self.after.clone() } else { Vec::new() };
        let vertex = Vertex { op, inputs, after, platform };
        let mut hasher = DefaultHasher::new();
        vertex.hash(&mut hasher);
        let same = self.known.entry(hasher.finish()).or_default();
        if let Some(&id) = same.iter().find(|id| self.list[id.0] == vertex) {
            return id;
        }
        let id = VertexId(self.list.len());
        same.push(id);
        self.list.push(vertex);
        id
    }

    /// Whether a vertex does something, in place of standing for what is there.
    pub(super) fn is_work(&self, id: VertexId) -> bool {
        does_work(&self.list[id.0].op)
    }

    /// Returns what a vertex does.
    pub(super) fn op(&self, id: VertexId) -> &Op {
        &self.list[id.0].op
    }

    /// Drops what neither the output nor a step needs, keeping the order.
    ///
    /// Steps of reached stages whose result nobody uses keep their place without a vertex.
    pub(super) fn prune(
        self,
        mut output: Output,
        mut steps: Vec<Step>,
    ) -> (Vec<Vertex>, Output, Vec<Step>) {
        let mut needed = vec![false; self.list.len()];
        needed[output.vertex.0] = true;
        for entry in output.history.iter().filter_map(|entry| entry.vertex) {
            needed[entry.0] = true;
        }
        for id in (0..self.list.len()).rev() {
            if needed[id] {
                for input in self.list[id].inputs.iter().chain(&self.list[id].after) {
                    needed[input.0] = true;
                }
            }
        }
        let mut next = 0;
        let places: Vec<Option<VertexId>> = needed
            .iter()
            .map(|&is_needed| {
                is_needed.then(|| {
                    next += 1;
                    VertexId(next - 1)
                })
            })
            .collect();
        let place = |id: VertexId| places[id.0];
        output.vertex = place(output.vertex).unwrap_or(output.vertex);
        for entry in &mut output.history {
            entry.vertex = entry.vertex.and_then(place);
        }
        for step in &mut steps {
            step.vertex = step.vertex.and_then(place);
        }
        let kept = self.list.into_iter().zip(&places).filter(|(_, place)| place.is_some());
        let vertices = kept
            .map(|(mut vertex, _)| {
                vertex.inputs = vertex.inputs.into_iter().filter_map(place).collect();
                vertex.after = vertex.after.into_iter().filter_map(place).collect();
                vertex
            })
            .collect();
        (vertices, output, steps)
    }
}

fn does_work(op: &Op) -> bool {
    match op {
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Git(_) | Op::Http(_) => false,
        Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => true,
    }
}
