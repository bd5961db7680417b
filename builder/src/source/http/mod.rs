//! Files by URL, for ADD and for contexts: downloaded once, asked after from then on.
//!
//! Invariants: what enters a cache key is the digest of the bytes, which we computed; credentials
//! go to the host that they were given for and into nothing that is kept or shown; every wait and
//! every size is bounded.

mod download;
mod error;
mod kept;
mod travel;

use std::sync::Arc;

use cache::{Digest, TempDir};
use frontend::HttpOp;
use reqwest::header::{
    ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode, Url};

pub use error::HttpError;

use self::download::{download, header};
use self::kept::{Kept, Record, digest_of};
use self::travel::Asking;
use super::secrets::SourceSecrets;
use super::{Meter, Sources, fetched};
use crate::blocking;
use crate::context::FileRoot;
use crate::progress::{Events, TransferPhase};

/// Any failure of this machine.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A file whose digest is known; its bytes may still have to be fetched.
#[derive(Debug)]
pub(crate) struct HttpFile {
    op: HttpOp,
    secrets: SourceSecrets,
    pub(crate) digest: Digest,
    /// `Last-Modified` in seconds since 1970, where the server tells and was asked.
    pub(crate) modified: Option<i64>,
    /// The file in a directory of its own; `None` as long as only its checksum is known.
    held: Option<Arc<TempDir>>,
}

impl Sources {
    /// Finds out which bytes `op` stands for. A file with a checksum is not asked after.
    ///
    /// # Errors
    ///
    /// [`HttpError`].
    pub(crate) async fn http_file(
        &self,
        op: &HttpOp,
        secrets: &SourceSecrets,
        events: &Events,
    ) -> Result<HttpFile, HttpError> {
        let file = |digest, modified, held| HttpFile {
            op: op.clone(),
            secrets: secrets.clone(),
            digest,
            modified,
            held,
        };
        if let Some(checksum) = &op.checksum {
            let digest = Digest::parse(checksum).map_err(|error| refused(op, error.to_string()))?;
            return Ok(file(digest, None, None));
        }
        let (record, dir) = self.refresh(op, secrets, None, events).await?;
        let digest = record.digest().expect("a record's digest was checked or computed");
        Ok(file(digest, modified(&record), Some(dir)))
    }

    /// Makes sure that the newest version of the file, or the one with the digest `wanted`, is
    /// kept, and gives it a name in a directory of its own.
    async fn refresh(
        &self,
        op: &HttpOp,
        secrets: &SourceSecrets,
        wanted: Option<Digest>,
        events: &Events,
    ) -> Result<(Record, Arc<TempDir>), HttpError> {
        let asking = self.asking(op, secrets)?;
        let keep = |source: BoxError| HttpError::Keep { url: op.url.clone(), source };
        let kept = fetched(&self.store, "http", &op.url).await.map_err(|e| keep(e.into()))?;
        let kept = Arc::new(Kept::new(kept));
        let known = {
            let kept = Arc::clone(&kept);
            blocking::run(move || kept.record()).await
        };
        let is_wanted = |record: &Record| wanted.is_some() && record.digest() == wanted;
        let record = match known {
            Some(record) if is_wanted(&record) => record,
            known => self.ask(&asking, op, &kept, known, wanted, events).await?,
        };
        let (store, name) = (self.store.clone(), op.file_name.clone());
        let held = blocking::run(move || {
            let dir = store.temp_dir()?;
            kept.link(&dir, &name)?;
            Ok::<_, BoxError>(Arc::new(dir))
        });
        Ok((record, held.await.map_err(keep)?))
    }

