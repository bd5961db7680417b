//! Diagnostics and failures as text: the source with a caret, the causes, what to do.

use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use builder::{Failure, PlannedStep, SourceDiagnostic, SourceText};

use crate::format::printable;

/// What a report may quote.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotable<'a> {
    /// The Dockerfile, once it was read.
    pub(crate) source: Option<&'a SourceText>,
    /// The plan, empty before it was known.
    pub(crate) steps: &'a [PlannedStep],
    /// Columns of the terminal that shows it, where it is one: longer lines are cut.
    pub(crate) width: Option<usize>,
}

/// Renders one remark on the Dockerfile.
pub(crate) fn diagnostic(remark: &SourceDiagnostic, quotable: Quotable<'_>, color: bool) -> String {
    finding(remark, None, quotable, color)
}

/// Renders one remark on the Dockerfile, with the reason of its rule.
pub(crate) fn finding(
    remark: &SourceDiagnostic,
    reason: Option<&str>,
    quotable: Quotable<'_>,
    color: bool,
) -> String {
    let level = if remark.is_error { Level::ERROR } else { Level::WARNING };
    let message = printable(&remark.message);
    let mut title = level.primary_title(message);
    if let Some(rule) = &remark.rule {
        title = title.id(printable(rule));
    }
    let mut group = Group::with_title(title);
    if let Some(source) = quotable.source {
        group = group.element(excerpt(source, remark.span, None));
    } else {
        let (line, column) = remark.line_column;
        group = group.element(Level::NOTE.message(format!("line {line}, column {column}")));
    }
    if let Some(help) = &remark.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    if let Some(reason) = reason {
        group = group.element(Level::NOTE.with_name("why").message(reason));
    }
    renderer(color, quotable.width).render(&[group]) + "\n"
}

/// Renders why a build failed: its diagnostics, the step with its line, its last output.
pub(crate) fn failure(failure: &Failure, quotable: Quotable<'_>, color: bool) -> String {
    let mut text = String::new();
    for remark in &failure.diagnostics {
        text += &diagnostic(remark, quotable, color);
        text.push('\n');
    }
    let step = failure.step.and_then(|step| quotable.steps.get(step));
    if let Some(step) = step {
        push_log_tail(&mut text, failure, step);
    }
    let mut causes = failure.causes.iter().map(|cause| printable(cause));
    let what = causes.next().unwrap_or_else(|| "the build failed".to_owned());
    let mut group = Group::with_title(Level::ERROR.primary_title(what));
    if let (Some(step), Some(source)) = (step, quotable.source) {
        let label = format!("step {}", step_label(step));
        group = group.element(excerpt(source, step.span, Some(label)));
    }
    for cause in causes {
        group = group.element(Level::NOTE.with_name("caused by").message(cause));
    }
    if let Some(code) = failure.exit_code {
        group = group.element(Level::NOTE.with_name("exit code").message(code.to_string()));
    }
    if let Some(help) = &failure.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    if let Some(build) = &failure.kept_by {
        let shell = format!("`rbuild shell {}` shows what the step left", printable(build));
        group = group.element(Level::HELP.message(shell));
    }
    text + &renderer(color, quotable.width).render(&[group]) + "\n"
}

/// Returns `[4/5]`, or `[build 2/4]` where the file has several stages.
pub(crate) fn step_label(step: &PlannedStep) -> String {
    match &step.stage {
        Some(stage) => format!("[{} {}/{}]", printable(stage), step.number, step.total),
        None => format!("[{}/{}]", step.number, step.total),
    }
}

fn push_log_tail(text: &mut String, failure: &Failure, step: &PlannedStep) {
    if failure.log_tail.is_empty() {
        return;
    }
    writeln!(text, "Last output of {}:", step_label(step))
        .expect("a String takes all that is written");
    for line in &failure.log_tail {
        writeln!(text, "  {}", printable(line)).expect("a String takes all that is written");
    }
    text.push('\n');
}

