//! OCI image layouts in a tar (OCI image-spec, image-layout.md).

use std::collections::{BTreeMap, BTreeSet};
use std::{panic, thread};

use cache::{Descriptor, Digest, Store};
use frontend::{Platform, Reference};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::ExportImage;
use super::annotation::AnnotationLevel;
use super::archive::{Archive, Out};
use super::error::ExportError;
use super::form::ImageForm;
use super::layer::{Outgoing, Work};
use super::portable::PortableTarget;
use crate::progress::{Events, TransferPhase};
use crate::registry::document::OCI_INDEX;
use crate::source::{Meter, platform_value};

/// Directory of the blobs in the archive.
const BLOBS: &str = "blobs/sha256";
/// Annotation with the full name (containerd's import reads it).
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Annotation with the tag (OCI image-spec, annotations.md).
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Writes `images` as one layout: layers first, each while it is compressed, and then what names
/// them.
pub(super) fn write(
    store: &Store,
    images: &[ExportImage],
    form: &ImageForm,
    out: &mut dyn Out,
    events: &Events,
) -> Result<(), ExportError> {
    let form = form.clone().as_oci();
    let mut archive = Archive::new(out);
    directories(&mut archive)?;
    let (layers, outgoing) = mpsc::unbounded_channel();
    let work = Work { events: events.clone(), layers: Some(layers) };
    let (portable, mut written) = thread::scope(|scope| {
        let form = &form;
        let preparing = scope.spawn(move || {
            let prepare =
                |entry: &ExportImage| PortableTarget::prepare(store, &entry.target, form, &work);
            images.iter().map(prepare).collect::<Result<Vec<_>, _>>()
        });
        let written = write_layers(&mut archive, store, outgoing, events);
        let portable = preparing.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        // A layer that could not be made ends the archive too, and is the cause.
        Ok::<_, ExportError>((portable?, written?))
    })?;
    for target in &portable {
        for blob in target.blobs().chain([&target.descriptor]) {
            write_blob(&mut archive, store, blob, &mut written, events)?;
        }
    }
    let entries = images.iter().zip(&portable).map(|(entry, portable)| {
        let platform = (!portable.is_index()).then(|| portable.images[0].platform.clone());
        let level = match platform {
            Some(_) => AnnotationLevel::ManifestDescriptor,
            None => AnnotationLevel::IndexDescriptor,
        };
        IndexEntry {
            descriptor: &portable.descriptor,
            annotations: form.annotations.at(level, platform.as_ref()),
            platform,
            names: &entry.names,
        }
    });
    documents(&mut archive, entries)?;
    archive.finish()
}

/// Writes layers in the order in which they come; returns their digests.
fn write_layers(
    archive: &mut Archive<'_>,
    store: &Store,
    mut outgoing: UnboundedReceiver<Outgoing>,
    events: &Events,
) -> Result<BTreeSet<Digest>, ExportError> {
    let mut written = BTreeSet::new();
    while let Some(layer) = outgoing.blocking_recv() {
        match layer {
            Outgoing::Kept(blob) => write_blob(archive, store, &blob, &mut written, events)?,
            Outgoing::Growing(growing) => {
                written.insert(archive.growing(&growing, blob_path)?);
            }
        }
    }
    Ok(written)
}

/// Writes a blob of the store, unless it is among those `written`.
fn write_blob(
    archive: &mut Archive<'_>,
    store: &Store,
    blob: &Descriptor,
    written: &mut BTreeSet<Digest>,
    events: &Events,
) -> Result<(), ExportError> {
    if !written.insert(blob.digest) {
        return Ok(());
    }
    let meter = Meter::new(events, &blob.digest, TransferPhase::Exporting, Some(blob.size));
    archive.blob(store, &blob_path(&blob.digest), blob, &mut |bytes| meter.moved(bytes))
}

/// One entry of `index.json`.
pub(super) struct IndexEntry<'a> {
    pub(super) descriptor: &'a Descriptor,
    /// `None` for an index.
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) names: &'a [Reference],
}

/// Returns where a blob lies in the archive.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

/// Writes the documents that tell of the blobs.
pub(super) fn documents<'a>(
    archive: &mut Archive<'_>,
    images: impl Iterator<Item = IndexEntry<'a>>,
) -> Result<(), ExportError> {
    let manifests: Vec<Value> = images.flat_map(|image| entries(&image)).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", index.to_string().as_bytes())
}

/// Writes the directories that the blobs lie in.
pub(super) fn directories(archive: &mut Archive<'_>) -> Result<(), ExportError> {
    archive.directory("blobs/")?;
    archive.directory(&format!("{BLOBS}/"))
}

/// Returns an entry for each name, or one without a name.
fn entries(image: &IndexEntry<'_>) -> Vec<Value> {
    let mut plain = json!({
        "mediaType": image.descriptor.media_type,
        "digest": image.descriptor.digest,
        "size": image.descriptor.size,
    });
    if let Some(platform) = &image.platform {
        plain["platform"] = platform_value(platform);
    }
    if image.names.is_empty() {
        if !image.annotations.is_empty() {
            plain["annotations"] = json!(image.annotations);
        }
        return vec![plain];
    }
    let named = image.names.iter().map(|name| {
        let mut entry = plain.clone();
        let mut annotations = image.annotations.clone();
        let tag = name.tag.as_deref().unwrap_or("latest");
        annotations.insert(NAME_ANNOTATION.to_owned(), name.to_string());
        annotations.insert(REF_ANNOTATION.to_owned(), tag.to_owned());
        entry["annotations"] = json!(annotations);
        entry
    });
    named.collect()
}
