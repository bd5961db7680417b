//! What an image's layers hold, and what of it is hidden by layers above.
//!
//! Invariant: layers are read as the archives that they are; nothing is unpacked. Every size and
//! count is bounded by the archive limits.

use std::collections::BTreeMap;
use std::io::{self, Read};

use cache::{Digest, HashingWriter, Store};
use serde::{Deserialize, Serialize};

use super::names::ImageError;
use super::packages::{Packages, is_listing};
use crate::layer::{Limits, TarEntry, TarKind, TarReader};
use crate::source::{LayerSource, ResolvedImage, SourceError};

/// Longest file that packages are read from, bytes.
const LISTING_LIMIT: u64 = 32 << 20;
/// What a whiteout's name begins with (OCI image-spec, layer.md).
const WHITEOUT: &str = ".wh.";
/// Hides all that lower layers have in its directory.
const OPAQUE: &str = ".wh..wh..opq";

/// What one layer does to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathChange {
    /// It was not there.
    Added,
    /// It was there.
    Changed,
    /// It is gone, with all below it.
    Removed,
}

/// One path that a layer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// In the image, without a leading slash.
    pub path: String,
    /// What happens to it.
    pub change: PathChange,
    /// Bytes of content in this layer.
    pub bytes: u64,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerContents {
    /// `sha256:<hex>` of its tar.
    pub diff_id: String,
    /// The instruction that made it.
    pub created_by: String,
    /// Bytes of content.
    pub bytes: u64,
    /// In the order of the layer, directories left out.
    pub files: Vec<LayerFile>,
}

/// Content that is in the image and that nobody sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wasted {
    /// The path.
    pub path: String,
    /// Bytes in layers below the one that is seen, or that removed it.
    pub bytes: u64,
    /// How often it is in the image.
    pub copies: usize,
}

/// What an image's layers hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageContents {
    /// Base first.
    pub layers: Vec<LayerContents>,
    /// Bytes of content of all layers.
    pub bytes: u64,
    /// Of these, what upper layers hide.
    pub wasted_bytes: u64,
    /// Largest first.
    pub wasted: Vec<Wasted>,
}

impl ImageContents {
    /// Returns the part of the bytes that somebody sees, in per mille.
    #[must_use]
    pub fn efficiency(&self) -> u64 {
        (self.bytes - self.wasted_bytes)
            .saturating_mul(1000)
            .checked_div(self.bytes)
            .unwrap_or(1000)
    }
}

/// A path as the image shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: TarKind,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// Of a file's bytes, or of a link's target.
    pub(super) content: Digest,
}

/// Everything that was read of an image.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) layers: Vec<LayerContents>,
    /// What is seen in the end.
    pub(super) tree: BTreeMap<String, Seen>,
    pub(super) packages: Packages,
    wasted: BTreeMap<String, Wasted>,
}

impl Reading {
    /// Reads the layers of `image`, whose bytes are here. Blocking.
    pub(super) fn of(store: &Store, image: &ResolvedImage) -> Result<Self, ImageError> {
        let mut reading = Self::default();
        let mut steps = image.config.history.iter().filter(|entry| !entry.empty_layer);
        for layer in image.each_layer() {
            let source = LayerSource::find(store, &layer)?;
            let source = source.ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
            let step = steps.next().and_then(|step| step.created_by.clone()).unwrap_or_default();
            let mut contents = LayerContents {
                diff_id: layer.diff_id.0.to_string(),
                created_by: step,
                bytes: 0,
                files: Vec::new(),
            };
            source.read_tar(layer.diff_id, |mut reader| {
                let mut tar = TarReader::new(&mut reader, Limits::LAYER);
                while let Some(entry) = tar.next_entry()? {
                    reading.take(&entry, &mut tar, &mut contents)?;
                }
                Ok(())
            })?;
            reading.layers.push(contents);
        }
        Ok(reading)
    }

