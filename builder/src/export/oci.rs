//! OCI image layouts in a tar (OCI image-spec, image-layout.md).

use std::collections::{BTreeMap, BTreeSet};

use cache::{Descriptor, Digest, Store};
use frontend::{Platform, Reference};
use serde_json::{Value, json};

use super::ExportImage;
use super::annotation::AnnotationLevel;
use super::archive::{Archive, Out};
use super::error::ExportError;
use super::form::ImageForm;
use super::portable::{PortableTarget, Work};
use crate::progress::{Events, TransferPhase};
use crate::registry::document::OCI_INDEX;
use crate::source::{Meter, platform_value};

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
    form: &ImageForm,
    out: &mut dyn Out,
    events: &Events,
) -> Result<(), ExportError> {
    let form = form.clone().as_oci();
    let prepare = |entry: &ExportImage| {
        PortableTarget::prepare(store, &entry.target, &form, &Work::alone(events))
    };
    let portable: Vec<_> = images.iter().map(prepare).collect::<Result<_, _>>()?;
    let mut archive = Archive::new(out);
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
    begin(&mut archive, entries)?;
    let mut written = BTreeSet::new();
    for target in &portable {
        for blob in std::iter::once(&target.descriptor).chain(target.blobs()) {
            if !written.insert(blob.digest) {
                continue;
            }
            let meter = Meter::new(events, &blob.digest, TransferPhase::Exporting, Some(blob.size));
            let (path, is_fresh) = (blob_path(&blob.digest), target.is_fresh(&blob.digest));
            archive.blob(store, &path, blob, is_fresh, &mut |bytes| meter.moved(bytes))?;
        }
    }
    archive.finish()
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
