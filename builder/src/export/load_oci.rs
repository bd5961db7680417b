//! The images of an OCI image layout (OCI image-spec, image-layout.md).

use cache::Store;
use frontend::{Platform, Reference};

use super::load::{LoadError, finish, parse_name};
use crate::registry::DocumentError;
use crate::registry::document::{self, Document, IndexEntry, OCI_INDEX};
use crate::source::{MANIFEST_LIMIT, ResolvedImage, SourceError, Target, read_image, read_target};

/// Indexes below `index.json` that are followed.
const NESTING: usize = 3;

/// Loads every image that `index` lists.
pub(super) fn load(
    store: &Store,
    index: &[u8],
    platform: &Platform,
) -> Result<Vec<String>, LoadError> {
    let fault = |source| unusable("index.json", source);
    let Document::Index(entries) = Document::parse(index, Some(OCI_INDEX)).map_err(fault)? else {
        return Err(LoadError::Kind);
    };
    let mut loaded = Vec::new();
    for entry in without_other_platforms(entries, platform)? {
        let names = names(&entry)?;
        if let Some(target) = whole_index(store, &entry)? {
            loaded.extend(finish(store, &target, &names)?);
            continue;
        }
        let manifest = descend(store, entry, platform)?;
        let missing = || LoadError::Missing { path: manifest.descriptor.digest.to_string() };
        let shown = manifest.descriptor.digest.to_string();
        let image = read_image(store, &shown, &manifest.descriptor)?.ok_or_else(missing)?;
        loaded.extend(finish(store, &image.into(), &names)?);
    }
    loaded.dedup();
    Ok(loaded)
}

/// Returns the index of `entry` if the archive holds an image for each of several platforms.
fn whole_index(store: &Store, entry: &IndexEntry) -> Result<Option<Target>, LoadError> {
    if !document::is_index(&entry.descriptor.media_type) {
        return Ok(None);
    }
    let path = entry.descriptor.digest.to_string();
    let bytes = store
        .content()
        .read(&entry.descriptor.digest, MANIFEST_LIMIT)
        .map_err(SourceError::store("read the index"))?
        .ok_or_else(|| LoadError::Missing { path: path.clone() })?;
    let fault = |source| unusable(&path, source);
    let document = Document::parse(&bytes, Some(&entry.descriptor.media_type)).map_err(fault)?;
    let Document::Index(entries) = document else { return Ok(None) };
    let has_layers = |image: &ResolvedImage| {
        image.layers.iter().all(|layer| store.content().contains(&layer.digest))
    };
    let target = read_target(store, &path, &entry.descriptor)?;
    Ok(target.filter(|target| {
        let images = &target.images;
        entries.len() > 1 && images.len() == entries.len() && images.iter().all(has_layers)
    }))
}

/// Of entries without a name that differ by platform only, keeps the one that is wanted: a
/// layout of one image for several machines lists them side by side.
fn without_other_platforms(
    entries: Vec<IndexEntry>,
    platform: &Platform,
) -> Result<Vec<IndexEntry>, LoadError> {
    let is_side_by_side = entries.len() > 1
        && entries.iter().all(|entry| entry.platform.is_some() && entry.annotations.is_empty());
    if !is_side_by_side {
        return Ok(entries);
    }
    let fault = |source| unusable("index.json", source);
    document::pick(&entries, platform).map(|entry| vec![entry.clone()]).map_err(fault)
}

fn unusable(path: &str, source: DocumentError) -> LoadError {
    LoadError::Document { path: path.to_owned(), source: Box::new(source) }
}

/// Follows indexes to the manifest for `platform`.
fn descend(
    store: &Store,
    mut entry: IndexEntry,
    platform: &Platform,
) -> Result<IndexEntry, LoadError> {
    for _ in 0..NESTING {
        let path = entry.descriptor.digest.to_string();
        let bytes = store
            .content()
            .read(&entry.descriptor.digest, MANIFEST_LIMIT)
            .map_err(SourceError::store("read the manifest"))?
            .ok_or_else(|| LoadError::Missing { path: path.clone() })?;
        let fault = |source| unusable(&path, source);
        match Document::parse(&bytes, Some(&entry.descriptor.media_type)).map_err(fault)? {
            Document::Image(_) => return Ok(entry),
            Document::Index(entries) => {
                entry = document::pick(&entries, platform).map_err(fault)?.clone();
            }
        }
    }
    Err(SourceError::Nested { image: entry.descriptor.digest.to_string() }.into())
}

/// Returns the names that the entry's annotations give: containerd's full name, or a reference
/// name that is more than a tag (Podman writes full names there, others the tag alone).
fn names(entry: &IndexEntry) -> Result<Vec<Reference>, LoadError> {
    let find = |wanted: &str| {
        entry.annotations.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
    };
    let is_full = |text: &&str| text.contains(['/', ':']);
    let name = find("io.containerd.image.name")
        .or_else(|| find("org.opencontainers.image.ref.name").filter(is_full));
    let Some(name) = name else { return Ok(Vec::new()) };
    Ok(vec![parse_name(name)?])
}