    fn asking(&self, op: &HttpOp, secrets: &SourceSecrets) -> Result<Asking<'_>, HttpError> {
        let url = Url::parse(&op.url).map_err(|error| refused(op, error.to_string()))?;
        let host = url.host_str().ok_or_else(|| refused(op, "it names no host".to_owned()))?;
        let authorization = secrets.http(host, op.credentials.as_ref());
        let (transport, patience) = (self.registry.transport(), self.registry.patience());
        Ok(Asking { transport, patience, url, authorization })
    }

    /// Asks the server for another version than the `known` one.
    async fn ask(
        &self,
        asking: &Asking<'_>,
        op: &HttpOp,
        kept: &Arc<Kept>,
        known: Option<Record>,
        wanted: Option<Digest>,
        events: &Events,
    ) -> Result<Record, HttpError> {
        let mut attempt = 0;
        loop {
            let error = match self.ask_once(asking, op, kept, known.as_ref(), wanted, events).await
            {
                Ok(record) => return Ok(record),
                Err(error) => error,
            };
            if !asking.pause(attempt, &error).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    async fn ask_once(
        &self,
        asking: &Asking<'_>,
        op: &HttpOp,
        kept: &Arc<Kept>,
        known: Option<&Record>,
        wanted: Option<Digest>,
        events: &Events,
    ) -> Result<Record, HttpError> {
        // Where certain bytes are wanted, those that are known are others.
        let known = known.filter(|_| wanted.is_none());
        let headers = known.map(conditions).unwrap_or_default();
        let response = asking.send(&headers).await?;
        if let Some(known) = known.filter(|known| is_unchanged(&response, known)) {
            return Ok(known.clone());
        }
        let status = response.status();
        if !status.is_success() {
            return Err(HttpError::Status { url: op.url.clone(), status });
        }
        let mut record = Record {
            digest: String::new(),
            size: 0,
            etag: header(&response, &ETAG),
            last_modified: header(&response, &LAST_MODIFIED),
        };
        let total = response.content_length();
        let meter = Meter::named(events, &op.file_name, TransferPhase::Downloading, total);
        let time = modified(&record).unwrap_or(0);
        let downloaded = download(asking, response, kept.partial(), time, &meter).await?;
        if let Some(expected) = wanted.filter(|wanted| *wanted != downloaded.digest) {
            let (url, found) = (op.url.clone(), downloaded.digest);
            return Err(HttpError::Checksum { url, found, expected });
        }
        meter.end(TransferPhase::Done).await;
        record.digest = downloaded.digest.to_string();
        record.size = downloaded.size;
        let (kept, new) = (Arc::clone(kept), record.clone());
        let replaced = blocking::run(move || kept.replace(&new)).await;
        replaced.map_err(|error| HttpError::Keep { url: op.url.clone(), source: error.into() })?;
        Ok(record)
    }
}

impl HttpFile {
    /// Returns the file as the only one of a directory, its bytes checked.
    ///
    /// # Errors
    ///
    /// [`HttpError`], also when the server no longer has these bytes.
    pub(crate) async fn files(
        &self,
        sources: &Sources,
        events: &Events,
    ) -> Result<FileRoot, HttpError> {
        if let Some(held) = &self.held
            && let Some(root) = self.checked(held).await?
        {
            return Ok(root.holding(Arc::clone(held)));
        }
        for _ in 0..2 {
            let wanted = Some(self.digest);
            let (_, held) = sources.refresh(&self.op, &self.secrets, wanted, events).await?;
            if let Some(root) = self.checked(&held).await? {
                return Ok(root.holding(held));
            }
            tracing::warn!(url = self.op.url, "a kept download is damaged: fetched again");
            let kept = fetched(&sources.store, "http", &self.op.url).await;
            let kept = Kept::new(kept.map_err(|error| self.keep(error))?);
            blocking::run(move || kept.forget()).await.map_err(|error| self.keep(error))?;
        }
        Err(self.keep("it is damaged as soon as it is written"))
    }

    /// Opens the directory if the file in it has the bytes that it should have.
    async fn checked(&self, held: &TempDir) -> Result<Option<FileRoot>, HttpError> {
        let (dir, name, wanted) = (held.path().to_owned(), self.op.file_name.clone(), self.digest);
        let checked = blocking::run(move || {
            let is_whole = digest_of(&dir.join(name))? == wanted;
            Ok::<_, BoxError>(if is_whole { Some(FileRoot::open(&dir)?) } else { None })
        });
        checked.await.map_err(|error| self.keep(error))
    }

    fn keep(&self, source: impl Into<BoxError>) -> HttpError {
        HttpError::Keep { url: self.op.url.clone(), source: source.into() }
    }
}

fn refused(op: &HttpOp, reason: String) -> HttpError {
    HttpError::Url { url: op.url.clone(), reason }
}

/// Asks for another version than this one only (RFC 9110, 13.1).
fn conditions(known: &Record) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name, value: &Option<String>| {
        let value = value.as_ref().and_then(|value| HeaderValue::from_str(value).ok());
        value.map(|value| headers.insert(name, value))
    };
    add(IF_NONE_MATCH, &known.etag);
    if known.etag.is_none() {
        add(IF_MODIFIED_SINCE, &known.last_modified);
    }
    headers
}

/// Whether the answer says that the known bytes are the newest: some servers send them all the same.
fn is_unchanged(response: &Response, known: &Record) -> bool {
    response.status() == StatusCode::NOT_MODIFIED
        || (response.status() == StatusCode::OK
            && known.etag.as_ref().is_some_and(|tag| !tag.starts_with("W/"))
            && header(response, &ETAG) == known.etag)
}

fn modified(record: &Record) -> Option<i64> {
    let text = record.last_modified.as_deref()?;
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(time.timestamp().as_second())
}
