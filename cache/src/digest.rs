//! Digests: the names of exact bytes, and the readers and writers that compute them in passing.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a blob's exact bytes. Raw bytes inside; text only at the edges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest that this program accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm than SHA-256, or none named.
    #[error("the digest does not begin with `sha256:`")]
    Algorithm,
    /// Not 64 lowercase hexadecimal digits.
    #[error("the digest is not 64 lowercase hexadecimal digits")]
    Encoding,
}

impl Digest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Takes a finished hash: 32 bytes, raw, not hex.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses `sha256:` and 64 lowercase hex digits (OCI image-spec, descriptor.md, "Digests").
    ///
    /// # Errors
    ///
    /// [`DigestError`] for another algorithm, length or letter case.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Self::parse_hex(text.strip_prefix("sha256:").ok_or(DigestError::Algorithm)?)
    }

    /// Parses 64 lowercase hex digits without a prefix: the name of a file in the store.
    ///
    /// # Errors
    ///
    /// [`DigestError::Encoding`].
    pub fn parse_hex(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| DigestError::Encoding)?;
        let lowercase = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        lowercase.then_some(Self(bytes)).ok_or(DigestError::Encoding)
    }

    /// Returns the 64 hex digits without the prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        String::from_utf8_lossy(&self.digits()).into_owned()
    }

    /// Returns `sha256:<hex>` in ASCII.
    #[must_use]
    pub fn text(&self) -> [u8; 71] {
        let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
        text[7..].copy_from_slice(&self.digits());
        text
    }

    /// Writes the hex digits out. Not by `hex::encode`, whose iterator shows in profiles: large
    /// contexts have very many digests.
    fn digits(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
        }
        digits
    }

    /// Returns the first 12 hex digits, as people write digests.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Digest of an *uncompressed* layer tar (OCI image-spec, config.md, "Layer `DiffID`").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// Digest of a stack of layers (OCI image-spec, config.md, "Layer `ChainID`").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ChainId {
    /// Returns the chain ID of this stack with `layer` on top.
    #[must_use]
    pub fn push(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{self} {layer}").as_bytes()))
    }
}

/// Returns the chain ID of `diff_ids`, ordered from the base layer up.
///
/// `ChainID(L0|..|Ln) = sha256(ChainID(L0|..|Ln-1) + " " + DiffID(Ln))` over the ASCII
/// `sha256:<hex>` forms (OCI image-spec, config.md, "Layer `ChainID`"). `scratch` has none.
#[must_use]
pub fn chain_id(diff_ids: &[DiffId]) -> Option<ChainId> {
    let (base, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(ChainId(base.0), |parent, &layer| parent.push(layer)))
}

/// Hashes what passes through to `inner`, which may be [`io::sink`].
pub struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    written: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), written: 0 }
    }

    /// Returns the number of bytes written so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Returns the inner writer, the digest of all bytes written and their number.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.written)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W> fmt::Debug for HashingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashingWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

/// Hashes what is read from `inner`.
pub struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    read: u64,
}

impl<R: Read> HashingReader<R> {
    /// Wraps `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), read: 0 }
    }

    /// Returns the inner reader, the digest of all bytes read and their number.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.read)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

impl<R> fmt::Debug for HashingReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashingReader").field("read", &self.read).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_forms() {
        #[rustfmt::skip]
        let cases = [
            ("good",          format!("sha256:{EMPTY}"),                Ok(Digest::of(b""))),
            ("uppercase",     format!("sha256:{}", EMPTY.to_uppercase()), Err(DigestError::Encoding)),
            ("short",         "sha256:e3b0".to_owned(),                 Err(DigestError::Encoding)),
            ("other",         format!("sha512:{EMPTY}"),                Err(DigestError::Algorithm)),
            ("no algorithm",  EMPTY.to_owned(),                         Err(DigestError::Algorithm)),
        ];
        for (name, text, want) in cases {
            assert_eq!(Digest::parse(&text), want, "{name}");
        }
    }

    #[test]
    fn chain_id_follows_the_specification() {
        let [a, b] = [b"a", b"b"].map(|bytes| DiffId(Digest::of(bytes)));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&[a]), Some(ChainId(a.0)));
        let want = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a, b]), Some(ChainId(want)));
    }
}
