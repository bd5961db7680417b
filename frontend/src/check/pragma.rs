//! Comments that speak to checkers: BuildKit's `# check=`, ours, and hadolint's.

use super::CheckOptions;
use super::rule;

/// Reads a comment (without its `#`) above an instruction; `None` where it is an ordinary one.
///
/// `check=skip=A,B;experimental=C`, `rbuild check skip=A,B`, `hadolint ignore=DL3008,DL3009`.
pub(super) fn parse(comment: &str) -> Option<CheckOptions> {
    let skip = |names: &str| CheckOptions { skip: list(names), ..CheckOptions::default() };
    if let Some(names) = after(comment, &["rbuild", "check"], "skip") {
        return Some(skip(names));
    }
    if let Some(names) = after(comment, &["hadolint"], "ignore") {
        return Some(skip(names));
    }
    let (name, value) = comment.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("check") {
        return None;
    }
    // What follows a blank is the author's reason (as in BuildKit).
    CheckOptions::parse(value.split_whitespace().next()?).ok()
}

/// The rules that `# hadolint global ignore=...` comments of the file silence.
pub(crate) fn global_skips(source: &str) -> Vec<String> {
    if !source.contains("hadolint") {
        return Vec::new();
    }
    let comments = source.lines().filter_map(|line| line.trim_start().strip_prefix('#'));
    comments
        .filter_map(|comment| after(comment.trim(), &["hadolint", "global"], "ignore"))
        .flat_map(list)
        .collect()
}

/// Whether `name` (a rule's name, or the code that another checker has for it) means `rule`.
pub(super) fn means(name: &str, rule: &str) -> bool {
    name.eq_ignore_ascii_case(rule) || rule::find(name).any(|found| found.name == rule)
}

/// Returns what follows `words... key=`, up to the next blank that no comma precedes.
fn after<'c>(comment: &'c str, words: &[&str], key: &str) -> Option<&'c str> {
    let mut rest = comment.trim();
    for word in words {
        rest = rest.strip_prefix(word)?;
        rest = rest.strip_prefix(|c: char| c.is_whitespace())?.trim_start();
    }
    rest.strip_prefix(key)?.trim_start().strip_prefix('=')
}

fn list(names: &str) -> Vec<String> {
    let names = names.split(',').map_while(|name| name.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_that_skip() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &[&str]); 8] = [
            ("buildkit",     "check=skip=A,B",                    &["A", "B"]),
            ("with reason",  "check=skip=A because of it",        &["A"]),
            ("ours",         "rbuild check skip=A, B",            &["A", "B"]),
            ("hadolint",     "hadolint ignore=DL3008,DL3009",     &["DL3008", "DL3009"]),
            ("its reason",   "hadolint ignore=DL3008 as we want", &["DL3008"]),
            ("ordinary",     "hadolint is a linter",              &[]),
            ("a sentence",   "we check = a lot",                  &[]),
            ("glued",        "hadolintignore=DL3008",             &[]),
        ];
        for (name, comment, want) in cases {
            let got = parse(comment).unwrap_or_default().skip;
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn global_comments() {
        let source = "# hadolint global ignore=DL3008, DL3018\nFROM a\n # hadolint ignore=DL1\n";
        assert_eq!(global_skips(source), ["DL3008", "DL3018"]);
        assert!(means("DL3025", "JSONArgsRecommended"));
        assert!(means("jsonargsrecommended", "JSONArgsRecommended"));
        assert!(!means("DL3025", "UndefinedVar"));
    }
}
