//! A blob that is sent while it is still being written: nobody knows its digest before its end, so
//! it goes in one streamed PATCH, and the digest follows (distribution-spec, "Pushing a blob in
//! chunks").

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cache::Digest;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::exchange::Route;
use super::push::{PIECE, PIECES_AHEAD, body_of, with_digest};

/// A file and how much of it is there. One thread writes, another sends what was written.
#[derive(Debug)]
pub(crate) struct Growing {
    /// What people are shown of it; its digest is not known yet.
    pub(crate) name: String,
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

/// Whether more comes.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    #[default]
    Ahead,
    /// All is there, and this is its digest.
    Reached(Digest),
    /// The writer failed.
    Lost,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    end: End,
}

impl Growing {
    /// Watches `file`, a descriptor of its own of what is being written, and calls it `name`.
    pub(crate) fn new(name: String, file: File) -> Self {
        Self { name, file, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Says that no more comes; `digest` is that of all, `None` that it is to be forgotten.
    pub(crate) fn end(&self, digest: Option<Digest>) {
        let mut state = self.lock();
        if matches!(state.end, End::Ahead) {
            state.end = digest.map_or(End::Lost, End::Reached);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn grew(&self, by: usize) {
        self.lock().written += by as u64;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all that is written, until its end or until nobody takes it; returns the digest.
    fn send(&self, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<Digest> {
        let mut sent = 0;
        loop {
            let state = self.lock();
            let waits =
                |state: &mut State| state.written == sent && matches!(state.end, End::Ahead);
            let state =
                self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
            let (left, end) = (state.written - sent, state.end);
            drop(state);
            match end {
                End::Reached(digest) if left == 0 => return Ok(digest),
                End::Lost => return Err(io::Error::other("the blob was not finished")),
                End::Reached(_) | End::Ahead => {}
            }
            let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
            self.file.read_exact_at(&mut piece, sent)?;
            sent += piece.len() as u64;
            if pieces.blocking_send(Ok(piece.into())).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }
}

/// Writes, and lets a [`Growing`] know of it. Dropped before the end is told, it tells that there
/// is none.
#[derive(Debug)]
pub(crate) struct GrowingWriter<W> {
    pub(crate) inner: W,
    pub(crate) growing: Option<Arc<Growing>>,
}

impl<W: Write> Write for GrowingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(growing) = &self.growing {
            growing.grew(written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Route {
    /// Sends the blob `growing` as it grows. Once: what is behind it may be sent again as a whole.
    pub(crate) async fn push_growing(
        &self,
        growing: Arc<Growing>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let _lane = self.lane(None).await;
        let Some(location) = self.start_upload(&Digest::of(b""), None).await? else {
            return Ok(());
        };
        let mut call = self.writing(Method::PATCH, "blobs/uploads/");
        call.url = location;
        let octets = HeaderValue::from_static("application/octet-stream");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, octets)]);
        let sent = Arc::new(AtomicU64::new(0));
        let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
        let reader = crate::blocking::run(move || {
            let outcome = growing.send(&pieces);
            if let Err(error) = &outcome {
                // Breaks the request off: an end without it would pass for a complete body.
                drop(pieces.blocking_send(Err(error.kind().into())));
            }
            outcome
        });
        let body = Some(body_of(receiver, Arc::clone(&sent)));
        let request = self.send_body(&call, headers, body);
        let (response, read) = tokio::join!(self.watch(request, &sent, moved), reader);
        let local = |source| RegistryError::Local { digest: Digest::of(b""), source };
        let (response, digest) = (response?, read.map_err(local)?);
        let response = self.accept(&call, response, StatusCode::ACCEPTED).await?;
        let location = self.location(&call, &response)?;
        let mut call = self.writing(Method::PUT, "blobs/uploads/");
        call.url = with_digest(&location, &digest);
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("0"))]);
        let response = self.send_small(&call, headers, None).await?;
        self.accept(&call, response, StatusCode::CREATED).await.map(drop)
    }
}
