//! Why a command did not run, on both sides of the process border.
//!
//! A helper process cannot return an error, so it sends a [`Fault`]; the caller turns that into a
//! [`SandboxError`]. A command that ran and failed is neither: it has an exit status.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

/// A new `/proc` cannot show what the one that is there hides (`mount_too_revealing` in Linux'
/// fs/namespace.c).
const HIDDEN_PROC: &str = "the container that rbuild runs in hides parts of /proc; start it with \
    `--security-opt systempaths=unconfined` (podman: `--security-opt unmask=ALL`)";

const FILTERED: &str = "the seccomp filter of the container that rbuild runs in forbids it; start it \
    with `--security-opt seccomp=unconfined`";

const NO_OVERLAY: &str = "the store's filesystem takes no overlays, as a container's own does not; \
    put the store on a volume (`-v rbuild:/var/lib/rbuild`), or elsewhere with --store";

pub(super) const SEE_DOCTOR: &str = "rbuild may not do here what sandboxes need; `rbuild doctor` names the \
    setting that helps";

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The command itself cannot be executed: not found (127) or not executable (126).
    #[error("cannot execute `{command}`: {reason}")]
    Command {
        /// As written, without its arguments.
        command: String,
        /// What the look-up or the kernel said.
        reason: String,
        /// What a shell would report.
        exit_code: i32,
    },
    /// The spec asks for something that cannot be: a mount on `/`, a user that is not mapped.
    #[error("{reason}")]
    Refused {
        /// What, and what to do instead.
        reason: String,
    },
    /// No private network could be made. Never answered by a fall-back to the host's.
    #[error("no private network: {reason}")]
    Network {
        /// What is missing and how to get it.
        reason: String,
    },
    /// This machine refused one step of the set-up.
    #[error("sandbox step `{step}` failed{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Step {
        /// A name from the list of steps.
        step: String,
        /// What it was done to.
        detail: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A limit that was asked for cannot be enforced on this machine.
    #[error("the limit of {what} cannot be enforced: {detail}")]
    Limit {
        /// What was to be limited.
        what: &'static str,
        /// What is missing, or the file that refused the value.
        detail: String,
        /// What the kernel said.
        source: Option<io::Error>,
    },
    /// The command was ended because its time was over.
    #[error("the command was ended after its time limit of {limit:?}")]
    TimedOut {
        /// What it was given.
        limit: Duration,
    },
    /// The helper process could not be started or spoken to.
    #[error("could not {what}")]
    Helper {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper ended without a word: killed from outside, or out of memory.
    #[error("the sandbox's helper process was killed")]
    Killed,
    /// The caller asked for it.
    #[error("the step was cancelled")]
    Cancelled,
}

impl SandboxError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Command { .. } | Self::Refused { .. } | Self::TimedOut { .. } => ErrorKind::User,
            Self::Network { .. }
            | Self::Step { .. }
            | Self::Limit { .. }
            | Self::Helper { .. }
            | Self::Killed => ErrorKind::Host,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// The exit code that a shell gives for it, where the command itself is at fault.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Command { exit_code, .. } => Some(*exit_code),
            _ => None,
        }
    }

    /// Says what to do where this machine, or the container that rbuild runs in, does not allow
    /// what sandboxes are made of.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match self {
            Self::Step { step, source, .. } if is_refused(source) => Some(match step.as_str() {
                "mount /proc" => HIDDEN_PROC,
                "pivot_root" | "new namespaces" | "new PID namespace" => FILTERED,
                _ => SEE_DOCTOR,
            }),
            Self::Step { step, source, .. }
                if step == "root filesystem" && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                Some(NO_OVERLAY)
            }
            Self::Helper { source, .. } if is_refused(source) => Some(SEE_DOCTOR),
            _ => None,
        }
    }

    /// Wraps a failure of the parent's side.
    pub(super) fn helper(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Helper { what, source: source.into() }
    }

    /// Gives a helper's report its form: `step` failed with `fault`.
    pub(super) fn reported(step: String, fault: Fault) -> Self {
        let Fault { kind, detail, errno } = fault;
        match kind {
            FaultKind::Host => {
                Self::Step { step, detail, source: io::Error::from_raw_os_error(errno) }
            }
            FaultKind::Refused => Self::Refused { reason: detail },
            FaultKind::Network => Self::Network { reason: detail },
            FaultKind::Command { exit_code, command } => {
                Self::Command { command, reason: detail, exit_code }
            }
        }
    }
}

/// Bytes of one text in a message at most. In JSON each may take six.
const TEXT_BYTES: usize = 2048;

/// A failure inside a helper process, small enough to send.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    kind: FaultKind,
    detail: String,
    errno: i32,
}

/// Which [`SandboxError`] a fault becomes.
#[derive(Debug, Serialize, Deserialize)]
enum FaultKind {
    Host,
    Refused,
    Network,
    Command { exit_code: i32, command: String },
}

impl FaultKind {
    fn command_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Command { command, .. } => Some(command),
            Self::Host | Self::Refused | Self::Network => None,
        }
    }
}

impl Fault {
    /// Says that the spec asks for something that cannot be.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self { kind: FaultKind::Refused, detail: reason.into(), errno: 0 }
    }

    /// Says why there is no private network.
    pub(super) fn network(reason: impl Into<String>) -> Self {
        Self { kind: FaultKind::Network, detail: reason.into(), errno: 0 }
    }

    /// Says why the command itself cannot be executed.
    pub(super) fn command(command: &str, exit_code: i32, reason: impl Into<String>) -> Self {
        let kind = FaultKind::Command { exit_code, command: command.to_owned() };
        Self { kind, detail: reason.into(), errno: 0 }
    }

    /// Names what the failing call was made on.
    pub(super) fn at(mut self, what: impl std::fmt::Display) -> Self {
        self.detail = match self.detail.as_str() {
            "" => what.to_string(),
            inner => format!("{what}: {inner}"),
        };
        self
    }

    /// Cuts the text down to what fits a message, whatever paths and names it repeats.
    pub(super) fn clip(mut self) -> Self {
        for text in [Some(&mut self.detail), self.kind.command_mut()].into_iter().flatten() {
            if text.len() > TEXT_BYTES {
                let end = (0..=TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
                text.truncate(end.unwrap_or_default());
                text.push_str("...");
            }
        }
        self
    }

    /// Says it in one line, for reports beside errors.
    pub(super) fn describe(&self) -> String {
        let said = (self.errno != 0).then(|| io::Error::from_raw_os_error(self.errno).to_string());
        let parts = [Some(self.detail.clone()).filter(|detail| !detail.is_empty()), said];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    /// The errno of a refused system call, 0 for everything else.
    pub(super) fn errno(&self) -> i32 {
        self.errno
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Self { kind: FaultKind::Host, detail: String::new(), errno: errno.raw_os_error() }
    }
}

impl From<nix::errno::Errno> for Fault {
    fn from(errno: nix::errno::Errno) -> Self {
        Self { kind: FaultKind::Host, detail: String::new(), errno: errno as i32 }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self { kind: FaultKind::Host, detail: String::new(), errno },
            None => Self { kind: FaultKind::Host, detail: error.to_string(), errno: libc::EIO },
        }
    }
}

/// Adds what a failing call was made on.
pub(super) trait At<T> {
    /// Names it, for the error only.
    fn at(self, what: impl std::fmt::Display) -> Result<T, Fault>;
}

impl<T, E: Into<Fault>> At<T> for Result<T, E> {
    fn at(self, what: impl std::fmt::Display) -> Result<T, Fault> {
        self.map_err(|error| error.into().at(what))
    }
}
