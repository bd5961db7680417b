//! Several platforms' images under one name (OCI image-spec, image-index.md).

use cache::{Descriptor, Store};
use frontend::{Platform, Reference};

use super::names::{ImageError, target};
use crate::export::{Annotations, write_index};
use crate::source::{MANIFEST_LIMIT, ResolvedImage, Target, name_target};

/// Makes the index `name` of the images that `sources` stand for, in their order; of two for one
/// platform the later stays. Returns the digest of the index. Blocking.
///
/// # Errors
///
/// [`ImageError::NotFound`] for a source that is not here.
pub(crate) fn create(
    store: &Store,
    name: &Reference,
    sources: &[String],
    annotations: &Annotations,
) -> Result<String, ImageError> {
    let mut images: Vec<ResolvedImage> = Vec::new();
    for source in sources {
        for image in target(store, source)?.images {
            images.retain(|other| other.platform() != image.platform());
            images.push(image);
        }
    }
    put(store, name, None, images, annotations)
}

/// Writes the index `name` anew with further annotations. Returns its digest. Blocking.
///
/// # Errors
///
/// [`ImageError::NotAnIndex`], and as [`create`].
pub(crate) fn annotate(
    store: &Store,
    name: &Reference,
    annotations: &Annotations,
) -> Result<String, ImageError> {
    let known = known(store, name)?;
    put(store, name, Some(&known.descriptor), known.images, annotations)
}

fn put(
    store: &Store,
    name: &Reference,
    old: Option<&Descriptor>,
    images: Vec<ResolvedImage>,
    annotations: &Annotations,
) -> Result<String, ImageError> {
    let platforms: Vec<Platform> = images.iter().map(ResolvedImage::platform).collect();
    let entries: Vec<_> = images
        .iter()
        .zip(&platforms)
        .map(|(image, platform)| (&image.manifest, platform))
        .collect();
    let descriptor = write_index(store, old, &entries, annotations)?;
    let digest = descriptor.digest.to_string();
    name_target(store, &Target { descriptor, images }, Some(name))?;
    Ok(digest)
}

/// Returns the document of the index `name`. Blocking.
///
/// # Errors
///
/// [`ImageError::NotAnIndex`], and as [`create`].
pub(crate) fn document(store: &Store, name: &Reference) -> Result<Vec<u8>, ImageError> {
    let known = known(store, name)?;
    let bytes = store.content().read(&known.descriptor.digest, MANIFEST_LIMIT);
    bytes.map_err(ImageError::store)?.ok_or_else(|| ImageError::Damaged {
        name: name.familiar(),
        what: "its index is missing".to_owned(),
    })
}

fn known(store: &Store, name: &Reference) -> Result<Target, ImageError> {
    let known = target(store, &name.to_string())?;
    if known.is_index() {
        return Ok(known);
    }
    Err(ImageError::NotAnIndex { name: name.familiar() })
}
