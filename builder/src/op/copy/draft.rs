//! What a COPY of one directory tells of the layer that it makes, while it makes it.
//!
//! Such a layer's archive has the order in which the files are selected, so that each can be told
//! as soon as it is there. What needs another order, such as a further name of a file, has its
//! layer written from the finished snapshot instead.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Copy, CopyError};
use crate::layer::{Piece, Room, What};
use crate::op::select::{Item, Selection};
use crate::rootfs::{Attributes, Kind, OpenDir, RootError, Time, Upper, components, join};

/// Objects that wait for the files before them at most.
const MOST_PIECES: usize = 256;

/// Where the layer goes.
#[derive(Debug)]
pub(in crate::op) struct Draft {
    pub(super) told: Arc<InOrder>,
    pub(super) room: Room,
    /// Told since the last file that waits to be written.
    pieces: Vec<Piece>,
}

impl Draft {
    /// Tells the layer of `selection` to `to`; `room` is where the contents wait. `None` where it
    /// cannot be told in its order.
    pub(in crate::op) fn of(
        selection: &Selection,
        to: SyncSender<Vec<Piece>>,
        room: Room,
    ) -> Option<Self> {
        match &selection.items[..] {
            [Item::Match(found)] if found.top().node.metadata.is_dir() => {
                let state =
                    Ordered { to: Some(to), is_over: false, next: 0, waiting: BTreeMap::new() };
                let told = Arc::new(InOrder(Mutex::new(state)));
                Some(Self { told, room, pieces: Vec::new() })
            }
            _ => None,
        }
    }

    pub(super) fn push(&mut self, path: &[u8], what: What) {
        self.pieces.push(Piece { path: Bytes::copy_from_slice(path), what });
    }

    /// Takes what was told since the last file that waits.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= MOST_PIECES
    }
}

/// Puts in their order what those tell who write files side by side.
#[derive(Debug)]
pub(super) struct InOrder(Mutex<Ordered>);

#[derive(Debug)]
struct Ordered {
    /// `None` while somebody sends.
    to: Option<SyncSender<Vec<Piece>>>,
    /// Whether nobody wants to hear any more.
    is_over: bool,
    /// What is sent next.
    next: usize,
    /// What has come before its turn.
    waiting: BTreeMap<usize, Vec<Piece>>,
}

impl InOrder {
    /// Takes what is the `number`th in order, and sends all whose turn it is, unless somebody does.
    pub(super) fn put(&self, number: usize, pieces: Vec<Piece>) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        state.waiting.insert(number, pieces);
        let Some(to) = state.to.take() else { return };
        while let Some(pieces) = state.take_next() {
            drop(state);
            if to.send(pieces).is_err() {
                return self.stop();
            }
            state = self.state();
        }
        state.to = Some(to);
    }

    /// Takes and sends nothing more.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, Ordered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ordered {
    fn take_next(&mut self) -> Option<Vec<Piece>> {
        let pieces = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(pieces)
    }
}

impl Copy<'_> {
    /// Tells of the destination, a directory, and of those above it. Nothing is created any more
    /// in these; the destination's own time is to be `mtime`.
    pub(super) fn tell_destination(
        &mut self,
        destination: &[u8],
        mtime: Time,
    ) -> Result<(), CopyError> {
        if self.draft.is_none() {
            return Ok(());
        }
        // Made whole first: what is created in a directory changes its time.
        self.upper.dir(destination, &Attributes::implied_dir())?;
        let mut path = Vec::new();
        for name in components(destination) {
            path = join(&path, name);
            let at = self.upper.dir(&path, &Attributes::implied_dir())?;
            self.tell_dir(&at, (path == destination).then_some(mtime))?;
        }
        Ok(())
    }

    /// Tells of a directory that is described and empty; its time is to be `mtime`.
    pub(super) fn tell_dir(&mut self, at: &OpenDir, mtime: Option<Time>) -> Result<(), CopyError> {
        let Some(draft) = &mut self.draft else { return Ok(()) };
        let metadata = Upper::expect_dir(at, mtime)?;
        let attributes = at.upper().layer_attributes();
        let (xattrs, is_opaque) = attributes.map_err(|error| RootError::io(&at.path, error))?;
        draft.push(&at.path, What::Dir { metadata, xattrs, is_opaque });
        Ok(())
    }

    /// Tells of the finished object `name` that is no directory.
    pub(super) fn tell_leaf(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        link: &[u8],
    ) -> Result<(), CopyError> {
        let Some(draft) = &mut self.draft else { return Ok(()) };
        let path = join(&at.path, name);
        let metadata = at.in_upper(name)?.ok_or(io::ErrorKind::NotFound);
        let metadata = metadata.map_err(|error| RootError::io(&path, error))?;
        draft.push(
            &path,
            if metadata.kind == Kind::File {
                What::File { dir: at.upper().clone(), name: name.to_vec() }
            } else {
                What::Other { metadata, link: link.to_vec() }
            },
        );
        Ok(())
    }

    /// Leaves the layer to who reads the finished snapshot.
    pub(super) fn give_up(&mut self) {
        if let Some(draft) = self.draft.take() {
            draft.told.stop();
        }
    }
}
