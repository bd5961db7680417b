//! The images of a Docker archive (moby, `image/tarexport`; the Docker image specification 1.2).

use std::fs::File;
use std::io::Read as _;

use cache::{Blob, Descriptor, Store};
use frontend::Reference;
use serde::Deserialize;

use super::load::{Contents, LoadError, finish, parse_name};
use crate::registry::document::{
    Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::source::{CONFIG_LIMIT, ResolvedImage, SourceError, keep, manifest_bytes};

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Loads every image that `manifest` lists.
pub(super) fn load(
    store: &Store,
    contents: &Contents,
    manifest: &[u8],
) -> Result<Vec<String>, LoadError> {
    let items: Vec<Item> = serde_json::from_slice(manifest)
        .map_err(|source| LoadError::Form { path: "manifest.json".to_owned(), source })?;
    let mut loaded = Vec::new();
    for item in items {
        let names = item.repo_tags.iter().flatten().map(|name| parse_name(name));
        let names: Vec<Reference> = names.collect::<Result<_, _>>()?;
        let image = image(store, contents, &item)?;
        loaded.extend(finish(store, &image.into(), &names)?);
    }
    Ok(loaded)
}

fn image(store: &Store, contents: &Contents, item: &Item) -> Result<ResolvedImage, LoadError> {
    let config = contents.file(&item.config)?;
    let bytes = store
        .content()
        .read(&config.digest, CONFIG_LIMIT)
        .map_err(SourceError::store("read the config"))?
        .ok_or_else(|| LoadError::Missing { path: item.config.clone() })?;
    let layers =
        item.layers.iter().flatten().map(|path| layer_descriptor(store, contents.file(path)?));
    let parts = Manifest {
        config: descriptor(config, OCI_CONFIG),
        layers: layers.collect::<Result<_, LoadError>>()?,
        annotations: Vec::new(),
    };
    let manifest = keep(store, &manifest_bytes(&parts)?, OCI_MANIFEST)?;
    let shown = config.digest.to_string();
    Ok(ResolvedImage::join(&shown, manifest.clone(), manifest, parts, &bytes)?)
}

/// Describes a layer's file by what its first bytes show it to be compressed with.
pub(super) fn layer_descriptor(store: &Store, blob: &Blob) -> Result<Descriptor, LoadError> {
    let mut magic = [0; 4];
    let file = File::open(store.content().path(&blob.digest))
        .map_err(SourceError::store("read a layer"))?;
    let mut start = Vec::new();
    file.take(4).read_to_end(&mut start).map_err(SourceError::store("read a layer"))?;
    magic[..start.len()].copy_from_slice(&start);
    let media_type = match magic {
        [0x1f, 0x8b, ..] => OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => OCI_LAYER_ZSTD,
        _ => OCI_LAYER,
    };
    Ok(descriptor(blob, media_type))
}

fn descriptor(blob: &Blob, media_type: &str) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest: blob.digest, size: blob.size }
}
