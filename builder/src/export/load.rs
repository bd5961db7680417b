//! Archives of images into the store: OCI layouts and what `docker save` writes, in one pass.
//!
//! Invariants: nothing of an archive is ever a path of this machine; files enter the store under
//! digests that were computed here, and those filed under a digest must have it; an image gets
//! its name only after all of its layers were checked against its config.

use std::collections::BTreeMap;
use std::io::{self, Read};

use cache::{Blob, Digest, IngestError, Store};
use frontend::{Platform, Reference, ReferenceError};

use super::{load_docker, load_oci};
use crate::blocking;
use crate::error::ErrorKind;
use crate::layer::{Limits, TarError, TarKind, TarReader, decompress};
use crate::registry::DocumentError;
use crate::source::{
    Layer, LayerSource, MANIFEST_LIMIT, ResolvedImage, SourceError, Target, name_target,
    note_checked,
};

/// Largest file of an archive, bytes: more than any layer in use.
pub(super) const FILE_LIMIT: u64 = 64 << 30;
/// Files of an archive. An image has at most some hundreds.
const ENTRIES_LIMIT: u64 = 100_000;
/// Links followed from one name: `docker save` of old makes chains of one.
const LINKS_LIMIT: usize = 8;
/// Files that old archives carry and nobody needs.
const IGNORED: [&str; 3] = ["VERSION", "json", "repositories"];

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a tar, or a damaged one.
    #[error("the archive could not be read")]
    Tar(#[from] TarError),
    /// Not compressed as it seems to be.
    #[error("the archive could not be decompressed")]
    Decompress(#[source] io::Error),
    /// Neither of the two kinds.
    #[error(
        "the archive is neither an OCI image layout nor a Docker archive: it has no `index.json` and no `manifest.json`"
    )]
    Kind,
    /// A file could not be kept, or has other bytes than its name says.
    #[error("could not take in `{path}`")]
    Ingest {
        /// Its path in the archive.
        path: String,
        /// Why.
        source: IngestError,
    },
    /// One of the archive's own documents.
    #[error("`{path}` of the archive has not the form that it should have")]
    Form {
        /// Its path in the archive.
        path: String,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// One of the archive's own documents is an index or manifest that cannot be used.
    #[error("`{path}` of the archive cannot be used")]
    Document {
        /// Its path in the archive.
        path: String,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
    /// A document is larger than any honest one.
    #[error("`{path}` of the archive is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its path in the archive.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Something is named and not there.
    #[error("the archive names `{path}` and does not hold it")]
    Missing {
        /// As named.
        path: String,
    },
    /// A name that is no reference.
    #[error("the archive calls an image `{name}`, which is not a valid name")]
    Name {
        /// As named.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// A change that `import` was asked for.
    #[error("the change cannot be made: {reason}")]
    Change {
        /// What is wrong with it.
        reason: String,
    },
    /// An image that does not fit together.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl LoadError {
    /// Returns who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error @ SourceError::Store { .. }) => error.kind(),
            Self::Ingest { source: IngestError::Store(_), .. } => ErrorKind::Host,
            _ => ErrorKind::User,
        }
    }
}

/// What the archive's one pass left behind.
#[derive(Debug, Default)]
pub(super) struct Contents {
    files: BTreeMap<String, Blob>,
    links: BTreeMap<String, String>,
    documents: BTreeMap<String, Vec<u8>>,
}

/// Takes in the images of `archive`, plain or compressed. Of an image for several platforms the
/// one for `platform` is taken. Returns the names that now exist, or the image ID where the
/// archive has no name for it.
///
/// # Errors
///
/// [`LoadError`]; images that were named before it stay.
pub async fn load(
    store: &Store,
    archive: Box<dyn Read + Send>,
    platform: &Platform,
) -> Result<Vec<String>, LoadError> {
    let (store, platform) = (store.clone(), platform.clone());
    blocking::run(move || {
        let contents = take_in(&store, archive)?;
        if let Some(index) = contents.documents.get("index.json") {
            load_oci::load(&store, index, &platform)
        } else if let Some(manifest) = contents.documents.get("manifest.json") {
            load_docker::load(&store, &contents, manifest)
        } else {
            Err(LoadError::Kind)
        }
    })
    .await
}

/// Reads the archive once: documents into memory, all other files into the store.
fn take_in(store: &Store, archive: Box<dyn Read + Send>) -> Result<Contents, LoadError> {
    let tar = decompress(archive, Limits::LAYER.bytes).map_err(LoadError::Decompress)?;
    let limits = Limits { entries: ENTRIES_LIMIT, ..Limits::LAYER };
    let mut reader = TarReader::new(tar, limits);
    let mut contents = Contents::default();
    while let Some(entry) = reader.next_entry()? {
        let Some(path) = clean(&entry.path) else { continue };
        let target = match entry.kind {
            TarKind::File => {
                take_file(store, &mut contents, path, &mut reader)?;
                continue;
            }
            TarKind::HardLink => clean(&entry.link),
            TarKind::Symlink => {
                std::str::from_utf8(&entry.link).ok().and_then(|target| beside(&path, target))
            }
            TarKind::Dir | TarKind::CharDevice | TarKind::BlockDevice | TarKind::Fifo => continue,
        };
        contents.links.extend(target.map(|target| (path, target)));
    }
    Ok(contents)
}

