//! The one error type of the service's handlers: a status and Docker's `{"message": ..}`.

use axum::Json;
use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use builder::{ErrorKind, ImageError};
use frontend::Reference;
use serde_json::json;

use super::mirror::MirrorError;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// A parameter's value cannot be used.
    #[error("invalid parameter `{name}`: {reason}")]
    Parameter {
        /// As in the query or the headers.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter that Docker knows and this service cannot honour: refused, never ignored.
    #[error("parameter `{name}` is not supported by rbuild{}", .instead.map(|i| format!(": {i}")).unwrap_or_default())]
    Unsupported {
        /// As in the query.
        name: String,
        /// What to do in its place.
        instead: Option<&'static str>,
    },
    /// No such path.
    #[error("page not found")]
    NoRoute,
    /// The path is there, for other methods: these.
    #[error("method not allowed")]
    Method(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// An API version that is not spoken here.
    #[error("{0}")]
    Version(String),
    /// Something asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A registry does not take the credentials, or this service knows no such token.
    #[error("{0}")]
    Unauthorized(String),
    /// The token is for something else.
    #[error("the token `{name}` is not for `{scope}`")]
    Scope {
        /// The token's name.
        name: String,
        /// What is asked for.
        scope: &'static str,
    },
    /// Something that Docker's engine does and this service does not.
    #[error("{0}")]
    NotHere(&'static str),
    /// The request comes from a web page, or under a name that is not this machine's.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The body is of another type than the path wants.
    #[error("{0}")]
    MediaType(String),
    /// The body says that it is larger than bodies may be.
    #[error("the body of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// As the head tells.
        bytes: u64,
        /// What is taken.
        limit: u64,
    },
    /// As much as may run at once is running.
    #[error("too many builds wait already, try again later")]
    Busy,
    /// The service is shutting down.
    #[error("the service is shutting down")]
    Ending,
    /// Something about an image.
    #[error("{}", builder::causes(&**.0).join(": "))]
    Image(Box<ImageError>),
    /// The store cannot be read or written.
    #[error("{}", builder::causes(.0).join(": "))]
    Store(#[from] cache::StoreError),
    /// A build that ended before it showed anything.
    #[error("{message}")]
    Build {
        /// Who must act.
        kind: ErrorKind,
        /// All causes.
        message: String,
    },
}

impl ApiError {
    /// A value of `name` that cannot be used.
    pub(crate) fn parameter(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), reason: reason.into() }
    }

    /// Returns who must act.
    pub(crate) fn kind(&self) -> ErrorKind {
        kind_of(self.status())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Parameter { .. } | Self::Unsupported { .. } | Self::Version(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NoRoute | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotHere(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Forbidden(_) | Self::Scope { .. } => StatusCode::FORBIDDEN,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy | Self::Ending => StatusCode::SERVICE_UNAVAILABLE,
            Self::Image(error) => status_of(error.kind()),
            Self::Build { kind, .. } => status_of(*kind),
        }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        // Clients look for Docker's words.
        if let ImageError::NotFound { name } = &error {
            return Self::NotFound(format!("No such image: {}", in_full(name)));
        }
        if matches!(error, ImageError::Platform { .. }) {
            return Self::NotFound(error.to_string());
        }
        Self::Image(Box::new(error))
    }
}

/// Writes a name with the tag that is meant where it has none, as Docker tells it.
fn in_full(name: &str) -> String {
    let reference = Reference::parse_normalized(name).map(Reference::with_default_tag);
    reference.map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

impl From<MirrorError> for ApiError {
    fn from(error: MirrorError) -> Self {
        if matches!(error, MirrorError::Busy) {
            return Self::Busy;
        }
        Self::Build { kind: error.kind(), message: builder::causes(&error).join(": ") }
    }
}

/// Returns the status of a class of failure.
const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::User => StatusCode::BAD_REQUEST,
        ErrorKind::Remote => StatusCode::BAD_GATEWAY,
        ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Host | ErrorKind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the class of failure that a status stands for, as a client sees it.
pub(crate) fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Remote,
        status if status.is_client_error() => ErrorKind::User,
        _ => ErrorKind::Host,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let allowed = match &self {
            Self::Method(allowed) => HeaderValue::from_str(allowed).ok(),
            _ => None,
        };
        let body = Json(json!({ "message": self.to_string() }));
        let mut response = (self.status(), body).into_response();
        if let Some(allowed) = allowed {
            response.headers_mut().insert(ALLOW, allowed);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"rbuild\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
