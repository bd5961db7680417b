//! Laying out one instruction.

use crate::Span;
use crate::ast::Word;
use crate::syntax::{Arguments, Keyword, Raw};

/// Set before a continued line of an instruction whose words are parted anew.
const INDENT: &str = "    ";

/// A piece of an instruction that is written as a whole.
struct Piece {
    text: String,
    span: Span,
}

/// Returns the text of `raw`, heredocs included, without the last line's end.
pub(super) fn lay_out(raw: &Raw, source: &str, escape: char, line_end: &str) -> String {
    let writer = Writer { source, escape, line_end };
    let mut text = writer.join(&writer.pieces(raw));
    if let Some(first) = raw.heredocs.first() {
        text.push_str(line_end);
        text.push_str(&source[first.body.start..raw.span.end]);
    }
    text
}

struct Writer<'s> {
    source: &'s str,
    escape: char,
    line_end: &'s str,
}

impl Writer<'_> {
    fn pieces(&self, raw: &Raw) -> Vec<Piece> {
        let keyword = Piece { text: raw.keyword.text.to_uppercase(), span: raw.keyword.span };
        let mut pieces = vec![keyword];
        pieces.extend(raw.flags.iter().map(|flag| self.piece(flag.span)));
        match &raw.arguments {
            Arguments::Words(words) => {
                pieces.extend(words.iter().map(|word| self.piece(word.span)));
                if raw.known == Some(Keyword::From)
                    && let [_, keyword, _] = words.as_slice()
                {
                    let place = pieces.len() - 2;
                    pieces[place].text = keyword.text.to_uppercase();
                }
            }
            Arguments::Text(text) => {
                pieces.extend(text.iter().map(|word| self.piece(word.span)));
            }
            Arguments::Json(words) => pieces.push(self.array(words, raw)),
            Arguments::Health { kind, command, is_json } => {
                let kind = kind.as_ref();
                pieces.extend(
                    kind.map(|kind| Piece { text: kind.text.to_uppercase(), span: kind.span }),
                );
                if *is_json {
                    pieces.push(self.array(command, raw));
                } else {
                    pieces.extend(command.iter().map(|word| self.piece(word.span)));
                }
            }
            Arguments::Pairs(pairs) => {
                for pair in pairs {
                    if pair.has_equals {
                        pieces.push(self.piece(pair.key.span.join(pair.value.span)));
                    } else {
                        pieces.extend([pair.key.span, pair.value.span].map(|at| self.piece(at)));
                    }
                }
            }
            // The config keeps a trigger as it is written.
            Arguments::Trigger(Some(trigger)) => pieces.push(self.piece(trigger.span)),
            Arguments::Trigger(None) | Arguments::Ignored => {}
        }
        pieces
    }

    fn piece(&self, span: Span) -> Piece {
        Piece { text: self.as_written(span), span }
    }

    /// Copies a text but for what is no part of it: blanks at line ends and empty lines.
    fn as_written(&self, span: Span) -> String {
        let text = &self.source[span.start..span.end];
        if !text.contains('\n') {
            return text.to_owned();
        }
        let mut lines = text.split('\n').map(|line| line.trim_end_matches(['\r', ' ', '\t']));
        let mut copy = lines.next().unwrap_or_default().to_owned();
        for line in lines.filter(|line| !line.trim().is_empty()) {
            copy.push_str(self.line_end);
            copy.push_str(line);
        }
        copy
    }

    /// Writes the exec form: on one line with a blank behind each comma, or as it is written.
    fn array(&self, words: &[Word], raw: &Raw) -> Piece {
        // The bracket stands before the first quote, with nothing but blanks between.
        let first = words.first().map_or(raw.span.end, |word| word.span.start);
        let head = &self.source[raw.span.start..first];
        let start = head.rfind('[').map_or(raw.span.start, |at| raw.span.start + at);
        let span = Span::new(start, raw.span.end);
        if self.source[span.start..span.end].contains('\n') {
            return self.piece(span);
        }
        let quoted = |word: &Word| &self.source[word.span.start - 1..=word.span.end];
        let elements: Vec<&str> = words.iter().map(quoted).collect();
        Piece { text: format!("[{}]", elements.join(", ")), span }
    }

    /// Puts one blank between pieces, or the line ends and comments that stand between them.
    fn join(&self, pieces: &[Piece]) -> String {
        let mut text = String::new();
        let mut end = None;
        for piece in pieces {
            if let Some(end) = end {
                let gap = &self.source[end..piece.span.start.max(end)];
                // The lines of a text that is copied stay aligned with its first.
                let own = gap.rsplit('\n').next().filter(|_| piece.text.contains('\n'));
                self.gap(gap, own.unwrap_or(INDENT), &mut text);
            }
            text.push_str(&piece.text);
            end = Some(piece.span.end);
        }
        text
    }

    fn gap(&self, gap: &str, indent: &str, text: &mut String) {
        text.push(' ');
        let Some((_, rest)) = gap.split_once('\n') else { return };
        text.push(self.escape);
        text.push_str(self.line_end);
        for comment in rest.lines().map(str::trim).filter(|line| line.starts_with('#')) {
            text.push_str(indent);
            text.push_str(comment);
            text.push_str(self.line_end);
        }
        text.push_str(indent);
    }
}
