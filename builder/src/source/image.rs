//! Images in the store: a manifest, its config, and the names of its layers.

use std::collections::BTreeMap;

use cache::{ChainId, Descriptor, DiffId, Digest, Store};
use frontend::{ImageConfig, Platform, Reference};
use oci_spec::image::{ImageManifestBuilder, MediaType};
use serde_json::json;

use super::error::SourceError;
use super::name::repository;
use crate::registry::Repository;
use crate::registry::document::{self, Document, Manifest, OCI_CONFIG, OCI_MANIFEST};

/// Largest manifest or index that is read, bytes.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Largest image config that is read, bytes. Real ones have some kilobytes.
pub(crate) const CONFIG_LIMIT: u64 = 8 << 20;

/// An image whose manifest and config are known; its layers may still be elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedImage {
    /// Normalised name that it was asked for by (`docker.io/library/node:14`); the digest of its
    /// manifest for an image without a name.
    pub reference: String,
    /// What the name points to: the index where there is one, else the manifest.
    pub target: Descriptor,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// The parsed config.
    pub config: ImageConfig,
    /// Digest of the config's exact bytes: the image ID.
    pub config_digest: Digest,
    /// The layers as the manifest names them, base first.
    pub layers: Vec<Descriptor>,
    /// What the manifest notes of each of `layers`.
    pub layer_annotations: Vec<BTreeMap<String, String>>,
    /// The uncompressed layers as the config names them, base first; as many as `layers`.
    pub diff_ids: Vec<DiffId>,
}

/// One layer under both of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// As the manifest names it, mostly compressed.
    pub descriptor: Descriptor,
    /// As the config names it, never compressed.
    pub diff_id: DiffId,
}

impl ResolvedImage {
    /// Joins what manifest and config say, and checks that they agree.
    pub(crate) fn join(
        reference: &str,
        target: Descriptor,
        manifest: Descriptor,
        parts: Manifest,
        config: &[u8],
    ) -> Result<Self, SourceError> {
        let image = || reference.to_owned();
        let config_digest = parts.config.digest;
        let layers = parts.layers;
        let mut layer_annotations = parts.annotations;
        layer_annotations.resize(layers.len(), BTreeMap::new());
        let config: ImageConfig = serde_json::from_slice(config)
            .map_err(|source| SourceError::Config { image: image(), source })?;
        let diff_ids = config.rootfs.diff_ids.iter().map(|text| {
            let fault = |_| SourceError::DiffIdForm { image: image(), text: text.clone() };
            Digest::parse(text).map(DiffId).map_err(fault)
        });
        let diff_ids: Vec<_> = diff_ids.collect::<Result<_, _>>()?;
        if diff_ids.len() != layers.len() {
            let (diff_ids, layers) = (diff_ids.len(), layers.len());
            return Err(SourceError::LayerCount { image: image(), diff_ids, layers });
        }
        let reference = image();
        Ok(Self {
            reference,
            target,
            manifest,
            config,
            config_digest,
            layers,
            layer_annotations,
            diff_ids,
        })
    }

    /// Returns the layers under both names, base first.
    pub fn each_layer(&self) -> impl Iterator<Item = Layer> + '_ {
        self.layers
            .iter()
            .zip(&self.diff_ids)
            .map(|(descriptor, &diff_id)| Layer { descriptor: descriptor.clone(), diff_id })
    }

    /// Returns the chain IDs of all stacks of layers, from the base alone to all of them.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<ChainId> {
        let mut chain: Vec<ChainId> = Vec::with_capacity(self.diff_ids.len());
        for &diff_id in &self.diff_ids {
            chain.push(chain.last().map_or(ChainId(diff_id.0), |parent| parent.push(diff_id)));
        }
        chain
    }

    /// Returns the repository that the image was asked for from; `None` for one without a name.
    pub(crate) fn repository(&self) -> Option<Repository> {
        Reference::parse_normalized(&self.reference).ok().map(|reference| repository(&reference))
    }

    /// Returns what the image is for, as its config says.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let variant = self.config.variant.as_deref().filter(|text| !text.is_empty());
        let variant = variant.map(|text| format!("/{text}")).unwrap_or_default();
        let text = format!("{}/{}{variant}", self.config.os, self.config.architecture);
        Platform::parse(&text).unwrap_or_else(|_| Platform {
            os: self.config.os.clone(),
            architecture: self.config.architecture.clone(),
            variant: self.config.variant.clone(),
        })
    }
}

