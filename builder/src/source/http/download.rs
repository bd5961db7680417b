//! The body of an answer to the disk, continued where a connection broke.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cache::{Digest, HashingWriter};
use reqwest::header::{
    CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::error::HttpError;
use super::travel::Asking;
use crate::blocking;
use crate::source::Meter;

/// Largest file that is downloaded, bytes: as large as a layer may be.
pub(super) const BODY_LIMIT: u64 = 64 << 30;

/// Chunks that wait for the disk; the network waits then.
const CHUNKS_AHEAD: usize = 64;

/// A body on the disk.
#[derive(Debug)]
pub(super) struct Downloaded {
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
}

/// Writes the body of `response` to a new file at `path`, mode 0600, time `modified` (seconds since
/// 1970). The network side and the disk side run at once.
pub(super) async fn download(
    asking: &Asking<'_>,
    response: Response,
    path: PathBuf,
    modified: i64,
    meter: &Meter,
) -> Result<Downloaded, HttpError> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let disk = blocking::run(move || write(receiver, &path, modified));
    let network = async {
        let outcome = receive(asking, response, &sender, meter).await;
        drop(sender);
        outcome
    };
    let (network, disk) = tokio::join!(network, disk);
    let keep = |source: io::Error| HttpError::Keep { url: asking.shown(), source: source.into() };
    let downloaded = disk.map_err(keep)?;
    network?;
    Ok(downloaded)
}

/// Passes the body on, asking for the rest of it where the connection breaks.
async fn receive(
    asking: &Asking<'_>,
    mut response: Response,
    sender: &mpsc::Sender<Bytes>,
    meter: &Meter,
) -> Result<(), HttpError> {
    let version = version_of(&response);
    let (mut received, mut attempt) = (0, 0);
    loop {
        let error = match pass_on(asking, &mut response, sender, &mut received, meter).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Without a name for this version the rest could be that of another one.
        let Some(version) = version.clone().filter(|_| received > 0) else { return Err(error) };
        if !asking.pause(attempt, &error).await {
            return Err(error);
        }
        attempt += 1;
        match rest(asking, version, received).await {
            Ok(Some(answer)) => response = answer,
            Ok(None) => return Err(error),
            Err(next) if next.is_transient() => {}
            Err(next) => return Err(next),
        }
    }
}

async fn pass_on(
    asking: &Asking<'_>,
    response: &mut Response,
    sender: &mpsc::Sender<Bytes>,
    received: &mut u64,
    meter: &Meter,
) -> Result<(), HttpError> {
    while let Some(chunk) = asking.patiently(response.chunk()).await? {
        *received += chunk.len() as u64;
        if *received > BODY_LIMIT {
            return Err(HttpError::TooLarge { url: asking.shown(), limit: BODY_LIMIT });
        }
        meter.moved(*received);
        if sender.send(chunk).await.is_err() {
            // The disk side has ended and says why.
            return Ok(());
        }
    }
    Ok(())
}

/// Returns what names exactly these bytes (RFC 9110, 13.1.5): a strong `ETag`, else the time.
fn version_of(response: &Response) -> Option<HeaderValue> {
    let strong = response.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    strong.or_else(|| response.headers().get(LAST_MODIFIED)).cloned()
}

/// Asks for the bytes from `received` on; `None` when the server does not give just these.
async fn rest(
    asking: &Asking<'_>,
    version: HeaderValue,
    received: u64,
) -> Result<Option<Response>, HttpError> {
    let range = HeaderValue::try_from(format!("bytes={received}-"));
    let range = range.expect("digits are a header value");
    let headers = [(RANGE, range), (IF_RANGE, version)];
    let headers: HeaderMap = headers.into_iter().collect::<HeaderMap<HeaderValue>>();
    let response = asking.send(&headers).await?;
    let begins = format!("bytes {received}-");
    let is_rest = response.status() == StatusCode::PARTIAL_CONTENT
        && header(&response, &CONTENT_RANGE).is_some_and(|range| range.starts_with(&begins));
    Ok(is_rest.then_some(response))
}

/// Returns a header as text.
pub(super) fn header(response: &Response, name: &HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn write(
    mut chunks: mpsc::Receiver<Bytes>,
    path: &std::path::Path,
    modified: i64,
) -> io::Result<Downloaded> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut writer = HashingWriter::new(file);
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write_all(&chunk)?;
    }
    let (file, digest, size) = writer.finish();
    let seconds = Duration::from_secs(u64::try_from(modified).unwrap_or(0));
    file.set_modified(SystemTime::UNIX_EPOCH + seconds)?;
    Ok(Downloaded { digest, size })
}
