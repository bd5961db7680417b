//! Why a step of a past build cannot be entered.

use crate::error::ErrorKind;
use crate::op::OpError;

/// Why a step of a past build cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// Nothing was written down of its steps.
    #[error("nothing is known of the steps of build `{build}`")]
    NoSteps {
        /// Its id.
        build: String,
    },
    /// There is no such RUN step.
    #[error("build `{build}` has no RUN step `{step}`")]
    NoStep {
        /// Its id.
        build: String,
        /// As asked for.
        step: String,
        /// Those that it has.
        steps: Vec<String>,
    },
    /// Several stages have a step of this number.
    #[error("several stages of build `{build}` have a RUN step `{step}`")]
    AmbiguousStep {
        /// Its id.
        build: String,
        /// As asked for.
        step: String,
        /// Those that are meant.
        steps: Vec<String>,
    },
    /// The build ended before the step was run.
    #[error("step {step} was not run in this build")]
    NotRun {
        /// Its name.
        step: String,
    },
    /// The store no longer has the files.
    #[error("{what} of step {step} is no longer in the store")]
    Gone {
        /// What is gone.
        what: String,
        /// Name of the step.
        step: String,
        /// What may be had instead, or done.
        help: String,
    },
    /// More is asked for than this builder allows now.
    #[error(transparent)]
    Limit(#[from] crate::limits::LimitError),
    /// The step's image cannot be had.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// The sandbox could not be made, or the command not be started.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// What the step needs cannot be had.
    #[error(transparent)]
    Step(Box<StepFault>),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] cache::StoreError),
}

/// What kept a step from being run.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StepFault {
    what: String,
    kind: ErrorKind,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl From<OpError> for ShellError {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Sandbox(error) => Self::Sandbox(error),
            OpError::Source(error) => Self::Source(error),
            error => {
                let (what, kind) = (error.to_string(), error.kind());
                let help = match &error {
                    OpError::NotAllowed(refused) => Some(refused.help()),
                    _ => None,
                };
                let source = std::error::Error::source(&error)
                    .map(|source| Box::from(crate::error::causes(source).join(": ")));
                Self::Step(Box::new(StepFault { what, kind, help, source }))
            }
        }
    }
}

impl ShellError {
    /// Tells who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSteps { .. }
            | Self::NoStep { .. }
            | Self::AmbiguousStep { .. }
            | Self::NotRun { .. }
            | Self::Gone { .. }
            | Self::Limit(_) => ErrorKind::User,
            Self::Source(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Step(fault) => fault.kind,
            Self::Store(_) => ErrorKind::Host,
        }
    }

    /// Says what to do, where something can be said.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSteps { .. } => Some(
                "it was interrupted, failed before its first step, or is of an older rbuild: \
                 build again"
                    .to_owned(),
            ),
            Self::NoStep { steps, .. } if steps.is_empty() => {
                Some("only RUN steps have a sandbox, and it has none".to_owned())
            }
            Self::NoStep { steps, .. } => Some(format!("its RUN steps are {}", steps.join(", "))),
            Self::AmbiguousStep { steps, .. } => Some(format!("name one: {}", steps.join(", "))),
            Self::NotRun { .. } => {
                Some("--before shows what it would have begun with, if that was made".to_owned())
            }
            Self::Gone { help, .. } => Some(help.clone()),
            Self::Step(fault) => fault.help.clone(),
            Self::Limit(_) | Self::Source(_) | Self::Sandbox(_) | Self::Store(_) => None,
        }
    }
}
