//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the head of the file.
//!
//! They count only before anything else: an ordinary comment, a blank line or an instruction ends
//! them (Dockerfile reference, "Parser directives").

use serde::Serialize;

use crate::ast::Word;
use crate::check::CheckOptions;
use crate::diagnostic::Remarks;
use crate::lines::Lines;
use crate::nearest::did_you_mean;
use crate::{Diagnostic, Extent, Severity, Span};

/// What the head of the file says about the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// The frontend image asked for; kept for the reader, never fetched.
    pub syntax: Option<Word>,
    /// The continuation and escape character: backslash or backtick.
    pub escape: char,
    /// Which check rules are skipped, and whether the others are errors.
    pub check: CheckOptions,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: CheckOptions::default() }
    }
}

/// Reads the directives and leaves `lines` at the first line that is none.
pub(crate) fn parse(lines: &mut Lines<'_>, out: &mut Remarks) -> Directives {
    let mut directives = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let mut ahead = lines.clone();
        let Some(line) = ahead.next_line() else { break };
        let Some((name, value)) = split(line.text, line.start) else { break };
        let lower = name.text.to_ascii_lowercase();
        if !is_known(&lower) {
            break;
        }
        *lines = ahead;
        if seen.contains(&lower) {
            let message = format!("the `{lower}` directive stands here a second time");
            out.push(Diagnostic::error(name.span, message).with_help("keep only the first"));
            continue;
        }
        match lower.as_str() {
            "syntax" => {
                if !is_dockerfile(&value.text) {
                    out.push(not_fetched(&value.text, value.span));
                }
                directives.syntax = Some(value);
            }
            "escape" => match value.text.as_str() {
                "\\" => directives.escape = '\\',
                "`" => directives.escape = '`',
                other => {
                    let message = format!("`{other}` cannot be the escape character");
                    out.push(
                        Diagnostic::error(value.span, message)
                            .with_help("it is a backslash (\\) or a backtick (`)"),
                    );
                }
            },
            _ => match CheckOptions::parse(&value.text) {
                Ok(options) => directives.check = options,
                Err(key) => out.push(invalid_check(&value, &key)),
            },
        }
        seen.push(lower);
    }
    directives
}

/// Whether a frontend image reads the language that is read here.
fn is_dockerfile(syntax: &str) -> bool {
    // What follows the name is for the frontend.
    let image = syntax.split(char::is_whitespace).next().unwrap_or_default();
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = image.split(['@', ':']).next().unwrap_or_default();
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream" | "dockerfile.v0")
}

/// A warning that a frontend image was asked for.
pub(crate) fn not_fetched(syntax: &str, span: Span) -> Diagnostic {
    let message = format!("the frontend `{syntax}` is not fetched");
    let warning = Diagnostic { severity: Severity::Warning, ..Diagnostic::error(span, message) };
    warning.with_help("the file is read as a Dockerfile, syntax 1.26")
}

fn is_known(name: &str) -> bool {
    matches!(name, "syntax" | "escape" | "check")
}

/// Whether `line` would be a directive at the head of a file.
pub(crate) fn is_directive(line: &str) -> bool {
    split(line, 0).is_some_and(|(name, _)| is_known(&name.text.to_ascii_lowercase()))
}

fn invalid_check(value: &Word, key: &str) -> Diagnostic {
    let message = format!("invalid check option `{key}`");
    let diagnostic = Diagnostic::error(value.span, message).within(Extent::File);
    match did_you_mean(key, ["skip", "error", "experimental"]) {
        Some(help) => diagnostic.with_help(help),
        None => diagnostic.with_help("expected `skip=RULE,RULE`, `skip=all` or `error=true`"),
    }
}

/// Splits `# name = value`; the name is letters and digits and begins with a letter.
fn split(line: &str, start: usize) -> Option<(Word, Word)> {
    let body = line.trim_start().strip_prefix('#')?.trim_start();
    let (name, value) = body.split_once('=')?;
    let name = name.trim_end();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let value = value.trim();
    if !is_name || value.is_empty() {
        return None;
    }
    let word = |text: &str| {
        // Both parts are slices of `line`, so the distance of their addresses is their offset.
        let at = start + (text.as_ptr().addr() - line.as_ptr().addr());
        Word { text: text.into(), span: Span::new(at, at + text.len()) }
    };
    Some((word(name), word(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_stand_before_anything_else() {
        #[rustfmt::skip]
        let cases = [
            ("none",                "FROM a",                             None,      '\\', 0),
            ("syntax",              "# syntax=docker/dockerfile:1\n",     Some("docker/dockerfile:1"), '\\', 0),
            ("with arguments",      "# syntax=docker.io/docker/dockerfile@sha256:0 a\n", Some("docker.io/docker/dockerfile@sha256:0 a"), '\\', 0),
            ("another language",    "# syntax=earthly/x\n",               Some("earthly/x"), '\\', 1),
            ("blanks and case",     "#  Syntax = x \n# ESCAPE=`\n",       Some("x"), '`',  1),
            ("after a comment",     "# hello\n# escape=`\n",              None,      '\\', 0),
            ("after a blank line",  "\n# escape=`\n",                     None,      '\\', 0),
            ("unknown ends them",   "# foo=bar\n# escape=`\n",            None,      '\\', 0),
            ("twice",               "# escape=`\n# escape=\\\n",          None,      '`',  1),
            ("bad escape",          "# escape=x\n",                       None,      '\\', 1),
            ("bad check",           "# check=skp=all\n",                  None,      '\\', 1),
            ("byte order mark",     "\u{feff}# escape=`\n",               None,      '`',  0),
        ];
        for (name, source, syntax, escape, faults) in cases {
            let mut out = Remarks::default();
            let directives = parse(&mut Lines::new(source), &mut out);
            assert_eq!(directives.syntax.as_ref().map(|w| w.text.as_str()), syntax, "{name}");
            assert_eq!((directives.escape, out.len()), (escape, faults), "{name}");
        }
    }
}
