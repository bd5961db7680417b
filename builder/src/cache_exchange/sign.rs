//! Signatures of entries: Ed25519 (RFC 8032), keys as openssl writes them.
//!
//! ```text
//! openssl genpkey -algorithm ed25519 -out cache.key
//! openssl pkey -in cache.key -pubout -out cache.pub
//! ```

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::entry::Entry;
use super::error::ExchangeError;
use crate::config::CacheConfig;

/// Longest file of keys, bytes.
const KEY_LIMIT: u64 = 64 << 10;
/// What stands before the 32 bytes of a public key (RFC 8410, 4: `SubjectPublicKeyInfo`).
const PUBLIC_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];

/// Signs the entries that a build writes.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// Reads the key of `config`; `None` where there is none. Blocking.
    pub(super) fn load(config: &CacheConfig) -> Result<Option<Self>, ExchangeError> {
        let Some(path) = &config.sign_key else { return Ok(None) };
        let text = Zeroizing::new(read(path)?);
        let der = Zeroizing::new(blocks(&text, "PRIVATE KEY").next().unwrap_or_default());
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| {
            let reason = "it is no Ed25519 key in PEM (PKCS #8)".to_owned();
            ExchangeError::Key { path: path.clone(), reason }
        })?;
        Ok(Some(Self(pair)))
    }

    pub(super) fn sign(&self, entry: &mut Entry) {
        entry.signature = Some(STANDARD.encode(self.0.sign(&entry.signed()).as_ref()));
    }
}

/// Says which signatures count.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Raw public keys.
    keys: Vec<[u8; 32]>,
}

impl Trust {
    /// Reads the keys of `config`. Blocking.
    pub(super) fn load(config: &CacheConfig) -> Result<Self, ExchangeError> {
        let mut keys = Vec::new();
        for path in &config.trusted_keys {
            let before = keys.len();
            let text = read(path)?;
            keys.extend(
                blocks(&text, "PUBLIC KEY")
                    .filter_map(|der| <[u8; 32]>::try_from(der.strip_prefix(&PUBLIC_PREFIX)?).ok()),
            );
            if keys.len() == before {
                let reason = "it holds no public Ed25519 key in PEM".to_owned();
                return Err(ExchangeError::Key { path: path.clone(), reason });
            }
        }
        Ok(Self { keys })
    }

    /// Whether the entry carries a signature by one of the keys.
    pub(super) fn is_trusted(&self, entry: &Entry) -> bool {
        let signature = entry.signature.as_ref().and_then(|text| STANDARD.decode(text).ok());
        let Some(signature) = signature else { return false };
        let signed = entry.signed();
        self.keys
            .iter()
            .any(|key| UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).is_ok())
    }
}

fn read(path: &Path) -> Result<String, ExchangeError> {
    let failed = |source| ExchangeError::File { action: "read", path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(KEY_LIMIT).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Returns the contents of the PEM blocks called `label` (RFC 7468).
fn blocks<'a>(text: &'a str, label: &str) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(&begin)? + begin.len();
        let length = rest[start..].find(&end)?;
        let body: String = rest[start..start + length].split_whitespace().collect();
        rest = &rest[start + length..];
        Some(STANDARD.decode(body).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use cache::{CacheKey, DiffId, Digest};
    use ring::signature::KeyPair as _;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    fn entry() -> Entry {
        Entry {
            key: CacheKey::from_digest(Digest::of(b"key")),
            content: None,
            diff_id: DiffId(Digest::of(b"layer")),
            size: 7,
            blob: None,
            inputs: Vec::new(),
            created: 1,
            duration_ms: 2,
            used: 3,
            step: "RUN x".to_owned(),
            signature: None,
        }
    }

    #[test]
    fn a_signature_covers_what_decides() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key"), dir.path().join("pub"));
        let pair = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        std::fs::write(&private, pem("PRIVATE KEY", pair.as_ref())).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let der = [&PUBLIC_PREFIX, pair.public_key().as_ref()].concat();
        std::fs::write(&public, pem("PUBLIC KEY", &der)).unwrap();
        let config = CacheConfig { sign_key: Some(private), trusted_keys: vec![public.clone()] };
        let key = Signer::load(&config).unwrap().unwrap();
        let trust = Trust::load(&config).unwrap();
        let mut signed = entry();
        assert!(!trust.is_trusted(&signed), "there is no signature yet");
        key.sign(&mut signed);
        assert!(trust.is_trusted(&signed));
        let other = Digest::of(b"another");
        #[rustfmt::skip]
        let cases = [
            ("key",       Entry { key: CacheKey::from_digest(other), ..signed.clone() }, false),
            ("layer",     Entry { diff_id: DiffId(other), ..signed.clone() },            false),
            ("size",      Entry { size: 8, ..signed.clone() },                           false),
            ("inputs",    Entry { inputs: vec![cache::ChainId(other)], ..signed.clone() }, false),
            ("signature", Entry { signature: Some("AAAA".into()), ..signed.clone() },    false),
            ("use",       Entry { used: 9, ..signed.clone() },                           true),
        ];
        for (name, entry, want) in cases {
            assert_eq!(trust.is_trusted(&entry), want, "{name}");
        }
        assert!(!Trust::default().is_trusted(&signed), "nobody is trusted by default");
        let bad = CacheConfig { sign_key: Some(public), trusted_keys: Vec::new() };
        assert!(Signer::load(&bad).is_err(), "a public key signs nothing");
    }
}
