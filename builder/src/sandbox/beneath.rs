//! Paths resolved by the kernel beneath a directory (openat2(2)): the one way into a root.
//!
//! What is opened is a place, for neither reading nor writing. Absolute paths and links start at
//! the root, `..` ends there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How long a look-up is tried again. Each failure means that somewhere on this machine a mount or
/// a directory moved at that very moment, and somebody may be at just that: a number of tries would
/// be a matter of luck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens `path` with its links followed, save those of procfs; `flags` may ask for a directory.
pub(super) fn open_followed(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open(root, path, flags, ResolveFlags::NO_MAGICLINKS)
}

/// Opens exactly `path`: a link at its end is opened itself, one on the way is `ELOOP`.
pub(super) fn open_exact(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)
}

fn open(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::IN_ROOT;
    let mut since = None;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            // While anything is renamed or mounted, the kernel cannot promise that `..` stays
            // beneath the root, and wants to be asked again.
            Err(Errno::AGAIN | Errno::INTR)
                if since.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
            {
                rustix::thread::sched_yield();
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_disturb() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        // Long, so that a rename falls into nearly every look-up.
        let target = "../a/b/../".repeat(100);
        std::os::unix::fs::symlink(target, dir.path().join("root/link")).unwrap();
        let root = super::super::mount::open_dir(&dir.path().join("root")).unwrap();
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    std::fs::rename(&other, dir.path().join("moved")).unwrap();
                    std::fs::rename(dir.path().join("moved"), &other).unwrap();
                }
            });
            let results: Vec<_> = (0..1000)
                .map(|_| open_followed(&root, Path::new("/link"), OFlags::empty()).map(drop))
                .collect();
            is_done.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok));
        });
    }
}
