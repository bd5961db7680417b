//! What an answer leaves unread of a request.
//!
//! A server that closes a connection on which its client still writes may take the answer with it:
//! the client sees a broken pipe in place of the reason. So the rest of a small body is read before
//! an answer is sent, as Go's servers do. The rest of a large one is not worth its bytes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

/// Bytes that are read and dropped at most (net/http, `maxPostHandlerReadBytes`).
const MOST: usize = 256 * 1024;
/// How long the client may take to send them.
const PATIENCE: Duration = Duration::from_millis(500);

/// The body of a request, that comes back to the [`Leftover`] when its reader drops it.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

/// Gets what was not read of the body that it was made with.
pub(super) struct Leftover(oneshot::Receiver<Body>);

/// Lends `body` to a handler.
pub(super) fn lend(body: Body) -> (Body, Leftover) {
    let (back, leftover) = oneshot::channel();
    (Body::new(Lent { body, back: Some(back) }), Leftover(leftover))
}

impl Leftover {
    /// Reads the rest, if it is little and comes soon. Call it when the handler is done.
    pub(super) async fn drain(mut self) {
        let Ok(body) = self.0.try_recv() else { return };
        if body.size_hint().lower() > MOST as u64 {
            return;
        }
        let read = async {
            let mut chunks = body.into_data_stream();
            let mut seen = 0;
            while let Some(Ok(chunk)) = chunks.next().await {
                seen += chunk.len();
                if seen > MOST {
                    break;
                }
            }
        };
        drop(tokio::time::timeout(PATIENCE, read).await);
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody waits for it when the request succeeded.
            drop(back.send(std::mem::take(&mut self.body)));
        }
    }
}
