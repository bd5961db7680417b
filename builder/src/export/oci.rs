//! OCI image layouts in a tar (OCI image-spec, image-layout.md).

use std::collections::BTreeSet;
use std::io::Write;

use cache::{Descriptor, Digest, Store};
use frontend::{Platform, Reference};
use serde_json::{Value, json};

use super::ExportImage;
use super::archive::Archive;
use super::error::ExportError;
use super::portable::Portable;
use crate::progress::{Events, TransferPhase};
use crate::registry::document::OCI_INDEX;
use crate::source::Meter;

/// Directory of the blobs in the archive.
const BLOBS: &str = "blobs/sha256";
/// Annotation with the full name (containerd's import reads it).
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Annotation with the tag (OCI image-spec, annotations.md).
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Writes `images` as one layout.
pub(super) fn write(
    store: &Store,
    images: &[ExportImage],
    out: &mut dyn Write,
    events: &Events,
) -> Result<(), ExportError> {
    let prepare = |entry: &ExportImage| Portable::prepare(store, &entry.image, true, events);
    let portable: Vec<_> = images.iter().map(prepare).collect::<Result<_, _>>()?;
    let mut archive = Archive::new(out);
    let entries = images.iter().zip(&portable).map(|(entry, portable)| IndexEntry {
        manifest: &portable.manifest,
        platform: entry.image.platform(),
        names: &entry.names,
    });
    begin(&mut archive, entries)?;
    let mut written = BTreeSet::new();
    for image in &portable {
        for blob in [&image.manifest, &image.config].into_iter().chain(&image.layers) {
            if !written.insert(blob.digest) {
                continue;
            }
            let meter = Meter::new(events, &blob.digest, TransferPhase::Exporting, Some(blob.size));
            archive.blob(store, &blob_path(&blob.digest), blob, &mut |bytes| meter.moved(bytes))?;
        }
    }
    archive.finish()
}

/// One image of `index.json`.
pub(super) struct IndexEntry<'a> {
    pub(super) manifest: &'a Descriptor,
    pub(super) platform: Platform,
    pub(super) names: &'a [Reference],
}

/// Returns where a blob lies in the archive.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

/// Writes what comes before the blobs.
pub(super) fn begin<'a>(
    archive: &mut Archive<'_>,
    images: impl Iterator<Item = IndexEntry<'a>>,
) -> Result<(), ExportError> {
    let manifests: Vec<Value> = images.flat_map(|image| entries(&image)).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.directory("blobs/")?;
    archive.directory(&format!("{BLOBS}/"))
}

/// Returns an entry for each name, or one without a name.
fn entries(image: &IndexEntry<'_>) -> Vec<Value> {
    let mut platform = json!({
        "architecture": image.platform.architecture,
        "os": image.platform.os,
    });
    if let Some(variant) = &image.platform.variant {
        platform["variant"] = json!(variant);
    }
    let plain = json!({
        "mediaType": image.manifest.media_type,
        "digest": image.manifest.digest,
        "size": image.manifest.size,
        "platform": platform,
    });
    if image.names.is_empty() {
        return vec![plain];
    }
    let named = image.names.iter().map(|name| {
        let mut entry = plain.clone();
        let tag = name.tag.as_deref().unwrap_or("latest");
        entry["annotations"] = json!({ NAME_ANNOTATION: name.to_string(), REF_ANNOTATION: tag });
        entry
    });
    named.collect()
}
