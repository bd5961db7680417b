//! Why a file could not be downloaded.

use reqwest::StatusCode;

use cache::Digest;

use crate::error::ErrorKind;

/// Why a file could not be downloaded. URLs in it have no credentials.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not a URL that can be fetched.
    #[error("`{url}` cannot be fetched: {reason}")]
    Url {
        /// As given.
        url: String,
        /// One sentence.
        reason: String,
    },
    /// No connection, or one that broke.
    #[error("could not fetch `{url}`")]
    Unreachable {
        /// As given.
        url: String,
        /// Why; without its URL, which may be that of a redirect.
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("could not fetch `{url}`: the server sent nothing for {seconds} seconds")]
    Stalled {
        /// As given.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// An answer that is not the file.
    #[error("could not fetch `{url}`: the server answered {status}")]
    Status {
        /// As given.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
    /// A redirect that is not followed.
    #[error("could not fetch `{url}`: it redirects to {target}, but {reason}")]
    Redirect {
        /// As given.
        url: String,
        /// Scheme, host and port.
        target: String,
        /// One sentence.
        reason: &'static str,
    },
    /// More bytes than allowed.
    #[error("`{url}` is larger than the limit of {limit} bytes")]
    TooLarge {
        /// As given.
        url: String,
        /// In bytes.
        limit: u64,
    },
    /// Not the bytes that were asked for.
    #[error("digest mismatch for `{url}`: {found} (expected: {expected})")]
    Checksum {
        /// As given.
        url: String,
        /// Of the bytes that came.
        found: Digest,
        /// `--checksum`, or what was there when the build began.
        expected: Digest,
    },
    /// This machine could not keep it.
    #[error("could not keep what `{url}` gave")]
    Keep {
        /// As given.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HttpError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Checksum { .. } | Self::TooLarge { .. } => ErrorKind::User,
            Self::Status { status, .. } if status.is_client_error() => ErrorKind::User,
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Status { .. }
            | Self::Redirect { .. } => ErrorKind::Remote,
            Self::Keep { .. } => ErrorKind::Host,
        }
    }

    /// Whether the same request may well succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            Self::Url { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Checksum { .. }
            | Self::Keep { .. } => false,
        }
    }
}
