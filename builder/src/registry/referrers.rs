//! What refers to an image: signatures, SBOMs, attestations (distribution-spec 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema").

use std::collections::BTreeMap;

use cache::{Descriptor, Digest};
use oci_spec::image::ImageIndex;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use reqwest::{Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Registry;
use super::document::{DocumentError, OCI_INDEX, bare_media_type};
use super::error::RegistryError;
use super::exchange::Route;
use super::fetch::MANIFEST_LIMIT;
use super::repository::{ManifestName, Repository};

/// Longest list of referrers, bytes over all its pages.
const LIST_LIMIT: usize = 16 << 20;
/// Pages of one list.
const MAX_PAGES: usize = 200;
/// Says that the registry keeps the list of referrers itself.
const OCI_SUBJECT: &str = "oci-subject";

/// A manifest that has an image as its subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Kind of the manifest.
    pub media_type: String,
    /// `algorithm:hex` of the manifest.
    pub digest: String,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// What it is: `application/vnd.dev.cosign.artifact.sig.v1+json`, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What its maker says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Registry {
    /// Lists what refers to `subject`, all or only those of `artifact_type`, from the first place
    /// that knows of any: a mirror that keeps images alone has an empty list.
    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let mut routes = self.routes(repository)?;
        let origin = routes.pop().expect("the registry itself is the last place to ask");
        let mut failed = Vec::new();
        for mirror in routes {
            match mirror.referrers(subject, artifact_type).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(error) => failed.push((mirror.host().to_owned(), error)),
            }
        }
        let asked = origin.referrers(subject, artifact_type).await;
        asked.map_err(|error| RegistryError::gathered(failed, error))
    }
}

impl Route {
    async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let mut call = self.call(Method::GET, &format!("referrers/{subject}"));
        call.headers.insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        if let Some(wanted) = artifact_type {
            call.url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for page in 0..MAX_PAGES {
            let response = self.send(&call).await?;
            if page == 0 && lacks_list(&response) {
                found = self.tagged_referrers(subject).await?;
                break;
            }
            let host = &self.endpoint.host;
            let response = match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let error = self.session.status_error(host, &call.shown(), response).await;
                    let image = self.repository.familiar();
                    let source = Some(Box::new(error));
                    return Err(RegistryError::AccessDenied { image, source });
                }
                _ => self.session.expect_success(host, response).await?,
            };
            let next = self.next_page(&response)?;
            let what = "the list of referrers";
            let body = self.session.body(host, response, LIST_LIMIT - bytes, what).await?;
            bytes += body.len();
            found.extend(self.parse_referrers(&body)?);
            match next {
                Some(url) => call.url = url,
                None => break,
            }
            if page + 1 == MAX_PAGES {
                let host = host.clone();
                return Err(RegistryError::TooLarge { host, what, limit: LIST_LIMIT });
            }
        }
        // A registry may ignore the filter.
        if let Some(wanted) = artifact_type {
            found.retain(|one| one.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    /// Reads the index that clients keep where the registry keeps no list.
    async fn tagged_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        match self.raw_manifest(&fallback_tag(&subject.to_string())).await {
            Ok(index) => self.parse_referrers(&index.bytes),
            Err(error) if error.is_absent() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn parse_referrers(&self, bytes: &[u8]) -> Result<Vec<Referrer>, RegistryError> {
        let index: ImageIndex =
            serde_json::from_slice(bytes).map_err(|error| self.no_index(error))?;
        let one = |entry: &oci_spec::image::Descriptor| Referrer {
            media_type: entry.media_type().to_string(),
            digest: entry.digest().to_string(),
            size: entry.size(),
            artifact_type: entry.artifact_type().as_ref().map(ToString::to_string),
            annotations: entry.annotations().clone().unwrap_or_default().into_iter().collect(),
        };
        Ok(index.manifests().iter().map(one).collect())
    }

    fn no_index(&self, source: serde_json::Error) -> RegistryError {
        let source = DocumentError::Form { media_type: OCI_INDEX.to_owned(), source };
        let (host, image) = (self.endpoint.host.clone(), self.repository.familiar());
        RegistryError::Document { host, image, source: Box::new(source) }
    }

    /// Returns where the list goes on, which is at this registry or nowhere.
    fn next_page(&self, response: &Response) -> Result<Option<Url>, RegistryError> {
        let Some(target) = response.headers().get(LINK).and_then(next_link) else {
            return Ok(None);
        };
        let url = self.redirect_target(response.url(), &target)?;
        if self.endpoint.is_home_of(&url) {
            return Ok(Some(url));
        }
        Err(self.refused_redirect(&url, "a list goes on where it began"))
    }

    /// Enters a pushed manifest that has a subject into the index that clients keep, where the
    /// registry's answer does not say that it keeps a list.
    ///
    /// Two clients that do so at once may lose one entry: the protocol has no way to prevent it.
    pub(super) async fn note_subject(
        &self,
        answer: &Response,
        descriptor: &Descriptor,
        manifest: &[u8],
    ) -> Result<(), RegistryError> {
        if answer.headers().contains_key(OCI_SUBJECT) {
            return Ok(());
        }
        let Some((subject, entry)) = entry(descriptor, manifest) else { return Ok(()) };
        let tag = fallback_tag(&subject);
        let mut index = match self.raw_manifest(&tag).await {
            Ok(found) => {
                self.parse_referrers(&found.bytes)?;
                serde_json::from_slice(&found.bytes).map_err(|error| self.no_index(error))?
            }
            Err(error) if error.is_absent() => {
                json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] })
            }
            Err(error) => return Err(error),
        };
        let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        if entries.iter().any(|old| old["digest"] == entry["digest"]) {
            return Ok(());
        }
        entries.push(entry);
        let bytes = index.to_string().into_bytes();
        if bytes.len() > MANIFEST_LIMIT {
            let (host, what) = (self.endpoint.host.clone(), "the list of referrers");
            return Err(RegistryError::TooLarge { host, what, limit: MANIFEST_LIMIT });
        }
        let media_type = HeaderValue::from_static(OCI_INDEX);
        self.put_manifest(&tag, HeaderMap::from_iter([(CONTENT_TYPE, media_type)]), &bytes).await?;
        Ok(())
    }
}

