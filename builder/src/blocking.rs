//! The only door between async and blocking code.
//!
//! Files, hashing, tar, compression, mounts and sandboxes are plain blocking functions; async code
//! runs them here and nowhere else.

use std::panic;

/// Runs `work` on a thread that may block and returns its result. A panic in `work` goes on in
/// the caller, so that it ends the build that caused it and no other.
///
/// The closure keeps its thread for itself until it returns: a child made in it may use
/// `PR_SET_PDEATHSIG` safely.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            Err(_) => unreachable!("blocking work cannot be aborted once it runs"),
        },
    }
}
