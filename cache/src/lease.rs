//! What a running build relies on, so that gc leaves it alone.
//!
//! A lease is a file of names in the session's directory: it means something only while the
//! session's process lives. Whoever adds a name or makes one appear holds the store's lock shared
//! meanwhile; gc holds it alone while it decides. So a name is either held before gc looks, or
//! gone before its holder looks: nothing is decided by a clock.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{DiffId, Digest};
use crate::error::{AtPath, Result, found};
use crate::gc::Budget;
use crate::layout::Layout;
use crate::lock::FileLock;
use crate::session::Session;
use crate::snapshot::SnapshotId;

/// The beginning of a lease's file name.
const LEASE: &str = "lease";

/// One name that a build relies on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    Blob(Digest),
    Snapshot(SnapshotId),
    Layer(DiffId),
    /// A manifest or index, and all that it names.
    Image(Digest),
}

impl Held {
    fn line(&self) -> String {
        match self {
            Self::Blob(digest) => format!("blob {}\n", digest.hex()),
            Self::Snapshot(id) => format!("snapshot {id}\n"),
            Self::Layer(diff_id) => format!("layer {}\n", diff_id.0.hex()),
            Self::Image(digest) => format!("image {}\n", digest.hex()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (kind, name) = line.split_once(' ')?;
        match kind {
            "blob" => Digest::parse_hex(name).ok().map(Self::Blob),
            "snapshot" => SnapshotId::parse(name).ok().map(Self::Snapshot),
            "layer" => Digest::parse_hex(name).ok().map(|digest| Self::Layer(DiffId(digest))),
            "image" => Digest::parse_hex(name).ok().map(Self::Image),
            _ => None,
        }
    }
}

/// Proof that gc is not deciding at this moment.
#[derive(Debug)]
pub(crate) struct NoGc {
    _lock: FileLock,
}

/// Proof that nobody holds, looks up or commits anything at this moment.
#[derive(Debug)]
pub(crate) struct Alone {
    _lock: FileLock,
}

/// The names that one handle of the store holds; dropping it lets go of all.
#[derive(Debug)]
struct Lease {
    path: PathBuf,
    names: Mutex<(File, HashSet<Held>)>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not end a lease");
        }
    }
}

/// What every part of one handle of the store shares.
#[derive(Debug)]
pub(crate) struct Handle {
    lease: Lease,
    pub(crate) session: Arc<Session>,
    pub(crate) layout: Layout,
    /// Snapshots of this process that may not be on the disk yet.
    unsealed: Arc<Mutex<HashSet<SnapshotId>>>,
    budget: Arc<Budget>,
}

impl Handle {
    pub(crate) fn new(layout: Layout, session: Arc<Session>) -> Result<Self> {
        Self::with(layout, session, Arc::default(), Arc::default())
    }

    /// Returns a handle of the same session with a lease of its own.
    pub(crate) fn lease(&self) -> Result<Self> {
        let unsealed = Arc::clone(&self.unsealed);
        let budget = Arc::clone(&self.budget);
        Self::with(self.layout.clone(), Arc::clone(&self.session), unsealed, budget)
    }

    fn with(
        layout: Layout,
        session: Arc<Session>,
        unsealed: Arc<Mutex<HashSet<SnapshotId>>>,
        budget: Arc<Budget>,
    ) -> Result<Self> {
        let path = session.fresh(LEASE);
        let file = File::create_new(&path).at("create", &path)?;
        let lease = Lease { path, names: Mutex::new((file, HashSet::new())) };
        Ok(Self { lease, session, layout, unsealed, budget })
    }

    /// Returns what is known of the room in the store.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Keeps gc out until the result is dropped; waits for one that is deciding.
    ///
    /// May be taken within another: flock(2) grants a shared lock whoever else is waiting.
    pub(crate) fn no_gc(&self) -> Result<NoGc> {
        let path = self.layout.lock();
        Ok(NoGc { _lock: FileLock::shared(&path).at("lock", &path)? })
    }

    /// Keeps everybody out; waits for those that look something up.
    pub(crate) fn alone(&self) -> Result<Alone> {
        let path = self.layout.lock();
        Ok(Alone { _lock: FileLock::exclusive(&path).at("lock", &path)? })
    }

    /// Keeps `name` from gc as long as this handle lives.
    pub(crate) fn hold(&self, _no_gc: &NoGc, name: Held) -> Result<()> {
        let mut names = self.lease.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, held) = &mut *names;
        if !held.contains(&name) {
            file.write_all(name.line().as_bytes()).at("write", &self.lease.path)?;
            held.insert(name);
        }
        Ok(())
    }

    /// Returns whether this handle holds `name` already.
    pub(crate) fn holds(&self, name: &Held) -> bool {
        self.lease.names.lock().unwrap_or_else(PoisonError::into_inner).1.contains(name)
    }

    /// Notes a snapshot whose bytes may not be on the disk yet.
    pub(crate) fn note_unsealed(&self, id: &SnapshotId) {
        let mut unsealed = self.unsealed.lock().unwrap_or_else(PoisonError::into_inner);
        unsealed.insert(id.clone());
    }

    /// Takes the snapshots noted so far.
    pub(crate) fn take_unsealed(&self) -> HashSet<SnapshotId> {
        std::mem::take(&mut *self.unsealed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns all names held by living processes.
pub(crate) fn held_by_all(_alone: &Alone, layout: &Layout) -> Result<Vec<Held>> {
    let tmp = layout.tmp();
    // Or a session could be met between its mkdir and its lock.
    let _no_start = FileLock::exclusive_dir(&tmp).at("lock", &tmp)?;
    let mut held = Vec::new();
    for session in fs::read_dir(&tmp).at("read", &tmp)? {
        let session = session.at("read", &tmp)?.path();
        // A session may end at any time, and lets go of its names with that.
        let lock = readable(FileLock::try_exclusive_dir(&session)).at("lock", &session)?;
        let is_alive = matches!(lock, Some(None));
        if !is_alive {
            continue;
        }
        let entries = readable(fs::read_dir(&session)).at("read", &session)?;
        for entry in entries.into_iter().flatten() {
            let Some(entry) = readable(entry).at("read", &session)? else { continue };
            if entry.file_name().to_string_lossy().starts_with(LEASE) {
                held.extend(read_lease(&entry.path())?);
            }
        }
    }
    Ok(held)
}

fn read_lease(path: &Path) -> Result<Vec<Held>> {
    let text = found(fs::read_to_string(path)).at("read", path)?.unwrap_or_default();
    // A process killed in mid-write leaves half a line; nobody relies on it any more.
    Ok(text.lines().filter_map(Held::parse).collect())
}

/// Turns "not there any more" and "not a directory" into `None`.
fn readable<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
        other => found(other),
    }
}
