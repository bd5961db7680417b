//! `--chmod`: octal, or symbolic as chmod(1) writes it.

use crate::{CopyMode, Diagnostic, Span};

/// Parses the value of `--chmod` that stands at `span`.
pub(crate) fn check(text: &str, span: Span) -> Result<CopyMode, Box<Diagnostic>> {
    parse(text).map_err(|message| {
        let help = "write it in octal up to 7777, or as chmod does: u=rwX,go=rX";
        Box::new(Diagnostic::error(span, message).with_help(help))
    })
}

fn parse(text: &str) -> Result<CopyMode, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o7777);
        return mode
            .map(CopyMode::Octal)
            .ok_or_else(|| format!("the mode `{text}` is not octal or beyond 7777"));
    }
    if text.split(',').all(is_clause) {
        return Ok(CopyMode::Symbolic(text.to_owned()));
    }
    Err(format!("`{text}` is no mode"))
}

/// `[ugoa]*` and one or more of `[+-=]` with `[rwxXst]*` or one of `[ugo]` behind.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !actions.starts_with(['+', '-', '=']) {
        return false;
    }
    let mut permissions = actions.split(['+', '-', '=']).skip(1);
    permissions.all(|permissions| {
        matches!(permissions, "u" | "g" | "o")
            || permissions.chars().all(|permission| "rwxXst".contains(permission))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, want) in [("755", 0o755), ("0644", 0o644), ("7777", 0o7777), ("0", 0)] {
            assert_eq!(parse(text), Ok(CopyMode::Octal(want)), "{text}");
        }
        for text in ["u=rwX,go=rX", "+x", "a-w", "ug+rw-x", "g=u", "u=", "o+t", "u+s,g-w"] {
            assert_eq!(parse(text), Ok(CopyMode::Symbolic(text.to_owned())), "{text}");
        }
        for text in ["888", "10000", "77777777777", "", "rw", "u", "u+z", "u=rw,", "0o755", "-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
