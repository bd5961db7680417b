//! The names of snapshots.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};
use crate::session::random_hex;

/// The longest name, in bytes.
const MAX_ID: usize = 100;

/// The name of a committed snapshot: `[a-z0-9-]`, so that it is one plain file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

/// A text that is no name of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a snapshot id: expected 1 to {MAX_ID} of a-z, 0-9 and -")]
pub struct SnapshotIdError {
    text: String,
}

impl SnapshotId {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`SnapshotIdError`] when it is empty, too long, or has other characters.
    pub fn parse(text: &str) -> Result<Self, SnapshotIdError> {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(is_plain) {
            return Err(SnapshotIdError { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }

    /// Names the top layer of a stack of layers that came from outside: equal stacks share it.
    #[must_use]
    pub fn for_chain(chain_id: &ChainId) -> Self {
        Self(format!("chain-{}", chain_id.0.hex()))
    }

    /// Whether this is the top of a stack that came from outside, as [`SnapshotId::for_chain`]
    /// names it.
    #[must_use]
    pub fn is_chain(&self) -> bool {
        self.0.starts_with("chain-")
    }

    /// Names a layer that a step made elsewhere, put on the stack `below`: the same layer on the
    /// same stack has the same name before it is here.
    #[must_use]
    pub fn for_import(below: &str, layer: &DiffId) -> Self {
        Self(format!("import-{}", Digest::of(format!("{below} {}", layer.0).as_bytes()).hex()))
    }

    /// Whether a step of this store made it.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.0.starts_with("built-")
    }

    /// Names a layer that a step of this store made.
    pub(crate) fn random() -> io::Result<Self> {
        Ok(Self(format!("built-{}", random_hex()?)))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = SnapshotIdError;

    fn try_from(text: String) -> Result<Self, SnapshotIdError> {
        Self::parse(&text)
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_file_names() {
        #[rustfmt::skip]
        let cases = [
            ("built",      "built-0a",             true),
            ("empty",      "",                     false),
            ("dots",       "..",                   false),
            ("slash",      "a/b",                  false),
            ("uppercase",  "A",                    false),
            ("nul",        "a\0",                  false),
            ("longest",    &"a".repeat(MAX_ID),    true),
            ("too long",   &"a".repeat(MAX_ID + 1), false),
        ];
        for (name, text, want) in cases {
            assert_eq!(SnapshotId::parse(text).is_ok(), want, "{name}");
        }
    }
}
