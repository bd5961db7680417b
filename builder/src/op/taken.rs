//! What a vertex takes from its inputs beside the root that it changes: found and digested.

use std::sync::Arc;

use cache::{Digest, FileList, Store};
use frontend::{CopyOp, CopySource, MountKind, Op, RunOp, Vertex, VertexId};

use super::digest::{FileDigests, Known, digest_selection, list_files};
use super::error::OpError;
use super::perform::{Root, lowers_of, tree_copy, view};
use super::{CopyInput, Selection, select};
use crate::context::FileRoot;
use crate::rootfs::LayeredRoot;
use crate::tree::Trees;

/// What a vertex takes.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Of all that is taken; `None` if nothing is.
    pub(crate) digest: Option<Digest>,
    /// Whether nothing is taken from anywhere else.
    pub(crate) is_all: bool,
    /// All that a COPY copies from outside.
    selection: Option<Box<(Selection, FileDigests)>>,
    /// Whether that is all that it copies.
    is_whole: bool,
}

impl Taken {
    fn nothing() -> Self {
        Self { is_all: true, ..Self::default() }
    }

    /// Lists by name all that is copied from outside; `None` when it is nothing, or too much.
    pub(crate) fn files(&self) -> Option<FileList> {
        self.selection.as_deref().and_then(|(selection, digests)| list_files(selection, digests))
    }

    /// Hands out what a COPY copies, where that is all of it. Whoever does not need it lets go of
    /// it by this: it may be large.
    pub(crate) fn take_selection(&mut self) -> Option<Selection> {
        let (selection, _) = *self.selection.take()?;
        self.is_whole.then_some(selection)
    }
}

/// Finds and digests what a vertex takes from files that come from outside: all that can be known
/// of its inputs before any of them is there.
pub(crate) fn taken_from_outside<'a>(
    vertex: &Vertex,
    files: impl Fn(VertexId) -> Option<&'a Arc<FileRoot>>,
) -> Result<Taken, OpError> {
    let given: Vec<Option<&Arc<FileRoot>>> =
        vertex.inputs.iter().map(|&input| files(input)).collect();
    match &vertex.op {
        Op::Copy(op) => copied_from_outside(op, &given),
        Op::Run(op) => mounted_from_outside(op, &given),
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Git(_) | Op::Http(_) | Op::MakeDir(_) => {
            Ok(Taken::nothing())
        }
        Op::Merge => Ok(Taken::default()),
    }
}

/// Finds and digests what a vertex takes from all inputs but the root that it changes.
pub(crate) fn taken_from_all(
    store: &Store,
    trees: &Trees,
    vertex: &Vertex,
    inputs: &[Root],
) -> Result<Taken, OpError> {
    match &vertex.op {
        Op::Copy(op) => copied_from_all(store, op, inputs),
        Op::Run(op) => mounted_from_all(store, trees, op, inputs),
        Op::Merge => {
            let linked = inputs.get(1).and_then(Root::snapshot);
            Ok(Taken { digest: Some(trees.digest(linked)?), is_all: true, ..Taken::default() })
        }
        Op::Scratch | Op::Image(_) | Op::Context(_) | Op::Git(_) | Op::Http(_) | Op::MakeDir(_) => {
            Ok(Taken::nothing())
        }
    }
}

fn copied_from_outside(op: &CopyOp, given: &[Option<&Arc<FileRoot>>]) -> Result<Taken, OpError> {
    let from_outside = |source: &CopySource| match source {
        CopySource::Path { input, .. } => given.get(*input).is_some_and(Option::is_some),
        CopySource::Inline { .. } => false,
    };
    let is_inside =
        |source: &CopySource| matches!(source, CopySource::Path { .. }) && !from_outside(source);
    let is_all = !op.sources.iter().any(is_inside);
    let sources: Vec<CopySource> =
        op.sources.iter().filter(|source| from_outside(source)).cloned().collect();
    if sources.is_empty() {
        return Ok(Taken { is_all, ..Taken::default() });
    }
    let is_whole = sources.len() == op.sources.len();
    let nothing = LayeredRoot::open(&[])?;
    let views: Vec<CopyInput<'_>> = given
        .iter()
        .map(|files| files.map_or(CopyInput::Root(&nothing), |files| view(files)))
        .collect();
    let known: Vec<Known<'_>> =
        given.iter().map(|files| files.and_then(|files| files.known())).collect();
    let selection = select(&CopyOp { sources, ..op.clone() }, &views)?;
    let (digest, digests) = digest_selection(&selection, &views, &known)?;
    let selection = Some(Box::new((selection, digests)));
    Ok(Taken { digest: Some(digest), is_all, selection, is_whole })
}

