//! Who must act when something fails.

use serde::{Deserialize, Serialize};

/// Classes of failure: they pick the exit code, the HTTP status and whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// The Dockerfile, the context, an argument or a command of the user's is at fault.
    User,
    /// A registry or another remote is at fault, or cannot be reached.
    Remote,
    /// This machine lacks something: space, a privilege, a package.
    Host,
    /// The build was cancelled.
    Cancelled,
    /// rbuild itself is at fault.
    Bug,
}

/// Collects the texts of `error` and of everything that caused it, outermost first.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
