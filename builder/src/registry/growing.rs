//! A blob that is sent while it is still being written: nobody knows its digest before its end, so
//! it goes in one streamed PATCH, and the digest follows (distribution-spec, "Pushing a blob in
//! chunks").

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use cache::Digest;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::exchange::Route;
use super::push::{PIECE, PIECES_AHEAD, body_of, with_digest};
use crate::growing::{Growing, Grown};

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
            let outcome = send(&growing, &pieces);
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

/// Sends all that is written, until its end or until nobody takes it; returns the digest.
fn send(growing: &Growing, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<Digest> {
    let (mut file, mut sent) = (growing.file(), 0);
    loop {
        let Grown { bytes, whole } = growing.wait_for(sent + PIECE as u64)?;
        let left = bytes - sent;
        if let (0, Some(digest)) = (left, whole) {
            return Ok(digest);
        }
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        file.read_exact(&mut piece)?;
        sent += piece.len() as u64;
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}
