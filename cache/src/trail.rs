//! Trails: what the last build of the same thing looked its steps up by, to explain the next miss.
//!
//! ```text
//! trails/<hex>          one trail, named by a hash of what was built
//! trails/files/<hex>    the files of one selection, named by its digest
//! evicted               "<hex of key> <unix seconds>" a line: what gc took, newest last
//! ```
//!
//! One look-up finds the nearest earlier record of an instruction; the index is never searched.
//! Nothing here is needed to build: whatever is missing or damaged only makes a reason less exact.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::document::{self, Durability, Kind};
use crate::error::{AtPath, Result, found};
use crate::key::{CacheKey, Component};
use crate::lease::Handle;
use crate::miss::FileList;

/// Bytes of `evicted` above which its older half is dropped.
const MAX_EVICTED: u64 = 1 << 20;

/// One step of an earlier build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrailStep {
    /// Stage name or number, as progress shows it.
    pub stage: Option<String>,
    /// 1-based position within its stage.
    pub number: usize,
    /// The instruction on one line.
    pub text: String,
    /// What it was looked up by.
    pub key: CacheKey,
    /// What the key was made of.
    pub components: Vec<Component>,
    /// Whether the step came to its end.
    pub is_done: bool,
    /// Unix seconds of the build.
    pub seen: u64,
}

/// The steps of the last build of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// In the order of the file.
    pub steps: Vec<TrailStep>,
}

/// The trails of a store.
#[derive(Clone, Debug)]
pub struct Trails {
    handle: Arc<Handle>,
}

impl Trails {
    pub(crate) const fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Returns the trail of what `scope` names.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); a damaged trail is a warning and `None`.
    pub fn get(&self, scope: &Digest) -> Result<Option<Trail>> {
        let path = self.path(scope);
        Ok(document::load(Kind::Trail, &path)?.or_warn(&path))
    }

    /// Replaces the trail of what `scope` names.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn put(&self, scope: &Digest, trail: &Trail) -> Result<()> {
        let session = &self.handle.session;
        document::replace(session, Kind::Trail, &self.path(scope), trail, Durability::Later)
    }

    /// Returns the files of the selection with this digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io); a damaged list is a warning and `None`.
    pub fn files(&self, selection: &Digest) -> Result<Option<FileList>> {
        let path = self.files_path(selection);
        Ok(document::load(Kind::Files, &path)?.or_warn(&path))
    }

    /// Remembers the files of the selection with this digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn put_files(&self, selection: &Digest, files: &FileList) -> Result<()> {
        let path = self.files_path(selection);
        if path.exists() {
            return Ok(());
        }
        let session = &self.handle.session;
        document::replace(session, Kind::Files, &path, files, Durability::Later)
    }

    /// Returns when gc took the record of `key`, in unix seconds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn evicted_at(&self, key: &CacheKey) -> Result<Option<u64>> {
        let path = self.handle.layout.evicted();
        let text = found(fs::read_to_string(&path)).at("read", &path)?.unwrap_or_default();
        let hex = key.digest().hex();
        // The last line of a key counts; one cut short by a crash is no number or no key.
        let of_key = |line: &str| line.strip_prefix(hex.as_str())?.trim().parse().ok();
        Ok(text.lines().rev().find_map(of_key))
    }

    /// Notes that gc took the records of `keys` now.
    pub(crate) fn note_evicted(&self, keys: &[Digest], now: u64) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let path = self.handle.layout.evicted();
        let lines: Vec<String> = keys.iter().map(|key| format!("{} {now}\n", key.hex())).collect();
        let lines = lines.concat();
        let old = found(fs::metadata(&path)).at("read", &path)?.map_or(0, |data| data.len());
        if old > MAX_EVICTED {
            let text = found(fs::read_to_string(&path)).at("read", &path)?.unwrap_or_default();
            let half = text.len() / 2;
            let from = text[half..].find('\n').map_or(half, |end| half + end + 1);
            let kept = format!("{}{lines}", &text[from..]);
            let session = &self.handle.session;
            return document::replace_bytes(session, &path, kept.as_bytes(), Durability::Later);
        }
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes())).at("write", &path)
    }

    fn path(&self, scope: &Digest) -> PathBuf {
        self.handle.layout.trails().join(scope.hex())
    }

    fn files_path(&self, selection: &Digest) -> PathBuf {
        self.handle.layout.trails().join("files").join(selection.hex())
    }
}
