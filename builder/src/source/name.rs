//! References as the registry client wants them.

use cache::Digest;
use frontend::Reference;

use crate::registry::{ManifestName, Repository};

/// Returns the repository of `reference`.
pub(crate) fn repository(reference: &Reference) -> Repository {
    Repository::new(&reference.registry, &reference.repository)
}

/// Returns which manifest `reference` names: a digest says more than a tag.
pub(crate) fn manifest_name(reference: &Reference) -> ManifestName {
    let digest = reference.digest.as_deref().and_then(|text| Digest::parse(text).ok());
    digest.map_or_else(
        || ManifestName::Tag(reference.tag.as_deref().unwrap_or("latest").to_owned()),
        ManifestName::Digest,
    )
}
