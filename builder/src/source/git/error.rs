//! Why a repository could not be had.

use std::io;

use crate::error::ErrorKind;

/// Why a repository could not be had. URLs in it have no credentials.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The program is not there.
    #[error("`git` is not installed, which git repositories as sources need")]
    NotInstalled,
    /// The program could not be run.
    #[error("could not run `git`")]
    Spawn(#[source] io::Error),
    /// A URL that git is not given.
    #[error("`{url}` is not fetched: {reason}")]
    Url {
        /// As given.
        url: String,
        /// One sentence.
        reason: &'static str,
    },
    /// A reference that git is not given.
    #[error("`{reference}` cannot be the name of a branch, a tag or a commit")]
    Reference {
        /// As given.
        reference: String,
    },
    /// A directory that leads out of the checkout.
    #[error("`{subdir}` is no directory below the repository's root")]
    Subdir {
        /// As given.
        subdir: String,
    },
    /// The repository has no such directory.
    #[error("`{url}` has no directory `{subdir}` at commit {commit}")]
    NoSubdir {
        /// The repository.
        url: String,
        /// As given.
        subdir: String,
        /// In hex.
        commit: String,
    },
    /// The repository has no such reference.
    #[error("repository `{url}` does not contain ref {reference}")]
    NoReference {
        /// The repository.
        url: String,
        /// As given.
        reference: String,
        /// The name that is most like it.
        nearest: Option<String>,
    },
    /// Another commit than the one that was asked for.
    #[error("expected checksum to match {expected}, but `{reference}` of `{url}` is at {found}")]
    Checksum {
        /// The repository.
        url: String,
        /// As given, or `HEAD`.
        reference: String,
        /// As given.
        expected: String,
        /// In hex.
        found: String,
    },
    /// git failed.
    #[error("could not {action} `{url}`: {message}")]
    Failed {
        /// `fetch from`.
        action: &'static str,
        /// The repository.
        url: String,
        /// git's own words.
        message: String,
    },
    /// git took too long.
    #[error("could not {action} `{url}`: git was not done after {seconds} seconds")]
    Timeout {
        /// `fetch from`.
        action: &'static str,
        /// The repository.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// This machine could not keep it.
    #[error("could not keep the checkout of `{url}`")]
    Keep {
        /// The repository.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl GitError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInstalled | Self::Spawn(_) | Self::Keep { .. } => ErrorKind::Host,
            Self::Url { .. }
            | Self::Reference { .. }
            | Self::Subdir { .. }
            | Self::NoSubdir { .. }
            | Self::NoReference { .. }
            | Self::Checksum { .. } => ErrorKind::User,
            Self::Failed { .. } | Self::Timeout { .. } => ErrorKind::Remote,
        }
    }
}
