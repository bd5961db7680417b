//! A cache as a tag of a repository.
//!
//! ```text
//! manifest   config: the index of entries (CACHE_INDEX), layers: the blobs that it names
//! index      the same as a list of descriptors, the entries last: image-manifest=false
//! image      an image whose config holds entries: type=inline
//! ```
//!
//! A registry cannot compare and swap. The window in which another writer's index is lost is made
//! as small as one request, and whoever wrote looks again: see [`super::export`].

use std::sync::Arc;

use cache::{Descriptor, Digest};
use frontend::{Platform, Reference};
use serde_json::{Value, json};

use super::depot::{Depot, Doing, Found};
use super::entry::{CacheIndex, INDEX_LIMIT};
use super::error::ExchangeError;
use super::inline;
use crate::blocking;
use crate::error::causes;
use crate::registry::document::{self, Document, OCI_INDEX, OCI_MANIFEST};
use crate::registry::{ManifestName, Pushed, RawManifest, Repository, Route};
use crate::source::{
    CONFIG_LIMIT, ResolvedImage, SourceError, Sources, keep, manifest_name, repository, wire,
};

/// Media type of a list of entries, its version in it.
pub(crate) const CACHE_INDEX: &str = "application/vnd.rbuild.cache.index.v1+json";
/// What every version of it begins with.
const CACHE_INDEX_FAMILY: &str = "application/vnd.rbuild.cache.index.";
/// What other builders' caches begin with.
const FOREIGN_CACHE: &str = "application/vnd.buildkit.cacheconfig.";

/// In which form an index is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) image_manifest: bool,
    pub(super) oci_mediatypes: bool,
}

impl Form {
    pub(super) const DEFAULT: Self = Self { image_manifest: true, oci_mediatypes: true };
}

/// One tag of one repository.
#[derive(Debug)]
pub(super) struct RegistryDepot {
    name: String,
    reference: Reference,
    repository: Repository,
    sources: Sources,
    /// Picks the image that inline entries are read from.
    platform: Platform,
    form: Form,
}

impl RegistryDepot {
    pub(super) fn open(
        reference: &Reference,
        sources: &Sources,
        platform: &Platform,
        form: Form,
    ) -> Arc<dyn Depot> {
        let reference = reference.clone().with_default_tag();
        Arc::new(Self {
            name: reference.familiar(),
            repository: repository(&reference),
            reference,
            sources: sources.clone(),
            platform: platform.clone(),
            form,
        })
    }

    fn route(&self) -> Result<Route, ExchangeError> {
        Ok(self.sources.registry().origin(&self.repository)?)
    }

    async fn load(&self) -> Result<Found, ExchangeError> {
        let route = self.route()?;
        let raw = match route.raw_manifest(&manifest_name(&self.reference)).await {
            Ok(raw) => raw,
            Err(error) if error.is_absent() => return Ok(Found::default()),
            Err(error) => return Err(error.into()),
        };
        let version = Some(raw.digest);
        let (index, is_image) = match list_of(&raw.bytes) {
            Ok(Some(descriptor)) => {
                let bytes = self.document(&descriptor, INDEX_LIMIT).await?;
                (CacheIndex::parse(&bytes).map_err(|it| causes(&it).join(": ")), false)
            }
            Ok(None) => (self.inline(&route, raw).await?, true),
            Err(fault) => (Err(fault), false),
        };
        Ok(match index {
            Ok(index) => Found { index, version, fault: None, is_image },
            Err(fault) => {
                Found { index: CacheIndex::default(), version, fault: Some(fault), is_image }
            }
        })
    }

    /// Reads the entries in the config of an image.
    async fn inline(
        &self,
        route: &Route,
        mut raw: RawManifest,
    ) -> Result<Result<CacheIndex, String>, ExchangeError> {
        // An index of an index is nothing that an image with a cache is found in.
        for _ in 0..2 {
            let document = Document::parse(&raw.bytes, raw.content_type.as_deref());
            match document {
                Err(error) => return Ok(Err(error.to_string())),
                Ok(Document::Image(parts)) => {
                    let bytes = self.document(&parts.config, CONFIG_LIMIT).await?;
                    let target = parts.config.clone();
                    let image =
                        ResolvedImage::join(&self.name, target.clone(), target, parts, &bytes)?;
                    return Ok(inline::entries_of(&image).map_err(|it| causes(&it).join(": ")));
                }
                Ok(Document::Index(entries)) => {
                    let entry = match document::pick(&entries, &self.platform) {
                        Ok(entry) => entry,
                        Err(error) => return Ok(Err(error.to_string())),
                    };
                    let name = ManifestName::Digest(entry.descriptor.digest);
                    raw = route.raw_manifest(&name).await?;
                }
            }
        }
        Ok(Err("it is an index of indexes".to_owned()))
    }

