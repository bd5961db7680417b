//! Why a vertex has no result.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::limits::StepUsage;

/// Why a vertex has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpError {
    /// The command ran and failed: the user's to mend, never tried again, never cached.
    #[error("the command ended with exit code {code}")]
    Exit {
        /// As the command gave it, or 128 and the number of the signal that ended it.
        code: i32,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The command was ended by a signal.
    #[error("the command was ended by signal {signal}")]
    Signal {
        /// Number of the signal.
        signal: i32,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The command failed, and processes of it were killed for lack of memory.
    #[error("the command {}", usage.out_of_memory())]
    OutOfMemory {
        /// As a shell would tell it.
        code: i32,
        /// With the limit and the peak.
        usage: Box<StepUsage>,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The command was ended because its time was over.
    #[error("the command was ended after its time limit of {limit:?}")]
    TimedOut {
        /// What it was given.
        limit: Duration,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// An option of the instruction that this version does not have.
    #[error("{what} is not supported")]
    Unsupported {
        /// The option, as written.
        what: String,
    },
    /// A device cannot be had.
    #[error("RUN --device={device}: {reason}")]
    Device {
        /// As written.
        device: String,
        /// What is missing, or asks for too much.
        reason: String,
    },
    /// The step needs a secret that the build was not given.
    #[error("the step needs the secret `{id}`, which was not given")]
    NoSecret {
        /// Its id.
        id: String,
    },
    /// The step needs an ssh agent that the build was not given.
    #[error("the step needs the ssh agent `{id}`, which was not given")]
    NoAgent {
        /// Its id.
        id: String,
    },
    /// No socket could be made for the step's ssh agent.
    #[error("could not make a socket for the step's ssh agent")]
    Agent(#[source] std::io::Error),
    /// The step's output could not be kept.
    #[error(transparent)]
    Output(crate::spool::SpoolError),
    /// The step asks for what it may not have.
    #[error(transparent)]
    NotAllowed(#[from] crate::entitlement::NotAllowed),
    /// The step left a secret in its layer.
    #[error("{0}")]
    Leak(crate::secret::Leak),
    /// The layer could not be searched for secrets.
    #[error(transparent)]
    Search(#[from] crate::secret::LeakError),
    /// A result from a shared cache cannot be had.
    #[error(transparent)]
    Exchange(#[from] crate::cache_exchange::ExchangeError),
    /// COPY or ADD failed.
    #[error(transparent)]
    Copy(#[from] super::CopyError),
    /// A source of COPY, ADD or a mount cannot be selected.
    #[error(transparent)]
    Select(#[from] super::SelectError),
    /// WORKDIR failed.
    #[error(transparent)]
    MakeDir(#[from] super::MakeDirError),
    /// A root's directories cannot be read.
    #[error(transparent)]
    Root(#[from] crate::rootfs::RootError),
    /// The image's user cannot be looked up.
    #[error(transparent)]
    User(#[from] crate::rootfs::UserError),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// A base could not be pulled or unpacked.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// Files named by a URL could not be had.
    #[error(transparent)]
    Remote(#[from] crate::source::RemoteError),
    /// The layer could not be read back.
    #[error("could not digest the layer")]
    Layer(#[from] crate::layer::WriteError),
    /// What a command left could not be taken into its layer.
    #[error("could not take over what the command left")]
    Changes(#[from] crate::rootfs::UpperError),
    /// The layer of `COPY --link` could not be put on its root.
    #[error("could not put the linked layer on its root")]
    Clone(#[from] crate::layer::ApplyError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<cache::StoreError> for OpError {
    fn from(error: cache::StoreError) -> Self {
        Self::store(error)
    }
}

impl OpError {
    /// Wraps any error of the store.
    pub(crate) fn store(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Store(Box::new(error))
    }

    /// Says that the store lacks `what` although it was there a moment ago.
    pub(crate) fn lost(what: &str) -> Self {
        Self::store(std::io::Error::other(format!("{what} is missing from the store")))
    }

    /// Tells who must act.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Copy(error) => error.kind(),
            Self::MakeDir(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Exchange(error) => error.kind(),
            Self::Select(super::SelectError::Root(_))
            | Self::Root(_)
            | Self::Search(_)
            | Self::Agent(_)
            | Self::Output(_)
            | Self::Layer(_)
            | Self::Changes(_)
            | Self::Clone(_)
            | Self::Store(_) => ErrorKind::Host,
            Self::Exit { .. }
            | Self::Signal { .. }
            | Self::OutOfMemory { .. }
            | Self::TimedOut { .. }
            | Self::Unsupported { .. }
            | Self::Device { .. }
            | Self::NoSecret { .. }
            | Self::NoAgent { .. }
            | Self::NotAllowed(_)
            | Self::Leak(_)
            | Self::User(_)
            | Self::Select(_) => ErrorKind::User,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Returns the layer that a shared cache promised and does not give.
    pub(crate) const fn lost_layer(&self) -> Option<cache::DiffId> {
        match self {
            Self::Exchange(crate::cache_exchange::ExchangeError::Lost { diff_id }) => {
                Some(*diff_id)
            }
            _ => None,
        }
    }
}
