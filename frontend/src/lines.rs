//! Logical lines: physical lines joined over continuations, with a map back to the source.
//!
//! Rules of BuildKit's parser: the escape character at a line's end, blanks allowed after it,
//! joins the next line with nothing between; comment lines and (deprecated) empty lines within a
//! continued instruction are dropped; an escaped escape character does not continue.

use std::borrow::Cow;
use std::ops::Range;

use crate::diagnostic::Remarks;
use crate::{Diagnostic, Span};

/// One instruction's text with its continuations joined.
#[derive(Clone, Debug)]
pub(crate) struct Logical<'s> {
    /// The joined text; borrowed where the instruction stands on one line.
    pub(crate) text: Cow<'s, str>,
    /// `(offset in text, offset in source)` of the first piece.
    first: (usize, usize),
    /// The same of each piece joined to it, in order.
    joined: Vec<(usize, usize)>,
    /// The first empty line within the continuation.
    pub(crate) empty_line: Option<Span>,
}

impl<'s> Logical<'s> {
    /// Takes a text that stands in one piece at `start` of the source.
    pub(crate) fn single(text: &'s str, start: usize) -> Self {
        Self { text: Cow::Borrowed(text), first: (0, start), joined: Vec::new(), empty_line: None }
    }

    fn push(&mut self, text: &'s str, start: usize) {
        if self.text.is_empty() {
            self.joined.clear();
            self.first = (0, start);
            self.text = Cow::Borrowed(text);
        } else if !text.is_empty() {
            self.joined.push((self.text.len(), start));
            self.text.to_mut().push_str(text);
        }
    }

    /// Returns where `range` of the joined text stands in the source.
    ///
    /// A range that crosses a continuation covers everything between its ends.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let start = self.place(range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        Span::new(start, self.place(range.end - 1) + 1)
    }

    fn place(&self, offset: usize) -> usize {
        let after = self.joined.partition_point(|&(at, _)| at <= offset);
        let (at, source) = after.checked_sub(1).map_or(self.first, |last| self.joined[last]);
        source + (offset - at)
    }

    /// Returns the part of the text without blanks at its ends.
    pub(crate) fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let start = range.start + (text.len() - text.trim_start().len());
        start..start + text.trim().len()
    }
}

/// Walks the physical lines of a source.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'s> {
    source: &'s str,
    position: usize,
    /// The first line that is too long.
    too_long: Option<Span>,
}

/// Bytes that a line may have at most, as in BuildKit (`bufio.MaxScanTokenSize`).
const MAX_LINE: usize = (1 << 16) - 1;

/// One physical line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'s> {
    /// Without its line end.
    pub(crate) text: &'s str,
    /// Offset of the line in the source.
    pub(crate) start: usize,
}

impl<'s> Lines<'s> {
    /// Starts behind a byte order mark, if there is one.
    pub(crate) fn new(source: &'s str) -> Self {
        let position = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, position, too_long: None }
    }

    /// Starts at an offset, which begins a line or an instruction.
    pub(crate) fn at(source: &'s str, position: usize) -> Self {
        Self { source, position, too_long: None }
    }

    /// Offset of the next line.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Returns a part of the source.
    pub(crate) fn slice(&self, range: Range<usize>) -> &'s str {
        &self.source[range]
    }

    /// Returns the next line; `\n`, `\r\n` and stray carriage returns end it.
    pub(crate) fn next_line(&mut self) -> Option<Line<'s>> {
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let start = self.position;
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        self.position += length;
        if length > MAX_LINE && rest[..length].trim_end_matches('\n').len() > MAX_LINE {
            self.too_long.get_or_insert(Span::new(start, start + 1));
        }
        Some(Line { text: rest[..length].trim_end_matches(['\r', '\n']), start })
    }

    /// Speaks of a line that was too long.
    pub(crate) fn check_length(&self, out: &mut Remarks) {
        if let Some(start) = self.too_long {
            let message = format!("the line has more than {MAX_LINE} bytes");
            out.push(
                Diagnostic::error(start, message).with_help("break it with a continuation mark"),
            );
        }
    }

    /// Joins the continuations of an instruction that begins with `first`.
    pub(crate) fn join(&mut self, first: Line<'s>, escape: char) -> Logical<'s> {
        let text = first.text.trim_start();
        let start = first.start + (first.text.len() - text.len());
        let (text, mut continues) = without_continuation(text, escape);
        let mut logical = Logical::single(text, start);
        while continues {
            let Some(line) = self.next_line() else { break };
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                let end = line.start + line.text.len();
                logical.empty_line.get_or_insert(Span::new(line.start, end));
                continue;
            }
            let (text, more) = without_continuation(line.text, escape);
            logical.push(text, line.start);
            continues = more;
        }
        logical
    }
}

/// Cuts a continuation mark off `line` and says whether there was one.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(head) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else {
        return (line, false);
    };
    if head.ends_with(escape) { (line, false) } else { (head, true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(source: &str) -> String {
        let mut lines = Lines::new(source);
        let first = lines.next_line().expect("the cases are not empty");
        lines.join(first, '\\').text.into_owned()
    }

    #[test]
    fn continuations() {
        #[rustfmt::skip]
        let cases = [
            ("one line",               "RUN a",                    "RUN a"),
            ("joined with nothing",    "RUN a\\\nb",               "RUN ab"),
            ("blanks after the mark",  "RUN a \\ \t\n  b",         "RUN a   b"),
            ("carriage return",        "RUN a \\\r\n  b\r\n",      "RUN a   b"),
            ("comment dropped",        "RUN a \\\n # c\\\n  b",    "RUN a   b"),
            ("empty line dropped",     "RUN a \\\n\n  b",          "RUN a   b"),
            ("escaped mark",           "RUN a \\\\\nb",            "RUN a \\\\"),
            ("mark alone on a line",   "RUN a \\\n\\\nb",          "RUN a b"),
            ("mark on the last line",  "RUN a \\",                 "RUN a "),
            ("byte order mark",        "\u{feff}RUN a",            "RUN a"),
            ("mark first",             "\\\nRUN a",                "RUN a"),
        ];
        for (name, source, want) in cases {
            assert_eq!(join(source), want, "{name}");
        }
    }

    #[test]
    fn spans_lead_back_to_the_source() {
        let source = "RUN a \\\n  # no\n  bcd \\\n e";
        let mut lines = Lines::new(source);
        let first = lines.next_line().expect("a line");
        let logical = lines.join(first, '\\');
        let at = logical.text.find("bcd").expect("joined");
        let span = logical.span(at..at + 3);
        assert_eq!(&source[span.start..span.end], "bcd");
        let end = logical.text.len();
        let span = logical.span(at..end);
        assert_eq!(&source[span.start..span.end], "bcd \\\n e");
    }
}
