//! What differs between two images: config, packages, files, sizes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contents::{PathChange, Reading, Seen};
use crate::layer::TarKind;
use crate::source::ResolvedImage;

/// One of two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// As asked for.
    pub name: String,
    /// `sha256:<hex>` of its config.
    pub id: String,
    /// Bytes of content of all layers.
    pub bytes: u64,
    /// Layers.
    pub layers: usize,
}

/// A value that one image has and the other has not, or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// `Env PATH`, `deb openssl`.
    pub what: String,
    /// In the first image.
    pub before: Option<String>,
    /// In the second.
    pub after: Option<String>,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Without a leading slash.
    pub path: String,
    /// Seen from the first image.
    pub change: PathChange,
    /// Bytes in the first image.
    pub before: u64,
    /// Bytes in the second.
    pub after: u64,
}

/// What differs between two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDiff {
    /// The first image.
    pub before: Compared,
    /// The second.
    pub after: Compared,
    /// Layers that both begin with.
    pub shared_layers: usize,
    /// Settings, but for times and history.
    pub config: Vec<ValueChange>,
    /// Packages of dpkg, apk, npm and Python.
    pub packages: Vec<ValueChange>,
    /// Files and links, by path.
    pub files: Vec<FileChange>,
}

impl ImageDiff {
    /// Whether nothing differs that counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.config.is_empty() && self.packages.is_empty() && self.files.is_empty()
    }
}

/// Compares two images that were read.
pub(super) fn compare(
    names: [&str; 2],
    images: [&ResolvedImage; 2],
    readings: &[Reading; 2],
) -> ImageDiff {
    let side = |at: usize| Compared {
        name: names[at].to_owned(),
        id: images[at].config_digest.to_string(),
        bytes: readings[at].layers.iter().map(|layer| layer.bytes).sum(),
        layers: readings[at].layers.len(),
    };
    let pairs = images[0].diff_ids.iter().zip(&images[1].diff_ids);
    let settings = images.map(|image| {
        let value = serde_json::to_value(&image.config.config).unwrap_or_default();
        let mut all = BTreeMap::new();
        flatten("", &value, &mut all);
        all.insert("Platform".to_owned(), image.platform().to_string());
        all
    });
    let versions = [0, 1].map(|at| {
        let all = readings[at].packages.versions().into_iter();
        all.map(|((manager, name), version)| (format!("{manager} {name}"), version)).collect()
    });
    ImageDiff {
        before: side(0),
        after: side(1),
        shared_layers: pairs.take_while(|(a, b)| a == b).count(),
        config: values(&settings),
        packages: values(&versions),
        files: files([&readings[0].tree, &readings[1].tree]),
    }
}

/// Writes a document as names and texts; lists of `NAME=VALUE` by their names.
fn flatten(name: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name} {key}") };
    match value {
        Value::Object(map) if map.is_empty() && !name.is_empty() => {
            all.insert(name.to_owned(), String::new());
        }
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&below(key), value, all);
            }
        }
        Value::Array(list) if name == "Env" => {
            for pair in list.iter().filter_map(Value::as_str) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                all.insert(below(key), value.to_owned());
            }
        }
        Value::Null => {}
        Value::String(text) => drop(all.insert(name.to_owned(), text.clone())),
        other => drop(all.insert(name.to_owned(), other.to_string())),
    }
}

fn values(sides: &[BTreeMap<String, String>; 2]) -> Vec<ValueChange> {
    let names: BTreeSet<&String> = sides.iter().flat_map(BTreeMap::keys).collect();
    let changes = names.into_iter().map(|name| ValueChange {
        what: name.clone(),
        before: sides[0].get(name).cloned(),
        after: sides[1].get(name).cloned(),
    });
    changes.filter(|change| change.before != change.after).collect()
}

fn files(sides: [&BTreeMap<String, Seen>; 2]) -> Vec<FileChange> {
    let paths: BTreeSet<&String> = sides.iter().flat_map(|side| side.keys()).collect();
    let mut changes = Vec::new();
    for path in paths {
        let (before, after) = (sides[0].get(path), sides[1].get(path));
        let change = match (before, after) {
            (None, Some(_)) => PathChange::Added,
            (Some(_), None) => PathChange::Removed,
            (Some(a), Some(b)) if a != b => PathChange::Changed,
            _ => continue,
        };
        // A directory that comes or goes is told by what is in it.
        let is_dir = |seen: Option<&Seen>| seen.is_none_or(|seen| seen.kind == TarKind::Dir);
        if is_dir(before) && is_dir(after) && change != PathChange::Changed {
            continue;
        }
        let bytes = |seen: Option<&Seen>| seen.map_or(0, |seen| seen.bytes);
        let (before, after) = (bytes(before), bytes(after));
        changes.push(FileChange { path: path.clone(), change, before, after });
    }
    changes
}