/// Reads the image with this manifest; `None` when the store lacks a part of it or holds it
/// damaged. Blocking.
///
/// # Errors
///
/// [`SourceError`] when the store cannot be read, or the documents are unusable.
pub fn read_image(
    store: &Store,
    reference: &str,
    manifest: &Descriptor,
) -> Result<Option<ResolvedImage>, SourceError> {
    let read = |digest: &Digest, limit| {
        store.content().read(digest, limit).map_err(SourceError::store("read the image"))
    };
    let Some(bytes) = read(&manifest.digest, MANIFEST_LIMIT)? else { return Ok(None) };
    let document = Document::parse(&bytes, Some(&manifest.media_type)).map_err(|source| {
        SourceError::Document { image: reference.to_owned(), source: Box::new(source) }
    })?;
    let Document::Image(parts) = document else { return Ok(None) };
    let Some(config) = read(&parts.config.digest, CONFIG_LIMIT)? else { return Ok(None) };
    ResolvedImage::join(reference, manifest.clone(), manifest.clone(), parts, &config).map(Some)
}

/// Keeps a built image: its config, and a manifest that names `layers`. Those of a base stay as
/// they are named there, and `annotations` is what is noted there of the lowest ones; one that was built here is a [`super::built_layer`], whose tar is made
/// from its snapshot when it must leave. The image gets no name by this. Blocking.
///
/// # Errors
///
/// [`SourceError::Store`], and [`SourceError::LayerCount`] when `config` lists others.
pub fn write_image(
    store: &Store,
    reference: &str,
    config: &ImageConfig,
    layers: &[Descriptor],
    annotations: &[BTreeMap<String, String>],
) -> Result<ResolvedImage, SourceError> {
    let config = serde_json::to_vec(config).map_err(SourceError::store("write the config"))?;
    let layers = layers.iter().map(document::oci_layer).collect();
    let config_blob = keep(store, &config, OCI_CONFIG)?;
    let parts = Manifest { config: config_blob, layers, annotations: annotations.to_vec() };
    let manifest = keep(store, &manifest_bytes(&parts)?, OCI_MANIFEST)?;
    ResolvedImage::join(reference, manifest.clone(), manifest, parts, &config)
}

/// Keeps a small document and returns its descriptor.
pub(crate) fn keep(
    store: &Store,
    bytes: &[u8],
    media_type: &str,
) -> Result<Descriptor, SourceError> {
    let size = bytes.len() as u64;
    let blob = store
        .content()
        .ingest(bytes, size, None)
        .map_err(SourceError::store("write the image's documents"))?;
    Ok(Descriptor { media_type: media_type.to_owned(), digest: blob.digest, size })
}

/// Returns the bytes of an OCI manifest (OCI image-spec, manifest.md).
pub(crate) fn manifest_bytes(parts: &Manifest) -> Result<Vec<u8>, SourceError> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(wire(&parts.config))
        .layers(parts.layers.iter().map(wire).collect::<Vec<_>>())
        .build()
        .map_err(SourceError::store("write the manifest"))?;
    let written = if parts.annotations.iter().all(BTreeMap::is_empty) {
        serde_json::to_vec(&manifest)
    } else {
        // Sorted, which the library's own are not.
        serde_json::to_value(&manifest).and_then(|mut manifest| {
            for (at, noted) in parts.annotations.iter().enumerate() {
                if !noted.is_empty() {
                    manifest["layers"][at]["annotations"] = json!(noted);
                }
            }
            serde_json::to_vec(&manifest)
        })
    };
    written.map_err(SourceError::store("write the manifest"))
}

/// Returns the wire form of a descriptor.
pub(crate) fn wire(descriptor: &Descriptor) -> oci_spec::image::Descriptor {
    use std::str::FromStr as _;
    let digest = oci_spec::image::Sha256Digest::from_str(&descriptor.digest.hex())
        .expect("our digests are 64 lowercase hex digits");
    let media_type = descriptor.media_type.as_str().into();
    oci_spec::image::Descriptor::new(media_type, descriptor.size, digest)
}
