//! Deletes trees on a thread of its own, so that a build never waits for a big `rm`.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::lock::FileLock;
use crate::remove::remove_tree;

/// A tree to delete, and the lock that keeps others from deleting it too.
type Job = (PathBuf, Option<FileLock>);

/// The thread, which exists only once there was something to delete.
#[derive(Debug)]
pub(crate) struct Reaper {
    thread: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
}

impl Reaper {
    pub(crate) const fn new() -> Self {
        Self { thread: Mutex::new(None) }
    }

    /// Deletes the tree at `path` in a while; `lock` is dropped after.
    pub(crate) fn remove(&self, path: PathBuf, lock: Option<FileLock>) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = start().ok();
        }
        let job = (path, lock);
        // Without a thread (the limit of threads is reached) the caller waits after all.
        let rest = match thread.as_ref() {
            Some((sender, _)) => sender.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = rest {
            bury(&job);
        }
    }

    /// Waits until everything is deleted.
    pub(crate) fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, handle)) = thread {
            drop(sender);
            if handle.join().is_err() {
                tracing::error!("the thread that deletes temporary files panicked");
            }
        }
    }
}

fn start() -> io::Result<(Sender<Job>, JoinHandle<()>)> {
    let (sender, jobs): (Sender<Job>, Receiver<Job>) = mpsc::channel();
    let work = move || jobs.iter().for_each(|job| bury(&job));
    let handle = thread::Builder::new().name("store-reaper".into()).spawn(work)?;
    Ok((sender, handle))
}

fn bury((path, _lock): &Job) {
    if let Err(error) = remove_tree(path) {
        // It lies in `tmp`, so the next process to open the store tries again.
        tracing::warn!(path = %path.display(), %error, "could not delete");
    }
}
