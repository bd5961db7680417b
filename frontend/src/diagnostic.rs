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

/// Errors of one file that are told, and warnings; what comes after them helps nobody, and each is
/// shown with an excerpt of the file.
const MAX_ERRORS: usize = 100;
pub(crate) const MAX_WARNINGS: usize = 1000;

/// Drops what is too much: warnings beside too many remarks, and then what stands last.
pub(crate) fn bounded(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if diagnostics.len() <= MAX_ERRORS {
        return diagnostics;
    }
    let all = diagnostics.len();
    let any_error = diagnostics.iter().any(|found| found.severity == Severity::Error);
    if any_error {
        diagnostics.retain(|found| found.severity == Severity::Error);
    }
    let kept = if any_error { MAX_ERRORS } else { MAX_WARNINGS };
    diagnostics.truncate(kept);
    let left_out = all - diagnostics.len();
    if let Some(last) = diagnostics.last().filter(|_| left_out > 0) {
        let message = format!("{left_out} more remarks are left out");
        let more = Diagnostic { severity: last.severity, ..Diagnostic::error(last.span, message) };
        diagnostics.push(more);
    }
    diagnostics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_remarks_are_cut_and_counted() {
        let remark = |severity| Diagnostic { severity, ..Diagnostic::error(Span::new(0, 0), "x") };
        let (error, warning) = (remark(Severity::Error), remark(Severity::Warning));
        let many = |errors, warnings| {
            let all = [vec![error.clone(); errors], vec![warning.clone(); warnings]].concat();
            let kept = bounded(all);
            (kept.len(), kept.last().map(|found| found.message.clone()).unwrap_or_default())
        };
        #[rustfmt::skip]
        let cases = [
            (0, 0, 0, ""), (50, 50, 100, "x"), (0, 1000, 1000, "x"),
            (1, 100, 2, "100 more remarks are left out"), (150, 0, 101, "50 more remarks are left out"),
            (0, 1200, 1001, "200 more remarks are left out"),
        ];
        for (errors, warnings, want, last) in cases {
            assert_eq!(many(errors, warnings), (want, last.to_owned()), "{errors}, {warnings}");
        }
    }
}
