//! Descriptors: how one document names another.

use std::str::FromStr as _;

use oci_spec::image;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// Names a blob, its size and its kind (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

impl Descriptor {
    /// Takes the wire form; what this program does not use of it is left out.
    ///
    /// # Errors
    ///
    /// [`DigestError`] for other algorithms than SHA-256.
    pub fn from_wire(wire: &image::Descriptor) -> Result<Self, DigestError> {
        Ok(Self {
            media_type: wire.media_type().to_string(),
            digest: Digest::parse(wire.digest().as_ref())?,
            size: wire.size(),
        })
    }

    /// Returns the wire form.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the digest is valid by its type")]
    pub fn to_wire(&self) -> image::Descriptor {
        let digest = image::Sha256Digest::from_str(&self.digest.hex())
            .expect("64 lowercase hex digits are a SHA-256");
        image::Descriptor::new(self.media_type.as_str().into(), self.size, digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_and_back() {
        let here = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::of(b"manifest"),
            size: 8,
        };
        assert_eq!(Descriptor::from_wire(&here.to_wire()), Ok(here));
    }
}
