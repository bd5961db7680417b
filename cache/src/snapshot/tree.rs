//! What is known of a snapshot's files beside the files: kept with it, made by whoever reads them.

use std::fs::File;
use std::io::{self, Read};

use super::{SnapshotId, Snapshots};
use crate::digest::Digest;
use crate::document::{Durability, replace_bytes};
use crate::error::{AtPath, Result, found};

/// Stands first and changes with the format of the whole; a digest of what follows comes next.
const MAGIC: &[u8] = b"rbuild tree 1\n";

/// Larger ones are not kept, in bytes: some two million files.
const LIMIT: u64 = 256 << 20;

impl Snapshots {
    /// Returns what [`Snapshots::put_tree`] has kept of `id`; damage is `None` and a warning.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn tree(&self, id: &SnapshotId) -> Result<Option<Vec<u8>>> {
        let path = self.dir(id).join("tree");
        let Some(file) = found(File::open(&path)).at("open", &path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut bytes).at("read", &path)?;
        let Some(body) = decode(&bytes) else {
            tracing::warn!(path = %path.display(), "damaged: the snapshot is read again");
            return Ok(None);
        };
        let start = bytes.len() - body.len();
        bytes.drain(..start);
        Ok(Some(bytes))
    }

    /// Keeps a description of the files of `id`, which never change, for as long as they are here:
    /// what `write` appends.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn put_tree(&self, id: &SnapshotId, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut bytes = [MAGIC, &[0; 32]].concat();
        let body = bytes.len();
        write(&mut bytes);
        if (bytes.len() - body) as u64 > LIMIT {
            return Ok(());
        }
        let digest = Digest::of(&bytes[body..]);
        bytes[MAGIC.len()..body].copy_from_slice(digest.as_bytes());
        let path = self.dir(id).join("tree");
        match replace_bytes(&self.handle.session, &path, &bytes, Durability::Later) {
            // The snapshot went away meanwhile, and with it the need.
            Err(crate::StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

fn decode(bytes: &[u8]) -> Option<&[u8]> {
    let body = bytes.strip_prefix(MAGIC)?.get(32..)?;
    let is_whole = Digest::of(body).as_bytes() == &bytes[MAGIC.len()..MAGIC.len() + 32];
    is_whole.then_some(body)
}