/// Whether a registry answers like one that has never heard of lists of referrers.
fn lacks_list(response: &Response) -> bool {
    match response.status() {
        StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE => true,
        StatusCode::OK => {
            let announced = response.headers().get(CONTENT_TYPE);
            let announced = announced.and_then(|value| value.to_str().ok()).unwrap_or_default();
            bare_media_type(announced) != OCI_INDEX
        }
        _ => false,
    }
}

/// Returns the tag of the index that clients keep of what refers to `subject`.
fn fallback_tag(subject: &str) -> ManifestName {
    ManifestName::Tag(subject.replacen(':', "-", 1))
}

/// Reads the target of `<...>; rel="next"` (RFC 8288).
fn next_link(value: &HeaderValue) -> Option<HeaderValue> {
    let (target, parameters) = value.to_str().ok()?.trim().strip_prefix('<')?.split_once('>')?;
    let mut parameters = parameters.split(';').map(str::trim);
    let is_next = parameters.any(|it| it == "rel=\"next\"" || it == "rel=next");
    if is_next { HeaderValue::from_str(target).ok() } else { None }
}

/// Returns the subject of `manifest` and what its list of referrers says of the manifest.
fn entry(descriptor: &Descriptor, manifest: &[u8]) -> Option<(String, Value)> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    let subject = manifest.get("subject")?.get("digest")?.as_str()?;
    // Only what is a digest makes a tag.
    Digest::parse(subject).ok()?;
    let mut entry = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    });
    let own = manifest.get("artifactType").filter(|own| own.as_str() != Some(""));
    let artifact_type = own.or_else(|| manifest.get("config")?.get("mediaType"));
    let members = [("artifactType", artifact_type), ("annotations", manifest.get("annotations"))];
    for (name, value) in members {
        if let Some(value) = value {
            entry[name] = value.clone();
        }
    }
    Some((subject.to_owned(), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page() {
        #[rustfmt::skip]
        let cases = [
            ("relative",  "</v2/x/referrers/d?n=2>; rel=\"next\"",  Some("/v2/x/referrers/d?n=2")),
            ("bare",      "<https://r/next>;rel=next",              Some("https://r/next")),
            ("titled",    "<a>; title=\"b\"; rel=\"next\"",         Some("a")),
            ("previous",  "<a>; rel=\"prev\"",                      None),
            ("no target", "rel=\"next\"",                           None),
            ("unclosed",  "<a; rel=\"next\"",                       None),
        ];
        for (name, text, want) in cases {
            let got = next_link(&HeaderValue::from_str(text).unwrap());
            assert_eq!(got.as_ref().map(|value| value.to_str().unwrap()), want, "{name}");
        }
    }
}
