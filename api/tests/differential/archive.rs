//! Images as `docker save` and `rbuild save` write them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::tree::Tree;

/// What is compared of an image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The config document.
    pub(crate) config: Value,
    /// Path to what is there, one line each.
    pub(crate) tree: BTreeMap<String, String>,
}

impl Image {
    /// The history's entries.
    pub(crate) fn history(&self) -> Vec<Entry> {
        let entries = self.config["history"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entry = |value: &Value| Entry {
            created_by: text(&value["created_by"]),
            comment: text(&value["comment"]),
            author: text(&value["author"]),
            is_empty: value["empty_layer"].as_bool().unwrap_or_default(),
        };
        entries.iter().map(entry).collect()
    }
}

/// One entry of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) created_by: String,
    pub(crate) comment: String,
    pub(crate) author: String,
    pub(crate) is_empty: bool,
}

/// Reads every image of an archive by each of its names.
pub(crate) fn read(path: &Path) -> HashMap<String, Image> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files = HashMap::new();
    let mut links = HashMap::new();
    for entry in tar::Archive::new(file).entries().expect("an archive of images is a tar") {
        let mut entry = entry.expect("an archive can be read");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        if let Some(target) = entry.link_name().expect("a link's target") {
            links.insert(path, target.to_string_lossy().trim_start_matches("../").to_owned());
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("an archive can be read");
        files.insert(path, content);
    }
    let file = |path: &str| -> &[u8] {
        let path = links.get(path).map_or(path, String::as_str);
        files.get(path).unwrap_or_else(|| panic!("`{path}` is not in the archive"))
    };
    let manifest: Value = serde_json::from_slice(file("manifest.json")).expect("JSON");
    let mut images = HashMap::new();
    let mut trees = HashMap::new();
    for image in manifest.as_array().expect("a list of images") {
        let texts = |value: &Value| -> Vec<String> {
            let values = value.as_array().into_iter().flatten();
            values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
        };
        let config = image["Config"].as_str().expect("a config's path");
        let config: Value = serde_json::from_slice(file(config)).expect("a config is JSON");
        let tree = flatten(&texts(&image["Layers"]), &mut trees, file).lines();
        for name in texts(&image["RepoTags"]) {
            images.insert(name, Image { config: config.clone(), tree: tree.clone() });
        }
    }
    images
}

/// Lays the layers over one another; `known` holds what was made of bases, to make it once.
fn flatten<'a>(
    layers: &[String],
    known: &mut HashMap<String, Tree>,
    file: impl Fn(&str) -> &'a [u8],
) -> Tree {
    let Some((base, above)) = layers.split_first() else { return Tree::default() };
    let mut tree = known
        .entry(base.clone())
        .or_insert_with(|| {
            let mut tree = Tree::default();
            tree.apply(file(base));
            tree
        })
        .clone();
    for layer in above {
        tree.apply(file(layer));
    }
    tree
}
