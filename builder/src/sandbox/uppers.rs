//! Layers whose overlay may still be mounted: it ends with the first process of the step's sandbox,
//! and nobody waits for that but who needs the layer below another overlay.
//!
//! Nothing can be written to such a layer any more, so it can be read, renamed and deleted. But the
//! kernel warns of a lower directory that is an upper elsewhere.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::PollTimeout;

use super::pool::wait_for_end;

/// What a directory is known by whatever its name is: device and inode.
type Identity = (u64, u64);

/// A layer, and the process that its overlay ends with.
type Mounted = (Identity, Arc<OwnedFd>);

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Uppers(Mutex<Vec<Mounted>>);

impl Uppers {
    /// Takes note that the overlay on `upper` ends with `process`.
    pub(super) fn note(&self, upper: &Path, process: &Arc<OwnedFd>) {
        // What is gone already is nobody's lower.
        if let Some(upper) = identify(upper) {
            self.mounted().push((upper, Arc::clone(process)));
        }
    }

    /// Waits until no overlay is mounted on any of `dirs`.
    pub(super) fn wait<'a>(&self, dirs: impl IntoIterator<Item = &'a Path>) {
        let mut mounted = self.mounted().clone();
        for dir in dirs {
            // Most steps stand on the one before, and look no further.
            if mounted.is_empty() {
                return;
            }
            let dir = identify(dir);
            for (_, process) in mounted.extract_if(.., |(upper, _)| Some(*upper) == dir) {
                wait_for_end(&process, PollTimeout::NONE);
            }
        }
    }

    /// Those that are mounted by now.
    fn mounted(&self) -> MutexGuard<'_, Vec<Mounted>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, process)| !wait_for_end(process, PollTimeout::ZERO));
        all
    }
}

fn identify(dir: &Path) -> Option<Identity> {
    fs::metadata(dir).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn only_who_needs_the_layer_waits_whatever_its_name_is() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, renamed, other] = ["upper", "renamed", "other"].map(|it| dir.path().join(it));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&other).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Arc::new(pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap());
        let uppers = Uppers::default();
        uppers.note(&upper, &process);
        fs::rename(&upper, &renamed).unwrap();
        uppers.wait([other.as_path(), &upper]);
        assert!(child.try_wait().unwrap().is_none(), "nobody waited for it");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                uppers.wait([other.as_path(), &renamed]);
                wait_for_end(&process, PollTimeout::ZERO)
            });
            drop(child.stdin.take());
            assert!(waiting.join().unwrap(), "it has ended by then");
        });
        assert!(uppers.mounted().is_empty());
        child.wait().unwrap();
    }
}
