//! What goes into a registry: blobs and manifests (distribution-spec, "Pushing").

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cache::{Descriptor, Digest};
use futures_util::stream;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::exchange::{Call, Route};
use super::repository::{ManifestName, Repository};

/// Read from disk at once, bytes.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces that wait for the network: enough to keep it busy while the disk is read.
pub(super) const PIECES_AHEAD: usize = 8;
/// Body of one request when a registry refuses the whole blob in one, bytes.
const CHUNK: u64 = 16 << 20;
/// A registry gets twice the usual patience to store what it was sent.
const STORE_FACTOR: u32 = 2;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It was there.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Sent,
}

impl Route {
    /// Brings the blob `wanted`, whose bytes are in `file`, into the repository. `sources` are
    /// repositories of the same registry that may hold it; `moved` is called with bytes sent.
    pub(crate) async fn push_blob(
        &self,
        wanted: &Descriptor,
        file: &Path,
        sources: &[Repository],
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, RegistryError> {
        if self.has_blob(&wanted.digest).await? {
            return Ok(Pushed::Present);
        }
        let _lane = self.lane(Some(wanted.size)).await;
        let is_elsewhere = |source: &&Repository| {
            source.registry == self.repository.registry && **source != self.repository
        };
        let mut attempt = 0;
        loop {
            let source = sources.iter().find(is_elsewhere).filter(|_| attempt == 0);
            let outcome = match self.start_upload(&wanted.digest, source).await {
                Ok(None) => return Ok(Pushed::Mounted),
                Ok(Some(location)) => self.upload(&location, wanted, file, moved).await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(()) => return Ok(Pushed::Sent),
                Err(error) => error,
            };
            if !self.session.pause(attempt, &error).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Puts a manifest under `name`, and where it refers to another one, sees to it that it is found.
    pub(crate) async fn push_manifest(
        &self,
        name: &ManifestName,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let content_type = HeaderValue::from_str(&descriptor.media_type).map_err(|_| {
            let call = self.writing(Method::PUT, &format!("manifests/{name}"));
            let (host, request) = (self.endpoint.host.clone(), call.shown());
            RegistryError::Header { host, request, header: "Content-Type" }
        })?;
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
        let answer = self.put_manifest(name, headers, bytes).await?;
        self.note_subject(&answer, descriptor, bytes).await
    }

    /// Puts a document under `name` and returns the answer.
    pub(super) async fn put_manifest(
        &self,
        name: &ManifestName,
        headers: HeaderMap,
        bytes: &[u8],
    ) -> Result<Response, RegistryError> {
        let call = self.writing(Method::PUT, &format!("manifests/{name}"));
        let mut attempt = 0;
        loop {
            let body = Some(Bytes::copy_from_slice(bytes));
            let error = match self.send_small(&call, headers.clone(), body).await {
                Ok(response) => match self.accept(&call, response, StatusCode::CREATED).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !self.session.pause(attempt, &error).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    pub(super) fn writing(&self, method: Method, tail: &str) -> Call {
        let mut call = self.call(method, tail);
        call.access.writes = true;
        call
    }

    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let call = self.writing(Method::HEAD, &format!("blobs/{digest}"));
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&call, response).await),
        }
    }

    /// Opens an upload, or has the blob mounted from `source`: then there is no location.
    pub(super) async fn start_upload(
        &self,
        digest: &Digest,
        source: Option<&Repository>,
    ) -> Result<Option<Url>, RegistryError> {
        let mut call = self.writing(Method::POST, "blobs/uploads/");
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Some(source) = source {
            call.access.mounts_from = Some(source.name.clone());
            let digest = digest.to_string();
            call.url
                .query_pairs_mut()
                .append_pair("mount", &digest)
                .append_pair("from", &source.name);
        }
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => self.location(&call, &response).map(Some),
            _ => Err(self.refused(&call, response).await),
        }
    }

    /// Sends the whole file in one request, or in pieces where the registry, or a proxy before
    /// it, has no room for that.
    async fn upload(
        &self,
        location: &Url,
        wanted: &Descriptor,
        file: &Path,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut call = self.writing(Method::PUT, "blobs/uploads/");
        call.url = with_digest(location, &wanted.digest);
        let response = self.send_range(&call, wanted, file, 0..wanted.size, moved).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::METHOD_NOT_ALLOWED => {
                self.upload_chunks(wanted, file, moved).await
            }
            _ => Err(self.refused(&call, response).await),
        }
    }

