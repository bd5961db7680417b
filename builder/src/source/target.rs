//! What a name stands for: one image, or one for each of several platforms.

use cache::{Descriptor, Store};
use frontend::Platform;
use serde_json::{Value, json};

use super::error::SourceError;
use super::image::{MANIFEST_LIMIT, ResolvedImage, read_image};
use crate::registry::document::{self, Document, IndexEntry};

/// Indexes in indexes that are followed.
const NESTING: usize = 3;

/// One image, or those that an index lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The manifest, or the index.
    pub descriptor: Descriptor,
    /// In the order of the index; at least one.
    pub images: Vec<ResolvedImage>,
}

impl From<ResolvedImage> for Target {
    fn from(image: ResolvedImage) -> Self {
        Self { descriptor: image.manifest.clone(), images: vec![image] }
    }
}

impl Target {
    /// Tells whether this is an index.
    #[must_use]
    pub fn is_index(&self) -> bool {
        document::is_index(&self.descriptor.media_type)
    }

    /// Returns the image that a machine of `platform` would take; the first, where none is for it.
    #[must_use]
    pub fn image_for(&self, platform: &Platform) -> &ResolvedImage {
        self.exactly_for(platform).unwrap_or(&self.images[0])
    }

    /// Returns the image that a machine of `platform` would take; `None` where none is for it.
    #[must_use]
    pub fn exactly_for(&self, platform: &Platform) -> Option<&ResolvedImage> {
        document::acceptable(platform)
            .iter()
            .find_map(|wanted| self.images.iter().find(|image| image.platform() == *wanted))
    }
}

/// Reads what `descriptor` names; `None` when the store lacks a part of it. Images of an index that
/// are not here are left out, as long as one is. Blocking.
///
/// # Errors
///
/// [`SourceError`] when the store cannot be read, or the documents are unusable.
pub fn read_target(
    store: &Store,
    reference: &str,
    descriptor: &Descriptor,
) -> Result<Option<Target>, SourceError> {
    if !document::is_index(&descriptor.media_type) {
        return Ok(read_image(store, reference, descriptor)?.map(Target::from));
    }
    let mut images = Vec::new();
    read_images(store, reference, descriptor, NESTING, &mut images)?;
    let descriptor = descriptor.clone();
    Ok((!images.is_empty()).then_some(Target { descriptor, images }))
}

/// Reads the images below `index` that are here.
fn read_images(
    store: &Store,
    reference: &str,
    index: &Descriptor,
    depth: usize,
    images: &mut Vec<ResolvedImage>,
) -> Result<(), SourceError> {
    for entry in read_entries(store, reference, index)?.into_iter().flatten() {
        if document::is_index(&entry.descriptor.media_type) {
            if depth > 1 {
                read_images(store, reference, &entry.descriptor, depth - 1, images)?;
            }
            continue;
        }
        // What is no image (an attestation) is nothing to run or to take files from.
        match read_image(store, reference, &entry.descriptor) {
            Ok(image) => images.extend(image),
            Err(SourceError::Document { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the manifest for `platform` below `descriptor`; `None` when the store lacks it.
pub(crate) fn manifest_below(
    store: &Store,
    reference: &str,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<Option<Descriptor>, SourceError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..NESTING {
        if !document::is_index(&descriptor.media_type) {
            return Ok(Some(descriptor));
        }
        let Some(entries) = read_entries(store, reference, &descriptor)? else { return Ok(None) };
        match document::pick(&entries, platform) {
            Ok(entry) => descriptor = entry.descriptor.clone(),
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn read_entries(
    store: &Store,
    reference: &str,
    index: &Descriptor,
) -> Result<Option<Vec<IndexEntry>>, SourceError> {
    let bytes = store
        .content()
        .read(&index.digest, MANIFEST_LIMIT)
        .map_err(SourceError::store("read the index"))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let document = Document::parse(&bytes, Some(&index.media_type)).map_err(|source| {
        SourceError::Document { image: reference.to_owned(), source: Box::new(source) }
    })?;
    match document {
        Document::Index(entries) => Ok(Some(entries)),
        Document::Image(_) => Ok(None),
    }
}

/// Returns the wire form of a platform (OCI image-spec, image-index.md).
pub(crate) fn platform_value(platform: &Platform) -> Value {
    let mut value = json!({ "architecture": platform.architecture, "os": platform.os });
    if let Some(variant) = &platform.variant {
        value["variant"] = json!(variant);
    }
    value
}
