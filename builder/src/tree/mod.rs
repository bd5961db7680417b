//! Tree digests: what a root looks like to a command, however its layers came about.
//!
//! Two roots with one digest hold the same names with the same kinds, modes, owners, contents, link
//! targets, devices, attributes and hard links made by one step. So what a step would do on one it
//! would do on the other, and its layer fits on both: this is what early cut-off rests on.
//!
//! What does not enter, and why that is sound:
//!
//! - **Times.** Every run of a step stamps what it writes anew; with times, no step would ever give
//!   the same tree twice. COPY ignores them too. It shows where a command compares times (`make`,
//!   compiled Python): such a step is reused although a file that it did not change is newer than
//!   when it ran, so a program in the image may redo work that is up to date, as after any copy or
//!   checkout. The image's content is what the step made in either case.
//! - **Inode numbers, sockets, access times, the kernel's attributes for its security modules**: no
//!   layer holds them.
//!
//! The digest is taken over what the layers above a ground change in it, each path in its last
//! state: the ground is the topmost layer that came from outside, named by its chain of layers and
//! never read whole, or the empty root. A path that was changed and changed back counts as
//! unchanged. What one layer changes is kept with its snapshot, so that only new layers are read.

mod changes;
mod merge;
mod state;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cache::{DiffId, Digest, HashingWriter, KeyHasher, SnapshotId, Store};

pub(crate) use changes::Changes;

use self::merge::Merged;
use crate::layer::{Piece, Room, Told, WriteError, write_layer_telling, write_pieces};
use crate::op::OpError;
use crate::relay::WriteBehind;

/// Roots kept merged: the tips of stages that are built side by side.
const KEPT: usize = 4;

/// The tree digests of one build.
#[derive(Debug)]
pub(crate) struct Trees {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    digests: HashMap<SnapshotId, Digest>,
    /// The one used last comes last.
    merged: Vec<Merged>,
}

impl Trees {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// Returns the digest of the tree whose top is `root`; `None` is the empty root.
    ///
    /// # Errors
    ///
    /// [`OpError`] when a layer cannot be read.
    pub(crate) fn digest(&self, root: Option<&SnapshotId>) -> Result<Digest, OpError> {
        let Some(root) = root else { return Ok(merge::ground_digest(None)) };
        if root.is_chain() {
            return Ok(merge::ground_digest(Some(root)));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = state.digests.get(root) {
            return Ok(*digest);
        }
        let digest = match self.kept(root)? {
            Some((digest, _)) => digest,
            None => state.advance(self, root)?,
        };
        state.digests.insert(root.clone(), digest);
        Ok(digest)
    }

    /// Learns what the new snapshot `root` holds, and keeps it in the store.
    ///
    /// # Errors
    ///
    /// [`OpError`] when a layer below cannot be read.
    pub(crate) fn learn(&self, root: &SnapshotId, told: Changes) -> Result<(), OpError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.digests.contains_key(root) {
            return Ok(());
        }
        let chain = self.store.snapshots().chain(root).map_err(OpError::store)?;
        let mut merged = state.at(self, &chain[1..])?;
        let digest = self.put(&mut merged, root, told)?;
        state.digests.insert(root.clone(), digest);
        state.keep(merged);
        Ok(())
    }

    /// Puts a layer that was just read onto `merged`, and keeps what it changes.
    fn put(
        &self,
        merged: &mut Merged,
        root: &SnapshotId,
        told: Changes,
    ) -> Result<Digest, OpError> {
        let changes = merged.apply(&self.store, root, told, false)?;
        let digest = merged.digest();
        let write = |body: &mut Vec<u8>| {
            body.extend(digest.as_bytes());
            changes.encode(body);
        };
        self.store.snapshots().put_tree(root, write).map_err(OpError::store)?;
        Ok(digest)
    }

    /// Returns the digest of the tree at `root`, and what its layer changes, where both are kept.
    fn kept(&self, root: &SnapshotId) -> Result<Option<(Digest, Changes)>, OpError> {
        let body = self.store.snapshots().tree(root).map_err(OpError::store)?;
        let parsed = body.as_deref().and_then(|body| {
            let (digest, changes) = body.split_at_checked(32)?;
            Some((Digest::from_bytes(digest.try_into().ok()?), Changes::decode(changes)?))
        });
        Ok(parsed)
    }
}

impl State {
    /// Merges up to `root` and returns its digest.
    fn advance(&mut self, trees: &Trees, root: &SnapshotId) -> Result<Digest, OpError> {
        let chain = trees.store.snapshots().chain(root).map_err(OpError::store)?;
        let mut merged = self.at(trees, &chain)?;
        let digest = merged.digest();
        self.keep(merged);
        Ok(digest)
    }

