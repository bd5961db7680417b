//! Results by content: what an op made of trees, whatever steps those came from.
//!
//! A record in the index is found by the history of its step. Here the same result is found by
//! what the step was given: one file an op (`cutoffs/<hex of the op alone>`) lists the trees that
//! the op was used on lately, and what came out: newest first, a line of JSON each, of which only
//! those that are asked for are parsed. That there is no such file says, for the price of one failed
//! open, that no tree need be digested.
//!
//! Invariants: nothing is kept because it stands here (gc may take what an entry names, and the
//! entry is then a miss); a file that is torn or damaged is an op that was never used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::DiffId;
use crate::document::{self, Durability, Kind};
use crate::error::{AtPath, Result, found};
use crate::index::{Index, Record};
use crate::key::CacheKey;
use crate::layout::make_dir;
use crate::lease::Held;
use crate::lock::FileLock;
use crate::snapshot::SnapshotId;

/// Entries kept of one op, the newest; `COPY . .` is the same op in every project.
const MAX_ENTRIES: usize = 64;

/// What an op made of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    content: CacheKey,
    snapshot: SnapshotId,
    diff_id: DiffId,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest: Option<i64>,
    created: u64,
    duration_ms: u64,
}

impl Index {
    /// Whether the op that `op` stands for was ever recorded with a content.
    #[must_use]
    pub fn knows_op(&self, op: &CacheKey) -> bool {
        self.cutoff_path(op).exists()
    }

    /// Looks up what `op` made of `content`, and keeps it from gc. The record has no key, inputs,
    /// components and step of its own: those are the caller's, who stores it under its history.
    #[must_use]
    pub fn get_by_content(&self, op: &CacheKey, content: &CacheKey) -> Option<Record> {
        let path = self.cutoff_path(op);
        let lines = load(&path).unwrap_or_else(|error| {
            tracing::warn!(%op, error = &error as &dyn std::error::Error, "no content looked up");
            String::new()
        });
        let hex = content.digest().hex();
        let entry = lines.lines().find_map(|line| entry_of(line, &hex))?;
        match self.believe(&entry) {
            Ok(true) => Some(Record {
                key: *content,
                snapshot: entry.snapshot,
                diff_id: entry.diff_id,
                size: entry.size,
                latest: entry.latest,
                created: entry.created,
                duration_ms: entry.duration_ms,
                inputs: Vec::new(),
                components: Vec::new(),
                step: String::new(),
            }),
            Ok(false) => None,
            Err(error) => {
                tracing::warn!(%op, error = &error as &dyn std::error::Error, "no content believed");
                None
            }
        }
    }

    /// Returns the content that `op` made `snapshot` of, if that is still known.
    #[must_use]
    pub fn content_of(&self, op: &CacheKey, snapshot: &SnapshotId) -> Option<CacheKey> {
        let lines = load(&self.cutoff_path(op)).ok()?;
        let entry = lines.lines().filter_map(parse).find(|entry| entry.snapshot == *snapshot)?;
        Some(entry.content)
    }

    /// Notes that `op` made what `record` names of `content`; the record's snapshot is committed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn put_by_content(&self, op: &CacheKey, content: &CacheKey, record: &Record) -> Result<()> {
        let path = self.cutoff_path(op);
        let dir = self.handle().layout.cutoffs();
        make_dir(&dir, true).at("create", &dir)?;
        let lock = dir.join(".lock");
        let _alone = FileLock::exclusive(&lock).at("lock", &lock)?;
        let entry = Entry {
            content: *content,
            snapshot: record.snapshot.clone(),
            diff_id: record.diff_id,
            size: record.size,
            latest: record.latest,
            created: record.created,
            duration_ms: record.duration_ms,
        };
        let newest = serde_json::to_string(&entry).map_err(io::Error::from).at("write", &path)?;
        let (lines, hex) = (load(&path)?, content.digest().hex());
        let others = lines.lines().filter(|line| entry_of(line, &hex).is_none());
        self.replace(&path, std::iter::once(newest.as_str()).chain(others).take(MAX_ENTRIES))
    }

    fn replace<'a>(&self, path: &Path, lines: impl Iterator<Item = &'a str>) -> Result<()> {
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        let session = &self.handle().session;
        document::replace_text(session, Kind::Cutoff, path, &text, Durability::Later)
    }

    /// Holds the entry's layer and looks for its snapshot, as [`Index::get`] does.
    fn believe(&self, entry: &Entry) -> Result<bool> {
        let no_gc = self.handle().no_gc()?;
        self.handle().hold(&no_gc, Held::Layer(entry.diff_id))?;
        Ok(self.snapshots().get(&entry.snapshot)?.is_some())
    }

    fn cutoff_path(&self, op: &CacheKey) -> PathBuf {
        self.handle().layout.cutoffs().join(op.digest().hex())
    }
}

/// Removes the entries whose snapshots are gone; for gc, when it has removed some.
pub(crate) fn sweep(index: &Index) -> Result<()> {
    let dir = index.handle().layout.cutoffs();
    let Some(files) = found(fs::read_dir(&dir)).at("read", &dir)? else { return Ok(()) };
    let files = files.collect::<io::Result<Vec<_>>>().at("read", &dir)?;
    let lock = dir.join(".lock");
    let _alone = FileLock::exclusive(&lock).at("lock", &lock)?;
    for path in files.into_iter().map(|file| file.path()) {
        if path == lock {
            continue;
        }
        let before = load(&path)?;
        let is_there = |line: &&str| {
            parse(line).is_some_and(|entry| index.snapshots().dir(&entry.snapshot).exists())
        };
        let after: Vec<&str> = before.lines().filter(is_there).collect();
        if after.is_empty() {
            found(fs::remove_file(&path)).at("remove", &path)?;
        } else if after.len() < before.lines().count() {
            index.replace(&path, after.into_iter())?;
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<String> {
    Ok(document::load_text(Kind::Cutoff, path)?.or_warn(path).unwrap_or_default())
}

fn parse(line: &str) -> Option<Entry> {
    serde_json::from_str(line).ok()
}

/// Parses the entry in `line`, if it is that of the content with these hex digits.
fn entry_of(line: &str, hex: &str) -> Option<Entry> {
    let entry = line.contains(hex).then(|| parse(line)).flatten()?;
    (entry.content.digest().hex() == hex).then_some(entry)
}
