//! What can be told of an image: rows for lists, the whole for `inspect`, the history.

use std::collections::BTreeMap;

use cache::{Descriptor, Digest, ImageRecord, Store};
use frontend::{ImageConfig, Platform};

use crate::source::{ResolvedImage, read_target};

use super::names::{ImageError, familiar, find, of_platform};

/// One image as `rbuild images` lists it: all its names together.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSummary {
    /// `sha256:<hex>` of the config.
    pub id: String,
    /// Names in familiar form; empty for an untagged image.
    pub tags: Vec<String>,
    /// `name@sha256:..` forms.
    pub digests: Vec<String>,
    /// Unix seconds, from the config.
    pub created: i64,
    /// Bytes of its layers, as far as they are known.
    pub size: u64,
    /// Of the config.
    pub labels: BTreeMap<String, String>,
}

/// One image as `rbuild inspect` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDetails {
    /// The row of the list.
    pub summary: ImageSummary,
    /// What the name stands for: the manifest, or the index of several platforms' images.
    pub descriptor: Descriptor,
    /// The whole config.
    pub config: ImageConfig,
}

/// One line of the history, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Image ID on the newest line only; the others have none of their own.
    pub id: Option<String>,
    /// Unix seconds.
    pub created: i64,
    /// The instruction.
    pub created_by: String,
    /// Bytes of its layer.
    pub size: u64,
    /// As in the config.
    pub comment: String,
    /// Names of the image, on the newest line.
    pub tags: Vec<String>,
}

/// Reads what `record` names for `platform`; without one this machine's, or else the first.
fn image_of(
    store: &Store,
    name: &str,
    record: &ImageRecord,
    platform: Option<&Platform>,
) -> Result<ResolvedImage, ImageError> {
    let reference = record.reference.as_deref().map_or_else(|| record.config.short(), familiar);
    let target = read_target(store, &reference, &record.manifest)?;
    let target = target.ok_or_else(|| ImageError::Damaged {
        name: reference,
        what: "its manifest or config is missing".to_owned(),
    })?;
    match platform {
        Some(wanted) => of_platform(&target, name, wanted).cloned(),
        None => Ok(target.image_for(&Platform::host()).clone()),
    }
}

/// Lists the images, newest first.
pub(crate) fn summaries(store: &Store) -> Result<Vec<ImageSummary>, ImageError> {
    let mut by_id: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
    for record in store.images().list().map_err(ImageError::store)? {
        by_id.entry(record.config).or_default().push(record);
    }
    let mut rows = Vec::with_capacity(by_id.len());
    for records in by_id.values() {
        let name = records[0].reference.as_deref().unwrap_or_default();
        match image_of(store, name, &records[0], None) {
            Ok(image) => rows.push(summary(store, records, &image)),
            // One broken image must not hide the others.
            Err(error) => tracing::warn!(%error, "image left out of the list"),
        }
    }
    rows.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.tags.cmp(&b.tags)));
    Ok(rows)
}

fn summary(store: &Store, records: &[ImageRecord], image: &ResolvedImage) -> ImageSummary {
    let mut tags: Vec<String> =
        records.iter().filter_map(|record| record.reference.as_deref()).map(familiar).collect();
    tags.sort();
    let mut digests: Vec<String> = records
        .iter()
        .filter_map(|record| {
            let name = familiar(record.reference.as_deref()?);
            let repository = match name.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => repository,
                _ => &name,
            };
            Some(format!("{repository}@{}", record.manifest.digest))
        })
        .collect();
    digests.sort();
    digests.dedup();
    ImageSummary {
        id: image.config_digest.to_string(),
        tags,
        digests,
        created: unix(image.config.created.as_deref()),
        size: unpacked_size(store, image),
        labels: image.config.config.labels.clone().unwrap_or_default(),
    }
}

/// Returns the bytes of all layers of `image`, unpacked.
pub(crate) fn unpacked_size(store: &Store, image: &ResolvedImage) -> u64 {
    layer_sizes(store, image).sum()
}

/// Returns the uncompressed size of each layer, base first; the compressed one where no better is
/// known.
fn layer_sizes(store: &Store, image: &ResolvedImage) -> impl Iterator<Item = u64> {
    let layers = image.diff_ids.iter().zip(&image.layers);
    layers.map(|(diff_id, layer)| layer_size(store, diff_id).unwrap_or(layer.size))
}

fn layer_size(store: &Store, diff_id: &cache::DiffId) -> Option<u64> {
    let layer = store.layers().get(diff_id).ok().flatten()?;
    layer.content_size.or(layer.tar_size)
}

fn unix(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}

/// Tells everything of one image, for `platform` where one is given.
pub(crate) fn details(
    store: &Store,
    name: &str,
    platform: Option<&Platform>,
) -> Result<ImageDetails, ImageError> {
    let found = find(store, name)?;
    let first = found.first().ok_or(ImageError::NotFound { name: name.to_owned() })?.clone();
    let image = image_of(store, name, &first, platform)?;
    // An ID stands for this machine's image of a name.
    let records = if first.config == image.config_digest {
        store.images().find_by_id(&first.config.hex()).map_err(ImageError::store)?
    } else {
        found
    };
    let summary = summary(store, &records, &image);
    Ok(ImageDetails { summary, descriptor: first.manifest, config: image.config })
}

/// Tells an image's history, newest entry first.
pub(crate) fn history(store: &Store, name: &str) -> Result<Vec<HistoryRow>, ImageError> {
    let found = find(store, name)?;
    let record = found.first().ok_or(ImageError::NotFound { name: name.to_owned() })?;
    let image = image_of(store, name, record, None)?;
    let mut sizes = layer_sizes(store, &image);
    let mut rows: Vec<HistoryRow> = image
        .config
        .history
        .iter()
        .map(|entry| HistoryRow {
            id: None,
            created: unix(entry.created.as_deref()),
            created_by: entry.created_by.clone().unwrap_or_default(),
            size: if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            comment: entry.comment.clone().unwrap_or_default(),
            tags: Vec::new(),
        })
        .collect();
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest.id = Some(image.config_digest.to_string());
        newest.tags = record.reference.as_deref().map(familiar).into_iter().collect();
    }
    Ok(rows)
}