fn take_file(
    store: &Store,
    contents: &mut Contents,
    path: String,
    body: &mut impl Read,
) -> Result<(), LoadError> {
    if matches!(path.as_str(), "index.json" | "manifest.json" | "oci-layout") {
        let mut bytes = Vec::new();
        body.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes).map_err(LoadError::Decompress)?;
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(LoadError::TooLarge { path, limit: MANIFEST_LIMIT });
        }
        contents.documents.insert(path, bytes);
        return Ok(());
    }
    if path.rsplit('/').next().is_some_and(|name| IGNORED.contains(&name)) {
        return Ok(());
    }
    let named = path.strip_prefix("blobs/sha256/").and_then(|hex| Digest::parse_hex(hex).ok());
    let blob = store
        .content()
        .ingest(body, FILE_LIMIT, named)
        .map_err(|source| LoadError::Ingest { path: path.clone(), source })?;
    contents.files.insert(path, blob);
    Ok(())
}

impl Contents {
    /// Finds the file that `path` names, through the archive's own links.
    pub(super) fn file(&self, path: &str) -> Result<&Blob, LoadError> {
        let missing = || LoadError::Missing { path: path.to_owned() };
        let mut at = clean(path.as_bytes()).ok_or_else(missing)?;
        for _ in 0..LINKS_LIMIT {
            if let Some(blob) = self.files.get(&at) {
                return Ok(blob);
            }
            at = self.links.get(&at).ok_or_else(missing)?.clone();
        }
        Err(missing())
    }
}

/// Parses a name that the archive gives.
pub(super) fn parse_name(name: &str) -> Result<Reference, LoadError> {
    Reference::parse_normalized(name)
        .map(Reference::with_default_tag)
        .map_err(|source| LoadError::Name { name: name.chars().take(300).collect(), source })
}

/// Checks that every layer unpacks to what the config names, then gives the image its names.
/// Returns them in familiar form, or the image ID.
pub(super) fn finish(
    store: &Store,
    target: &Target,
    names: &[Reference],
) -> Result<Vec<String>, LoadError> {
    for layer in target.images.iter().flat_map(ResolvedImage::each_layer) {
        check_layer(store, &layer)?;
    }
    if names.is_empty() {
        name_target(store, target, None)?;
        let image = target.image_for(&Platform::host());
        return Ok(vec![image.config_digest.to_string()]);
    }
    for name in names {
        name_target(store, target, Some(name))?;
    }
    Ok(names.iter().map(Reference::familiar).collect())
}

/// Reads the layer once, unless that was done for the same blob before.
fn check_layer(store: &Store, layer: &Layer) -> Result<(), LoadError> {
    let blob = &layer.descriptor;
    if !store.content().contains(&blob.digest) {
        return Err(LoadError::Missing { path: blob.digest.to_string() });
    }
    let record =
        store.layers().get(&layer.diff_id).map_err(SourceError::store("read a layer's record"))?;
    let is_known = record.is_some_and(|record| {
        let is_it = |known: &cache::LayerBlob| known.checked && known.digest == blob.digest;
        record.tar_size.is_some() && record.blobs.iter().any(is_it)
    });
    if is_known {
        return Ok(());
    }
    let path = store.content().path(&blob.digest);
    let source = LayerSource::Blob { blob: blob.clone(), path };
    let size = source.write_tar(layer.diff_id, io::sink())?;
    note_checked(store, layer)?;
    store
        .layers()
        .update(&layer.diff_id, |record| record.tar_size = Some(size))
        .map_err(SourceError::store("note a layer"))?;
    Ok(())
}

/// Brings a path of the archive to `a/b`; `None` for one that is not text or leads outside.
fn clean(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?;
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

/// Resolves a link's target against the directory that the link lies in.
fn beside(link: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_archive() {
        #[rustfmt::skip]
        let cases = [
            ("plain",       "a/b",        Some("a/b")),
            ("dotted",      "./a//./b/",  Some("a/b")),
            ("absolute",    "/a",         Some("a")),
            ("parent",      "a/../b",     None),
            ("outside",     "../a",       None),
            ("nothing",     "./",         None),
        ];
        for (name, path, want) in cases {
            assert_eq!(clean(path.as_bytes()).as_deref(), want, "{name}");
        }
        #[rustfmt::skip]
        let cases = [
            ("docker's own", "b/layer.tar", "../a/layer.tar",  Some("a/layer.tar")),
            ("same place",   "b/layer.tar", "x.tar",           Some("b/x.tar")),
            ("outside",      "b/layer.tar", "../../etc/passwd", None),
        ];
        for (name, link, target, want) in cases {
            assert_eq!(beside(link, target).as_deref(), want, "{name}");
        }
    }
}