    fn take(
        &mut self,
        entry: &TarEntry,
        body: &mut impl Read,
        layer: &mut LayerContents,
    ) -> io::Result<()> {
        let path = cleaned(&entry.path);
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == OPAQUE {
            self.hide_below(dir);
            return Ok(());
        }
        if let Some(name) = name.strip_prefix(WHITEOUT) {
            let gone = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            self.hide(&gone);
            self.hide_below(&gone);
            let change = PathChange::Removed;
            layer.files.push(LayerFile { path: gone, change, bytes: 0 });
            return Ok(());
        }
        if path.is_empty() {
            return Ok(());
        }
        let change =
            if self.tree.contains_key(&path) { PathChange::Changed } else { PathChange::Added };
        if entry.kind != TarKind::Dir {
            self.hide(&path);
            self.hide_below(&path);
            layer.files.push(LayerFile { path: path.clone(), change, bytes: entry.size });
        }
        layer.bytes += entry.size;
        let mut hashing = HashingWriter::new(io::sink());
        if is_listing(&path) && entry.size <= LISTING_LIMIT {
            let mut bytes = Vec::new();
            body.take(LISTING_LIMIT).read_to_end(&mut bytes)?;
            io::copy(&mut bytes.as_slice(), &mut hashing)?;
            self.packages.read(&path, &bytes);
        } else if entry.kind == TarKind::File {
            io::copy(body, &mut hashing)?;
        } else {
            io::copy(&mut entry.link.as_slice(), &mut hashing)?;
        }
        let (_, content, _) = hashing.finish();
        let owner = (entry.uid, entry.gid);
        let seen = Seen { kind: entry.kind, bytes: entry.size, mode: entry.mode, owner, content };
        self.tree.insert(path, seen);
        Ok(())
    }

    /// Takes a path out of sight.
    fn hide(&mut self, path: &str) {
        let Some(seen) = self.tree.remove(path) else { return };
        self.packages.forget(path);
        if seen.bytes > 0 {
            let fresh = Wasted { path: path.to_owned(), bytes: 0, copies: 1 };
            let wasted = self.wasted.entry(path.to_owned()).or_insert(fresh);
            wasted.bytes += seen.bytes;
            wasted.copies += 1;
        }
    }

    fn hide_below(&mut self, dir: &str) {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let below = self.tree.range(prefix.clone()..).map(|(path, _)| path);
        let below: Vec<String> =
            below.take_while(|path| path.starts_with(&prefix)).cloned().collect();
        for path in below {
            self.hide(&path);
        }
    }

    /// Adds it all up.
    pub(super) fn contents(self) -> ImageContents {
        let mut wasted: Vec<Wasted> = self.wasted.into_values().collect();
        for one in &mut wasted {
            if !self.tree.contains_key(&one.path) {
                one.copies -= 1;
            }
        }
        wasted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        ImageContents {
            bytes: self.layers.iter().map(|layer| layer.bytes).sum(),
            wasted_bytes: wasted.iter().map(|one| one.bytes).sum(),
            layers: self.layers,
            wasted,
        }
    }
}

/// Returns a path as text without `.` and empty parts; `..` stands for nothing in a layer.
fn cleaned(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let parts = text.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(layers: &[&[(&str, &str)]]) -> Reading {
        let mut reading = Reading::default();
        for files in layers {
            let mut layer = LayerContents {
                diff_id: String::new(),
                created_by: String::new(),
                bytes: 0,
                files: Vec::new(),
            };
            for (path, content) in *files {
                let entry = TarEntry {
                    path: path.as_bytes().to_vec(),
                    kind: if path.ends_with('/') { TarKind::Dir } else { TarKind::File },
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    size: content.len() as u64,
                    mtime: crate::rootfs::Time { seconds: 0, nanoseconds: 0 },
                    link: Vec::new(),
                    device: (0, 0),
                    xattrs: crate::rootfs::Xattrs::default(),
                };
                reading.take(&entry, &mut content.as_bytes(), &mut layer).unwrap();
            }
            reading.layers.push(layer);
        }
        reading
    }

    #[test]
    fn what_upper_layers_hide_is_wasted() {
        let contents = read(&[
            &[("./a/", ""), ("a/big", "0123456789"), ("a/kept", "xy"), ("b", "123")],
            &[("a/big", "01234"), (".wh.b", "")],
            &[("a/.wh..wh..opq", ""), ("a/new", "1")],
        ])
        .contents();
        assert_eq!((contents.bytes, contents.wasted_bytes), (21, 20));
        let wasted: Vec<_> =
            contents.wasted.iter().map(|it| (it.path.as_str(), it.bytes, it.copies)).collect();
        assert_eq!(wasted, [("a/big", 15, 2), ("b", 3, 1), ("a/kept", 2, 1)]);
        assert_eq!(contents.efficiency(), 47);
        let of_second: Vec<_> =
            contents.layers[1].files.iter().map(|it| (it.path.as_str(), it.change)).collect();
        assert_eq!(of_second, [("a/big", PathChange::Changed), ("b", PathChange::Removed)]);
    }
}
