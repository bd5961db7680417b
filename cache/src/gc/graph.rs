//! What keeps what: counted references between the things in a store.

use std::collections::HashMap;

use crate::digest::{DiffId, Digest};
use crate::snapshot::SnapshotId;

/// A thing that lies in the store only because something names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Blob(Digest),
    Snapshot(SnapshotId),
    Layer(DiffId),
}

/// All things in the store, with their sizes and what each names.
///
/// Only things that are retained, from outside or by a retained one, count as references: so what
/// has none is garbage, and releasing the last one tells exactly what becomes free.
#[derive(Debug, Default)]
pub(super) struct Graph {
    things: HashMap<Node, Thing>,
    references: HashMap<Node, usize>,
}

#[derive(Debug)]
struct Thing {
    bytes: u64,
    names: Vec<Node>,
}

impl Graph {
    /// Adds a thing that is in the store. All must be added before the first is retained.
    pub(super) fn add(&mut self, node: Node, bytes: u64, names: Vec<Node>) {
        self.things.insert(node, Thing { bytes, names });
    }

    pub(super) fn contains(&self, node: &Node) -> bool {
        self.things.contains_key(node)
    }

    /// Returns the snapshots under one, the nearest first.
    pub(super) fn stack<'a>(&'a self, top: &'a Node) -> impl Iterator<Item = &'a Node> {
        let below = |node: &&Node| {
            let names = &self.things.get(*node)?.names;
            names.iter().find(|name| matches!(name, Node::Snapshot(_)))
        };
        // No stack is higher than there are things: a circle ends there.
        std::iter::successors(Some(top), below).skip(1).take(self.things.len())
    }

    pub(super) fn is_retained(&self, node: &Node) -> bool {
        self.references.contains_key(node)
    }

    /// Returns the bytes of one thing, 0 when it is not in the store.
    pub(super) fn bytes(&self, node: &Node) -> u64 {
        self.things.get(node).map_or(0, |thing| thing.bytes)
    }

    /// Returns the bytes of everything.
    pub(super) fn total(&self) -> u64 {
        self.things.values().map(|thing| thing.bytes).sum()
    }

    /// Counts one more reference to each of `nodes`.
    pub(super) fn retain(&mut self, nodes: &[Node]) {
        let mut waiting = nodes.to_vec();
        while let Some(node) = waiting.pop() {
            let is_first = !self.references.contains_key(&node);
            if is_first && let Some(thing) = self.things.get(&node) {
                waiting.extend(thing.names.iter().cloned());
            }
            *self.references.entry(node).or_default() += 1;
        }
    }

    /// Takes one reference from each of `nodes`, and returns what is in the store and has none now.
    pub(super) fn release(&mut self, nodes: &[Node]) -> Vec<Node> {
        let mut waiting = nodes.to_vec();
        let mut freed = Vec::new();
        while let Some(node) = waiting.pop() {
            let Some(count) = self.references.get_mut(&node) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.references.remove(&node);
            if let Some(thing) = self.things.get(&node) {
                waiting.extend(thing.names.iter().cloned());
                freed.push(node);
            }
        }
        freed
    }

    /// Takes a thing out, as if it were not in the store.
    pub(super) fn forget(&mut self, node: &Node) {
        self.things.remove(node);
    }

    /// Returns what is in the store and nothing names.
    pub(super) fn garbage(&self) -> Vec<Node> {
        self.things.keys().filter(|node| !self.is_retained(node)).cloned().collect()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.things.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> Node {
        Node::Blob(Digest::of(name.as_bytes()))
    }

    #[test]
    fn the_last_release_frees_and_what_is_below_follows() {
        let mut graph = Graph::default();
        graph.add(blob("base"), 1, vec![]);
        graph.add(blob("a"), 2, vec![blob("base")]);
        graph.add(blob("b"), 4, vec![blob("base")]);
        graph.add(blob("nobody's"), 8, vec![blob("a")]);
        graph.retain(&[blob("a")]);
        graph.retain(&[blob("a"), blob("b"), blob("absent")]);
        assert_eq!(graph.total(), 15);
        assert_eq!(graph.garbage(), [blob("nobody's")]);
        assert_eq!(graph.release(&[blob("a")]), []);
        assert_eq!(graph.release(&[blob("a")]), [blob("a")]);
        assert_eq!(graph.release(&[blob("absent"), blob("b")]), [blob("b"), blob("base")]);
        assert_eq!(graph.release(&[blob("b")]), [], "released once too often");
    }

    #[test]
    fn circles_end() {
        let mut graph = Graph::default();
        graph.add(blob("a"), 1, vec![blob("b")]);
        graph.add(blob("b"), 1, vec![blob("a")]);
        graph.retain(&[blob("a")]);
        assert_eq!(graph.garbage(), []);
    }
}
