//! What is left of steps that have ended: nothing that runs, but its end takes time that nobody
//! should wait for.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::network::Network;
use super::pool::Helper;

/// Steps whose leftovers may wait; beyond that steps wait.
const WAITING: usize = 64;

/// A helper and its network; their end is their drop.
type Left = (Helper, Option<Network>);

/// Clears away; what it was given is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// `None` while the thread is told to end.
    sender: Option<SyncSender<Left>>,
    thread: Option<JoinHandle<()>>,
}

impl Leftovers {
    pub(super) fn open() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Left>(WAITING);
        let clear = move || receiver.into_iter().for_each(drop);
        let thread = std::thread::Builder::new().name("leftovers".to_owned()).spawn(clear)?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Takes over what is left of a step, and clears it away some time soon.
    pub(super) fn take(&self, helper: Helper, network: Option<Network>) {
        let sender = self.sender.as_ref().expect("it is taken by drop alone");
        // Without the thread, which has panicked, what comes back is cleared away here.
        drop(sender.send((helper, network)));
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // It ends in order, or has panicked and told so.
            drop(thread.join());
        }
    }
}
