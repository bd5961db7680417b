//! What comes out of a registry: manifests and blobs (distribution-spec, "Pulling").

use bytes::Bytes;
use cache::{Descriptor, Digest};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK,
    RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;

use super::document::{self, Document, DocumentError};
use super::error::RegistryError;
use super::exchange::{Call, Route};
use super::repository::ManifestName;
use super::token::Access;

/// Largest manifest or index, bytes (distribution-spec, "Pushing Manifests").
pub(crate) const MANIFEST_LIMIT: usize = 4 << 20;

/// Tags asked for at a time.
const TAGS_A_PAGE: usize = 1000;

/// Tags of one repository that are listed: a list without an end is refused.
const MAX_TAGS: usize = 100_000;

/// A page of tags; registries say `null` for none.
#[derive(serde::Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// A manifest or index as the registry gave it, its digest computed by us.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Media type, digest and size.
    pub(crate) descriptor: Descriptor,
    /// The exact bytes.
    pub(crate) bytes: Vec<u8>,
    /// What they mean.
    pub(crate) document: Document,
}

/// A manifest or index that nobody has looked into.
#[derive(Clone, Debug)]
pub(crate) struct RawManifest {
    /// The exact bytes.
    pub(crate) bytes: Vec<u8>,
    /// Computed by us.
    pub(crate) digest: Digest,
    /// As the registry announced it.
    pub(crate) content_type: Option<String>,
}

impl Route {
    pub(super) fn call(&self, method: Method, tail: &str) -> Call {
        let access = Access {
            repository: self.repository.name.clone(),
            writes: false,
            mounts_from: None,
            is_login: false,
        };
        let url = self.endpoint.url(&self.repository, tail);
        Call { method, url, access, headers: HeaderMap::new() }
    }

    /// Asks for the digest of `name` without its bytes; `None` where the registry does not tell.
    pub(crate) async fn manifest_digest(
        &self,
        name: &ManifestName,
    ) -> Result<Option<Digest>, RegistryError> {
        let mut call = self.call(Method::HEAD, &format!("manifests/{name}"));
        call.headers.insert(ACCEPT, HeaderValue::from_static(document::ACCEPT));
        let response = self.send_once(&call).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        Ok(content_digest(&response))
    }

