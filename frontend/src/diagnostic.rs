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

/// What an error keeps from being built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Everything: the text is no Dockerfile. BuildKit refuses it when it parses the file.
    #[default]
    Text,
    /// Everything: a value is wrong that every build needs, such as the words of FROM.
    File,
    /// The stage of this number, and what needs it; builds that leave it out do not mind.
    Stage(usize),
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
    /// What cannot be built for it, where it is an error.
    #[serde(skip)]
    pub extent: Extent,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            span,
            help: None,
            extent: Extent::default(),
        }
    }

    /// A warning of check rule `rule` at `span`.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            rule: Some(rule),
            message: message.into(),
            span,
            help: None,
            extent: Extent::default(),
        }
    }

    /// Says what cannot be built for it.
    #[must_use]
    pub(crate) fn within(mut self, extent: Extent) -> Self {
        self.extent = extent;
        self
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
const MAX_WARNINGS: usize = 1000;

/// What is said of one file. Beyond what is told of it, remarks are only counted: a hostile file
/// must not cost a remark for every other byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remarks {
    kept: Vec<Diagnostic>,
    /// Those of `kept` that are errors.
    errors: usize,
    left_out: usize,
    /// Whether one of those left out is an error of [`Extent::Text`].
    leaves_out_text: bool,
    /// The last that was left out: whoever said it may still add to it.
    last_left_out: Option<Diagnostic>,
}

impl Remarks {
    /// Adds a remark.
    pub(crate) fn push(&mut self, remark: Diagnostic) {
        self.add(remark);
    }

    /// Adds a remark and returns it, so that more can be said in it.
    pub(crate) fn add(&mut self, remark: Diagnostic) -> &mut Diagnostic {
        let is_error = remark.severity == Severity::Error;
        let (most, said) = if is_error {
            (MAX_ERRORS, self.errors)
        } else {
            (MAX_WARNINGS, self.kept.len() - self.errors)
        };
        if said == most {
            self.left_out += 1;
            self.leaves_out_text |= is_error && remark.extent == Extent::Text;
            return self.last_left_out.insert(remark);
        }
        self.errors += usize::from(is_error);
        self.kept.push(remark);
        let last = self.kept.len() - 1;
        &mut self.kept[last]
    }

    /// Whether further errors are only counted, so that wording them is in vain.
    pub(crate) fn counts_errors(&self) -> bool {
        self.errors == MAX_ERRORS
    }

    /// Counts an error of the text that is not worded.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
        self.leaves_out_text = true;
    }

    /// Makes warnings of the errors from the one numbered `first` on, each reworded by `reword`.
    pub(crate) fn forgive(&mut self, first: usize, reword: impl Fn(&mut Diagnostic)) {
        for remark in &mut self.kept[first..] {
            if remark.severity == Severity::Error {
                remark.severity = Severity::Warning;
                self.errors -= 1;
                reword(remark);
            }
        }
        let warnings = self.kept.len() - self.errors;
        let surplus = warnings.saturating_sub(MAX_WARNINGS).min(self.kept.len() - first);
        self.kept.truncate(self.kept.len() - surplus);
        self.left_out += surplus;
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Those that are kept.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.kept.iter()
    }

    /// Those that are kept, from the one numbered `first` on.
    pub(crate) fn said_since(&mut self, first: usize) -> &mut [Diagnostic] {
        &mut self.kept[first..]
    }

    /// Whether any is an error.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Returns those that are kept, in the order in which they were said.
    pub(crate) fn into_kept(self) -> Vec<Diagnostic> {
        self.kept
    }

    /// Returns all that is told, in the order of the file: beside many remarks with errors among
    /// them no warnings, and a last one that counts those left out.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let Self { mut kept, errors, mut left_out, leaves_out_text, .. } = self;
        kept.sort_by_key(|remark| (remark.span.start, remark.span.end));
        if errors > 0 && kept.len() + left_out > MAX_ERRORS {
            left_out += kept.len() - errors;
            kept.retain(|remark| remark.severity == Severity::Error);
        }
        if let Some(last) = kept.last().filter(|_| left_out > 0) {
            let message = format!("{left_out} more remarks are left out");
            let extent = if leaves_out_text { Extent::Text } else { last.extent };
            let more = Diagnostic::error(last.span, message).within(extent);
            kept.push(Diagnostic { severity: last.severity, ..more });
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_remarks_are_cut_and_counted() {
        let remark = |severity| Diagnostic { severity, ..Diagnostic::error(Span::new(0, 0), "x") };
        let (error, warning) = (remark(Severity::Error), remark(Severity::Warning));
        let many = |errors, warnings| {
            let mut remarks = Remarks::default();
            let all = [vec![warning.clone(); warnings], vec![error.clone(); errors]].concat();
            for remark in all {
                remarks.push(remark);
            }
            let kept = remarks.finish();
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
