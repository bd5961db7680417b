//! Heredocs: finding their marks on an instruction's line and reading their bodies.
//!
//! A mark is a word `[fd]<<[-]DELIMITER` after quote processing. Quotes anywhere in the delimiter
//! switch expansion off. Bodies follow the instruction's last line, in the order of the marks,
//! and are taken as they are; a line that is only the delimiter ends one (`<<-` allows tabs
//! before it).

use std::ops::Range;

use crate::ast::Heredoc;
use crate::diagnostic::Remarks;
use crate::lines::{Lines, Logical};
use crate::nearest::nearest;
use crate::syntax::Keyword;
use crate::words::Lexer;
use crate::{Diagnostic, Span};

/// A heredoc's mark, its body not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) expands: bool,
    pub(crate) chomps: bool,
}

/// Open heredocs of one file behind which the file is read on.
const MAX_OPEN: usize = 16;

/// Reads `text` as one mark: digits, `<<`, an optional dash, and one word.
pub(crate) fn parse_mark(text: &str) -> Option<Mark> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let chomps = rest.starts_with('-');
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    // Nearly every delimiter is a plain name, which the lexer would leave as it is.
    if rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Some(Mark { name: rest.to_owned(), expands: true, chomps });
    }
    let mut lexer = Lexer { keeps_unset: true, ..Lexer::new('\\') };
    let plain = lexer.process(rest, &()).ok()?.words;
    lexer.raw_quotes = true;
    let raw = lexer.process(rest, &()).ok()?.words;
    let ([(_, name)], [(_, quoted)]) = (plain.as_slice(), raw.as_slice()) else { return None };
    // Escaped quotes stay in both results, so a difference means that a quote quoted something.
    let count = |word: &str| word.matches(['\'', '"']).count();
    Some(Mark { name: name.clone(), expands: count(name) == count(quoted), chomps })
}

/// Finds the marks among the words of an instruction's line, with their ranges.
///
/// A line whose quotes do not close has none: it is not the heredoc's to complain.
pub(crate) fn marks(line: &str) -> Vec<(Mark, Range<usize>)> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer =
        Lexer { raw_quotes: true, raw_escapes: true, keeps_unset: true, ..Lexer::new('\\') };
    let words = lexer.process(line, &()).map(|expansion| expansion.words).unwrap_or_default();
    let found = |(start, word): (usize, String)| {
        let end = (start + word.len()).min(line.len());
        parse_mark(&word).map(|mark| (mark, start..end))
    };
    words.into_iter().filter_map(found).collect()
}

/// Reads the bodies that `logical` announces from the lines that follow it; `open` counts those
/// of the file that are never closed.
pub(crate) fn read(
    logical: &Logical<'_>,
    lines: &mut Lines<'_>,
    open: &mut usize,
    out: &mut Remarks,
) -> Vec<Heredoc> {
    let mut heredocs = Vec::new();
    for (mark, range) in marks(&logical.text) {
        let mark_span = logical.span(range);
        let mut content = String::new();
        let start = lines.position();
        let mut end = start;
        let before = lines.clone();
        let closed = loop {
            let Some(line) = lines.next_line() else { break false };
            let tabs = if mark.chomps { line.text.trim_start_matches('\t') } else { line.text };
            if tabs == mark.name {
                break true;
            }
            end = lines.position();
        };
        if !closed {
            // What stands behind the body is read on, so that its faults show too; but not for
            // ever, since each heredoc is looked for up to the file's end.
            let mut meant = None;
            if *open < MAX_OPEN {
                *lines = before;
                meant = skip_body(lines, &mark.name, &logical.text);
            }
            *open += 1;
            let message = format!("the heredoc `{}` is never closed", mark.name);
            out.push(Diagnostic::error(mark_span, message).with_help(how_to_close(&mark, meant)));
            return heredocs;
        }
        content.push_str(lines.slice(start..end));
        heredocs.push(Heredoc {
            name: mark.name,
            expands: mark.expands,
            chomps: mark.chomps,
            content,
            mark: mark_span,
            body: Span::new(start, end),
        });
    }
    heredocs
}

/// Leaves `lines` where the body of a heredoc that nothing closes most likely ends: behind a line
/// that is almost the delimiter, which is returned, or before the next instruction, known by a
/// keyword in the letter case of `instruction`, so that shell text is not read as instructions.
fn skip_body<'s>(lines: &mut Lines<'s>, name: &str, instruction: &str) -> Option<&'s str> {
    let is_lower = instruction.starts_with(|first: char| first.is_ascii_lowercase());
    loop {
        let before = lines.clone();
        let line = lines.next_line()?;
        let word = line.text.split([' ', '\t']).next().unwrap_or_default();
        let is_cased = word.bytes().all(|byte| byte.is_ascii_lowercase() == is_lower);
        if is_cased && Keyword::parse(word).is_some() {
            *lines = before;
            return None;
        }
        let text = line.text.trim();
        let is_near = name.len() > 2 && nearest(text, [name]).is_some();
        if is_near || (text.eq_ignore_ascii_case(name) && !text.is_empty()) {
            return Some(text);
        }
    }
}

/// Says what ends a heredoc, beside what was `meant` to.
fn how_to_close(mark: &Mark, meant: Option<&str>) -> String {
    let name = &mark.name;
    match meant {
        None => format!("expected a line that is only `{name}`"),
        Some(meant) if meant == name => {
            format!("expected a line that is only `{name}`: nothing before it or behind it")
        }
        Some(meant) => format!("expected a line that is only `{name}`; there is `{meant}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_in_words() {
        let mark = |name: &str, expands, chomps| Some((name.to_owned(), expands, chomps));
        #[rustfmt::skip]
        let cases = [
            ("plain",               "<<EOF",          mark("EOF", true, false)),
            ("dash",                "<<-EOF",         mark("EOF", true, true)),
            ("descriptor",          "3<<EOF",         mark("EOF", true, false)),
            ("single quotes",       "<<'EOF'",        mark("EOF", false, false)),
            ("double quotes",       "<<\"EOF\"",      mark("EOF", false, false)),
            ("half quoted",         "<<E'O'F",        mark("EOF", false, false)),
            ("escaped quote",       r"<<eo\'f",       mark("eo'f", true, false)),
            ("blank in quotes",     "<<'a b'",        mark("a b", false, false)),
            ("a variable's name",   "<<$EOF",         mark("$EOF", true, false)),
            ("blank before",        "<< EOF",         mark("EOF", true, false)),
            ("two words",           "<<a b",          None),
            ("nothing behind",      "<<",             None),
            ("here string",         "<<<x",           None),
            ("inside a word",       "a<<EOF",         None),
        ];
        for (name, text, want) in cases {
            let got = parse_mark(text).map(|mark| (mark.name, mark.expands, mark.chomps));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn marks_on_a_line() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &[&str]); 6] = [
            ("two",            "COPY <<a <<b /x",           &["<<a", "<<b"]),
            ("quoted text",    "RUN echo \"<<EOF\"",        &[]),
            ("with a pipe",    "RUN cat <<EOF | sort",      &["<<EOF"]),
            ("blank between",  "RUN cat <<  EOF",           &["<<  EOF"]),
            ("unclosed quote", "RUN echo \" <<EOF",         &[]),
            ("a shift",        "RUN echo $((1<<2))",        &[]),
        ];
        for (name, line, want) in cases {
            let got: Vec<&str> = marks(line).into_iter().map(|(_, at)| &line[at]).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
