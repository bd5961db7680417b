//! What the frontend has to say about a Dockerfile, as data; rendering is the caller's.

use serde::Serialize;

use crate::span::Span;

/// How grave a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be built.
    Error,
    /// The file builds; a check rule or a deprecation speaks.
    Warning,
}

/// One remark on the source, with its place and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the build can go on.
    pub severity: Severity,
    /// The check rule that speaks (`StageNameCasing`), `None` for plain errors.
    pub rule: Option<&'static str>,
    /// What is wrong: lowercase, one sentence, no full stop.
    pub message: String,
    /// The text at fault.
    pub span: Span,
    /// What was expected or how to mend it (`did you mean "COPY"?`).
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, rule: None, message: message.into(), span, help: None }
    }

    /// A warning of check rule `rule` at `span`.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            rule: Some(rule),
            message: message.into(),
            span,
            help: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