fn excerpt(
    source: &SourceText,
    span: (usize, usize),
    label: Option<String>,
) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    let annotation = AnnotationKind::Primary.span(clamp(&source.text, span)).label(label);
    Snippet::source(source.text.as_str()).path(source.name.as_str()).annotation(annotation)
}

/// Makes `span` one that lies in `text` and cuts no character: it may come from a service.
fn clamp(text: &str, (start, end): (usize, usize)) -> Range<usize> {
    let mut start = start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

fn renderer(color: bool, width: Option<usize>) -> Renderer {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    match width {
        Some(width) => renderer.term_width(width),
        None => renderer,
    }
}

#[cfg(test)]
mod tests {
    use builder::ErrorKind;

    use super::*;

    const DOCKERFILE: &str = "FROM node:14\nRUN npm ñ \\\n  install\nCPOY . .\n";

    fn source() -> SourceText {
        SourceText { name: "Dockerfile".into(), text: DOCKERFILE.into() }
    }

    fn steps() -> Vec<PlannedStep> {
        let step = |number, text: &str, span| PlannedStep {
            stage: None,
            number,
            total: 2,
            text: text.into(),
            span,
            has_work: true,
            inputs: Vec::new(),
        };
        vec![step(1, "FROM node:14", (0, 12)), step(2, "RUN npm ñ install", (13, 35))]
    }

    #[test]
    fn a_diagnostic_shows_line_column_and_caret() {
        let source = source();
        let remark = SourceDiagnostic {
            is_error: true,
            rule: None,
            message: "unknown instruction `CPOY`".into(),
            help: Some("did you mean `COPY`?".into()),
            span: (36, 40),
            line_column: (4, 1),
        };
        let quotable = Quotable { source: Some(&source), steps: &[], width: None };
        let want = "\
error: unknown instruction `CPOY`
 --> Dockerfile:4:1
  |
4 | CPOY . .
  | ^^^^
  |
  = help: did you mean `COPY`?
";
        assert_eq!(diagnostic(&remark, quotable, false), want);
        assert!(diagnostic(&remark, quotable, true).contains("\x1b["));
    }

    #[test]
    fn a_failed_step_shows_its_line_its_output_and_its_code() {
        let source = source();
        let steps = steps();
        let given = Failure {
            kind: ErrorKind::User,
            causes: vec!["RUN npm ñ install failed".into(), "the command exited".into()],
            help: Some("look at the output above".into()),
            diagnostics: Vec::new(),
            step: Some(1),
            exit_code: Some(7),
            log_tail: vec!["npm ERR! \x1b[31mcode\x1b[0m".into(), "npm ERR! E404".into()],
            kept_by: Some("0a1b2c3d".into()),
        };
        let quotable = Quotable { source: Some(&source), steps: &steps, width: None };
        let want = "\
Last output of [2/2]:
  npm ERR! code
  npm ERR! E404

error: RUN npm ñ install failed
 --> Dockerfile:2:1
  |
2 | / RUN npm ñ \\
3 | |   install
  | |_________^ step [2/2]
  |
  = caused by: the command exited
  = exit code: 7
  = help: look at the output above
  = help: `rbuild shell 0a1b2c3d` shows what the step left
";
        assert_eq!(failure(&given, quotable, false), want);
    }

    #[test]
    fn spans_from_outside_cannot_panic() {
        let source = source();
        let length = DOCKERFILE.len();
        let spans =
            [(0, usize::MAX), (usize::MAX, 0), (length, length), (22, 21), (21, 22), (22, 23)];
        for span in spans {
            let remark = SourceDiagnostic {
                is_error: false,
                rule: Some("Rule".into()),
                message: "odd".into(),
                help: None,
                span,
                line_column: (9, 9),
            };
            let quotable = Quotable { source: Some(&source), steps: &[], width: None };
            let text = diagnostic(&remark, quotable, false);
            assert!(text.starts_with("warning[Rule]: odd\n"), "{span:?}: {text}");
        }
    }
}
