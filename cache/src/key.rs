//! Cache keys: tables of named, length-prefixed fields, hashed.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// Values longer than this are remembered by their digest alone (bytes).
const SHOWN_VALUE_LIMIT: usize = 256;

/// The name of a result: a digest over everything that can change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(Digest);

impl CacheKey {
    /// Returns the 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// Returns the first 12 hex digits.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.short()
    }
}

/// One field of a key, kept so that a miss can be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// The field's name.
    pub name: String,
    /// Its value where it is short text, its digest otherwise.
    pub value: String,
}

/// Hashes the fields of one key.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    hasher: Sha256,
    components: Vec<Component>,
}

impl KeyHasher {
    /// Begins a key of kind `domain`; `version` rises when the same fields come to mean another
    /// result.
    #[must_use]
    pub fn new(domain: &str, version: u32) -> Self {
        let mut hasher = Self { hasher: Sha256::new(), components: Vec::new() };
        hasher.part(domain.as_bytes());
        hasher.part(&version.to_le_bytes());
        hasher
    }

    /// Adds one named field. Both parts carry their length, so ("ab", "c") and ("a", "bc") differ.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        self.part(name.as_bytes());
        self.part(value);
        let shown = std::str::from_utf8(value)
            .ok()
            .filter(|text| text.len() <= SHOWN_VALUE_LIMIT && !text.contains('\0'));
        let value = shown.map_or_else(|| Digest::of(value).to_string(), str::to_owned);
        self.components.push(Component { name: name.to_owned(), value });
    }

    fn part(&mut self, bytes: &[u8]) {
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    /// Ends the key.
    #[must_use]
    pub fn finish(self) -> CacheKey {
        self.finish_with_components().0
    }

    /// Ends the key and returns its fields too, in the order given.
    #[must_use]
    pub fn finish_with_components(self) -> (CacheKey, Vec<Component>) {
        (CacheKey(Digest::from_bytes(self.hasher.finalize().into())), self.components)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(fields: &[(String, Vec<u8>)]) -> CacheKey {
        let mut hasher = KeyHasher::new("test", 1);
        for (name, value) in fields {
            hasher.field(name, value);
        }
        hasher.finish()
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_for_equal_fields(
            a in proptest::collection::vec(("[ab]{0,2}", proptest::collection::vec(0_u8..3, 0..3)), 0..4),
            b in proptest::collection::vec(("[ab]{0,2}", proptest::collection::vec(0_u8..3, 0..3)), 0..4),
        ) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }
    }

    #[test]
    fn domain_and_version_are_part_of_it() {
        let base = KeyHasher::new("a", 1).finish();
        assert_ne!(base, KeyHasher::new("a", 2).finish());
        assert_ne!(base, KeyHasher::new("b", 1).finish());
    }
}
