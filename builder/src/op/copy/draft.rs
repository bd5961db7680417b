//! What a COPY of one directory tells of the layer that it makes, while it makes it.
//!
//! Such a layer's archive has the order in which the files are selected, so that each can be told
//! as soon as it is there. What needs another order, such as a further name of a file, has its
//! layer written from the finished snapshot instead.

use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use super::{Copy, CopyError};
use crate::layer::{Piece, Room, What};
use crate::op::select::{Item, Selection};
use crate::rootfs::{Attributes, Kind, OpenDir, RootError, Time, Upper, components, join};

/// Objects that wait for the files before them at most.
const MOST_PIECES: usize = 256;

/// Where the layer goes.
#[derive(Debug)]
pub(in crate::op) struct Draft {
    to: SyncSender<Vec<Piece>>,
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
                Some(Self { to, room, pieces: Vec::new() })
            }
            _ => None,
        }
    }

    pub(super) fn push(&mut self, path: &[u8], what: What) {
        self.pieces.push(Piece { path: path.to_vec(), what });
    }

    /// Takes what was told since the last file that waits.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= MOST_PIECES
    }

    /// Puts in their order what files tell that are written side by side: a list for each share of
    /// them, which comes after the one that is given here.
    pub(super) fn in_order(&self, before: Vec<Vec<Piece>>) -> InOrder {
        let shares = before.into_iter().map(|before| Told { before, files: None }).collect();
        InOrder { to: self.to.clone(), state: Mutex::new((0, shares)) }
    }
}

/// Whoever does not take them any more has told why.
fn send(to: &SyncSender<Vec<Piece>>, pieces: Vec<Piece>) {
    if !pieces.is_empty() {
        let _ = to.send(pieces);
    }
}

/// Shares of files on their way.
#[derive(Debug)]
pub(super) struct InOrder {
    to: SyncSender<Vec<Piece>>,
    /// How many were sent, of all these.
    state: Mutex<(usize, Vec<Told>)>,
}

#[derive(Debug)]
struct Told {
    before: Vec<Piece>,
    files: Option<Vec<Piece>>,
}

impl InOrder {
    /// Takes the files of the share `at`, and sends all shares that follow those that were sent.
    pub(super) fn put(&self, at: usize, files: Vec<Piece>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, shares) = &mut *state;
        shares[at].files = Some(files);
        while let Some(share) = shares.get_mut(*sent)
            && let Some(files) = share.files.take()
        {
            send(&self.to, std::mem::take(&mut share.before));
            send(&self.to, files);
            *sent += 1;
        }
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

    /// Sends what was told, when no file waits any more.
    pub(super) fn send_pieces(&mut self) {
        if let Some(draft) = &mut self.draft {
            let pieces = draft.take();
            send(&draft.to, pieces);
        }
    }

    /// Leaves the layer to who reads the finished snapshot.
    pub(super) fn give_up(&mut self) {
        self.draft = None;
    }
}
