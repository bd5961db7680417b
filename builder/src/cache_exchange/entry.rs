//! What a cache holds: entries, and the document that lists them.
//!
//! ```text
//! {"version":1,"entries":[{"key":"sha256:..","content":{"op":"sha256:..","key":"sha256:.."},
//!   "diffId":"sha256:..","size":10240,"blob":{"mediaType":..,"digest":..,"size":..},
//!   "inputs":["sha256:.."],"created":..,"durationMs":..,"used":..,"step":"RUN make",
//!   "signature":"<base64>"}]}
//! ```
//!
//! `inputs` are the chain IDs of the stacks that the step was given. A name of the store (a
//! snapshot) means nothing elsewhere; a stack of layers is the same everywhere.
//!
//! Invariant: everything here comes from strangers. One entry that cannot be read is one entry
//! less; a document that cannot be read is an empty cache.

use std::collections::{HashMap, HashSet};

use cache::{CacheKey, ChainId, Descriptor, DiffId, KeyHasher};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Grows when an older program would misread the entries.
pub(crate) const VERSION: u32 = 1;
/// Longest document, bytes.
pub(crate) const INDEX_LIMIT: u64 = 16 << 20;
/// Entries kept, those that were used last.
const MAX_ENTRIES: usize = 4096;
/// Results kept of one key: a step that gives something else each time must not fill the cache.
const MAX_RESULTS: usize = 3;
/// Seconds after which an entry that nobody used is left out.
const MAX_IDLE: u64 = 30 * 24 * 3600;
/// Seconds after which a further use is worth writing down.
const USE_STEP: u64 = 24 * 3600;
/// Longest text of a step, characters.
const MAX_STEP: usize = 200;

/// One remembered result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// By the history of the step.
    pub(crate) key: CacheKey,
    /// By what the step was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<ByContent>,
    /// The layer that it made.
    pub(crate) diff_id: DiffId,
    /// Size of that layer's tar in bytes.
    pub(crate) size: u64,
    /// The layer as a blob; inline caches leave it to the manifest of their image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<Descriptor>,
    /// The stacks of those inputs that were built.
    #[serde(default)]
    pub(crate) inputs: Vec<ChainId>,
    /// When the step ran, seconds since 1970.
    pub(crate) created: u64,
    /// How long it ran, milliseconds.
    #[serde(default)]
    pub(crate) duration_ms: u64,
    /// When a build last had it, about; seconds since 1970.
    #[serde(default)]
    pub(crate) used: u64,
    /// The instruction, for people.
    #[serde(default)]
    pub(crate) step: String,
    /// Of [`Entry::signed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signature: Option<String>,
}

/// The names of a result by what the step was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByContent {
    /// What the step does, whatever to.
    pub(crate) op: CacheKey,
    /// That, and what it does it to.
    pub(crate) key: CacheKey,
}

impl Entry {
    /// Returns what a signature is made of: all that decides what the entry is a hit for, and which
    /// files come of it. How these are compressed is not part of it: they are checked when they come.
    pub(crate) fn signed(&self) -> [u8; 32] {
        let mut table = KeyHasher::new("rbuild cache entry", VERSION)
            .digest("key", &self.key.digest())
            .digest("diff_id", &self.diff_id.0)
            .field("size", self.size.to_string().as_bytes())
            .list("inputs", self.inputs.iter().map(|it| it.0.to_string()))
            .field("created", self.created.to_string().as_bytes());
        if let Some(ByContent { op, key }) = &self.content {
            table = table.digest("op", &op.digest()).digest("content", &key.digest());
        }
        *table.finish().digest().as_bytes()
    }

    /// Returns `text` as an entry has it.
    pub(crate) fn step_of(text: &str) -> String {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STEP).collect()
    }
}

/// Why a document is no list of entries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// Not JSON, or of another form.
    #[error("it does not have the form of a cache")]
    Form(#[source] serde_json::Error),
    /// Of another version of this program.
    #[error("it has version {found}, and this program knows {VERSION}")]
    Version { found: u32 },
}

/// The entries of one cache, the one used last first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheIndex {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Wire<T> {
    version: u32,
    entries: Vec<T>,
}

