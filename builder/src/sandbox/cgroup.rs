//! A cgroup for the number of processes, where this machine lets us make one.
//!
//! Version 1 offers it below the own cgroup; version 2 only below a cgroup without processes, which
//! in practice is the root. Where neither is writable there is none, and no error: the limit
//! protects the machine, it is not something that was asked for.
//!
//! An empty cgroup outlives kill -9. Its name holds the process that made it, and the next sandbox
//! removes those of processes that are gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::spec::Limits;

/// Prefix of the names: `rbuild-PROCESS-NUMBER`.
const PREFIX: &str = "rbuild-";

/// How often removal is tried: a cgroup counts its dead for a moment.
const REMOVE_TRIES: u32 = 20;

/// Pause between two tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// A cgroup of one step; removed when dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one with the given limits, if there is a limit and a place for it.
    pub(super) fn create(limits: &Limits) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let pids = limits.pids?;
        let parent = parent()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let cgroup = Self { path };
        fs::write(cgroup.path.join("pids.max"), pids.to_string()).ok()?;
        Some(cgroup)
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVE_TRIES {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            sleep(REMOVE_PAUSE);
        }
        tracing::warn!(path = %self.path.display(), "could not remove a cgroup");
    }
}

/// Removes what builders that are gone have left. One that lives on keeps its own: a cgroup with
/// processes cannot be removed, and one without is left alone while its maker lives.
pub(super) fn sweep() {
    let Some(entries) = parent().and_then(|parent| fs::read_dir(parent).ok()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let is_stale = maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_stale && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Another builder may have been faster.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

/// Where cgroups with a pids controller can be made.
fn parent() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let v1 = parse_v1(&own).map(|path| Path::new("/sys/fs/cgroup/pids").join(path));
    let v2 = || {
        let root = PathBuf::from("/sys/fs/cgroup");
        let enabled = fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
        enabled.split_whitespace().any(|name| name == "pids").then_some(root)
    };
    v1.filter(|path| path.is_dir()).or_else(v2)
}

/// Finds the cgroup of the pids controller in `/proc/self/cgroup` (cgroups(7)), relative.
fn parse_v1(own: &str) -> Option<&str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|name| name == "pids").then(|| path.trim_start_matches('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pids_controller_is_found_by_name() {
        #[rustfmt::skip]
        let cases = [
            ("hybrid",     "8:pids:/a/b\n0::/x\n",          Some("a/b")),
            ("root",       "8:pids:/\n",                    Some("")),
            ("together",   "3:cpu,pids:/c\n",               Some("c")),
            ("version 2",  "0::/user.slice\n",              None),
            ("lookalike",  "3:rapids:/c\n",                 None),
        ];
        for (name, text, want) in cases {
            assert_eq!(parse_v1(text), want, "{name}");
        }
    }
}
