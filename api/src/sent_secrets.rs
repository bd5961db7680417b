//! Secrets on their way from a client to the service: one header of the request for a build, so
//! that they are in no body, URL, log or file.
//!
//! ```text
//! X-Rbuild-Secrets: base64 of {"ID": "base64 of the value", ...}
//! ```

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use builder::{SECRET_LIMIT, Secret, Secrets};
use zeroize::Zeroizing;

/// Name of the header.
pub(crate) const HEADER: &str = "x-rbuild-secrets";

/// Bytes of all values together: what the head of a request has room for, with what base64 adds.
pub(crate) const LIMIT: usize = 128 << 10;

/// Writes the header's value; `None` without secrets, and where they are more than [`LIMIT`].
pub(crate) fn encode(secrets: &Secrets) -> Option<String> {
    let bytes: usize = secrets.values().map(|secret| secret.bytes().len()).sum();
    if secrets.is_empty() || bytes > LIMIT {
        return None;
    }
    let texts: BTreeMap<&String, String> =
        secrets.iter().map(|(id, secret)| (id, STANDARD.encode(secret.bytes()))).collect();
    let json = Zeroizing::new(serde_json::to_vec(&texts).expect("maps of texts are JSON"));
    Some(STANDARD.encode(&*json))
}

/// Reads the header's value.
///
/// # Errors
///
/// A sentence, which quotes nothing of it.
pub(crate) fn decode(value: &[u8]) -> Result<Secrets, &'static str> {
    let json = Zeroizing::new(STANDARD.decode(value).map_err(|_| "it is not base64")?);
    let texts: BTreeMap<String, Zeroizing<String>> = serde_json::from_slice(&json)
        .map(|texts: BTreeMap<String, String>| {
            texts.into_iter().map(|(id, text)| (id, Zeroizing::new(text))).collect()
        })
        .map_err(|_| "it is no JSON object of texts")?;
    let read = |(id, text): (String, Zeroizing<String>)| {
        let value = STANDARD.decode(text.as_bytes()).map_err(|_| "a value is not base64")?;
        if value.len() > SECRET_LIMIT {
            return Err("a value is too large");
        }
        Ok((id, Secret::new(value)))
    };
    texts.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let secrets = Secrets::from([
            ("a".to_owned(), Secret::from("value")),
            ("b".to_owned(), Secret::new(vec![0, 255, 10])),
        ]);
        let header = encode(&secrets).unwrap();
        assert_eq!(decode(header.as_bytes()).unwrap(), secrets);
        assert!(!header.contains("value"), "{header}");
        assert_eq!(encode(&Secrets::new()), None);
        let large = Secrets::from([("a".to_owned(), Secret::new(vec![0; LIMIT + 1]))]);
        assert_eq!(encode(&large), None);
        for wrong in ["%", "e30", "W10=", "eyJhIjoxfQ==", "eyJhIjoiJSJ9"] {
            assert!(decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
