//! Deletes trees on a thread of its own, so that a build never waits for a big `rm`.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lock::FileLock;
use crate::remove::{remove_tree, remove_tree_until};

/// How long a process that has done its work goes on to delete what dead ones left.
const PATIENCE: Duration = Duration::from_millis(300);

/// A tree to delete.
#[derive(Debug)]
enum Job {
    Own(PathBuf),
    /// What a dead process left, with the lock that keeps others from deleting it too.
    Left(PathBuf, Option<FileLock>),
}

/// The thread, which exists only once there was something to delete.
#[derive(Debug)]
pub(crate) struct Reaper {
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    handle: JoinHandle<()>,
    /// When what dead processes left becomes somebody else's to delete.
    end: Arc<OnceLock<Instant>>,
}

impl Reaper {
    pub(crate) const fn new() -> Self {
        Self { thread: Mutex::new(None) }
    }

    /// Deletes the tree at `path` in a while.
    pub(crate) fn remove(&self, path: PathBuf) {
        self.begin(Job::Own(path));
    }

    /// Deletes in a while what a dead process left at `path`; `lock` is dropped after.
    pub(crate) fn remove_left(&self, path: PathBuf, lock: Option<FileLock>) {
        self.begin(Job::Left(path, lock));
    }

    fn begin(&self, job: Job) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Thread::start().ok();
        }
        // Without a thread (the limit of threads is reached) the caller waits after all.
        let rest = match thread.as_ref() {
            Some(thread) => thread.jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = rest {
            bury(job, &OnceLock::new());
        }
    }

    /// Waits until everything is deleted.
    pub(crate) fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { jobs, handle, .. }) = thread else { return };
        drop(jobs);
        if handle.join().is_err() {
            tracing::error!("the thread that deletes temporary files panicked");
        }
    }

    /// Waits until everything of this process is deleted. What dead processes left may be gigabytes:
    /// of that the rest is the next one's. Who asked for a list of images does not wait for it.
    pub(crate) fn finish_own(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.end.get_or_init(|| Instant::now() + PATIENCE);
        }
        self.finish();
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let (sender, jobs): (Sender<Job>, Receiver<Job>) = mpsc::channel();
        let end = Arc::<OnceLock<Instant>>::default();
        let until = Arc::clone(&end);
        let work = move || jobs.iter().for_each(|job| bury(job, &until));
        let handle = thread::Builder::new().name("store-reaper".into()).spawn(work)?;
        Ok(Self { jobs: sender, handle, end })
    }
}

fn bury(job: Job, end: &OnceLock<Instant>) {
    let is_over = || end.get().is_some_and(|end| Instant::now() >= *end);
    let (result, path, _lock) = match job {
        Job::Own(path) => (remove_tree(&path), path, None),
        Job::Left(path, lock) => (remove_tree_until(&path, &is_over), path, lock),
    };
    // It lies in `tmp`, so the next process to open the store tries again.
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "could not delete"),
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_left_is_not_waited_for_and_left_whole() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let (own, left) = (place.path().join("own"), place.path().join("left"));
        for tree in [&own, &left] {
            std::fs::create_dir_all(tree.join("a/b"))?;
        }
        let over = OnceLock::from(Instant::now());
        bury(Job::Left(left.clone(), None), &over);
        bury(Job::Own(own.clone()), &over);
        assert!(left.join("a/b").exists() && !own.exists());
        let reaper = Reaper::new();
        reaper.remove_left(left.clone(), None);
        reaper.finish();
        assert!(!left.exists());
        Ok(())
    }
}
