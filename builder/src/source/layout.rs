//! Images of an OCI image layout of the user's: `oci-layout://DIR[:TAG|@DIGEST]`.
//!
//! Invariants: nothing of the layout's documents is ever a path but the digest of a blob; every
//! blob is read beneath the directory and enters the store under a digest that was computed here.

use std::path::{Path, PathBuf};

use cache::{Descriptor, Digest, Store};
use frontend::Platform;

use super::image::{Layer, ResolvedImage, read_image};
use super::layer::LayerSource;
use super::{CONFIG_LIMIT, MANIFEST_LIMIT, SourceError, Sources, note_layer};
use crate::blocking;
use crate::context::FileRoot;
use crate::op::nearest;
use crate::registry::document::{self, Document, IndexEntry, OCI_INDEX};

/// Annotation that holds a tag (OCI image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Largest layer that is taken in, bytes.
const LAYER_LIMIT: u64 = 64 << 30;

/// Indexes below `index.json` that are followed.
const NESTING: usize = 3;

/// What of a layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Tag(String),
    Digest(Digest),
    /// `latest`, or the only one.
    Default,
}

impl Sources {
    /// Takes the image that `layout` names into the store.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub(crate) async fn resolve_layout(
        &self,
        layout: &str,
        platform: &Platform,
    ) -> Result<ResolvedImage, SourceError> {
        let (store, layout, platform) = (self.store.clone(), layout.to_owned(), platform.clone());
        blocking::run(move || {
            let (path, choice) = parse(&layout)?;
            let dir = FileRoot::open(&path).map_err(|error| refuse(&path, error.to_string()))?;
            Layout { store: &store, path: &path, dir }.image(&layout, &choice, &platform)
        })
        .await
    }
}

fn refuse(path: &Path, reason: String) -> SourceError {
    SourceError::Layout { path: path.to_owned(), reason }
}

/// Splits `DIR[:TAG|@DIGEST]`; a colon before a slash belongs to the directory.
fn parse(text: &str) -> Result<(PathBuf, Choice), SourceError> {
    if let Some((path, digest)) = text.split_once('@') {
        let fault = |error: cache::DigestError| refuse(Path::new(path), error.to_string());
        let digest = Digest::parse(digest).map_err(fault)?;
        // The digest has the last word where both are given.
        return Ok((parse(path)?.0, Choice::Digest(digest)));
    }
    Ok(match text.rsplit_once(':') {
        Some((path, tag)) if !path.is_empty() && !tag.contains('/') => {
            (path.into(), Choice::Tag(tag.to_owned()))
        }
        _ => (text.into(), Choice::Default),
    })
}

/// A layout being read.
struct Layout<'a> {
    store: &'a Store,
    path: &'a Path,
    dir: FileRoot,
}

