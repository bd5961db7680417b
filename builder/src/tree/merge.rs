//! Layers put on each other without their files: what is different from the ground.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use cache::{Digest, HashingReader, HashingWriter, SnapshotId, Store};

use super::changes::Changes;
use super::state::State;
use super::tree_key;
use crate::layer::TarEntry;
use crate::op::OpError;
use crate::rootfs::{Kind, LayeredRoot, MergedDir, Node, RootError, join, split_last};

/// A ground and what the layers up to `top` change in it.
///
/// Invariant: `changed` is canonical. No state in it is the ground's own, nothing is deleted that
/// the ground does not have, nothing lies below what is no directory, and a directory that hides
/// the ground's is one in which all that the ground has is deleted. So two lists are equal exactly
/// if the trees are.
#[derive(Debug)]
pub(super) struct Merged {
    ground: Option<SnapshotId>,
    top: Option<SnapshotId>,
    changed: BTreeMap<Arc<[u8]>, State>,
    digest: Option<Digest>,
    view: Option<GroundView>,
}

/// Returns the digest of a ground in which nothing is changed.
pub(super) fn ground_digest(ground: Option<&SnapshotId>) -> Digest {
    finish(ground, &BTreeMap::new())
}

fn finish(ground: Option<&SnapshotId>, changed: &BTreeMap<Arc<[u8]>, State>) -> Digest {
    let mut hashing = HashingWriter::new(io::sink());
    for (path, state) in changed {
        for part in [path, state.bytes()] {
            for bytes in [&(part.len() as u64).to_le_bytes()[..], part] {
                io::Write::write_all(&mut hashing, bytes).expect("a sink takes everything");
            }
        }
    }
    tree_key(ground).digest("changes", &hashing.finish().1).finish().digest()
}

impl Merged {
    pub(super) fn new(ground: Option<SnapshotId>) -> Self {
        Self { ground, top: None, changed: BTreeMap::new(), digest: None, view: None }
    }

    pub(super) fn top(&self) -> Option<&SnapshotId> {
        self.top.as_ref()
    }

    pub(super) fn digest(&mut self) -> Digest {
        *self.digest.get_or_insert_with(|| finish(self.ground.as_ref(), &self.changed))
    }

    /// Puts the layer `top` on this and returns what of it is a change; `are_changes` says that
    /// `layer` was returned from here, so that nothing in it is as it was below.
    pub(super) fn apply(
        &mut self,
        store: &Store,
        top: &SnapshotId,
        mut layer: Changes,
        are_changes: bool,
    ) -> Result<Changes, OpError> {
        let mut failed = Ok(());
        layer.paths.retain(|(path, state)| {
            failed.is_ok()
                && self.put(store, path, state, are_changes).unwrap_or_else(|error| {
                    failed = Err(error);
                    false
                })
        });
        failed?;
        if !layer.paths.is_empty() {
            self.digest = None;
        }
        self.top = Some(top.clone());
        Ok(layer)
    }

    /// Puts one state; false when the path has it already.
    fn put(
        &mut self,
        store: &Store,
        path: &Arc<[u8]>,
        state: &State,
        is_change: bool,
    ) -> Result<bool, OpError> {
        let known = self.changed.get(path).cloned();
        if known.is_none() && is_change && !state.is_gone() && !state.is_opaque() {
            // It differs from the ground, or there is nothing in the ground.
            self.clear_below(path, state);
            self.changed.insert(Arc::clone(path), state.clone());
            return Ok(true);
        }
        let ground = self.ground_state(store, path, state)?;
        let below = match &known {
            Some(known) if known.is_gone() => None,
            Some(known) => Some(known.clone()),
            None => ground.clone(),
        };
        if state.is_gone() {
            self.clear_below(path, state);
            match ground {
                Some(_) => self.changed.insert(Arc::clone(path), state.clone()),
                None => self.changed.remove(path),
            };
            return Ok(below.is_some());
        }
        if !state.is_dir() {
            if below.as_ref() == Some(state) {
                return Ok(false);
            }
            // Something is known of what lies below only where there is or was a directory.
            if known.as_ref().is_some_and(State::is_dir)
                || ground.as_ref().is_some_and(State::is_dir)
            {
                self.clear_below(path, state);
            }
            self.settle(path, state.clone(), ground.as_ref());
            return Ok(true);
        }
        let was_dir = below.as_ref().is_some_and(State::is_dir);
        let new = state.clone().with_opaque(false);
        // A directory in the place of a file or a deletion does not bring back the ground's.
        if state.is_opaque() || (known.is_some() && !was_dir) {
            self.clear_below(path, state);
            self.hide_ground(store, path)?;
        } else if below.as_ref() == Some(&new) {
            return Ok(false);
        }
        self.settle(path, new, ground.as_ref());
        Ok(true)
    }

    /// Deletes all that the ground has in the directory `path`.
    fn hide_ground(&mut self, store: &Store, path: &[u8]) -> Result<(), OpError> {
        // What stood in its place hid it until now.
        self.changed.remove(path);
        let view = GroundView::get(&mut self.view, store, self.ground.as_ref())?;
        let failed = |error: io::Error| RootError::io(path, error);
        let Some(dir) = view.dir(&self.changed, path)? else { return Ok(()) };
        for entry in dir.entries().map_err(failed)? {
            self.changed.insert(join(path, &entry.name).into(), State::gone());
        }
        Ok(())
    }

    fn settle(&mut self, path: &Arc<[u8]>, state: State, ground: Option<&State>) {
        if ground == Some(&state) {
            self.changed.remove(path);
        } else {
            self.changed.insert(Arc::clone(path), state);
        }
    }

