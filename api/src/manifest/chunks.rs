//! Parts of a list, told by their digests and sent where they are not known.
//!
//! ```text
//! announcement: "rbuild context 2\0"  SHA-256 of each chunk (32 bytes) ...
//! pack:         zstd of: LENGTH(u32, big-endian) chunk ...
//! ```

use std::io::{self, Read as _, Write as _};

use cache::Digest;

use super::ManifestError;

const MAGIC: &[u8] = b"rbuild context 2\0";

/// Bytes of a digest in an announcement.
const DIGEST_BYTES: usize = 32;

/// Chunks of a list: with 256 entries each, four times what a list may hold.
const CHUNK_LIMIT: usize = 1 << 16;

/// Bytes of a whole list.
pub(crate) const LIST_LIMIT: u64 = 512 << 20;

/// Bytes of an announcement.
pub(crate) const ANNOUNCEMENT_LIMIT: usize = MAGIC.len() + DIGEST_BYTES * CHUNK_LIMIT;

/// Some entries, as they are written, and the digest of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    digest: Digest,
    text: Vec<u8>,
}

impl Chunk {
    /// Takes entries as they are written.
    pub(crate) fn of(text: Vec<u8>) -> Self {
        Self { digest: Digest::of(&text), text }
    }

    /// Returns the digest of the text.
    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the text.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}

/// Writes which chunks a list consists of.
pub(crate) fn announce(chunks: &[Chunk]) -> Vec<u8> {
    let digests = chunks.iter().flat_map(|chunk| chunk.digest.as_bytes());
    MAGIC.iter().chain(digests).copied().collect()
}

/// Reads which chunks a list consists of.
///
/// # Errors
///
/// [`ManifestError`] for what is no announcement.
pub(crate) fn announced(bytes: &[u8]) -> Result<Vec<Digest>, ManifestError> {
    let form = || ManifestError::damaged("it is of another form");
    let (digests, rest) = bytes.strip_prefix(MAGIC).ok_or_else(form)?.as_chunks::<DIGEST_BYTES>();
    if !rest.is_empty() {
        return Err(ManifestError::damaged("its end is missing"));
    }
    if digests.len() > CHUNK_LIMIT {
        return Err(ManifestError::Entries);
    }
    Ok(digests.iter().copied().map(Digest::from_bytes).collect())
}

/// Packs chunks.
pub(crate) fn pack<'a>(chunks: impl IntoIterator<Item = &'a Chunk>) -> io::Result<Vec<u8>> {
    let mut packed = zstd::Encoder::new(Vec::new(), 3)?;
    for Chunk { text, .. } in chunks {
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        packed.write_all(&length.to_be_bytes())?;
        packed.write_all(text)?;
    }
    packed.finish()
}

/// Unpacks chunks.
///
/// # Errors
///
/// [`ManifestError`] for what was not packed so, or is larger than a whole list may be.
pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<Chunk>, ManifestError> {
    let damaged = |error: io::Error| ManifestError::damaged(&error.to_string());
    let mut text = Vec::new();
    let unpack = zstd::Decoder::new(packed)
        .and_then(|reader| reader.take(LIST_LIMIT + 1).read_to_end(&mut text));
    unpack.map_err(damaged)?;
    if text.len() as u64 > LIST_LIMIT {
        return Err(ManifestError::Entries);
    }
    let mut chunks = Vec::new();
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let parts = rest.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)
        });
        let (chunk, after) = parts.ok_or_else(|| ManifestError::damaged("its end is missing"))?;
        chunks.push(Chunk::of(chunk.to_vec()));
        rest = after;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let chunks = ["one", "", "three"].map(|text| Chunk::of(text.into()));
        let digests: Vec<_> = chunks.iter().map(|chunk| *chunk.digest()).collect();
        assert_eq!(announced(&announce(&chunks)).unwrap(), digests);
        assert_eq!(unpack(&pack(&chunks).unwrap()).unwrap(), chunks);
        assert_eq!(announced(&announce(&[])).unwrap(), []);
        assert_eq!(unpack(&pack(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn damage_is_told() {
        let packed = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        #[rustfmt::skip]
        let packs = [
            ("nothing",      Vec::new()),
            ("no zstd",      b"plain".to_vec()),
            ("short length", packed(&[0, 0])),
            ("short text",   packed(&[0, 0, 0, 2, 1])),
            ("long length",  packed(&[0xff; 9])),
        ];
        for (name, bytes) in packs {
            assert!(matches!(unpack(&bytes), Err(ManifestError::Format(_))), "{name}");
        }
        let other = b"rbuild context 1\0".to_vec();
        let cut = [MAGIC, &[0; 31]].concat();
        for (name, bytes) in [("nothing", Vec::new()), ("other form", other), ("cut", cut)] {
            assert!(matches!(announced(&bytes), Err(ManifestError::Format(_))), "{name}");
        }
        let many = [MAGIC, &vec![0; DIGEST_BYTES * (CHUNK_LIMIT + 1)]].concat();
        assert!(matches!(announced(&many), Err(ManifestError::Entries)));
    }
}
