//! The syntax tree as s-expressions, in the form of BuildKit's parser dumps, so that other
//! implementations' tables can be held against ours.
//!
//! One line an instruction: keyword in lower case, flags in brackets, arguments as Go quotes
//! them; ENV and LABEL write name, value and separator; a trigger is an expression within; the
//! heredocs follow the arguments. What the arguments mean is not looked at. BuildKit's parser
//! refuses a JSON array of something else than strings, so the dump does, although a build reads
//! it as text for the shell.

use crate::ast::Pair;
use crate::diagnostic::Remarks;
use crate::go_text::{quoted, quoted_list};
use crate::lines::Lines;
use crate::syntax::{self, Arguments, Keyword, Raw};
use crate::{Diagnostic, Severity, Span, directive, json};

/// Writes the instructions of a Dockerfile as s-expressions.
///
/// # Errors
///
/// Faults of the grammar; faults of meaning are [`crate::parse`]'s to find.
pub fn dump_ast(source: &str) -> Result<String, Vec<Diagnostic>> {
    let mut lines = Lines::new(source);
    let mut out = Remarks::default();
    let directives = directive::parse(&mut lines, &mut out);
    let instructions = syntax::parse(&mut lines, directives.escape, &mut out);
    for fault in instructions.iter().filter_map(not_strings) {
        out.push(fault);
    }
    lines.check_length(&mut out);
    if instructions.is_empty() && !out.has_errors() {
        out.push(Diagnostic::error(Span::default(), "the file has no instructions"));
    }
    if out.has_errors() {
        let mut faults = out.finish();
        faults.retain(|fault| fault.severity == Severity::Error);
        return Err(faults);
    }
    Ok(instructions.iter().map(|raw| expression(raw) + "\n").collect())
}

/// Speaks of a JSON array of something else than strings in a command's place.
fn not_strings(raw: &Raw) -> Option<Diagnostic> {
    match &raw.arguments {
        Arguments::Trigger(Some(trigger)) => not_strings(trigger),
        Arguments::Text(Some(word)) if raw.known.is_some_and(Keyword::takes_command) => {
            let is_array = json::parse(&word.text) == json::Exec::NotStrings;
            is_array.then(|| {
                Diagnostic::error(word.span, "the exec form holds something else than strings")
            })
        }
        _ => None,
    }
}

fn expression(raw: &Raw) -> String {
    let mut text = format!("({}", raw.keyword.text.to_lowercase());
    let mut push = |part: String| {
        text.push(' ');
        text.push_str(&part);
    };
    if !raw.flags.is_empty() {
        let flags: Vec<String> = raw.flags.iter().map(|flag| flag.text.to_string()).collect();
        push(quoted_list(&flags));
    }
    match &raw.arguments {
        Arguments::Words(words) | Arguments::Json(words) => {
            for word in words {
                push(quoted(&word.text));
            }
        }
        Arguments::Text(Some(word)) => push(quoted(&word.text)),
        Arguments::Health { kind, command, .. } => {
            for word in kind.iter().chain(command) {
                push(quoted(&word.text));
            }
        }
        Arguments::Pairs(pairs) => {
            for pair in pairs {
                push(pair_text(pair));
            }
        }
        Arguments::Trigger(Some(trigger)) => push(expression(trigger)),
        Arguments::Text(None) | Arguments::Trigger(None) => {}
        Arguments::Ignored => push(quoted("")),
    }
    for heredoc in &raw.heredocs {
        push(format!("(heredoc {} {})", quoted(&heredoc.name), quoted(&heredoc.content)));
    }
    text.push(')');
    text
}

fn pair_text(pair: &Pair) -> String {
    let separator = if pair.has_equals { "=" } else { "" };
    [pair.key.text.as_str(), &pair.value.text, separator].map(quoted).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        #[rustfmt::skip]
        let cases = [
            ("FROM a AS b",                    "(from \"a\" \"AS\" \"b\")\n"),
            ("run --mount=type=ssh a b",       "(run [\"--mount=type=ssh\"] \"a b\")\n"),
            ("CMD [\"a\", \"b\"]",             "(cmd \"a\" \"b\")\n"),
            ("ENV a=b c='d e'",                "(env \"a\" \"b\" \"=\" \"c\" \"'d e'\" \"=\")\n"),
            ("LABEL a b c",                    "(label \"a\" \"b c\" \"\")\n"),
            ("ONBUILD RUN x",                  "(onbuild (run \"x\"))\n"),
            ("HEALTHCHECK --retries=1 CMD x",  "(healthcheck [\"--retries=1\"] \"CMD\" \"x\")\n"),
            ("RUN",                            "(run)\n"),
            ("FOO bar",                        "(foo \"\")\n"),
            ("# escape=`\nENV A `\n b\\c", "(env \"A\" \"b\\\\c\" \"\")\n"),
            ("COPY [\"a b\", \"c\"]",           "(copy \"a b\" \"c\")\n"),
            ("CMD ['a', \"b\"]",               "(cmd \"['a', \\\"b\\\"]\")\n"),
            ("RUN a \\\n  # c\n\n  b\\\n",     "(run \"a   b\")\n"),
            ("COPY --a --b=\"c d\" -- e f",    "(copy [\"--a\" \"--b=c d\"] \"e\" \"f\")\n"),
            ("HEALTHCHECK CMD [\"a\"]",        "(healthcheck \"CMD\" \"a\")\n"),
            ("HEALTHCHECK",                    "(healthcheck)\n"),
            ("ONBUILD",                        "(onbuild)\n"),
            ("VOLUME a\tb",                    "(volume \"a\" \"b\")\n"),
            ("ARG a b='c d'",                  "(arg \"a\" \"b='c d'\")\n"),
            ("RUN <<E\nx\nE",                  "(run \"<<E\" (heredoc \"E\" \"x\\n\"))\n"),
        ];
        for (source, want) in cases {
            assert_eq!(dump_ast(source).as_deref(), Ok(want), "{source}");
        }
        assert!(dump_ast("# only a comment").is_err());
        assert!(dump_ast("CMD [\"a\", [\"b\"]]").is_err());
        assert!(dump_ast("ONBUILD RUN [1]").is_err());
    }
}