    /// Forgets what lay in a directory that is one no longer, or hides all that it held.
    fn clear_below(&mut self, path: &[u8], state: &State) {
        if path.is_empty() || (state.is_dir() && !state.is_opaque()) {
            return;
        }
        let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Included(&*first), Bound::Excluded(&*end));
        let below = self.changed.range::<[u8], _>(range);
        let below: Vec<Arc<[u8]>> = below.map(|(path, _)| Arc::clone(path)).collect();
        for path in below {
            self.changed.remove(&path);
        }
    }

    /// Returns what the ground has at `path`, if it is in sight there. Its content is read only if
    /// it could be that of `like`.
    fn ground_state(
        &mut self,
        store: &Store,
        path: &[u8],
        like: &State,
    ) -> Result<Option<State>, OpError> {
        let view = GroundView::get(&mut self.view, store, self.ground.as_ref())?;
        view.state(&self.changed, path, like).map_err(OpError::from)
    }
}

/// The ground's files, looked at along the paths of a layer.
#[derive(Debug)]
struct GroundView {
    root: LayeredRoot,
    /// The directories down to the one looked at last; `None` where the ground has nothing in
    /// sight.
    open: Vec<(Vec<u8>, Option<MergedDir>)>,
}

impl GroundView {
    /// Returns the view in `slot`, opened when it is first needed.
    fn get<'a>(
        slot: &'a mut Option<Self>,
        store: &Store,
        ground: Option<&SnapshotId>,
    ) -> Result<&'a mut Self, OpError> {
        let view = if let Some(view) = slot.take() {
            view
        } else {
            let lowers = match ground {
                Some(ground) => store.snapshots().lowers(ground).map_err(OpError::store)?,
                None => Vec::new(),
            };
            Self { root: LayeredRoot::open(&lowers)?, open: Vec::new() }
        };
        Ok(slot.insert(view))
    }

    fn state(
        &mut self,
        changed: &BTreeMap<Arc<[u8]>, State>,
        path: &[u8],
        like: &State,
    ) -> Result<Option<State>, RootError> {
        let failed = |error: io::Error| RootError::io(path, error);
        if path.is_empty() {
            let top = self.root.top();
            let node = top.node().map_err(failed)?;
            return describe(&node, like, || top.xattrs(), || Ok(Vec::new()), || unreachable!())
                .map_err(failed);
        }
        let (parent, name) = split_last(path);
        let Some(dir) = self.dir(changed, parent)? else { return Ok(None) };
        let Some(node) = dir.lookup(name).map_err(failed)? else { return Ok(None) };
        describe(
            &node,
            like,
            || dir.xattrs_of(name, &node),
            || dir.read_link(name, &node),
            || {
                let mut content = HashingReader::new(dir.open_file(name, &node)?.0);
                io::copy(&mut content, &mut io::sink())?;
                Ok(content.finish().1)
            },
        )
        .map_err(failed)
    }

    /// Opens the ground's directory at `path`, if no layer above hides it.
    fn dir(
        &mut self,
        changed: &BTreeMap<Arc<[u8]>, State>,
        path: &[u8],
    ) -> Result<Option<&MergedDir>, RootError> {
        let is_above = |open: &[u8]| {
            open.is_empty()
                || path == open
                || (path.starts_with(open) && path.get(open.len()) == Some(&b'/'))
        };
        // What was open may be hidden by now. What the ground never had cannot be.
        let stays = |(open, dir): &&(Vec<u8>, Option<MergedDir>)| {
            is_above(open) && (open.is_empty() || dir.is_none() || !is_hidden(changed, open))
        };
        let keep = self.open.iter().take_while(stays).count();
        self.open.truncate(keep);
        if self.open.is_empty() {
            self.open.push((Vec::new(), Some(self.root.top().clone())));
        }
        loop {
            let (open, dir) = &self.open[self.open.len() - 1];
            if open.as_slice() == path {
                break;
            }
            let Some(dir) = dir else { return Ok(None) };
            let rest = &path[if open.is_empty() { 0 } else { open.len() + 1 }..];
            let name = rest.split(|&byte| byte == b'/').next().unwrap_or(rest);
            let next = join(open, name);
            if is_hidden(changed, &next) {
                return Ok(None);
            }
            let below = dir.open_dir(name).map_err(|error| RootError::io(&next, error))?;
            self.open.push((next, below));
        }
        Ok(self.open[self.open.len() - 1].1.as_ref())
    }
}

/// Whether what the ground has at `path` is out of sight, as far as that path alone can tell.
fn is_hidden(changed: &BTreeMap<Arc<[u8]>, State>, path: &[u8]) -> bool {
    changed.get(path).is_some_and(|state| !state.is_dir())
}

/// Describes an object of the ground as a layer would.
fn describe(
    node: &Node,
    like: &State,
    xattrs: impl FnOnce() -> io::Result<crate::rootfs::Xattrs>,
    link: impl FnOnce() -> io::Result<Vec<u8>>,
    content: impl FnOnce() -> io::Result<Digest>,
) -> io::Result<Option<State>> {
    let kind = node.metadata.kind;
    let link = if kind == Kind::Symlink { link()? } else { Vec::new() };
    let Some(entry) = TarEntry::of(Vec::new(), &node.metadata, link, xattrs()?) else {
        return Ok(None);
    };
    if kind != Kind::File {
        return Ok(Some(State::of(&entry, None)));
    }
    // With the other's content in its place, anything else that differs shows without a read.
    let same = like.content().is_some_and(|its| State::of(&entry, Some(its)) == *like);
    let digest = if same { content()? } else { Digest::of(b"") };
    Ok(Some(State::of(&entry, Some(digest))))
}