fn copied_from_all(store: &Store, op: &CopyOp, inputs: &[Root]) -> Result<Taken, OpError> {
    if op.sources.iter().all(|source| matches!(source, CopySource::Inline { .. })) {
        return Ok(Taken::nothing());
    }
    let roots = open_all(store, inputs)?;
    let (views, known) = views_of(inputs, &roots);
    let selection = select(op, &views)?;
    let digest = Some(digest_selection(&selection, &views, &known)?.0);
    Ok(Taken { digest, is_all: true, ..Taken::default() })
}

fn open_all(store: &Store, inputs: &[Root]) -> Result<Vec<LayeredRoot>, OpError> {
    inputs.iter().map(|input| Ok(LayeredRoot::open(&lowers_of(store, input)?)?)).collect()
}

fn views_of<'a>(
    inputs: &'a [Root],
    roots: &'a [LayeredRoot],
) -> (Vec<CopyInput<'a>>, Vec<Known<'a>>) {
    let views = inputs.iter().zip(roots).map(|(input, root)| match input {
        Root::Files(files) => (view(files), files.known()),
        Root::Empty | Root::Snapshot(_) => (CopyInput::Root(root), None),
    });
    views.unzip()
}

/// The inputs that a RUN mounts, each with the path in it.
fn mounted(op: &RunOp) -> impl Iterator<Item = (usize, &str)> {
    op.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Bind { input, source, .. } => Some((*input, source.as_str())),
        MountKind::Cache { from: Some((input, path)), .. } => Some((*input, path.as_str())),
        MountKind::Cache { from: None, .. }
        | MountKind::Tmpfs { .. }
        | MountKind::Secret { .. }
        | MountKind::Ssh { .. } => None,
    })
}

fn mounted_from_outside(op: &RunOp, given: &[Option<&Arc<FileRoot>>]) -> Result<Taken, OpError> {
    let mut digests = Vec::new();
    let mut is_all = true;
    for (input, path) in mounted(op) {
        match given.get(input).copied().flatten() {
            Some(files) => digests.extend(*tree_at(view(files), files.known(), path)?.as_bytes()),
            None => is_all = false,
        }
    }
    let digest = (!digests.is_empty()).then(|| Digest::of(&digests));
    Ok(Taken { digest, is_all, ..Taken::default() })
}

fn mounted_from_all(
    store: &Store,
    trees: &Trees,
    op: &RunOp,
    inputs: &[Root],
) -> Result<Taken, OpError> {
    let mut digests = Vec::new();
    for (input, path) in mounted(op) {
        let root = inputs.get(input).expect("lowering gives every mount its input");
        let digest = match root {
            Root::Files(files) => tree_at(view(files), files.known(), path)?,
            Root::Empty | Root::Snapshot(_) if path.trim_matches('/').is_empty() => {
                trees.digest(root.snapshot())?
            }
            Root::Empty | Root::Snapshot(_) => {
                let opened = LayeredRoot::open(&lowers_of(store, root)?)?;
                tree_at(CopyInput::Root(&opened), None, path)?
            }
        };
        digests.extend(*digest.as_bytes());
    }
    let digest = (!digests.is_empty()).then(|| Digest::of(&digests));
    Ok(Taken { digest, is_all: true, ..Taken::default() })
}

/// Digests `path` of an input with everything below it.
fn tree_at(view: CopyInput<'_>, known: Known<'_>, path: &str) -> Result<Digest, OpError> {
    let views = [view];
    let selection = select(&tree_copy(path, true), &views)?;
    Ok(digest_selection(&selection, &views, &[known])?.0)
}
