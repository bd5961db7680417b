//! Entries in the config of an image: they go wherever the image goes.
//!
//! They hold nothing that differs from one build of the same steps to the next, so that the image
//! ID stays a function of the image.

use std::collections::HashMap;

use cache::{Descriptor, DiffId};
use frontend::ImageConfig;
use serde_json::Value;

use super::entry::{CacheIndex, Entry, IndexError};
use crate::registry::document::oci_layer;
use crate::source::ResolvedImage;

/// The field of the config.
const FIELD: &str = "rbuild.cache";

/// Puts `entries` into `config`, in the place of those that its base may have had.
pub(crate) fn put(config: &mut ImageConfig, entries: &[Entry]) {
    remove(config);
    let entries = entries.iter().map(|entry| Entry {
        blob: None,
        duration_ms: 0,
        used: 0,
        step: String::new(),
        ..entry.clone()
    });
    let index = CacheIndex { entries: entries.collect() };
    let value: Value =
        serde_json::from_slice(&index.encode()).expect("what was just written is JSON");
    config.extra.insert(FIELD.to_owned(), value);
}

/// Takes the entries of a base out: they tell of another image.
pub(crate) fn remove(config: &mut ImageConfig) {
    config.extra.remove(FIELD);
}

/// Reads the entries of an image, and finds their layers in its manifest.
pub(super) fn entries_of(image: &ResolvedImage) -> Result<CacheIndex, IndexError> {
    let Some(value) = image.config.extra.get(FIELD) else { return Ok(CacheIndex::default()) };
    let bytes = serde_json::to_vec(value).map_err(IndexError::Form)?;
    let mut index = CacheIndex::parse(&bytes)?;
    let layers: HashMap<DiffId, Descriptor> =
        image.each_layer().map(|layer| (layer.diff_id, oci_layer(&layer.descriptor))).collect();
    for entry in &mut index.entries {
        entry.blob = layers.get(&entry.diff_id).cloned();
    }
    index.entries.retain(|entry| entry.blob.is_some());
    Ok(index)
}