    /// Fetches the manifest or index `name`.
    pub(crate) async fn manifest(&self, name: &ManifestName) -> Result<Fetched, RegistryError> {
        let RawManifest { bytes, digest, content_type } = self.raw_manifest(name).await?;
        let document = Document::parse(&bytes, content_type.as_deref()).map_err(|source| {
            let (host, image) = (self.endpoint.host.clone(), name.familiar(&self.repository));
            RegistryError::Document { host, image, source: Box::new(source) }
        })?;
        let media_type = content_type
            .map(|text| document::bare_media_type(&text).to_owned())
            .filter(|text| text.contains("manifest") || text.contains("index"))
            .or_else(|| document::own_media_type(&bytes))
            .unwrap_or_default();
        let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64 };
        Ok(Fetched { descriptor, bytes, document })
    }

    /// Fetches the manifest or index `name` whatever it is; its digest is checked, its content is
    /// not.
    pub(crate) async fn raw_manifest(
        &self,
        name: &ManifestName,
    ) -> Result<RawManifest, RegistryError> {
        let mut call = self.call(Method::GET, &format!("manifests/{name}"));
        call.headers.insert(ACCEPT, HeaderValue::from_static(document::ACCEPT));
        let response = self.send(&call).await?;
        if !response.status().is_success() {
            return Err(self.manifest_error(name, &call, response).await);
        }
        let announced = content_digest(&response);
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let host = &self.endpoint.host;
        let bytes = self.session.body(host, response, MANIFEST_LIMIT, "the manifest").await?;
        let digest = Digest::of(&bytes);
        let by_name = match name {
            ManifestName::Digest(digest) => Some(*digest),
            ManifestName::Tag(_) => None,
        };
        if let Some(expected) =
            [by_name, announced].into_iter().flatten().find(|want| *want != digest)
        {
            return Err(RegistryError::Mismatch { host: host.clone(), expected, found: digest });
        }
        Ok(RawManifest { bytes, digest, content_type })
    }

    /// Lists all tags of the repository, page by page (distribution-spec, "Listing Tags").
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let host = &self.endpoint.host;
        let mut all: Vec<String> = Vec::new();
        loop {
            let mut call = self.call(Method::GET, "tags/list");
            call.url.query_pairs_mut().append_pair("n", &TAGS_A_PAGE.to_string());
            if let Some(last) = all.last() {
                call.url.query_pairs_mut().append_pair("last", last);
            }
            let response = self.send(&call).await?;
            let status = response.status();
            if !status.is_success() {
                let error = self.session.status_error(host, &call.shown(), response).await;
                if !matches!(status.as_u16(), 401 | 403 | 404) {
                    return Err(error);
                }
                let (image, source) = (self.repository.familiar(), Some(Box::new(error)));
                return Err(RegistryError::AccessDenied { image, source });
            }
            let goes_on = response.headers().contains_key(LINK);
            let bytes =
                self.session.body(host, response, MANIFEST_LIMIT, "the list of tags").await?;
            let page: TagList = serde_json::from_slice(&bytes).map_err(|source| {
                let (host, image) = (host.clone(), self.repository.familiar());
                let media_type = "a list of tags".to_owned();
                let source = Box::new(DocumentError::Form { media_type, source });
                RegistryError::Document { host, image, source }
            })?;
            let tags = page.tags.unwrap_or_default();
            if tags.is_empty() {
                return Ok(all);
            }
            all.extend(tags);
            if all.len() > MAX_TAGS {
                let (host, what) = (host.clone(), "the list of tags");
                return Err(RegistryError::TooLarge { host, what, limit: MAX_TAGS });
            }
            if !goes_on {
                return Ok(all);
            }
        }
    }

    /// Says "denied" or "not found" as people know them.
    async fn manifest_error(
        &self,
        name: &ManifestName,
        call: &Call,
        response: Response,
    ) -> RegistryError {
        let status = response.status();
        let error = self.session.status_error(&self.endpoint.host, &call.shown(), response).await;
        let is_denied = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => true,
            StatusCode::NOT_FOUND => self.lacks_repository().await,
            _ => return error,
        };
        let source = Some(Box::new(error));
        if is_denied {
            RegistryError::AccessDenied { image: self.repository.familiar(), source }
        } else {
            RegistryError::ManifestNotFound { image: name.familiar(&self.repository), source }
        }
    }

    /// Asks whether the repository exists at all. Registries answer an unknown tag and an unknown
    /// repository alike, and people need to know which of the two they mistyped.
    async fn lacks_repository(&self) -> bool {
        let mut call = self.call(Method::GET, "tags/list");
        call.url.set_query(Some("n=1"));
        let Ok(response) = self.send_once(&call).await else { return false };
        if response.status() != StatusCode::NOT_FOUND {
            return false;
        }
        let error = self.session.status_error(&self.endpoint.host, &call.shown(), response).await;
        matches!(error, RegistryError::Status { message, .. } if message.contains("NAME_UNKNOWN"))
    }

    /// Streams the blob `wanted` into `sink`, in order and exactly `wanted.size` bytes, going on
    /// where a broken connection left off; `moved` is called with the bytes so far. Who owns the
    /// other end checks the digest.
    pub(crate) async fn blob(
        &self,
        wanted: &Descriptor,
        sink: &mpsc::Sender<Bytes>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let _lane = self.lane(Some(wanted.size)).await;
        let (mut received, mut attempt) = (0, 0);
        loop {
            let error = match self.blob_from(wanted, &mut received, sink, moved).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !self.session.pause(attempt, &error).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Streams from byte `received` on, and counts it up.
    async fn blob_from(
        &self,
        wanted: &Descriptor,
        received: &mut u64,
        sink: &mpsc::Sender<Bytes>,
        moved: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        if *received == wanted.size && wanted.size > 0 {
            return Ok(());
        }
        let mut call = self.call(Method::GET, &format!("blobs/{}", wanted.digest));
        if *received > 0 {
            let range = HeaderValue::from_str(&format!("bytes={received}-"))
                .expect("digits are allowed in a header");
            call.headers.insert(RANGE, range);
        }
        let response = self.send_once(&call).await?;
        let (mut response, mut skip) = self.blob_head(wanted, *received, &call, response).await?;
        let host = &self.endpoint.host;
        while let Some(mut chunk) = self.session.patiently(host, response.chunk()).await? {
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            drop(chunk.split_to(usize::try_from(known).expect("it is no longer than the chunk")));
            if chunk.is_empty() {
                continue;
            }
            let total = *received + chunk.len() as u64;
            if total > wanted.size {
                return Err(self.wrong_size(wanted, total));
            }
            let gone = |_| RegistryError::Local {
                digest: wanted.digest,
                source: std::io::ErrorKind::BrokenPipe.into(),
            };
            sink.send(chunk).await.map_err(gone)?;
            *received = total;
            moved(total);
        }
        if *received == wanted.size { Ok(()) } else { Err(self.wrong_size(wanted, *received)) }
    }

    /// Checks status and lengths; returns with the answer how many bytes of it are known already.
    async fn blob_head(
        &self,
        wanted: &Descriptor,
        received: u64,
        call: &Call,
        response: Response,
    ) -> Result<(Response, u64), RegistryError> {
        let host = &self.endpoint.host;
        match response.status() {
            StatusCode::OK => match header_number(&response, CONTENT_LENGTH) {
                Some(length) if length != wanted.size => Err(self.wrong_size(wanted, length)),
                _ => Ok((response, received)),
            },
            StatusCode::PARTIAL_CONTENT if received > 0 => {
                if range_start(&response) == Some(received) {
                    return Ok((response, 0));
                }
                let (host, request) = (host.clone(), call.shown());
                Err(RegistryError::Header { host, request, header: "Content-Range" })
            }
            status => {
                let error = self.session.status_error(host, &call.shown(), response).await;
                let image = self.repository.familiar();
                Err(match status {
                    StatusCode::NOT_FOUND => RegistryError::BlobNotFound {
                        host: host.clone(),
                        digest: wanted.digest,
                        image,
                    },
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                        RegistryError::AccessDenied { image, source: Some(Box::new(error)) }
                    }
                    _ => error,
                })
            }
        }
    }

    fn wrong_size(&self, wanted: &Descriptor, found: u64) -> RegistryError {
        RegistryError::Size {
            host: self.endpoint.host.clone(),
            digest: wanted.digest,
            expected: wanted.size,
            found,
        }
    }
}

fn content_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}

fn header_number(response: &Response, name: HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

/// Reads the start of `bytes 100-199/200` (RFC 9110, 14.4).
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
