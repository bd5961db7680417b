//! What the command line says and returns when something fails.

use std::fmt;

use builder::ErrorKind;

/// The exit codes, as `--help` tells them. Scripts rely on them: never renumber.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the Dockerfile, the context or an argument's value is at fault, or a step failed
  2    the command line is wrong
  3    a registry or another remote is at fault, or cannot be reached
  4    this machine lacks something: space, a privilege, a package
  70   a bug in rbuild
  130  cancelled
  `rbuild check` exits 1 when it has anything to say.
  `rbuild run` and `rbuild shell` pass on the exit code of the command, and exit 125 if rbuild
  itself fails.";

/// Exit code of a wrong command line.
pub(crate) const USAGE: u8 = 2;

/// Exit code of `rbuild run` and `rbuild shell` when the command never ran, as in Docker.
pub(crate) const RUN_FAILED: u8 = 125;

/// Returns the exit code of a class of failure; see [`EXIT_CODES`].
pub(crate) const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::User => 1,
        ErrorKind::Remote => 3,
        ErrorKind::Host => 4,
        ErrorKind::Bug => 70,
        ErrorKind::Cancelled => 130,
    }
}

/// Why a command ended without doing what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Who must act; picks the exit code.
    pub(crate) kind: ErrorKind,
    /// What failed, then its causes, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl Fault {
    /// A fault of class `kind`.
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, causes: vec![what.into()], help: None }
    }

    /// A fault of the user's.
    pub(crate) fn user(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, what)
    }

    /// A fault of class `kind` from `error` and everything that caused it.
    pub(crate) fn of(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        Self { kind, causes: builder::causes(error), help: None }
    }

    /// A file that could not be read or written.
    pub(crate) fn file(verb: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory => ErrorKind::User,
            _ => ErrorKind::Host,
        };
        Self {
            kind,
            causes: vec![format!("could not {verb} `{}`", path.display()), error.to_string()],
            help: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Fault {
    /// `error: what`, one indented line a cause, and the help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = self.causes.iter();
        writeln!(f, "error: {}", causes.next().map_or("unknown", String::as_str))?;
        for cause in causes {
            writeln!(f, "  caused by: {cause}")?;
        }
        self.help.as_ref().map_or(Ok(()), |help| writeln!(f, "  help: {help}"))
    }
}

impl From<builder::ImageError> for Fault {
    fn from(error: builder::ImageError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<builder::OpenError> for Fault {
    fn from(error: builder::OpenError) -> Self {
        Self::of(error.kind(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_in_the_help() {
        let kinds = [
            ErrorKind::User,
            ErrorKind::Remote,
            ErrorKind::Host,
            ErrorKind::Bug,
            ErrorKind::Cancelled,
        ];
        for kind in kinds {
            let line = format!("\n  {:<4} ", exit_code(kind));
            assert!(EXIT_CODES.contains(&line), "{kind:?}");
        }
    }

    #[test]
    fn causes_and_help_have_a_line_each() {
        let fault = Fault {
            kind: ErrorKind::User,
            causes: vec!["could not read `x`".into(), "no such file".into()],
            help: Some("make one".into()),
        };
        assert_eq!(
            fault.to_string(),
            "error: could not read `x`\n  caused by: no such file\n  help: make one\n"
        );
    }
}
