//! How much a store may take, and room for what is about to be written.
//!
//! ```text
//! used     "<bytes>": what the store took when it was measured last, and what was added since
//! ```
//!
//! Measuring a store costs time, so its size is kept as a sum: a measurement, and what each process
//! added since. Whatever the sum misses (cache mounts that grow, a process that was killed) is put
//! right by the next measurement, which every gc makes.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::{PruneOptions, Pruned};
use crate::error::{AtPath, Result, StoreError, found};
use crate::store::Store;

const GIB: u64 = 1 << 30;

/// How long a gc that could not free enough is not tried again: what is in use stays so for a
/// while.
const FUTILE: Duration = Duration::from_secs(10);

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk that the store lies on.
    Percent(u8),
}

impl Amount {
    fn of(self, disk: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk / 100 * u64::from(percent),
        }
    }
}

/// How much a store may take; `None` is the default, which depends on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Above this the store is made smaller [default: 60 % of the disk, at most 100 GiB].
    pub max_used: Option<Amount>,
    /// Below this nothing is removed to make room [default: 10 % of the disk, at most 10 GiB].
    pub reserved: Option<Amount>,
    /// So much is left free for others [default: 5 % of the disk, at most 10 GiB].
    pub min_free: Option<Amount>,
    /// What was used more recently than this ago stays.
    pub keep_duration: Duration,
}

/// A policy on one disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    max_used: u64,
    reserved: u64,
    min_free: u64,
}

impl GcPolicy {
    fn on(&self, disk: u64) -> Bounds {
        let or = |amount: Option<Amount>, percent, most: u64| {
            amount.map_or_else(|| Amount::Percent(percent).of(disk).min(most), |it| it.of(disk))
        };
        Bounds {
            max_used: or(self.max_used, 60, 100 * GIB),
            reserved: or(self.reserved, 10, 10 * GIB),
            min_free: or(self.min_free, 5, 10 * GIB),
        }
    }
}

impl Bounds {
    /// Returns the size that the store must get down to before `need` bytes are written; `None`
    /// when there is room as it is.
    fn target(&self, used: u64, free: u64, need: u64) -> Option<u64> {
        let over = (used + need).saturating_sub(self.max_used);
        let short = (self.min_free + need).saturating_sub(free);
        let excess = over.max(short);
        let target = used.saturating_sub(excess).max(self.reserved.min(used));
        (excess > 0 && target < used).then_some(target)
    }
}

/// What all handles of a process know of the room in their store.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    policy: OnceLock<GcPolicy>,
    /// Bytes that this process added since it told the others.
    added: AtomicU64,
    /// When gc last could not free enough; locked while gc runs.
    futile: Mutex<Option<Instant>>,
}

