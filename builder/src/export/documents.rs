//! The documents that name an image: indexes, and what people note in them and in manifests.

use std::collections::BTreeMap;

use cache::{Descriptor, Digest, Store};
use frontend::Platform;
use serde_json::{Value, json};

use super::annotation::{AnnotationLevel, Annotations};
use super::error::ExportError;
use super::form::{ImageForm, MediaTypes};
use crate::registry::document::{DOCKER_LIST, OCI_INDEX};
use crate::source::{MANIFEST_LIMIT, ResolvedImage, SourceError, keep, platform_value};

/// Writes the index of `entries` and keeps it; annotations of `old` stay.
pub(crate) fn write_index(
    store: &Store,
    old: Option<&Descriptor>,
    entries: &[(&Descriptor, &Platform)],
    annotations: &Annotations,
) -> Result<Descriptor, ExportError> {
    let form = ImageForm { annotations: annotations.clone(), ..ImageForm::default() };
    let old = old.map(|old| read(store, old, MANIFEST_LIMIT)).transpose()?;
    let entries = entries.iter().map(|&(manifest, platform)| IndexEntry {
        was: &manifest.digest,
        manifest,
        platform,
    });
    index(store, old.as_ref(), entries, &form)
}

/// What an index shall list.
pub(super) struct IndexEntry<'a> {
    /// What the old index lists in its place.
    pub(super) was: &'a Digest,
    pub(super) manifest: &'a Descriptor,
    pub(super) platform: &'a Platform,
}

/// Writes an index and keeps it; what `old` says of itself and of what stays in it is kept.
pub(super) fn index<'a>(
    store: &Store,
    old: Option<&Value>,
    entries: impl Iterator<Item = IndexEntry<'a>>,
    form: &ImageForm,
) -> Result<Descriptor, ExportError> {
    let mut annotations = old.map(annotations_of).unwrap_or_default();
    annotations.extend(form.annotations.at(AnnotationLevel::Index, None));
    let entries = entries.map(|IndexEntry { was, manifest, platform }| {
        let (level, digest) = (AnnotationLevel::ManifestDescriptor, was.to_string());
        let is_it = |entry: &&Value| entry.get("digest").and_then(Value::as_str) == Some(&digest);
        let was = old.and_then(|old| entries_of(old).find(is_it));
        let mut own = was.map(annotations_of).unwrap_or_default();
        own.extend(form.annotations.at(level, Some(platform)));
        let mut entry = descriptor_value(manifest, &own);
        // It may tell more than we read of it, such as the version of the system.
        let told = was.and_then(|was| was.get("platform")).cloned();
        entry["platform"] = told.unwrap_or_else(|| platform_value(platform));
        entry
    });
    let is_docker = form.types == Some(MediaTypes::Docker) && annotations.is_empty();
    let media_type = if is_docker { DOCKER_LIST } else { OCI_INDEX };
    let mut index = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": entries.collect::<Vec<_>>(),
    });
    if !annotations.is_empty() {
        index["annotations"] = json!(annotations);
    }
    Ok(keep(store, index.to_string().as_bytes(), media_type)?)
}

/// Gives the manifest of `image` the annotations that are for it.
pub(crate) fn annotate(
    store: &Store,
    image: ResolvedImage,
    annotations: &Annotations,
) -> Result<ResolvedImage, ExportError> {
    let own = annotations.at(AnnotationLevel::Manifest, Some(&image.platform()));
    if own.is_empty() {
        return Ok(image);
    }
    let mut document = read(store, &image.manifest, MANIFEST_LIMIT)?;
    let mut all = annotations_of(&document);
    all.extend(own);
    document["annotations"] = json!(all);
    let manifest = keep(store, document.to_string().as_bytes(), &image.manifest.media_type)?;
    Ok(ResolvedImage { target: manifest.clone(), manifest, ..image })
}

pub(super) fn read(store: &Store, document: &Descriptor, limit: u64) -> Result<Value, ExportError> {
    let bytes = store.content().read(&document.digest, limit);
    let bytes = bytes.map_err(SourceError::store("read the image's documents"))?;
    let damaged = ExportError::Damaged { digest: document.digest };
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or(damaged)
}

pub(super) fn entries_of(index: &Value) -> impl Iterator<Item = &Value> {
    index.get("manifests").and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn annotations_of(document: &Value) -> BTreeMap<String, String> {
    let all = document.get("annotations").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    all.into_iter().flatten().filter_map(text).collect()
}

pub(super) fn descriptor_value(
    descriptor: &Descriptor,
    annotations: &BTreeMap<String, String>,
) -> Value {
    let mut value = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    value
}