impl Layout<'_> {
    fn image(
        &self,
        name: &str,
        choice: &Choice,
        platform: &Platform,
    ) -> Result<ResolvedImage, SourceError> {
        let index = self.dir.read_file("index.json", MANIFEST_LIMIT);
        let index = index.map_err(|error| self.refuse(error.to_string()))?;
        let index = index.ok_or_else(|| self.refuse("it has no `index.json`".to_owned()))?;
        let fault = |error: crate::registry::DocumentError| self.refuse(error.to_string());
        let document = Document::parse(&index, Some(OCI_INDEX)).map_err(fault)?;
        let Document::Index(entries) = document else {
            return Err(self.refuse("its `index.json` is no index".to_owned()));
        };
        let mut entry = self.choose(&entries, choice, platform)?;
        for _ in 0..NESTING {
            let bytes = self.document(&entry.descriptor, MANIFEST_LIMIT)?;
            let media_type = Some(entry.descriptor.media_type.as_str());
            match Document::parse(&bytes, media_type).map_err(fault)? {
                Document::Image(parts) => {
                    self.document(&parts.config, CONFIG_LIMIT)?;
                    let missing = || self.refuse("its manifest is no image".to_owned());
                    let image = read_image(self.store, name, &entry.descriptor)?;
                    let image = image.ok_or_else(missing)?;
                    image.each_layer().try_for_each(|layer| self.layer(&layer))?;
                    return Ok(image);
                }
                Document::Index(entries) => {
                    entry = document::pick(&entries, platform).map_err(fault)?.clone();
                }
            }
        }
        Err(SourceError::Nested { image: name.to_owned() })
    }

    fn choose(
        &self,
        entries: &[IndexEntry],
        choice: &Choice,
        platform: &Platform,
    ) -> Result<IndexEntry, SourceError> {
        let tag_of = |entry: &IndexEntry| {
            let found = entry.annotations.iter().find(|(key, _)| key == REF_NAME);
            found.map(|(_, value)| value.clone())
        };
        let tagged = |tag: &str| -> Vec<IndexEntry> {
            let is_it = |entry: &&IndexEntry| tag_of(entry).as_deref() == Some(tag);
            entries.iter().filter(is_it).cloned().collect()
        };
        let (found, what) = match choice {
            Choice::Digest(digest) => {
                let is_it = |entry: &&IndexEntry| entry.descriptor.digest == *digest;
                (entries.iter().filter(is_it).cloned().collect(), format!("no `{digest}`"))
            }
            Choice::Tag(tag) => (tagged(tag), format!("no tag `{tag}`")),
            Choice::Default => match tagged("latest") {
                latest if latest.is_empty() => {
                    (entries.to_vec(), "no tag `latest`, and several images".to_owned())
                }
                latest => (latest, String::new()),
            },
        };
        match found.as_slice() {
            [only] => Ok(only.clone()),
            // One image for several platforms, side by side.
            [_, ..] if found.iter().all(|entry| entry.platform.is_some()) => {
                let picked = document::pick(&found, platform);
                picked.cloned().map_err(|error| self.refuse(error.to_string()))
            }
            _ => {
                let known: Vec<String> = entries.iter().filter_map(tag_of).collect();
                let hint = match choice {
                    Choice::Tag(tag) => {
                        let names = known.iter().map(|name| name.as_bytes().to_vec());
                        nearest(tag.as_bytes(), names)
                            .map(|name| String::from_utf8_lossy(&name).into_owned())
                    }
                    Choice::Digest(_) | Choice::Default => None,
                };
                let hint = hint.map(|name| format!(" (did you mean `{name}`?)"));
                Err(self.refuse(format!("it has {what}{}", hint.unwrap_or_default())))
            }
        }
    }

    /// Takes a small document in and returns its bytes.
    fn document(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, SourceError> {
        self.take(wanted, limit)?;
        let read = self.store.content().read(&wanted.digest, limit);
        let read = read.map_err(SourceError::store("read the layout's documents"))?;
        read.ok_or_else(|| self.refuse(format!("it has no blob `{}`", wanted.digest)))
    }

    /// Takes a layer in, unless its files or its bytes are here.
    fn layer(&self, layer: &Layer) -> Result<(), SourceError> {
        if LayerSource::find(self.store, layer)?.is_none() {
            self.take(&layer.descriptor, LAYER_LIMIT)?;
        }
        note_layer(self.store, layer, None)
    }

    fn take(&self, wanted: &Descriptor, limit: u64) -> Result<(), SourceError> {
        let digest = wanted.digest;
        if self.store.content().contains(&digest) {
            return Ok(());
        }
        let fault = |source: Box<dyn std::error::Error + Send + Sync>| SourceError::LayoutBlob {
            path: self.path.to_owned(),
            digest,
            source,
        };
        let file = self.dir.open_file(&format!("blobs/sha256/{}", digest.hex()));
        let file = file.map_err(|error| fault(error.into()))?;
        let file = file.ok_or_else(|| self.refuse(format!("it has no blob `{digest}`")))?;
        let ingested = self.store.content().ingest(file, limit, Some(digest));
        ingested.map(drop).map_err(|error| fault(error.into()))
    }

    fn refuse(&self, reason: String) -> SourceError {
        refuse(self.path, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_named() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = Choice::Digest(Digest::parse(&digest).unwrap());
        let tag = |tag: &str| Choice::Tag(tag.to_owned());
        #[rustfmt::skip]
        let cases = [
            ("dir".to_owned(),             "dir",     Choice::Default),
            ("a/b:v1".to_owned(),          "a/b",     tag("v1")),
            ("/a:b/c".to_owned(),          "/a:b/c",  Choice::Default),
            ("../x:y".to_owned(),          "../x",    tag("y")),
            (format!("dir@{digest}"),      "dir",     by_digest.clone()),
            (format!("dir:v1@{digest}"),   "dir",     by_digest),
        ];
        for (text, path, choice) in cases {
            assert_eq!(parse(&text).unwrap(), (PathBuf::from(path), choice), "{text}");
        }
        assert!(parse("dir@sha256:x").is_err());
    }
}