impl Budget {
    pub(crate) fn govern(&self, policy: GcPolicy) {
        // The first policy of a process holds: a store has one.
        let _already_set = self.policy.set(policy);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.added.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Makes room for `need` bytes, by gc where the policy asks for it.
pub(crate) fn make_room(store: &Store, need: u64) -> Result<()> {
    let budget = store.handle().budget();
    let Some(policy) = budget.policy.get() else { return Ok(()) };
    let root = store.root();
    let (disk, free) = space(root).at("measure", root)?;
    let added = budget.added.load(Ordering::Relaxed);
    let used = read_used(&store.handle().layout.used())?.unwrap_or(0) + added;
    let bounds = policy.on(disk);
    if bounds.target(used, free, need).is_none() && need <= free {
        return Ok(());
    }
    let mut futile = budget.futile.lock().unwrap_or_else(PoisonError::into_inner);
    if futile.is_none_or(|since| since.elapsed() > FUTILE) || need > free {
        shrink(store, policy, need)?;
        let (_, free) = space(root).at("measure", root)?;
        let used = read_used(&store.handle().layout.used())?.unwrap_or(0);
        *futile = bounds.target(used, free, need).map(|_| Instant::now());
    }
    let (_, free) = space(root).at("measure", root)?;
    if need > free {
        return Err(StoreError::NoRoom { root: root.to_owned(), need, free });
    }
    Ok(())
}

/// Tells the other processes what this one added, and makes the store smaller if it is too large.
pub(crate) fn settle(store: &Store) -> Result<Pruned> {
    let budget = store.handle().budget();
    let Some(policy) = budget.policy.get() else { return Ok(Pruned::default()) };
    let added = budget.added.swap(0, Ordering::Relaxed);
    if added == 0 {
        return Ok(Pruned::default());
    }
    let path = store.handle().layout.used();
    let Some(used) = add_used(&path, added).at("write", &path)? else {
        return shrink(store, policy, 0);
    };
    let root = store.root();
    let (disk, free) = space(root).at("measure", root)?;
    match policy.on(disk).target(used, free, 0) {
        Some(_) => shrink(store, policy, 0),
        None => Ok(Pruned::default()),
    }
}

/// Measures the store, and removes what the policy does not leave room for.
fn shrink(store: &Store, policy: &GcPolicy, need: u64) -> Result<Pruned> {
    let root = store.root();
    let used = super::usage(store)?.bytes;
    let (disk, free) = space(root).at("measure", root)?;
    let Some(target) = policy.on(disk).target(used, free, need) else {
        return Ok(Pruned::default());
    };
    let older_than = (!policy.keep_duration.is_zero()).then_some(policy.keep_duration);
    let options =
        PruneOptions { all: true, keep_bytes: Some(target), older_than, ..PruneOptions::default() };
    let pruned = super::prune(store, &options)?;
    // The bytes must be gone, not only out of sight.
    store.handle().session.finish_removals();
    tracing::info!(items = pruned.items, bytes = pruned.bytes, "made room in the store");
    Ok(pruned)
}

/// Notes a measurement.
pub(super) fn note_used(store: &Store, bytes: u64) -> Result<()> {
    let handle = store.handle();
    handle.budget().added.store(0, Ordering::Relaxed);
    let path = handle.layout.used();
    let write = || -> io::Result<()> {
        let file = open_locked(&path)?;
        replace(&file, bytes)
    };
    match write() {
        // A store that can only be read is measured all the same.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        // The sum is a guess in any case: a full disk is no reason to fail the gc that empties it.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            found(fs::remove_file(&path)).at("remove", &path).map(drop)
        }
        other => other.at("write", &path),
    }
}

/// Adds to the sum; `None` when nothing was measured yet.
fn add_used(path: &Path, added: u64) -> io::Result<Option<u64>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = open_locked(path)?;
    let Some(before) = parse(&io::read_to_string(&file)?) else { return Ok(None) };
    replace(&file, before + added)?;
    Ok(Some(before + added))
}

fn open_locked(path: &Path) -> io::Result<fs::File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Overwrites in place: torn, it reads as no number, and the next one measures.
fn replace(file: &fs::File, bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let text = format!("{bytes}\n");
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

fn read_used(path: &Path) -> Result<Option<u64>> {
    let text = found(fs::read_to_string(path)).at("read", path)?;
    Ok(text.and_then(|text| parse(&text)))
}

fn parse(text: &str) -> Option<u64> {
    text.strip_suffix('\n')?.parse().ok()
}

/// Returns the size of the disk and what is free of it for us, in bytes.
fn space(root: &Path) -> io::Result<(u64, u64)> {
    let stat = statvfs(root)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_disk() {
        let policy = GcPolicy::default();
        #[rustfmt::skip]
        let cases = [
            ("small", 10 * GIB,   (6_442_450_920, 1_073_741_820, 536_870_910)),
            ("large", 1000 * GIB, (100 * GIB, 10 * GIB, 10 * GIB)),
        ];
        for (name, disk, want) in cases {
            let Bounds { max_used, reserved, min_free } = policy.on(disk);
            assert_eq!((max_used, reserved, min_free), want, "{name}");
        }
        let set = GcPolicy {
            max_used: Some(Amount::Bytes(5)),
            reserved: Some(Amount::Percent(1)),
            ..policy
        };
        assert_eq!((set.on(1000).max_used, set.on(1000).reserved), (5, 10));
    }

    #[test]
    fn room_is_made_within_the_bounds() {
        let bounds = Bounds { max_used: 100, reserved: 20, min_free: 50 };
        #[rustfmt::skip]
        let cases = [
            ("room for all",          (60, 500, 10),  None),
            ("just room",             (90, 60, 10),   None),
            ("too much used",         (110, 500, 0),  Some(100)),
            ("too much to come",      (90, 500, 30),  Some(70)),
            ("too little free",       (90, 30, 0),    Some(70)),
            ("too little to come",    (90, 55, 10),   Some(85)),
            ("both",                  (110, 45, 0),   Some(100)),
            ("never below reserved",  (60, 0, 100),   Some(20)),
            ("at reserved already",   (20, 0, 100),   None),
            ("below reserved",        (10, 0, 0),     None),
        ];
        for (name, (used, free, need), want) in cases {
            assert_eq!(bounds.target(used, free, need), want, "{name}");
        }
    }

    #[test]
    fn a_torn_sum_is_none() {
        for (text, want) in [("12\n", Some(12)), ("12", None), ("", None), ("x\n", None)] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
