//! Cache keys: a digest over a table of named fields.
//!
//! Invariant: every part carries its kind and its length, so no two different tables give the same
//! bytes: ("ab", "c") and ("a", "bc") differ, as do a list of one and a plain field. The domain
//! and its version come first: what enters a key changes with the version.

use std::fmt;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError, HashingWriter};

/// Texts up to this many bytes are kept as they are in a [`Component`], longer ones as a digest.
const MAX_SHOWN: usize = 256;

/// The name under which the result of a step is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(Digest);

impl CacheKey {
    /// Takes a key that was computed elsewhere, as by another store.
    #[must_use]
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// Parses what [`fmt::Display`] writes: `sha256:` and 64 hex digits.
    ///
    /// # Errors
    ///
    /// [`DigestError`].
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Digest::parse(text).map(Self)
    }

    /// Returns the digest over the table.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One input of a key, kept so that a miss can be explained.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Component {
    /// `command`, or `env[PATH]` for an entry of a map.
    pub name: String,
    /// The value: short texts as they are, other bytes as `sha256:<hex>`.
    pub value: String,
}

/// Hashes a table of fields into a [`CacheKey`].
#[must_use]
pub struct KeyHasher {
    hasher: HashingWriter<std::io::Sink>,
    components: Vec<Component>,
}

impl KeyHasher {
    /// Starts the table of `domain` (`op.run`) in its `version`.
    pub fn new(domain: &'static str, version: u32) -> Self {
        let hasher = HashingWriter::new(std::io::sink());
        let mut table = Self { hasher, components: Vec::new() };
        table.part(domain.as_bytes());
        table.part(&version.to_le_bytes());
        table
    }

    /// Adds one named field.
    pub fn field(mut self, name: &'static str, value: &[u8]) -> Self {
        self.begin(b'f', name, 1);
        self.part(value);
        self.show(name.to_owned(), value);
        self
    }

    /// Adds a digest: of an input, a tree, a blob.
    pub fn digest(self, name: &'static str, value: &Digest) -> Self {
        self.field(name, value.to_string().as_bytes())
    }

    /// Adds a list, whose order counts.
    pub fn list<V: AsRef<[u8]>>(
        mut self,
        name: &'static str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values: Vec<V> = values.into_iter().collect();
        self.begin(b'l', name, values.len());
        for (number, value) in values.iter().enumerate() {
            self.part(value.as_ref());
            self.show(format!("{name}[{number}]"), value.as_ref());
        }
        self
    }

    /// Adds a map, whose order does not count: environment variables, files of a context.
    pub fn map<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        mut self,
        name: &'static str,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|(ka, va), (kb, vb)| {
            (ka.as_ref(), va.as_ref()).cmp(&(kb.as_ref(), vb.as_ref()))
        });
        self.begin(b'm', name, entries.len());
        for (key, value) in &entries {
            self.part(key.as_ref());
            self.part(value.as_ref());
            self.show(format!("{name}[{}]", shown(key.as_ref())), value.as_ref());
        }
        self
    }

    /// Returns the key.
    #[must_use]
    pub fn finish(self) -> CacheKey {
        self.finish_with_components().0
    }

    /// Returns the key and what it was made of, in the order of adding.
    #[must_use]
    pub fn finish_with_components(self) -> (CacheKey, Vec<Component>) {
        let (_, digest, _) = self.hasher.finish();
        (CacheKey(digest), self.components)
    }

    fn begin(&mut self, kind: u8, name: &str, count: usize) {
        self.hash(&[kind]);
        self.part(name.as_bytes());
        self.hash(&(count as u64).to_le_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.hash(&(bytes.len() as u64).to_le_bytes());
        self.hash(bytes);
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.hasher.write_all(bytes).expect("a sink takes every write");
    }

    fn show(&mut self, name: String, value: &[u8]) {
        self.components.push(Component { name, value: shown(value) });
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHasher").field("components", &self.components).finish_non_exhaustive()
    }
}

/// Returns `bytes` as people can read them.
fn shown(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_SHOWN => text.to_owned(),
        _ => Digest::of(bytes).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> KeyHasher {
        KeyHasher::new("test", 1)
    }

    #[test]
    fn different_tables_have_different_keys() {
        let none: [&str; 0] = [];
        #[rustfmt::skip]
        let tables = [
            ("empty",            table()),
            ("version",          KeyHasher::new("test", 2)),
            ("domain",           KeyHasher::new("tes", 1)),
            ("field",            table().field("ab", b"c")),
            ("border",           table().field("a", b"bc")),
            ("empty field",      table().field("ab", b"")),
            ("list of one",      table().list("ab", ["c"])),
            ("empty list",       table().list("ab", none)),
            ("list of two",      table().list("ab", ["c", "d"])),
            ("its order",        table().list("ab", ["d", "c"])),
            ("list of joined",   table().list("ab", ["cd"])),
            ("map of one",       table().map("ab", [("c", "d")])),
            ("key of map",       table().map("ab", [("cd", "")])),
            ("field twice",      table().field("ab", b"c").field("ab", b"c")),
        ];
        let mut seen = std::collections::HashMap::new();
        for (name, table) in tables {
            let key = table.finish();
            assert_eq!(seen.insert(key, name), None, "{name}");
        }
    }

    #[test]
    fn order_of_a_map_does_not_count() {
        let one = table().map("env", [("A", "1"), ("B", "2")]).finish();
        let other = table().map("env", [("B", "2"), ("A", "1")]).finish();
        assert_eq!(one, other);
    }

    #[test]
    fn components_say_what_went_in() {
        let long = [b'x'; MAX_SHOWN + 1];
        let (_, components) = table()
            .field("command", b"npm ci")
            .field("script", &long)
            .list("shell", ["sh", "-c"])
            .map("env", [("A", "1")])
            .finish_with_components();
        let shown: Vec<(&str, &str)> =
            components.iter().map(|c| (c.name.as_str(), c.value.as_str())).collect();
        let digest = Digest::of(&long).to_string();
        #[rustfmt::skip]
        assert_eq!(shown, [
            ("command", "npm ci"),
            ("script", &digest),
            ("shell[0]", "sh"),
            ("shell[1]", "-c"),
            ("env[A]", "1"),
        ]);
    }
}