    /// Fetches a small document.
    async fn document(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, ExchangeError> {
        if wanted.size > limit {
            return Err(ExchangeError::TooLarge { name: self.name.clone(), limit });
        }
        let repositories = std::slice::from_ref(&self.repository);
        self.sources.fetch_blob(repositories, wanted, &|_| ()).await?;
        let (store, digest) = (self.sources.store().clone(), wanted.digest);
        let bytes = blocking::run(move || store.content().read(&digest, limit)).await;
        let bytes = bytes.map_err(SourceError::store("read the cache's entries"))?;
        bytes.ok_or_else(|| SourceError::NoRegistry { digest }.into())
    }

    async fn replace(
        &self,
        index: &CacheIndex,
        seen: Option<Digest>,
    ) -> Result<bool, ExchangeError> {
        let route = self.route()?;
        let (store, bytes) = (self.sources.store().clone(), index.encode());
        let config = blocking::run(move || keep(&store, &bytes, CACHE_INDEX)).await?;
        let file = self.sources.store().content().path(&config.digest);
        route.push_blob(&config, &file, &[], &|_| ()).await?;
        let manifest = manifest(self.form, &config, &index.blobs());
        let media_type = self.form.media_type();
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(&manifest),
            size: manifest.len() as u64,
        };
        let name = manifest_name(&self.reference);
        if route.manifest_digest(&name).await? != seen {
            return Ok(false);
        }
        route.push_manifest(&name, &descriptor, &manifest).await?;
        Ok(true)
    }
}

/// Finds the list of entries in a manifest or index; `None` in one of an image.
///
/// # Errors
///
/// Why there is none, in words.
pub(super) fn list_of(bytes: &[u8]) -> Result<Option<Descriptor>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|it| it.to_string())?;
    if value.get("layers").is_some() && value.get("manifests").is_some() {
        return Err("it is both a manifest and an index".to_owned());
    }
    let listed = value.get("manifests").and_then(Value::as_array);
    for entry in listed.into_iter().flatten().chain(value.get("config")) {
        match entry.get("mediaType").and_then(Value::as_str).unwrap_or_default() {
            CACHE_INDEX => {
                let descriptor = serde_json::from_value(entry.clone());
                return descriptor.map(Some).map_err(|it| it.to_string());
            }
            other if other.starts_with(CACHE_INDEX_FAMILY) => {
                return Err(format!("its entries are `{other}`, of another version of rbuild"));
            }
            other if other.starts_with(FOREIGN_CACHE) => {
                return Err("it is a cache of BuildKit".to_owned());
            }
            _ => {}
        }
    }
    Ok(None)
}

impl Form {
    fn media_type(self) -> &'static str {
        match (self.image_manifest, self.oci_mediatypes) {
            (true, _) => OCI_MANIFEST,
            (false, true) => OCI_INDEX,
            (false, false) => document::DOCKER_LIST,
        }
    }
}

/// Writes the manifest, or the index, of a cache.
pub(super) fn manifest(form: Form, config: &Descriptor, blobs: &[&Descriptor]) -> Vec<u8> {
    let layers: Vec<_> = blobs.iter().map(|blob| wire(&form.layer(blob))).collect();
    let document = if form.image_manifest {
        json!({
            "schemaVersion": 2, "mediaType": form.media_type(),
            "config": wire(config), "layers": layers,
        })
    } else {
        let all: Vec<_> = layers.into_iter().chain([wire(config)]).collect();
        json!({ "schemaVersion": 2, "mediaType": form.media_type(), "manifests": all })
    };
    serde_json::to_vec(&document).expect("descriptors are texts and numbers")
}

impl Form {
    /// Names a layer by Docker's type where that is asked for.
    fn layer(self, blob: &Descriptor) -> Descriptor {
        if self.oci_mediatypes {
            return blob.clone();
        }
        Descriptor { media_type: document::docker_layer(&blob.media_type), ..blob.clone() }
    }
}

impl Depot for RegistryDepot {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self) -> Doing<'_, Found> {
        Box::pin(self.load())
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, moved: &'a (dyn Fn(u64) + Sync)) -> Doing<'a, ()> {
        Box::pin(async move {
            let repositories = std::slice::from_ref(&self.repository);
            Ok(self.sources.fetch_blob(repositories, blob, moved).await?)
        })
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        sources: &'a [Repository],
        moved: &'a (dyn Fn(u64) + Sync),
    ) -> Doing<'a, bool> {
        Box::pin(async move {
            let file = self.sources.store().content().path(&blob.digest);
            let pushed = self.route()?.push_blob(blob, &file, sources, moved).await?;
            Ok(pushed == Pushed::Sent)
        })
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> Doing<'a, bool> {
        Box::pin(async move { Ok(self.route()?.has_blob(&blob.digest).await?) })
    }

    fn replace<'a>(&'a self, index: &'a CacheIndex, seen: Option<Digest>) -> Doing<'a, bool> {
        Box::pin(self.replace(index, seen))
    }

    fn is_exact(&self) -> bool {
        false
    }
}
