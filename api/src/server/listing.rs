//! The list of a client's context, completed from what is remembered of the last one.
//!
//! Invariant: what is remembered is believed by its digest alone, like everything else of a mirror.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use cache::{CacheMount, Digest, Store};

use super::mirror::{Mirror, MirrorError, OnDisk as _};
use crate::manifest::{self, Chunk, Entry, LIST_LIMIT, ManifestError};

/// A context of which it is known what its list consists of. Holds the context's mirror.
#[derive(Debug)]
pub(super) struct Listing {
    mount: CacheMount,
    /// Of the whole list, in its order.
    digests: Vec<Digest>,
    known: HashMap<Digest, Chunk>,
    /// When the client's directory itself was changed, in seconds since 1970.
    mtime: i64,
}

impl Listing {
    /// Takes the mirror of the context `name`, and what it remembers of the list. Blocking.
    pub(super) fn open(
        store: &Store,
        name: &str,
        digests: Vec<Digest>,
        mtime: i64,
    ) -> Result<Self, MirrorError> {
        let mount = store.sent_context(name)?.ok_or(MirrorError::Busy)?;
        let mut listing = Self { mount, digests, known: HashMap::new(), mtime };
        // Damage costs what it takes to send the list once more.
        let remembered = fs::read(listing.remembered()).unwrap_or_default();
        listing.keep(manifest::unpack(&remembered).unwrap_or_default());
        Ok(listing)
    }

    fn remembered(&self) -> PathBuf {
        self.mount.path().join("list")
    }

    fn keep(&mut self, chunks: Vec<Chunk>) {
        let wanted: HashSet<&Digest> = self.digests.iter().collect();
        let chunks = chunks.into_iter().filter(|chunk| wanted.contains(chunk.digest()));
        self.known.extend(chunks.map(|chunk| (*chunk.digest(), chunk)));
    }

    /// Returns the places of the chunks that must be sent.
    pub(super) fn lacking(&self) -> Vec<usize> {
        let is_lacking = |at: &usize| !self.known.contains_key(&self.digests[*at]);
        (0..self.digests.len()).filter(is_lacking).collect()
    }

    /// Takes in chunks that were lacking. Blocking.
    pub(super) fn receive(&mut self, packed: &[u8]) -> Result<(), ManifestError> {
        let chunks = manifest::unpack(packed)?;
        self.keep(chunks);
        if self.lacking().is_empty() {
            return Ok(());
        }
        Err(ManifestError::Format("parts of it were not sent".to_owned()))
    }

    /// Reads the list, all of which is there.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, ManifestError> {
        // One chunk may be named any number of times.
        let length = |digest| self.known[digest].text().len() as u64;
        if self.digests.iter().map(length).fold(0, u64::saturating_add) > LIST_LIMIT {
            return Err(ManifestError::Entries);
        }
        manifest::decode(self.chunks())
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.digests.iter().map(|digest| &self.known[digest])
    }

    /// Remembers the list, and makes the mirror what it says. Blocking.
    pub(super) fn into_mirror(
        self,
        store: &Store,
        entries: Vec<Entry>,
    ) -> Result<Mirror, MirrorError> {
        let (path, new) = (self.remembered(), self.mount.path().join("list.new"));
        let packed = manifest::pack(self.chunks()).at(&new)?;
        fs::write(&new, packed).and_then(|()| fs::rename(&new, &path)).at(&path)?;
        Mirror::open(store, self.mount, entries, self.mtime)
    }
}
