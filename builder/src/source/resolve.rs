//! A name to a manifest and a config; no layer is touched.

use std::time::{SystemTime, UNIX_EPOCH};

use cache::{Descriptor, ImageRecord, LayerBlob, Store, StoreError};
use frontend::{Platform, Reference};

use super::image::{self, CONFIG_LIMIT, Layer, MANIFEST_LIMIT, ResolvedImage};
use super::{SourceError, Sources, Target, manifest_below, manifest_name, read_target, repository};
use crate::blocking;
use crate::registry::document::{self, Document, Manifest};
use crate::registry::{DocumentError, Fetched, ManifestName, Referrer, Repository};

/// When a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only for what is not in the store under that name and for that platform.
    Missing,
    /// Always, although nothing that is here is fetched again.
    Always,
}

/// What a name points to at its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Of the manifest or index.
    pub descriptor: Descriptor,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

impl Sources {
    /// Asks the registry for all tags of the repository of `reference`.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub(crate) async fn tags(&self, reference: &Reference) -> Result<Vec<String>, SourceError> {
        let route = self.registry.origin(&repository(reference))?;
        Ok(route.tags().await?)
    }

    /// Asks the registry what `reference` points to.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub(crate) async fn distribution(
        &self,
        reference: &Reference,
    ) -> Result<Distribution, SourceError> {
        let repository = repository(reference);
        let fetched = self.fetch_document(&repository, &manifest_name(reference)).await?;
        let descriptor = fetched.descriptor;
        let platforms = match fetched.document {
            Document::Index(entries) => {
                entries.into_iter().filter_map(|entry| entry.platform).collect()
            }
            Document::Image(parts) => {
                let config = self.config(&repository, reference, &parts.config).await?;
                let name = reference.to_string();
                let (target, manifest) = (descriptor.clone(), descriptor.clone());
                vec![ResolvedImage::join(&name, target, manifest, parts, &config)?.platform()]
            }
        };
        Ok(Distribution { descriptor, platforms })
    }

    /// Lists what refers to the manifest or index of `reference`, all or only those of
    /// `artifact_type`.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn referrers(
        &self,
        reference: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, SourceError> {
        let repository = repository(reference);
        let subject = match manifest_name(reference) {
            ManifestName::Digest(digest) => digest,
            name @ ManifestName::Tag(_) => {
                match self.registry().manifest_digest(&repository, &name).await? {
                    Some(digest) => digest,
                    None => self.registry().manifest(&repository, &name).await?.descriptor.digest,
                }
            }
        };
        Ok(self.registry().referrers(&repository, &subject, artifact_type).await?)
    }

    /// Finds the image that `reference` names for `platform`.
    ///
    /// Manifest and config are kept in the store, and the name with them, so that the next build
    /// needs no registry; layers are only noted down with the repository that has them.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, SourceError> {
        let reference = reference.clone().with_default_tag();
        if policy == PullPolicy::Missing {
            if let Some(image) = self.stored(&reference, platform).await? {
                return Ok(image);
            }
            if let Some(image) = self.listed(&reference, platform).await? {
                return Ok(image);
            }
        }
        self.resolve_remote(&reference, platform).await
    }

    /// Finds the image in the store; `None` when it is not there, not whole, or for another
    /// platform.
    pub(super) async fn stored(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, SourceError> {
        let (store, reference) = (self.store.clone(), reference.clone());
        let platform = platform.clone();
        blocking::run(move || {
            let record =
                named(&store, &reference).map_err(SourceError::store("read the image's record"))?;
            let Some(record) = record else { return Ok(None) };
            let name = reference.to_string();
            let below = manifest_below(&store, &name, &record.manifest, &platform)?;
            let Some(manifest) = below else { return Ok(None) };
            let image = image::read_image(&store, &name, &manifest)?;
            Ok(image.filter(|image| document::acceptable(&platform).contains(&image.platform())))
        })
        .await
    }

    /// Finds the image in the index that the name has here, of which only other platforms were
    /// fetched: all platforms of a name are of one index.
    async fn listed(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, SourceError> {
        let (store, name) = (self.store.clone(), reference.clone());
        let record = blocking::run(move || named(&store, &name)).await;
        let record = record.map_err(SourceError::store("read the image's record"))?;
        let index = record.map(|record| record.manifest);
        let Some(index) = index.filter(|index| document::is_index(&index.media_type)) else {
            return Ok(None);
        };
        let Some(top) = self.kept(index.digest, Some(index.media_type)).await? else {
            return Ok(None);
        };
        let is_listed = matches!(&top.document, Document::Index(entries)
            if document::pick(entries, platform).is_ok());
        if !is_listed {
            return Ok(None);
        }
        match self.resolve_below(reference, platform, top).await {
            Ok(image) => Ok(Some(image)),
            // The registry has another index by now, or this one was made here.
            Err(SourceError::Registry(error)) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn resolve_remote(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, SourceError> {
        let top = self.top(&repository(reference), &manifest_name(reference)).await?;
        self.resolve_below(reference, platform, top).await
    }

    /// Finds the image for `platform` at or below `top`, and gives `top` its name.
    async fn resolve_below(
        &self,
        reference: &Reference,
        platform: &Platform,
        top: Fetched,
    ) -> Result<ResolvedImage, SourceError> {
        let repository = repository(reference);
        let target = top.descriptor.clone();
        let (manifest, parts) = self.descend(&repository, reference, platform, top).await?;
        let config = self.config(&repository, reference, &parts.config).await?;
        let name = reference.to_string();
        let image = ResolvedImage::join(&name, target, manifest, parts, &config)?;
        let (store, noted) = (self.store.clone(), image.clone());
        let reference = reference.clone();
        blocking::run(move || note(&store, &noted, &repository, &reference)).await?;
        Ok(image)
    }

    /// Gets what the name points to. Its digest is asked for first: a registry counts that less,
    /// or not at all, and mostly the bytes are here.
    async fn top(
        &self,
        repository: &Repository,
        name: &ManifestName,
    ) -> Result<Fetched, SourceError> {
        let digest = match name {
            ManifestName::Digest(digest) => Some(*digest),
            ManifestName::Tag(_) => self.registry.manifest_digest(repository, name).await?,
        };
        if let Some(digest) = digest
            && let Some(found) = self.kept(digest, None).await?
        {
            return Ok(found);
        }
        self.fetch_document(repository, name).await
    }

    /// Follows indexes to the manifest for `platform`.
    async fn descend(
        &self,
        repository: &Repository,
        reference: &Reference,
        platform: &Platform,
        top: Fetched,
    ) -> Result<(Descriptor, Manifest), SourceError> {
        let image = || reference.familiar();
        let mut fetched = top;
        for _ in 0..2 {
            let entries = match fetched.document {
                Document::Image(parts) => return Ok((fetched.descriptor, parts)),
                Document::Index(entries) => entries,
            };
            let wanted = document::pick(&entries, platform)
                .map_err(|source| SourceError::Document {
                    image: image(),
                    source: Box::new(source),
                })?
                .descriptor
                .clone();
            fetched = match self.kept(wanted.digest, Some(wanted.media_type.clone())).await? {
                Some(found) => found,
                None => {
                    self.fetch_document(repository, &ManifestName::Digest(wanted.digest)).await?
                }
            };
            if fetched.descriptor.size != wanted.size {
                let found = fetched.descriptor.size;
                return Err(SourceError::ManifestSize { image: image(), wanted, found });
            }
            if fetched.descriptor.media_type != wanted.media_type {
                let (announced, own) = (wanted.media_type, fetched.descriptor.media_type);
                let source = Box::new(DocumentError::Disagrees { announced, own });
                return Err(SourceError::Document { image: image(), source });
            }
        }
        match fetched.document {
            Document::Image(parts) => Ok((fetched.descriptor, parts)),
            Document::Index(_) => Err(SourceError::Nested { image: image() }),
        }
    }

    async fn config(
        &self,
        repository: &Repository,
        reference: &Reference,
        wanted: &Descriptor,
    ) -> Result<Vec<u8>, SourceError> {
        let (size, limit) = (wanted.size, CONFIG_LIMIT);
        if size > limit {
            return Err(SourceError::ConfigTooLarge { image: reference.familiar(), size, limit });
        }
        for _ in 0..2 {
            let (store, digest) = (self.store.clone(), wanted.digest);
            let found = blocking::run(move || store.content().read(&digest, CONFIG_LIMIT)).await;
            if let Some(bytes) = found.map_err(SourceError::store("read the config"))? {
                return Ok(bytes);
            }
            self.fetch_blob(std::slice::from_ref(repository), wanted, &|_| ()).await?;
        }
        // It was stored whole and is damaged already: the disk is at fault.
        Err(SourceError::Store {
            action: "read back the config that was just stored",
            source: std::io::Error::from(std::io::ErrorKind::InvalidData).into(),
        })
    }

    /// Reads a manifest or index from the store; one that the store has and that cannot be used
    /// is asked for again, so that the registry's own words are heard.
    async fn kept(
        &self,
        digest: cache::Digest,
        media_type: Option<String>,
    ) -> Result<Option<Fetched>, SourceError> {
        let store = self.store.clone();
        let bytes = blocking::run(move || store.content().read(&digest, MANIFEST_LIMIT)).await;
        let Some(bytes) = bytes.map_err(SourceError::store("read the manifest"))? else {
            return Ok(None);
        };
        let Some(media_type) = media_type.or_else(|| document::own_media_type(&bytes)) else {
            return Ok(None);
        };
        let document = Document::parse(&bytes, Some(&media_type)).ok();
        Ok(document.map(|document| Fetched {
            descriptor: Descriptor { media_type, digest, size: bytes.len() as u64 },
            bytes,
            document,
        }))
    }

    async fn fetch_document(
        &self,
        repository: &Repository,
        name: &ManifestName,
    ) -> Result<Fetched, SourceError> {
        let fetched = self.registry.manifest(repository, name).await?;
        let (store, bytes) = (self.store.clone(), fetched.bytes.clone());
        let media_type = fetched.descriptor.media_type.clone();
        blocking::run(move || image::keep(&store, &bytes, &media_type)).await?;
        Ok(fetched)
    }
}

/// Notes where the layers can be had, then gives the image its name: that of its index, where it has
/// one, so that images for other platforms under this name stay.
fn note(
    store: &cache::Store,
    image: &ResolvedImage,
    repository: &Repository,
    name: &Reference,
) -> Result<(), SourceError> {
    for layer in image.each_layer() {
        note_layer(store, &layer, Some(repository))?;
    }
    let target = read_target(store, &name.to_string(), &image.target)?;
    let target =
        target.filter(|target| target.images.iter().any(|it| it.manifest == image.manifest));
    name_target(store, &target.unwrap_or_else(|| image.clone().into()), Some(name))
}

/// Notes a blob that an image says to hold a layer, and who has it.
pub(crate) fn note_layer(
    store: &cache::Store,
    layer: &Layer,
    repository: Option<&Repository>,
) -> Result<(), SourceError> {
    note_blob(store, layer, repository, false)
}

/// Notes a blob that was seen to unpack to a layer.
pub(crate) fn note_checked(store: &cache::Store, layer: &Layer) -> Result<(), SourceError> {
    note_blob(store, layer, None, true)
}

fn note_blob(
    store: &cache::Store,
    layer: &Layer,
    repository: Option<&Repository>,
    checked: bool,
) -> Result<(), SourceError> {
    let Descriptor { digest, size, media_type } = layer.descriptor.clone();
    let blob = LayerBlob { digest, size, media_type, checked };
    let source = repository.map(ToString::to_string);
    let known =
        store.layers().get(&layer.diff_id).map_err(SourceError::store("read a layer's record"))?;
    let is_known = known.is_some_and(|record| {
        record.blobs.iter().any(|known| known.digest == digest && (known.checked || !checked))
            && source.as_ref().is_none_or(|source| record.sources.contains(source))
    });
    if is_known {
        return Ok(());
    }
    let update = |record: &mut cache::LayerRecord| {
        record.note(blob.clone());
        if let Some(source) = source.as_ref().filter(|source| !record.sources.contains(source)) {
            record.sources.push((*source).clone());
        }
    };
    store.layers().update(&layer.diff_id, update).map_err(SourceError::store("note a layer"))?;
    Ok(())
}

/// Gives the image `name`; without one it can be found by its ID only.
pub(crate) fn name_image(
    store: &cache::Store,
    image: &ResolvedImage,
    name: Option<&Reference>,
) -> Result<(), SourceError> {
    name_target(store, &Target::from(image.clone()), name)
}

/// Finds what `reference` names in the store, and keeps it from gc. With a digest that is any name
/// in its repository of what has this digest: a build or a push names it without one.
pub(crate) fn named(
    store: &Store,
    reference: &Reference,
) -> Result<Option<ImageRecord>, StoreError> {
    let found = store.images().get(&reference.to_string())?;
    let digest = match &reference.digest {
        Some(digest) if found.is_none() => digest,
        _ => return Ok(found),
    };
    let is_of_repository = |name: &str| {
        Reference::parse_normalized(name).is_ok_and(|name| {
            name.registry == reference.registry && name.repository == reference.repository
        })
    };
    let mut records = store.images().list()?;
    records.retain(|record| record.reference.as_deref().is_some_and(is_of_repository));
    let same = records.iter().find(|record| record.manifest.digest.to_string() == *digest);
    if let Some(name) = same.and_then(|record| record.reference.as_deref()) {
        return store.images().get(name);
    }
    for record in records {
        // What is damaged names nothing.
        let name = record.reference.clone().unwrap_or_default();
        let target = read_target(store, &name, &record.manifest).ok().flatten();
        let mut images = target.into_iter().flat_map(|target| target.images);
        if let Some(image) = images.find(|image| image.manifest.digest.to_string() == *digest) {
            let (manifest, config) = (image.manifest, image.config_digest);
            let held = store.images().get(&name)?;
            return Ok(held.map(|held| ImageRecord { manifest, config, ..held }));
        }
    }
    Ok(None)
}

/// As [`name_image`], for an index too: its ID is that of this machine's image.
pub(crate) fn name_target(
    store: &cache::Store,
    target: &Target,
    name: Option<&Reference>,
) -> Result<(), SourceError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let record = ImageRecord {
        reference: name.map(ToString::to_string),
        manifest: target.descriptor.clone(),
        config: target.image_for(&Platform::host()).config_digest,
        created: now,
        updated: now,
    };
    store.images().put(&record).map_err(SourceError::store("name the image"))
}
