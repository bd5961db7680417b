//! What can be told of an image: rows for lists, the whole for `inspect`, the history.

use std::collections::BTreeMap;

use cache::{Digest, ImageRecord, Store};
use frontend::{ImageConfig, Platform};
use oci_spec::image::ImageManifest;

use crate::source::{ResolvedImage, manifest_below, read_target};

use super::names::{ImageError, familiar, find};

/// Manifests and configs larger than this are not read (bytes): real ones are a few kilobytes.
const DOCUMENT_LIMIT: u64 = 8 << 20;

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
    /// `sha256:<hex>` of the manifest in the local store.
    pub manifest_digest: String,
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

struct Documents {
    manifest: ImageManifest,
    config: ImageConfig,
}

fn documents(store: &Store, record: &ImageRecord) -> Result<Documents, ImageError> {
    let name = || record.reference.as_deref().map_or_else(|| record.config.short(), familiar);
    let damaged = |what: String| ImageError::Damaged { name: name(), what };
    let read = |digest: &Digest, what: &str| {
        store
            .content()
            .read(digest, DOCUMENT_LIMIT)
            .map_err(ImageError::store)?
            .ok_or_else(|| damaged(format!("its {what} {digest} is missing")))
    };
    let host = Platform::host();
    let reference = name();
    // Of several platforms this machine's is shown, or else the first.
    let manifest = match manifest_below(store, &reference, &record.manifest, &host)? {
        Some(manifest) => Some(manifest),
        None => read_target(store, &reference, &record.manifest)?
            .map(|target| target.image_for(&host).manifest.clone()),
    };
    let manifest = manifest.ok_or_else(|| damaged("its manifest is missing".to_owned()))?;
    let manifest = read(&manifest.digest, "manifest")?;
    let config = read(&record.config, "config")?;
    Ok(Documents {
        manifest: serde_json::from_slice(&manifest)
            .map_err(|error| damaged(format!("its manifest cannot be read: {error}")))?,
        config: serde_json::from_slice(&config)
            .map_err(|error| damaged(format!("its config cannot be read: {error}")))?,
    })
}

/// Lists the images, newest first.
pub(crate) fn summaries(store: &Store) -> Result<Vec<ImageSummary>, ImageError> {
    let mut by_id: BTreeMap<Digest, Vec<ImageRecord>> = BTreeMap::new();
    for record in store.images().list().map_err(ImageError::store)? {
        by_id.entry(record.config).or_default().push(record);
    }
    let mut rows = Vec::with_capacity(by_id.len());
    for records in by_id.values() {
        match documents(store, &records[0]) {
            Ok(documents) => rows.push(summary(store, records, &documents)),
            // One broken image must not hide the others.
            Err(error) => tracing::warn!(%error, "image left out of the list"),
        }
    }
    rows.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.tags.cmp(&b.tags)));
    Ok(rows)
}

fn summary(store: &Store, records: &[ImageRecord], documents: &Documents) -> ImageSummary {
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
        id: records[0].config.to_string(),
        tags,
        digests,
        created: unix(documents.config.created.as_deref()),
        size: layer_sizes(store, documents).iter().sum(),
        labels: documents.config.config.labels.clone().unwrap_or_default(),
    }
}

/// Returns the bytes of all layers of `image`, unpacked.
pub(crate) fn unpacked_size(store: &Store, image: &ResolvedImage) -> u64 {
    let layers = image.diff_ids.iter().zip(&image.layers);
    layers.map(|(diff_id, layer)| layer_size(store, diff_id).unwrap_or(layer.size)).sum()
}

/// Returns the uncompressed size of each layer, base first; the compressed one where no better is
/// known.
fn layer_sizes(store: &Store, documents: &Documents) -> Vec<u64> {
    let diff_ids = &documents.config.rootfs.diff_ids;
    let layers = diff_ids.iter().zip(documents.manifest.layers());
    layers
        .map(|(diff_id, descriptor)| {
            let diff_id = Digest::parse(diff_id).ok().map(cache::DiffId);
            diff_id.and_then(|it| layer_size(store, &it)).unwrap_or_else(|| descriptor.size())
        })
        .collect()
}

fn layer_size(store: &Store, diff_id: &cache::DiffId) -> Option<u64> {
    let layer = store.layers().get(diff_id).ok().flatten()?;
    layer.content_size.or(layer.tar_size)
}

fn unix(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}

/// Tells everything of one image.
pub(crate) fn details(store: &Store, name: &str) -> Result<ImageDetails, ImageError> {
    let found = find(store, name)?;
    let id = found.first().ok_or(ImageError::NotFound { name: name.to_owned() })?.config;
    let records = store.images().find_by_id(&id.hex()).map_err(ImageError::store)?;
    let first = records.first().unwrap_or(&found[0]);
    let documents = documents(store, first)?;
    Ok(ImageDetails {
        summary: summary(store, &records, &documents),
        manifest_digest: first.manifest.digest.to_string(),
        config: documents.config,
    })
}

/// Tells an image's history, newest entry first.
pub(crate) fn history(store: &Store, name: &str) -> Result<Vec<HistoryRow>, ImageError> {
    let found = find(store, name)?;
    let record = found.first().ok_or(ImageError::NotFound { name: name.to_owned() })?;
    let documents = documents(store, record)?;
    let mut sizes = layer_sizes(store, &documents).into_iter();
    let mut rows: Vec<HistoryRow> = documents
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
        newest.id = Some(record.config.to_string());
        newest.tags = record.reference.as_deref().map(familiar).into_iter().collect();
    }
    Ok(rows)
}