impl CacheIndex {
    /// Reads a document; entries that cannot be read are left out.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(IndexError::Form)?;
        if head.version != VERSION {
            return Err(IndexError::Version { found: head.version });
        }
        let wire: Wire<Value> = serde_json::from_slice(bytes).map_err(IndexError::Form)?;
        let all = wire.entries.len();
        let entries: Vec<Entry> =
            wire.entries.into_iter().filter_map(|it| serde_json::from_value(it).ok()).collect();
        if entries.len() < all {
            tracing::warn!(left_out = all - entries.len(), "entries of a cache cannot be read");
        }
        Ok(Self { entries })
    }

    /// Writes the document.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let wire = Wire { version: VERSION, entries: self.entries.iter().collect() };
        serde_json::to_vec(&wire).expect("entries are texts and numbers")
    }

    /// Returns the blobs of all entries, each once, in an order that depends on nothing else.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs: Vec<_> = self.entries.iter().filter_map(|it| it.blob.as_ref()).collect();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        blobs
    }

    /// Joins what a build had, `mine`, with what is there. What both have is noted as used `now`;
    /// what nobody used for long falls out. Returns `None` when nothing is worth writing.
    pub(crate) fn merge(&self, mine: &[Entry], now: u64) -> Option<Self> {
        let place = |entry: &Entry| (entry.key, entry.diff_id);
        let old: HashMap<_, _> = self.entries.iter().map(|entry| (place(entry), entry)).collect();
        let mut is_worth = false;
        let mut merged: Vec<Entry> = Vec::with_capacity(self.entries.len() + mine.len());
        for entry in mine {
            let mut entry = Entry { used: now, ..entry.clone() };
            match old.get(&place(&entry)) {
                None => is_worth = true,
                Some(old) => {
                    let gains_name = old.content.is_none() && entry.content.is_some();
                    let gains_signature = old.signature.is_none() && entry.signature.is_some();
                    let other_inputs = !entry.inputs.is_empty() && old.inputs != entry.inputs;
                    if gains_name || gains_signature || other_inputs {
                        is_worth = true;
                        if entry.inputs.is_empty() {
                            entry.inputs.clone_from(&old.inputs);
                        }
                    } else {
                        entry = Entry { used: now, ..(*old).clone() };
                        is_worth |= now.saturating_sub(old.used) > USE_STEP;
                    }
                }
            }
            merged.push(entry);
        }
        let here: HashSet<_> = mine.iter().map(place).collect();
        let others = self.entries.iter().filter(|entry| !here.contains(&place(entry)));
        merged.extend(others.filter(|entry| now.saturating_sub(entry.used) < MAX_IDLE).cloned());
        merged.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| place(a).cmp(&place(b))));
        let mut results: HashMap<CacheKey, usize> = HashMap::new();
        merged.retain(|entry| {
            let count = results.entry(entry.key).or_default();
            *count += 1;
            *count <= MAX_RESULTS
        });
        merged.truncate(MAX_ENTRIES);
        is_worth.then_some(Self { entries: merged })
    }

    /// Whether all of `mine` are there.
    pub(crate) fn holds(&self, mine: &[Entry]) -> bool {
        let all: HashSet<_> = self.entries.iter().map(|it| (it.key, it.diff_id)).collect();
        mine.iter().all(|entry| all.contains(&(entry.key, entry.diff_id)))
    }
}

#[cfg(test)]
mod tests {
    use cache::Digest;

    use super::*;

    const DAY: u64 = 24 * 3600;

    fn entry(key: &str, layer: &str, used: u64) -> Entry {
        Entry {
            key: CacheKey::from_digest(Digest::of(key.as_bytes())),
            content: None,
            diff_id: DiffId(Digest::of(layer.as_bytes())),
            size: 1,
            blob: None,
            inputs: Vec::new(),
            created: 1,
            duration_ms: 1,
            used,
            step: String::new(),
            signature: None,
        }
    }

    fn index(entries: &[Entry]) -> CacheIndex {
        CacheIndex { entries: entries.to_vec() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let it = index(&[entry("a", "1", 5), entry("b", "2", 4)]);
        assert_eq!(CacheIndex::parse(&it.encode()).unwrap(), it);
    }

    #[test]
    fn documents_of_strangers() {
        let good = serde_json::to_string(&entry("a", "1", 0)).unwrap();
        #[rustfmt::skip]
        let cases = [
            ("empty",         r#"{"version":1,"entries":[]}"#.to_owned(),                       Some(0)),
            ("one bad entry", format!(r#"{{"version":1,"entries":[{good},{{"key":"x"}},7]}}"#), Some(1)),
            ("newer",         r#"{"version":2,"entries":{}}"#.to_owned(),                       None),
            ("no version",    r#"{"entries":[]}"#.to_owned(),                                   None),
            ("not json",      "<html>".to_owned(),                                              None),
            ("deep",          "[".repeat(100_000),                                              None),
        ];
        for (name, text, want) in cases {
            let got = CacheIndex::parse(text.as_bytes()).ok().map(|it| it.entries.len());
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn writers_add_to_each_other() {
        let there = index(&[entry("a", "1", 100 * DAY), entry("old", "9", DAY)]);
        let merged = there.merge(&[entry("b", "2", 0)], 100 * DAY).unwrap();
        assert!(merged.holds(&[entry("a", "1", 0), entry("b", "2", 0)]));
        assert!(!merged.holds(&[entry("old", "9", 0)]), "what nobody uses falls out");
        assert_eq!(merged.merge(&[entry("a", "1", 0)], 100 * DAY + 5), None, "nothing new");
        let again = merged.merge(&[entry("a", "1", 0)], 102 * DAY).unwrap();
        assert_eq!(again.entries[0].used, 102 * DAY, "a use is noted, but not each");
    }

    #[test]
    fn a_step_that_never_gives_the_same_does_not_fill_the_cache() {
        let mut there = CacheIndex::default();
        for run in 1..10 {
            there = there.merge(&[entry("a", &run.to_string(), 0)], run).unwrap();
        }
        assert_eq!(there.entries.len(), MAX_RESULTS);
        assert!(there.holds(&[entry("a", "9", 0)]), "the newest stay");
    }
}
