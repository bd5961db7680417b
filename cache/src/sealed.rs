//! Small JSON files whose damage shows: one line of JSON, one line with its digest.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::layout::Layout;

/// Files larger than this are damaged (bytes): real ones are a few kilobytes.
const LIMIT: u64 = 16 << 20;

/// Writes `value` to `path`, whole or not at all.
pub(crate) fn write(layout: &Layout, path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(format!("\n{digest}\n").as_bytes());
    layout.write(path, &bytes)
}

/// Reads what [`write()`] wrote. A missing or damaged file is `None`, damage with a warning.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match std::fs::metadata(path).map(|metadata| metadata.len()) {
        Ok(length) if length > LIMIT => Vec::new(),
        Ok(_) => std::fs::read(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let value = parse(&bytes);
    if value.is_none() {
        tracing::warn!(path = %path.display(), "damaged file in the store is taken as missing");
    }
    Ok(value)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let body = bytes.strip_suffix(b"\n")?;
    let split = body.iter().rposition(|&byte| byte == b'\n')?;
    let (json, digest) = (&body[..split], &body[split + 1..]);
    let digest = Digest::parse(std::str::from_utf8(digest).ok()?).ok()?;
    (digest == Digest::of(json)).then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_and_every_flipped_bit_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let path = dir.path().join("index/x");
        write(&layout, &path, &("name", 7)).unwrap();
        assert_eq!(read::<(String, u32)>(&path).unwrap(), Some(("name".to_owned(), 7)));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read::<(String, u32)>(&path).unwrap(), None, "{length}");
        }
        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read::<(String, u32)>(&path).unwrap(), None, "{index}");
        }
    }
}
