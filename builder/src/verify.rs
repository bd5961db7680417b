//! Two builds of one thing held against each other: which step made other files, and how they differ.

use std::collections::BTreeMap;
use std::io::{self, Read};

use cache::{Digest, HashingWriter, Store};
use frontend::ImageConfig;
use serde_json::Value;

use crate::layer::{CompressError, Limits, TarEntry, TarKind, TarReader};
use crate::source::{Layer, LayerSource, ResolvedImage, SourceError};

/// Differing files that are named of one step; the rest are counted.
const FILES_LIMIT: usize = 1000;

/// What one step did otherwise the second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDifference {
    /// The instruction as the image's history has it; what is not of a step is called so.
    pub step: String,
    /// The first ones by name.
    pub files: Vec<FileDifference>,
    /// How many there are.
    pub count: usize,
}

/// How one file differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    /// Without a slash before it.
    pub path: String,
    /// `content`, `time`, `mode`, `owner`, ..., `only in the first`.
    pub what: Vec<&'static str>,
}

/// Compares two images, layer by layer and then their configs. Blocking.
pub(crate) fn differences(
    store: &Store,
    first: &ResolvedImage,
    second: &ResolvedImage,
) -> Result<Vec<StepDifference>, SourceError> {
    let mut found = Vec::new();
    let steps = steps(&first.config);
    let pairs = first.each_layer().zip(second.each_layer()).enumerate();
    for (at, (a, b)) in pairs.filter(|(_, (a, b))| a.diff_id != b.diff_id) {
        let step = steps.get(at).cloned().unwrap_or_else(|| format!("layer {}", at + 1));
        let (a, b) = (entries(store, &a)?, entries(store, &b)?);
        let mut files = compare(&a, &b);
        let count = files.len();
        files.truncate(FILES_LIMIT);
        found.push(StepDifference { step, files, count });
    }
    if first.diff_ids.len() != second.diff_ids.len() {
        found.push(StepDifference::of_image("the number of layers", Vec::new()));
    }
    let config = config_differences(&first.config, &second.config);
    if !config.is_empty() {
        found.push(StepDifference::of_image("the image's config", config));
    }
    Ok(found)
}

impl StepDifference {
    fn of_image(what: &str, files: Vec<FileDifference>) -> Self {
        Self { step: what.to_owned(), count: files.len(), files }
    }
}

/// Returns the instruction of each layer, base first.
fn steps(config: &ImageConfig) -> Vec<String> {
    let layers = config.history.iter().filter(|entry| !entry.empty_layer);
    layers.map(|entry| entry.created_by.clone().unwrap_or_default()).collect()
}

/// Compares the configs but for their layers, which were compared by their files.
fn config_differences(first: &ImageConfig, second: &ImageConfig) -> Vec<FileDifference> {
    let value = |config: &ImageConfig| {
        let mut value = serde_json::to_value(config).unwrap_or(Value::Null);
        value["rootfs"] = Value::Null;
        value
    };
    let (a, b) = (value(first), value(second));
    let keys = a.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let differing = keys.filter(|key| a[*key] != b[*key]);
    let difference = |key: &str| FileDifference { path: format!("({key})"), what: vec!["value"] };
    differing.map(difference).collect()
}

/// An entry of a layer with the digest of what it holds.
struct Entry {
    header: TarEntry,
    content: Option<Digest>,
}

fn entries(store: &Store, layer: &Layer) -> Result<BTreeMap<Vec<u8>, Entry>, SourceError> {
    let lost = SourceError::Lost { diff_id: layer.diff_id };
    let source = LayerSource::find(store, layer)?.ok_or(lost)?;
    let (entries, _) = source.read_tar(layer.diff_id, read)?;
    Ok(entries)
}

fn read(tar: impl Read) -> Result<BTreeMap<Vec<u8>, Entry>, CompressError> {
    let mut reader = TarReader::new(tar, Limits::LAYER);
    let mut entries = BTreeMap::new();
    while let Some(header) = reader.next_entry()? {
        let mut content = HashingWriter::new(io::sink());
        io::copy(&mut reader, &mut content)?;
        let content = (header.kind == TarKind::File).then(|| content.finish().1);
        entries.insert(header.path.clone(), Entry { header, content });
    }
    Ok(entries)
}

fn compare(a: &BTreeMap<Vec<u8>, Entry>, b: &BTreeMap<Vec<u8>, Entry>) -> Vec<FileDifference> {
    let mut found = Vec::new();
    let mut note = |path: &[u8], what: Vec<&'static str>| {
        if !what.is_empty() {
            let path = String::from_utf8_lossy(path).into_owned();
            found.push(FileDifference { path, what });
        }
    };
    for (path, first) in a {
        match b.get(path) {
            Some(second) => note(path, ways(first, second)),
            None => note(path, vec!["only in the first"]),
        }
    }
    for path in b.keys().filter(|path| !a.contains_key(*path)) {
        note(path, vec!["only in the second"]);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn ways(a: &Entry, b: &Entry) -> Vec<&'static str> {
    let (x, y) = (&a.header, &b.header);
    let ways = [
        ("kind", x.kind != y.kind),
        ("content", a.content != b.content),
        ("mode", x.mode != y.mode),
        ("owner", (x.uid, x.gid) != (y.uid, y.gid)),
        ("time", x.mtime != y.mtime),
        ("link", x.link != y.link),
        ("device", x.device != y.device),
        ("attributes", x.xattrs != y.xattrs),
    ];
    ways.into_iter().filter(|(_, differs)| *differs).map(|(way, _)| way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Time;

    fn layer(files: &[(&str, &str, u32, i64)]) -> BTreeMap<Vec<u8>, Entry> {
        let entry = |&(path, content, mode, seconds): &(&str, &str, u32, i64)| {
            let header = TarEntry {
                path: path.into(),
                kind: TarKind::File,
                mode,
                uid: 0,
                gid: 0,
                size: content.len() as u64,
                mtime: Time { seconds, nanoseconds: 0 },
                link: Vec::new(),
                device: (0, 0),
                xattrs: Vec::new(),
            };
            (header.path.clone(), Entry { header, content: Some(Digest::of(content.as_bytes())) })
        };
        files.iter().map(entry).collect()
    }

    #[test]
    fn files_differ_in_what_is_named() {
        let a = layer(&[("same", "x", 0o644, 1), ("b", "x", 0o644, 1), ("gone", "x", 0o644, 1)]);
        let b = layer(&[("same", "x", 0o644, 1), ("b", "y", 0o600, 2), ("new", "x", 0o644, 1)]);
        let found =
            compare(&a, &b).into_iter().map(|it| format!("{} {}", it.path, it.what.join("+")));
        let want = ["b content+mode+time", "gone only in the first", "new only in the second"];
        assert_eq!(found.collect::<Vec<_>>(), want);
    }
}