    /// Merges the stack `chain`, top first, from the nearest merged root below it.
    fn at(&mut self, trees: &Trees, chain: &[SnapshotId]) -> Result<Merged, OpError> {
        let ground = chain.iter().position(SnapshotId::is_chain);
        let above = &chain[..ground.unwrap_or(chain.len())];
        let start = above.iter().enumerate().find_map(|(at, id)| {
            Some((at, self.merged.iter().position(|merged| merged.top() == Some(id))?))
        });
        let (left, mut merged) = match start {
            Some((at, place)) => (at, self.merged.remove(place)),
            None => (above.len(), Merged::new(ground.map(|at| chain[at].clone()))),
        };
        for id in above[..left].iter().rev() {
            if let Some((_, changes)) = trees.kept(id)? {
                merged.apply(&trees.store, id, changes, true)?;
            } else {
                let told = read(&trees.store, id)?;
                let digest = trees.put(&mut merged, id, told)?;
                self.digests.insert(id.clone(), digest);
            }
        }
        Ok(merged)
    }

    fn keep(&mut self, merged: Merged) {
        if self.merged.len() == KEPT {
            self.merged.remove(0);
        }
        self.merged.push(merged);
    }
}

/// Reads what a snapshot holds.
fn read(store: &Store, id: &SnapshotId) -> Result<Changes, OpError> {
    Ok(write_out(store, id, None, io::sink())?.0)
}

/// Writes the layer of a snapshot to `out`, nothing in it younger than `latest`; returns what it holds, and the bytes in its files.
pub(crate) fn write_out(
    store: &Store,
    id: &SnapshotId,
    latest: Option<i64>,
    out: impl io::Write,
) -> Result<(Changes, u64), OpError> {
    let found = store.snapshots().get(id).map_err(OpError::store)?;
    let upper = found.ok_or_else(|| OpError::lost("a fresh snapshot"))?.fs;
    let mut told = Changes::default();
    push_root(&mut told, &upper)?;
    let stats = write_layer_telling(&upper, latest, out, &mut |it| told.push(&it))?;
    Ok((told, stats.bytes))
}

/// What was found out of a snapshot's layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Digested {
    pub(crate) diff_id: DiffId,
    /// Size of its tar in bytes.
    pub(crate) size: u64,
    /// Bytes in its files.
    pub(crate) bytes: u64,
    pub(crate) changes: Changes,
    /// What stands in it for every later time, in seconds since 1970.
    pub(crate) latest: Option<i64>,
}

/// Digests a snapshot's layer.
pub(crate) fn digest_layer(
    store: &Store,
    id: &SnapshotId,
    latest: Option<i64>,
) -> Result<Digested, OpError> {
    // Beside this thread, which hashes the content of each file.
    let mut hashing = WriteBehind::new(HashingWriter::new(io::sink()));
    let (changes, bytes) = write_out(store, id, latest, &mut hashing)?;
    Ok(digested(hashing, changes, bytes, latest))
}

/// Digests the layer of the snapshot in the directory `upper` while that is made; `None` if it is
/// not told in the order of a layer. The result holds if the snapshot is all of `pieces`.
pub(crate) fn digest_pieces(
    upper: &Path,
    pieces: impl Iterator<Item = Piece>,
    room: &Room,
    latest: Option<i64>,
) -> Result<Option<Digested>, OpError> {
    let mut hashing = WriteBehind::new(HashingWriter::new(io::sink()));
    let mut changes = Changes::default();
    push_root(&mut changes, upper)?;
    let mut tell = |told: Told<'_>| changes.push(&told);
    let written = write_pieces(pieces, room, latest, &mut hashing, &mut tell)?;
    Ok(written.map(|stats| digested(hashing, changes, stats.bytes, latest)))
}

fn push_root(changes: &mut Changes, upper: &Path) -> Result<(), WriteError> {
    let pushed = changes.push_root(upper);
    pushed.map_err(|source| WriteError::Read { path: upper.to_path_buf(), source })
}

fn digested(
    hashing: WriteBehind<HashingWriter<io::Sink>>,
    changes: Changes,
    bytes: u64,
    latest: Option<i64>,
) -> Digested {
    let hashing = hashing.finish().expect("a sink takes everything");
    let (_, digest, size) = hashing.finish();
    Digested { diff_id: DiffId(digest), size, bytes, changes, latest }
}

/// Makes the digest of a root out of its ground and what is changed in it.
fn tree_key(ground: Option<&SnapshotId>) -> KeyHasher {
    let ground = ground.map_or("", SnapshotId::as_str);
    KeyHasher::new("rbuild tree", state::VERSION).field("ground", ground.as_bytes())
}

#[cfg(test)]
mod tests;
