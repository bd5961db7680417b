//! Ctrl-C and its like: the first asks the work to end in good order, the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens for SIGINT and SIGTERM from now on. The first cancels `token`; the second kills this
/// process, with which all sandboxes end, since their helpers die with their parent.
///
/// # Errors
///
/// The runtime could not install its handlers.
pub(crate) fn cancel_on_signal(token: &CancellationToken) -> std::io::Result<SignalWatch> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = token.clone();
    let watch = tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        token.cancel();
        either(&mut interrupt, &mut terminate).await;
        kill_self();
    });
    Ok(SignalWatch(watch))
}

/// Ends the listening when dropped.
#[derive(Debug)]
pub(crate) struct SignalWatch(tokio::task::JoinHandle<()>);

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn kill_self() {
    // The first process of a PID namespace cannot kill itself by a signal; it can abort.
    use rustix::process::{Signal as Number, getpid, kill_process};

    match kill_process(getpid(), Number::KILL) {
        Ok(()) | Err(_) => std::process::abort(),
    }
}
