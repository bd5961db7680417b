//! Ctrl-C and its like: the first asks the work to end in good order, the second ends it at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
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

/// Signals that a command in the foreground gets from those who started it.
const PASSED_ON: [SignalKind; 6] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// Interrupts and terminations that the command may take as it likes; one more ends it. The first
/// process of a sandbox is not ended by a signal that it does not handle.
const PATIENCE: usize = 2;

/// Time that a command has from its first SIGTERM on, as `docker stop` gives.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Signals that wait to be passed on; more at once say nothing new.
const PASSED_BUFFER: usize = 16;

/// Passes signals on by number from now on. One interrupt or termination too many cancels `token`,
/// and so does `grace` after the first termination: who sends one wants the end, and no second
/// command can ask for it.
///
/// # Errors
///
/// The runtime could not install its handlers.
pub(crate) fn pass_on(
    token: &CancellationToken,
    grace: Duration,
) -> std::io::Result<(SignalWatch, mpsc::Receiver<i32>)> {
    let (seen, mut all) = mpsc::channel(PASSED_BUFFER);
    let mut listeners = tokio::task::JoinSet::new();
    for kind in PASSED_ON {
        let (mut listener, seen) = (signal(kind)?, seen.clone());
        listeners.spawn(async move {
            while listener.recv().await.is_some() {
                // A full buffer holds signals enough.
                let _ = seen.try_send(kind.as_raw_value());
            }
        });
    }
    let (passed, received) = mpsc::channel(PASSED_BUFFER);
    let token = token.clone();
    let watch = tokio::spawn(async move {
        let _listeners = listeners;
        let mut ending = 0;
        let mut deadline = None;
        loop {
            let number = tokio::select! {
                number = all.recv() => number,
                () = passed_deadline(deadline) => return token.cancel(),
            };
            let Some(number) = number else { return };
            let terminates = number == SignalKind::terminate().as_raw_value();
            if terminates {
                // A grace without end in sight is none.
                deadline = deadline.or_else(|| Instant::now().checked_add(grace));
            }
            ending += usize::from(terminates || number == SignalKind::interrupt().as_raw_value());
            if ending > PATIENCE {
                token.cancel();
            }
            let _ = passed.try_send(number);
        }
    });
    Ok((SignalWatch(watch), received))
}

/// Ends the listening when dropped.
#[derive(Debug)]
pub(crate) struct SignalWatch(tokio::task::JoinHandle<()>);

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends at `deadline`; never without one.
async fn passed_deadline(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
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
