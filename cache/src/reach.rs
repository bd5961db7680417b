//! What an image names: from its manifest to its configs, layers and stacks.
//!
//! Reads less strictly than a client should: what a document names beyond the fields below does
//! not matter for keeping or checking it.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::content::Content;
use crate::digest::{DiffId, Digest};
use crate::error::{Result, StoreError};

/// Bytes of a manifest, index or config: twice what registries accept (distribution-spec,
/// "Pushing Manifests": 4 MiB).
const MAX_DOCUMENT: u64 = 8 << 20;

/// Manifests below one index, nested ones included.
const MAX_MANIFESTS: usize = 4096;

/// Everything below one manifest or index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Manifests, indexes and configs that are there.
    pub(crate) documents: Vec<Digest>,
    /// Documents that should be there and are not, or cannot be read.
    pub(crate) missing: Vec<Digest>,
    /// Layer blobs, which may be absent: they can be made again or fetched.
    pub(crate) layers: Vec<Digest>,
    /// The `diff_ids` of each config, base first.
    pub(crate) stacks: Vec<Vec<DiffId>>,
}

/// A manifest or an index: whichever it is, the other's fields are absent.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Named>,
    #[serde(default)]
    layers: Vec<Named>,
    #[serde(default)]
    manifests: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<DiffId>,
}

impl Reach {
    /// Follows the manifest or index `root` through `content`, keeping nothing from gc.
    pub(crate) fn of(content: &Content, root: &Digest) -> Result<Self> {
        let mut reach = Self::default();
        let mut seen = HashSet::from([*root]);
        let mut waiting = vec![*root];
        while let Some(digest) = waiting.pop() {
            let Some(manifest) = read::<Manifest>(content, &digest)? else {
                // An index also names the platforms that nobody pulled.
                if digest == *root || content.path(&digest).exists() {
                    reach.missing.push(digest);
                }
                continue;
            };
            reach.documents.push(digest);
            reach.layers.extend(manifest.layers.iter().map(|layer| layer.digest));
            if let Some(config) = manifest.config {
                reach.add_config(content, config.digest)?;
            }
            let new = manifest.manifests.into_iter().filter(|named| seen.insert(named.digest));
            waiting.extend(new.map(|named| named.digest).take(MAX_MANIFESTS));
            if seen.len() > MAX_MANIFESTS {
                tracing::warn!(manifest = %root, "an image names too many manifests to follow");
                break;
            }
        }
        Ok(reach)
    }

    fn add_config(&mut self, content: &Content, digest: Digest) -> Result<()> {
        if !content.path(&digest).exists() {
            self.missing.push(digest);
            return Ok(());
        }
        self.documents.push(digest);
        // An artifact's config has no rootfs, and that is no fault.
        let config = read::<Config>(content, &digest)?;
        self.stacks.extend(config.map(|config| config.rootfs.diff_ids));
        Ok(())
    }
}

fn read<T: DeserializeOwned>(content: &Content, digest: &Digest) -> Result<Option<T>> {
    match content.peek(digest, MAX_DOCUMENT) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        Err(StoreError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
