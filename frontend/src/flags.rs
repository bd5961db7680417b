//! Flags of instructions: first what was typed, then what it means.
//!
//! They stand between the keyword and the arguments, begin with `--`, may be quoted, and end at
//! the first word without `--` or at a bare `--`.

use std::ops::Range;

use smol_str::SmolStr;

use crate::Diagnostic;
use crate::ast::Word;
use crate::diagnostic::Remarks;
use crate::lines::Logical;
use crate::nearest::did_you_mean;

/// Splits the flags off the front of `range`; returns them and the range of the arguments.
///
/// Quotes and backslashes are taken off, as BuildKit does (the backslash whatever the escape
/// character of the file is).
pub(crate) fn split(line: &Logical<'_>, range: Range<usize>) -> (Vec<Word>, Range<usize>) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = &line.text[at..range.end];
        at += rest.len() - rest.trim_start().len();
        if !line.text[at..range.end].starts_with("--") {
            return (flags, at..range.end);
        }
        let (text, end) = unquoted(&line.text[..range.end], at);
        if text == "--" {
            return (flags, line.trim(end..range.end));
        }
        flags.push(Word { text, span: line.span(at..end) });
        at = end;
    }
}

/// Reads one word from `start`, taking its quotes off; returns it and where it ends.
fn unquoted(text: &str, start: usize) -> (SmolStr, usize) {
    let rest = &text[start..];
    let is_end = |char: char| char.is_whitespace() || matches!(char, '\'' | '"' | '\\');
    let length = rest.find(is_end).unwrap_or(rest.len());
    if rest[length..].chars().next().is_none_or(char::is_whitespace) {
        return (rest[..length].into(), start + length);
    }
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((at, char)) = chars.next() {
        match (char, quote) {
            (space, None) if space.is_whitespace() => return (word.into(), start + at),
            ('\'' | '"', None) => quote = Some(char),
            (close, Some(open)) if close == open => quote = None,
            ('\\', _) => word.extend(chars.next().map(|(_, next)| next)),
            (other, _) => word.push(other),
        }
    }
    (word.into(), text.len())
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `=true` or `=false`.
    Switch,
    /// One value, once.
    Value,
    /// One value, any number of times.
    Values,
}

/// The flags that an instruction knows, in the order help lists them.
pub(crate) type Known = &'static [(&'static str, Takes)];

/// Flags whose names and forms are checked.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    values: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Checks `flags` of the instruction `keyword` against what it knows.
    pub(crate) fn read(keyword: &str, flags: &[Word], known: Known, out: &mut Remarks) -> Self {
        let mut read = Self::default();
        for flag in flags {
            if out.counts_errors() && !is_known(flag, known) {
                out.leave_out();
                continue;
            }
            match read.one(keyword, flag, known) {
                Ok((name, value)) => read.values.push((name, value)),
                Err(diagnostic) => out.push(*diagnostic),
            }
        }
        read
    }

    fn one(
        &self,
        keyword: &str,
        flag: &Word,
        known: Known,
    ) -> Result<(&'static str, Word), Box<Diagnostic>> {
        let (name, value) = parts(flag);
        let at = flag.part(0..2 + name.len());
        let error = |message: String| Box::new(Diagnostic::error(at, message));
        let Some(&(name, takes)) = known.iter().find(|(known, _)| *known == name) else {
            return Err(Box::new(unknown(keyword, name, known, at)));
        };
        if takes != Takes::Values && self.values.iter().any(|(seen, _)| *seen == name) {
            return Err(error(format!("the flag `--{name}` is given twice")));
        }
        let word = |text: &str| {
            let from = flag.text.len() - text.len();
            Word { text: text.into(), span: flag.part(from..flag.text.len()) }
        };
        match (takes, value) {
            (Takes::Switch, None) => Ok((name, Word { text: "true".into(), span: flag.span })),
            (Takes::Switch, Some(value)) => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok((name, word(&value.to_ascii_lowercase()))),
                "" => Err(error(format!("the flag `--{name}=` lacks its value"))),
                _ => Err(error(format!("`--{name}` is true or false, not `{value}`"))),
            },
            (Takes::Value | Takes::Values, Some(value)) => Ok((name, word(value))),
            (Takes::Value | Takes::Values, None) => Err(Box::new(
                Diagnostic::error(at, format!("the flag `--{name}` lacks its value"))
                    .with_help(format!("write `--{name}=VALUE`")),
            )),
        }
    }

    /// Returns the value of a [`Takes::Value`] flag.
    pub(crate) fn value(&mut self, name: &str) -> Option<Word> {
        let at = self.values.iter().position(|(known, _)| *known == name)?;
        Some(self.values.remove(at).1)
    }

    /// Returns all values of a [`Takes::Values`] flag.
    pub(crate) fn values(&mut self, name: &str) -> Vec<Word> {
        let all = std::mem::take(&mut self.values);
        let (named, others) = all.into_iter().partition(|(known, _)| *known == name);
        self.values = others;
        let named: Vec<(&str, Word)> = named;
        named.into_iter().map(|(_, value)| value).collect()
    }

    /// Returns what a [`Takes::Switch`] flag says, `None` where it is absent.
    pub(crate) fn switch(&mut self, name: &str) -> Option<bool> {
        self.value(name).map(|word| word.text == "true")
    }
}

