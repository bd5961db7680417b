//! Secrets: values that exist only in the memory of this process and of the steps that ask.
//!
//! Invariants: a value is in no cache key, layer, config, history, event or temporary file; its
//! memory is wiped when the last holder is gone; `{:?}` never shows it. A step's output is masked
//! before an event is made of it, and what a step leaves is searched before it is committed.

mod leak;
mod mask;
mod pattern;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub(crate) use leak::{Leak, LeakError, Search};
pub(crate) use mask::{Masker, OutputMask};

/// Bytes of one secret at most (BuildKit's limit).
pub const SECRET_LIMIT: usize = 500 * 1024;

/// A value shorter than this cannot be masked: it would blot out half of every log.
const MASKED_BYTES: usize = 4;

/// A value, or a form of it, shorter than this is not searched for in layers: files of any size
/// hold every shorter text by chance.
const SEARCHED_BYTES: usize = 8;

/// A value that must not be seen. Wiped from memory with its last clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes `value` over; the memory that it is in becomes the secret's.
    #[must_use]
    pub fn new(value: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    /// Returns the value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the value without the line end that most files have and most uses strip.
    fn trimmed(&self) -> &[u8] {
        self.bytes().trim_ascii_end()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Into<Vec<u8>>> From<T> for Secret {
    fn from(value: T) -> Self {
        Self::new(value.into())
    }
}

/// The secrets of one build by id.
pub type Secrets = BTreeMap<String, Secret>;

/// Says which of `secrets` are too short for masks or searches, one line each.
pub(crate) fn short_notes(secrets: &Secrets) -> Vec<String> {
    let note = |(id, secret): (&String, &Secret)| {
        let length = secret.trimmed().len();
        if length < MASKED_BYTES {
            Some(format!(
                "secret `{id}` is shorter than {MASKED_BYTES} bytes: it is neither masked in \
                 output nor searched for in layers"
            ))
        } else if length < SEARCHED_BYTES {
            Some(format!(
                "secret `{id}` is shorter than {SEARCHED_BYTES} bytes: it is masked in output, \
                 but not searched for in layers"
            ))
        } else {
            None
        }
    };
    secrets.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secrets = Secrets::from([("id".to_owned(), Secret::from("hunter2hunter2"))]);
        assert_eq!(format!("{secrets:?}"), r#"{"id": Secret(..)}"#);
    }

    #[test]
    fn short_values_are_told() {
        let secrets = Secrets::from([
            ("a".to_owned(), Secret::from("abc\n")),
            ("b".to_owned(), Secret::from("abcdefg")),
            ("c".to_owned(), Secret::from("abcdefgh")),
        ]);
        let notes = short_notes(&secrets);
        assert_eq!(notes.len(), 2);
        assert!(notes[0].contains("`a` is shorter than 4"), "{notes:?}");
        assert!(notes[1].contains("`b` is shorter than 8"), "{notes:?}");
    }
}