    async fn upload_chunks(
        &self,
        wanted: &Descriptor,
        file: &Path,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let Some(mut location) = self.start_upload(&wanted.digest, None).await? else {
            return Ok(());
        };
        let mut start = 0;
        while start < wanted.size {
            let mut call = self.writing(Method::PATCH, "blobs/uploads/");
            call.url = location;
            let end = wanted.size.min(start + CHUNK);
            let response = self.send_range(&call, wanted, file, start..end, moved).await?;
            let response = self.accept(&call, response, StatusCode::ACCEPTED).await?;
            location = self.location(&call, &response)?;
            start = end;
        }
        let mut call = self.writing(Method::PUT, "blobs/uploads/");
        call.url = with_digest(&location, &wanted.digest);
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("0"))]);
        let response = self.send_small(&call, headers, None).await?;
        self.accept(&call, response, StatusCode::CREATED).await.map(drop)
    }

    /// Sends the bytes `range` of `file` as the body of `call`, and again where the registry wants
    /// a new authorisation: tokens run out while blobs are on their way.
    async fn send_range(
        &self,
        call: &Call,
        wanted: &Descriptor,
        file: &Path,
        range: Range<u64>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Response, RegistryError> {
        let response = self.send_range_once(call, wanted, file, range.clone(), moved).await?;
        if !self.renews(call, &response).await? {
            return Ok(response);
        }
        self.send_range_once(call, wanted, file, range, moved).await
    }

    /// Whether `response` asks for an authorisation that could be had.
    async fn renews(&self, call: &Call, response: &Response) -> Result<bool, RegistryError> {
        Ok(response.status() == StatusCode::UNAUTHORIZED
            && self.answer_challenge(&call.access, response).await?.is_some())
    }

    async fn send_range_once(
        &self,
        call: &Call,
        wanted: &Descriptor,
        file: &Path,
        range: Range<u64>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<Response, RegistryError> {
        let length = range.end - range.start;
        let number = |text: String| {
            HeaderValue::from_str(&text).expect("digits and a hyphen are allowed in a header")
        };
        let mut headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (CONTENT_LENGTH, number(length.to_string())),
        ]);
        if call.method == Method::PATCH {
            let text = format!("{}-{}", range.start, range.end.saturating_sub(1));
            headers.insert(CONTENT_RANGE, number(text));
        }
        let sent = Arc::new(AtomicU64::new(0));
        let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
        let reader = read_pieces(file.to_owned(), range.clone(), pieces);
        let body = Some(body_of(receiver, Arc::clone(&sent)));
        let request = self.send_body(call, headers, body);
        let watched = self.watch(request, &sent, |bytes| moved(range.start + bytes));
        let (response, read) = tokio::join!(watched, reader);
        // The reader's own error is the cause of a request that broke off.
        read.map_err(|source| RegistryError::Local { digest: wanted.digest, source })?;
        response
    }

    /// Waits for `request` as long as its body moves.
    pub(super) async fn watch(
        &self,
        request: impl Future<Output = Result<Response, RegistryError>>,
        sent: &AtomicU64,
        moved: impl Fn(u64),
    ) -> Result<Response, RegistryError> {
        const LOOK: Duration = Duration::from_millis(200);
        let stall = self.session.patience.stall * STORE_FACTOR;
        let mut request = std::pin::pin!(request);
        let (mut last, mut quiet) = (0, Duration::ZERO);
        loop {
            if let Ok(outcome) = tokio::time::timeout(LOOK, &mut request).await {
                moved(sent.load(Ordering::Relaxed));
                return outcome;
            }
            let now = sent.load(Ordering::Relaxed);
            quiet = if now == last { quiet + LOOK } else { Duration::ZERO };
            if quiet >= stall {
                let host = self.endpoint.host.clone();
                return Err(RegistryError::Stalled { host, millis: stall.as_millis() });
            }
            last = now;
            moved(now);
        }
    }

    /// Sends a body that needs no watching, and again as [`Self::send_range`] does.
    pub(super) async fn send_small(
        &self,
        call: &Call,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, RegistryError> {
        let send = || {
            let body = body.clone().map(Body::from);
            let sent = AtomicU64::new(0);
            let headers = headers.clone();
            async move { self.watch(self.send_body(call, headers, body), &sent, |_| ()).await }
        };
        let response = send().await?;
        if self.renews(call, &response).await? { send().await } else { Ok(response) }
    }

    /// Sends a body once, with the authorisation that is known.
    pub(super) async fn send_body(
        &self,
        call: &Call,
        headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Response, RegistryError> {
        let url = &call.url;
        let mut request =
            self.client_for(url)?.request(call.method.clone(), url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        if self.endpoint.is_home_of(url)
            && let Some(header) = self.session.tokens.get(&self.endpoint, &call.access)
        {
            request = request.header(AUTHORIZATION, header);
        }
        request.send().await.map_err(|error| RegistryError::Unreachable {
            host: self.endpoint.host.clone(),
            source: error.without_url(),
        })
    }

    pub(super) fn location(&self, call: &Call, response: &Response) -> Result<Url, RegistryError> {
        let Some(location) = response.headers().get(LOCATION) else {
            let (host, request) = (self.endpoint.host.clone(), call.shown());
            return Err(RegistryError::Header { host, request, header: "Location" });
        };
        self.redirect_target(response.url(), location)
    }

    pub(super) async fn accept(
        &self,
        call: &Call,
        response: Response,
        wanted: StatusCode,
    ) -> Result<Response, RegistryError> {
        if response.status() == wanted {
            Ok(response)
        } else {
            Err(self.refused(call, response).await)
        }
    }

    async fn refused(&self, call: &Call, response: Response) -> RegistryError {
        let status = response.status();
        let error = self.session.status_error(&self.endpoint.host, &call.shown(), response).await;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::PushDenied {
                image: self.repository.familiar(),
                source: Some(Box::new(error)),
            },
            _ => error,
        }
    }
}

pub(super) fn with_digest(location: &Url, digest: &Digest) -> Url {
    let mut url = location.clone();
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

/// Reads `range` of `path` into `pieces` until the other end is gone.
async fn read_pieces(
    path: PathBuf,
    range: Range<u64>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    crate::blocking::run(move || {
        let outcome = send_pieces(&path, range, &pieces);
        if let Err(error) = &outcome {
            // Breaks the request off: an end without it would pass for a complete body.
            drop(pieces.blocking_send(Err(error.kind().into())));
        }
        outcome
    })
    .await
}

fn send_pieces(
    path: &Path,
    range: Range<u64>,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut left = range.end - range.start;
    while left > 0 {
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        file.read_exact(&mut piece)?;
        left -= piece.len() as u64;
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            break;
        }
    }
    Ok(())
}

/// Makes a body of `pieces` that counts in `sent` what the connection took.
pub(super) fn body_of(pieces: mpsc::Receiver<io::Result<Bytes>>, sent: Arc<AtomicU64>) -> Body {
    Body::wrap_stream(stream::unfold((pieces, sent), |(mut pieces, sent)| async move {
        let piece = pieces.recv().await?;
        let length = piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
        sent.fetch_add(length, Ordering::Relaxed);
        Some((piece, (pieces, sent)))
    }))
}
