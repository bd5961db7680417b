//! Laying out a Dockerfile: `rbuild fmt`.
//!
//! Instructions stand at the margin with their keywords in upper case, one blank parts words that
//! the language parts, continued words are indented by four blanks, an empty line parts stages, and
//! no line has blanks at its end. Invariants: what is built does not change, not even in a blank of
//! a command's text, so that cache keys stay; comments stay; laying out twice changes nothing more.

mod instruction;
mod meaning;

use crate::diagnostic::Remarks;
use crate::directive;
use crate::lines::Lines;
use crate::syntax::{self, Keyword};
use crate::{Diagnostic, Severity};

/// Lays out `source`. A file that cannot be laid out without changing its meaning stays as it is.
///
/// # Errors
///
/// The errors of a file that has any.
pub fn format(source: &str) -> Result<String, Vec<Diagnostic>> {
    let parsed = crate::parse(source);
    if parsed.has_errors() {
        let errors = parsed.diagnostics.into_iter();
        return Err(errors.filter(|found| found.severity == Severity::Error).collect());
    }
    let formatted = lay_out(source);
    let after = crate::parse(&formatted);
    // A comment that comes to stand at the head can become a directive, and a wrong one.
    if !after.has_errors() && meaning::is_same(&parsed.dockerfile, &after.dockerfile) {
        Ok(formatted)
    } else {
        Ok(source.to_owned())
    }
}

fn lay_out(source: &str) -> String {
    let mut ignored = Remarks::default();
    let mut lines = Lines::new(source);
    let directives = directive::parse(&mut lines, &mut ignored);
    let mut end = lines.position();
    let instructions = syntax::parse(&mut lines, directives.escape, &mut ignored);
    let mut page = Page::new(source);
    page.directives(&source[..end]);
    let mut has_stage = false;
    for (index, raw) in instructions.iter().enumerate() {
        let gap = &source[end..raw.span.start];
        // The last line of the gap is the instruction's own.
        let gap = gap.rfind('\n').map_or("", |at| &gap[..=at]);
        if index == 0 {
            page.head(gap);
        } else {
            page.gap(gap, has_stage && raw.known == Some(Keyword::From));
        }
        has_stage |= raw.known == Some(Keyword::From);
        page.line(&instruction::lay_out(raw, source, directives.escape, page.line_end));
        end = raw.span.end;
    }
    page.foot(&source[end..]);
    page.text
}

/// What is written so far.
struct Page {
    text: String,
    line_end: &'static str,
}

impl Page {
    fn new(source: &str) -> Self {
        let first = source.split_inclusive('\n').next().unwrap_or_default();
        let line_end = if first.ends_with("\r\n") { "\r\n" } else { "\n" };
        Self { text: String::with_capacity(source.len()), line_end }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push_str(self.line_end);
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(line);
        }
    }

    /// Writes the directives.
    fn directives(&mut self, head: &str) {
        for line in head.trim_start_matches('\u{feff}').lines() {
            let body = line.trim().trim_start_matches('#').trim_start();
            let (name, value) = body.split_once('=').unwrap_or((body, ""));
            let directive = format!("# {}={}", name.trim_end().to_ascii_lowercase(), value.trim());
            self.line(&directive);
        }
    }

    /// Writes what stands before the first instruction.
    fn head(&mut self, gap: &str) {
        let lines = comments(gap);
        // A file begins with no empty line, but for one that keeps a comment from being a directive.
        let skipped = match lines.as_slice() {
            ["", comment, ..] if directive::is_directive(comment) => 0,
            ["", ..] if self.text.is_empty() => 1,
            _ => 0,
        };
        self.lines(&lines[skipped..]);
    }

    /// Writes what stands between two instructions.
    fn gap(&mut self, gap: &str, is_new_stage: bool) {
        let mut lines = comments(behind_instruction(gap));
        if is_new_stage && !lines.contains(&"") {
            lines.insert(0, "");
        }
        self.lines(&lines);
    }

    /// Writes what stands behind the last instruction.
    fn foot(&mut self, gap: &str) {
        let mut lines = comments(behind_instruction(gap));
        if lines.last() == Some(&"") {
            lines.pop();
        }
        self.lines(&lines);
    }
}

/// What follows an instruction on its own line is blanks, or a mark that continues nothing.
fn behind_instruction(gap: &str) -> &str {
    gap.split_once('\n').map_or("", |(_, rest)| rest)
}

/// The comments of a gap without blanks around them, and one empty line where there are any.
fn comments(gap: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = Vec::new();
    for line in gap.lines().map(str::trim) {
        if line.starts_with('#') || (line.is_empty() && lines.last() != Some(&"")) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests;
