//! An image in the form that may leave the machine: every layer a blob in the store.

use std::collections::BTreeMap;

use cache::{Descriptor, DiffId, Store};
use frontend::Platform;
use serde_json::{Value, json};

use super::annotation::AnnotationLevel;
use super::documents::{IndexEntry, annotations_of, descriptor_value, entries_of, index, read};
use super::error::ExportError;
use super::form::{ImageForm, MediaTypes};
use super::layer::{Work, portable_layer};
use crate::registry::document::{
    self, DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use crate::source::{CONFIG_LIMIT, MANIFEST_LIMIT, ResolvedImage, SourceError, Target, keep};

/// What a name stands for, every part a blob of the store.
#[derive(Clone, Debug)]
pub(super) struct PortableTarget {
    /// Of the manifest or index.
    pub(super) descriptor: Descriptor,
    /// Whether the index that it comes from lists what is not here: images for other platforms.
    pub(super) is_part: bool,
    /// At least one.
    pub(super) images: Vec<Portable>,
}

/// An image whose parts are all blobs of the store.
#[derive(Clone, Debug)]
pub(super) struct Portable {
    pub(super) platform: Platform,
    pub(super) manifest: Descriptor,
    pub(super) config: Descriptor,
    /// With the layers that they were made from.
    pub(super) layers: Vec<(Descriptor, DiffId)>,
}

impl PortableTarget {
    /// Brings `target` into `form`. What has it already stays as it is, digests included.
    pub(super) fn prepare(
        store: &Store,
        target: &Target,
        form: &ImageForm,
        work: &Work,
    ) -> Result<Self, ExportError> {
        let prepare = |image| Portable::prepare(store, image, form, work);
        let images: Vec<_> = target.images.iter().map(prepare).collect::<Result<_, _>>()?;
        if !target.is_index() {
            if let Some(key) = form.annotations.of_index() {
                return Err(ExportError::NoIndex { key: key.to_owned() });
            }
            let descriptor = images[0].manifest.clone();
            return Ok(Self { descriptor, is_part: false, images });
        }
        let old = read(store, &target.descriptor, MANIFEST_LIMIT)?;
        let is_here = |entry: &Value| {
            let digest = entry.get("digest").and_then(Value::as_str);
            target.images.iter().any(|it| digest == Some(&it.manifest.digest.to_string()))
        };
        let is_part = !entries_of(&old).all(is_here);
        if let (true, [only], None) = (is_part, images.as_slice(), form.annotations.of_index()) {
            let descriptor = only.manifest.clone();
            return Ok(Self { descriptor, is_part, images });
        }
        let own = form.annotations.at(AnnotationLevel::Index, None);
        let is_same = !is_part
            && images.iter().zip(&target.images).all(|(a, b)| a.manifest == b.manifest)
            && own.is_empty()
            && fits(&target.descriptor, form);
        let descriptor = if is_same {
            target.descriptor.clone()
        } else {
            let entries = images.iter().zip(&target.images);
            let entries = entries.map(|(image, was)| IndexEntry {
                was: &was.manifest.digest,
                manifest: &image.manifest,
                platform: &image.platform,
            });
            index(store, Some(&old), entries, form)?
        };
        Ok(Self { descriptor, is_part, images })
    }

    /// Whether the top is an index.
    pub(super) fn is_index(&self) -> bool {
        document::is_index(&self.descriptor.media_type)
    }

    /// Returns the config, layers and manifests below the top, each once a platform.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.images.iter().flat_map(|image| {
            let layers = image.layers.iter().map(|(layer, _)| layer);
            [&image.manifest, &image.config].into_iter().chain(layers)
        })
    }
}

impl Portable {
    fn prepare(
        store: &Store,
        image: &ResolvedImage,
        form: &ImageForm,
        work: &Work,
    ) -> Result<Self, ExportError> {
        let platform = image.platform();
        let old = read(store, &image.manifest, MANIFEST_LIMIT)?;
        let mut annotations = annotations_of(&old);
        let asked = form.annotations.at(AnnotationLevel::Manifest, Some(&platform));
        let layers = image.each_layer().zip(image.layer_annotations.iter().cloned());
        let layers = layers.map(|(layer, noted)| portable_layer(store, &layer, noted, form, work));
        let layers: Vec<_> = layers.collect::<Result<_, ExportError>>()?;
        let is_same = layers.iter().zip(&image.layers).all(|(new, old)| new.blob == *old)
            && asked.iter().all(|(key, value)| annotations.get(key) == Some(value))
            && fits(&image.manifest, form);
        annotations.extend(asked);
        let is_docker =
            !is_same && form.types == Some(MediaTypes::Docker) && annotations.is_empty();
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let mut config = config(store, image, &diff_ids)?;
        let named = layers.iter().zip(&image.diff_ids).map(|(layer, &of)| {
            let descriptor = match (is_same, is_docker) {
                (true, _) => layer.blob.clone(),
                (false, true) => {
                    let media_type = document::docker_layer(&layer.blob.media_type);
                    Descriptor { media_type, ..layer.blob.clone() }
                }
                (false, false) => document::oci_layer(&layer.blob),
            };
            (descriptor, of)
        });
        let named: Vec<_> = named.collect();
        if is_same {
            let manifest = image.manifest.clone();
            return Ok(Self { platform, manifest, config, layers: named });
        }
        if is_docker {
            DOCKER_CONFIG.clone_into(&mut config.media_type);
        }
        let media_type = if is_docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        let notes = layers.iter().map(|layer| &layer.annotations);
        let descriptors = named.iter().zip(notes);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor_value(&config, &BTreeMap::new()),
            "layers": descriptors.map(|((it, _), notes)| descriptor_value(it, notes)).collect::<Vec<_>>(),
        });
        if !annotations.is_empty() {
            manifest["annotations"] = json!(annotations);
        }
        let manifest = keep(store, manifest.to_string().as_bytes(), media_type)?;
        Ok(Self { platform, manifest, config, layers: named })
    }
}

/// Whether a document has the media types asked for.
fn fits(document: &Descriptor, form: &ImageForm) -> bool {
    let is_oci = matches!(document.media_type.as_str(), OCI_MANIFEST | OCI_INDEX);
    match form.types {
        None => true,
        Some(MediaTypes::Oci) => is_oci,
        Some(MediaTypes::Docker) => !is_oci,
    }
}

/// Returns the config, which names other layers where making them portable changed their tars.
fn config(
    store: &Store,
    image: &ResolvedImage,
    diff_ids: &[DiffId],
) -> Result<Descriptor, ExportError> {
    let size = store
        .content()
        .size(&image.config_digest)
        .map_err(SourceError::store("find the config"))?
        .ok_or(ExportError::Damaged { digest: image.config_digest })?;
    let same = Descriptor { media_type: OCI_CONFIG.to_owned(), digest: image.config_digest, size };
    if diff_ids == image.diff_ids {
        return Ok(same);
    }
    let mut config = read(store, &same, CONFIG_LIMIT)?;
    config["rootfs"]["diff_ids"] = json!(diff_ids);
    Ok(keep(store, config.to_string().as_bytes(), OCI_CONFIG)?)
}
