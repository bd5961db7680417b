//! Why a build failed.

use frontend::{Diagnostic, Span};

use crate::error::ErrorKind;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// Something asked for cannot be done, and was refused before any work began.
    #[error("{what}")]
    Request { what: String, help: Option<String> },
    /// The context, or the Dockerfile in it, cannot be read.
    #[error(transparent)]
    Context(#[from] crate::context::FileRootError),
    /// The context's tar is not one that we take.
    #[error(transparent)]
    Archive(#[from] crate::context::ContextError),
    /// The Dockerfile is faulty: each fault with its place.
    #[error("the Dockerfile has {} error{}", count(.diagnostics), plural(.diagnostics))]
    Dockerfile { diagnostics: Vec<Diagnostic> },
    /// An image that the Dockerfile names at `span` cannot be had.
    #[error("could not get the image `{image}`")]
    Image {
        image: String,
        span: Span,
        help: Option<String>,
        source: Box<crate::source::SourceError>,
    },
    /// What an image is made of cannot be had.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// A context named by a URL cannot be had.
    #[error("could not load the build context")]
    Remote(#[from] crate::source::RemoteError),
    /// A step failed; `index` is its place in the plan, and `kept_by` the build whose record keeps
    /// what it had left.
    #[error("{step}")]
    Step {
        step: String,
        index: Option<usize>,
        source: Box<crate::op::OpError>,
        kept_by: Option<String>,
    },
    /// The store cannot be read or written.
    #[error("the store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An output cannot be written.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
    /// A shared cache cannot be read or written as its options ask.
    #[error("could not exchange the cache")]
    Exchange(#[from] crate::cache_exchange::ExchangeError),
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

impl BuildError {
    /// Wraps any error of the store.
    pub(crate) fn store(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Store(Box::new(error))
    }

    /// Tells who must act.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Request { .. } | Self::Dockerfile { .. } => ErrorKind::User,
            Self::Context(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::Image { source, .. } => source.kind(),
            Self::Source(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Step { source, .. } => source.kind(),
            Self::Store(_) => ErrorKind::Host,
            Self::Export(error) => error.kind(),
            Self::Exchange(error) => error.kind(),
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}

fn count(diagnostics: &[Diagnostic]) -> usize {
    diagnostics.iter().filter(|it| it.severity == frontend::Severity::Error).count()
}

fn plural(diagnostics: &[Diagnostic]) -> &'static str {
    if count(diagnostics) == 1 { "" } else { "s" }
}
