//! Why a registry did not give, or did not take, what was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cache::Digest;
use reqwest::StatusCode;

use super::credential::CredentialError;
use super::document::DocumentError;
use crate::error::{ErrorKind, causes};

/// Why a registry did not give, or did not take, what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry wants other credentials, or has no such repository and does not tell which.
    #[error(
        "pull access denied for {image}, repository does not exist or may require 'docker login'"
    )]
    AccessDenied {
        /// Name as people write it.
        image: String,
        /// What the registry said.
        source: Option<Box<RegistryError>>,
    },
    /// The repository may not be written.
    #[error("push access to {image} denied, it may require 'docker login'")]
    PushDenied {
        /// Name as people write it.
        image: String,
        /// What the registry said.
        source: Option<Box<RegistryError>>,
    },
    /// The repository holds no such tag or digest.
    #[error("manifest for {image} not found")]
    ManifestNotFound {
        /// Name with tag or digest, as people write it.
        image: String,
        /// What other places that were asked said.
        source: Option<Box<RegistryError>>,
    },
    /// The manifest names a blob that the registry does not hold.
    #[error("registry `{host}` does not hold blob `{digest}` of {image}")]
    BlobNotFound {
        /// Where it was looked for.
        host: String,
        /// The blob.
        digest: Digest,
        /// Name as people write it.
        image: String,
    },
    /// Neither the mirrors nor the registry gave it.
    #[error("neither a mirror nor the registry gave it ({tried})")]
    Everywhere {
        /// What each mirror answered.
        tried: String,
        /// What the registry itself answered.
        source: Box<RegistryError>,
    },
    /// No connection, or one that broke.
    #[error("could not reach registry `{host}`")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The transport's own words.
        source: reqwest::Error,
    },
    /// The connection stayed open and silent.
    #[error("registry `{host}` sent nothing for {millis} ms")]
    Stalled {
        /// Host and port.
        host: String,
        /// How long we waited.
        millis: u128,
    },
    /// An answer that is none of the expected ones.
    #[error("registry `{host}` answered {status} to {request}{}", says(message))]
    Status {
        /// Host and port.
        host: String,
        /// Method and path.
        request: String,
        /// The status.
        status: StatusCode,
        /// The registry's own words, empty where it had none.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer that breaks the protocol.
    #[error("registry `{host}` answered {request} without a usable `{header}` header")]
    Header {
        /// Host and port.
        host: String,
        /// Method and path.
        request: String,
        /// The header that is missing or malformed.
        header: &'static str,
    },
    /// The bytes are not the ones that were asked for.
    #[error("registry `{host}` sent bytes with digest `{found}` where `{expected}` was asked for")]
    Mismatch {
        /// Host and port.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A blob is longer or shorter than its descriptor says.
    #[error("registry `{host}` sent {found} bytes for blob `{digest}`, whose size is {expected}")]
    Size {
        /// Host and port.
        host: String,
        /// The blob.
        digest: Digest,
        /// Size of the descriptor, bytes.
        expected: u64,
        /// Bytes that came or were announced.
        found: u64,
    },
    /// A document is longer than any honest one.
    #[error("{what} of registry `{host}` is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// `the manifest`.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A manifest that cannot be used.
    #[error("registry `{host}` sent an unusable manifest for {image}")]
    Document {
        /// Host and port.
        host: String,
        /// Name as people write it.
        image: String,
        /// What is wrong with it.
        source: Box<DocumentError>,
    },
    /// A redirect that must not be followed.
    #[error("registry `{host}` redirects to `{target}`, which is refused: {reason}")]
    Redirect {
        /// Host and port.
        host: String,
        /// Scheme, host and port of the target; never its query, which may hold a signature.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// The place to fetch tokens from must not get our password.
    #[error("registry `{host}` wants its password sent to `{realm}`, which is refused: {reason}")]
    Realm {
        /// Host and port.
        host: String,
        /// Scheme, host and port.
        realm: String,
        /// Why.
        reason: &'static str,
    },
    /// Stored credentials could not be read.
    #[error("could not read the credentials for registry `{host}`")]
    Credential {
        /// Host and port.
        host: String,
        /// Why.
        source: CredentialError,
    },
    /// The certificates for a registry cannot be used.
    #[error("could not use `{}` for registry `{host}`: {reason}", path.display())]
    Certificate {
        /// Host and port.
        host: String,
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration names something that is no registry.
    #[error("`{text}` is not the address of a registry: {reason}")]
    Address {
        /// As configured.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes to be sent could not be read, or those received not be kept.
    #[error("could not move the blob `{digest}` between registry and disk")]
    Local {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

fn says(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl RegistryError {
    /// Returns who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AccessDenied { .. }
            | Self::PushDenied { .. }
            | Self::ManifestNotFound { .. }
            | Self::Credential { .. }
            | Self::Certificate { .. }
            | Self::Address { .. } => ErrorKind::User,
            Self::BlobNotFound { .. }
            | Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Status { .. }
            | Self::Header { .. }
            | Self::Mismatch { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Document { .. }
            | Self::Redirect { .. }
            | Self::Realm { .. } => ErrorKind::Remote,
            Self::Everywhere { source, .. } => source.kind(),
            Self::Local { .. } => ErrorKind::Host,
        }
    }

    /// Whether the registry knows these credentials, or their absence, and says no.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        matches!(self, Self::Status { status, .. } if refused.contains(status))
    }

    /// Whether the registry says that there is nothing of that name. One that knows no such
    /// repository says so in the same way as one that has no such tag.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            Self::ManifestNotFound { .. } => true,
            Self::AccessDenied { source: Some(source), .. } => {
                matches!(**source, Self::Status { status: StatusCode::NOT_FOUND, .. })
            }
            _ => false,
        }
    }

    /// Whether the same request may go well a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } => true,
            Self::Status { status, message, .. } => {
                is_transient_status(*status) || message.contains(BLOB_UNKNOWN)
            }
            _ => false,
        }
    }

    /// How long the registry wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the connection never came about: trying long does not help.
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_connect())
    }

    /// Whether the registry answered that it does not have it, or not for us.
    fn is_definitive(&self) -> bool {
        matches!(self, Self::AccessDenied { .. } | Self::ManifestNotFound { .. })
    }

    /// Picks what to tell when the mirrors gave `mirrors`, each with its host, and the registry
    /// itself `origin`. A clear answer goes before a failure to get one, and the registry's
    /// before a mirror's.
    pub(super) fn gathered(mirrors: Vec<(String, Self)>, origin: Self) -> Self {
        if origin.is_definitive() || mirrors.is_empty() {
            return origin;
        }
        let mut tried = Vec::new();
        for (host, mut error) in mirrors {
            if let Self::AccessDenied { source, .. } | Self::ManifestNotFound { source, .. } =
                &mut error
            {
                *source = Some(Box::new(origin));
                return error;
            }
            tried.push(format!("mirror `{host}`: {}", causes(&error).join(": ")));
        }
        Self::Everywhere { tried: tried.join("; "), source: Box::new(origin) }
    }
}

/// What a registry says of a manifest whose blobs it does not know (distribution-spec, "Error
/// Codes"). Each was there or was taken a moment ago: where others push the same blob at the same
/// time, registries that keep files are seen to lose sight of it while they write it down again.
const BLOB_UNKNOWN: &str = "MANIFEST_BLOB_UNKNOWN";

/// Whether a status says "later" (distribution-spec, "Error Codes"; RFC 9110, 15.6). A full disk
/// (RFC 4918, 11.5) is not emptied by asking again.
pub(super) fn is_transient_status(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::INSUFFICIENT_STORAGE)
}