/// Splits a flag into its name and, behind `=`, its value.
fn parts(flag: &Word) -> (&str, Option<&str>) {
    let body = flag.text.strip_prefix("--").unwrap_or(&flag.text);
    match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    }
}

fn is_known(flag: &Word, known: Known) -> bool {
    let (name, _) = parts(flag);
    known.iter().any(|(known, _)| *known == name)
}

fn unknown(keyword: &str, name: &str, known: Known, at: crate::Span) -> Diagnostic {
    let keyword = keyword.to_ascii_uppercase();
    let diagnostic = Diagnostic::error(at, format!("{keyword} has no flag `--{name}`"));
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    let help = did_you_mean(&format!("--{name}"), names.iter().map(String::as_str));
    match help {
        Some(help) => diagnostic.with_help(help),
        None if names.is_empty() => diagnostic.with_help("it takes no flags"),
        None => diagnostic.with_help(format!("it knows {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_argument() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &[&str], &str); 9] = [
            ("none",             "a b",                        &[],                  "a b"),
            ("one",              "--a=b c",                    &["--a=b"],           "c"),
            ("two",              "--a=b   --c d",              &["--a=b", "--c"],    "d"),
            ("later dashes",     "a --b",                      &[],                  "a --b"),
            ("quoted",           r#"--a="b c" d"#,             &["--a=b c"],         "d"),
            ("escaped",          r"--a=b\ c d",                &["--a=b c"],         "d"),
            ("end mark",         "--a=b -- --c",               &["--a=b"],           "--c"),
            ("end mark alone",   "-- a",                       &[],                  "a"),
            ("nothing behind",   "--a",                        &["--a"],             ""),
        ];
        for (name, text, want, rest) in cases {
            let line = Logical::single(text, 0);
            let (flags, arguments) = split(&line, 0..text.len());
            let texts: Vec<&str> = flags.iter().map(|flag| flag.text.as_str()).collect();
            assert_eq!((texts.as_slice(), &text[arguments]), (want, rest), "{name}");
        }
    }

    #[test]
    fn flags_mean_what_is_known() {
        const KNOWN: Known =
            &[("link", Takes::Switch), ("from", Takes::Value), ("exclude", Takes::Values)];
        #[rustfmt::skip]
        let cases = [
            ("switch",          "--link x",                     None),
            ("switch false",    "--link=FALSE x",               None),
            ("switch empty",    "--link= x",                    Some("the flag `--link=` lacks its value")),
            ("switch odd",      "--link=yes x",                 Some("`--link` is true or false, not `yes`")),
            ("value",           "--from=a x",                   None),
            ("value missing",   "--from x",                     Some("the flag `--from` lacks its value")),
            ("twice",           "--from=a --from=b x",          Some("the flag `--from` is given twice")),
            ("many",            "--exclude=a --exclude=b x",    None),
            ("unknown",         "--form=a x",                   Some("COPY has no flag `--form`")),
        ];
        for (name, text, want) in cases {
            let (flags, _) = split(&Logical::single(text, 0), 0..text.len());
            let mut out = Remarks::default();
            Flags::read("copy", &flags, KNOWN, &mut out);
            assert_eq!(out.iter().next().map(|d| d.message.as_str()), want, "{name}");
        }
    }
}
