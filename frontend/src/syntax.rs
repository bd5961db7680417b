//! The first layer of parsing: keyword, flags and arguments of each instruction, by the grammar
//! that its keyword has. What the arguments mean is [`crate::instruction`]'s.

use std::ops::Range;

use smol_str::SmolStr;

use crate::ast::{Heredoc, Pair, Word};
use crate::diagnostic::Remarks;
use crate::lines::{Lines, Logical};
use crate::{Diagnostic, Span, flags, heredoc, json};

/// Every instruction. Closed: match it without a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    const ALL: [(&'static str, Self); 18] = [
        ("ADD", Self::Add),
        ("ARG", Self::Arg),
        ("CMD", Self::Cmd),
        ("COPY", Self::Copy),
        ("ENTRYPOINT", Self::Entrypoint),
        ("ENV", Self::Env),
        ("EXPOSE", Self::Expose),
        ("FROM", Self::From),
        ("HEALTHCHECK", Self::Healthcheck),
        ("LABEL", Self::Label),
        ("MAINTAINER", Self::Maintainer),
        ("ONBUILD", Self::Onbuild),
        ("RUN", Self::Run),
        ("SHELL", Self::Shell),
        ("STOPSIGNAL", Self::Stopsignal),
        ("USER", Self::User),
        ("VOLUME", Self::Volume),
        ("WORKDIR", Self::Workdir),
    ];

    /// Looks `text` up, whatever its letter case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        known.map(|&(_, keyword)| keyword)
    }

    /// The names of all instructions.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|&(name, _)| name)
    }

    /// Whether its argument is shell or exec form.
    pub(crate) fn takes_command(self) -> bool {
        matches!(self, Self::Cmd | Self::Entrypoint | Self::Run)
    }

    /// Whether `<<` on its line announces a heredoc.
    fn takes_heredocs(self) -> bool {
        matches!(self, Self::Add | Self::Copy | Self::Run)
    }
}

/// The arguments of an instruction, split by its grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Words.
    Words(Vec<Word>),
    /// The rest of the line as one text; `None` where nothing is left.
    Text(Option<Word>),
    /// A JSON array's elements.
    Json(Vec<Word>),
    /// `HEALTHCHECK`: its kind and the command, which may be JSON.
    Health { kind: Option<Word>, command: Vec<Word>, is_json: bool },
    /// ENV and LABEL.
    Pairs(Vec<Pair>),
    /// `ONBUILD`; `None` where nothing follows, or where triggers are nested.
    Trigger(Option<Box<Raw>>),
    /// Those of an unknown instruction.
    Ignored,
}

/// One instruction, split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) keyword: Word,
    pub(crate) known: Option<Keyword>,
    pub(crate) flags: Vec<Word>,
    pub(crate) arguments: Arguments,
    pub(crate) heredocs: Vec<Heredoc>,
    /// The instruction on one line.
    pub(crate) text: SmolStr,
    pub(crate) span: Span,
    pub(crate) comments: Vec<String>,
    pub(crate) empty_line: Option<Span>,
}

/// Comment lines kept for an instruction: the nearest above it.
const MAX_COMMENTS: usize = 64;

/// Splits the file behind its directives into instructions, one after the other; those with a fault
/// in their grammar are left out and spoken of.
#[derive(Debug)]
pub(crate) struct Instructions<'l, 's> {
    lines: &'l mut Lines<'s>,
    escape: char,
    /// The comments above the next instruction.
    comments: Vec<String>,
    /// Heredocs that are never closed.
    open_heredocs: usize,
}

impl<'l, 's> Instructions<'l, 's> {
    /// Begins at the next of `lines`.
    pub(crate) fn new(lines: &'l mut Lines<'s>, escape: char) -> Self {
        Self { lines, escape, comments: Vec::new(), open_heredocs: 0 }
    }

    /// Returns the next instruction.
    pub(crate) fn next(&mut self, out: &mut Remarks) -> Option<Raw> {
        while let Some(line) = self.lines.next_line() {
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                self.comment(comment.trim());
                continue;
            }
            if text.is_empty() {
                self.comments.clear();
                continue;
            }
            let logical = self.lines.join(line, self.escape);
            let whole = logical.trim(0..logical.text.len());
            if whole.is_empty() {
                continue;
            }
            let Some(mut raw) = split(&logical, whole, self.escape, out) else { continue };
            if takes_heredocs(&raw) {
                raw.heredocs = heredoc::read(&logical, self.lines, &mut self.open_heredocs, out);
            }
            if let Some(last) = raw.heredocs.last() {
                let behind = self.lines.slice(last.body.end..self.lines.position());
                let end = last.body.end + behind.trim_end().len();
                raw.span = raw.span.join(Span::new(raw.span.start, end));
            }
            raw.comments = std::mem::take(&mut self.comments);
            raw.empty_line = logical.empty_line;
            return Some(raw);
        }
        None
    }

    fn comment(&mut self, comment: &str) {
        if comment.is_empty() {
            self.comments.clear();
            return;
        }
        if self.comments.len() == MAX_COMMENTS {
            self.comments.remove(0);
        }
        self.comments.push(comment.to_owned());
    }
}

/// Splits the whole file behind its directives.
pub(crate) fn parse(lines: &mut Lines<'_>, escape: char, out: &mut Remarks) -> Vec<Raw> {
    let mut instructions = Instructions::new(lines, escape);
    std::iter::from_fn(|| instructions.next(out)).collect()
}

/// Splits the text of one trigger, heredocs included, as kept by an image's config.
pub(crate) fn parse_trigger(text: &str, out: &mut Remarks) -> Vec<Raw> {
    parse(&mut Lines::new(text), '\\', out)
}

fn takes_heredocs(raw: &Raw) -> bool {
    match &raw.arguments {
        Arguments::Trigger(Some(trigger)) => takes_heredocs(trigger),
        Arguments::Json(_) => false,
        _ => raw.known.is_some_and(Keyword::takes_heredocs),
    }
}

fn split(line: &Logical<'_>, whole: Range<usize>, escape: char, out: &mut Remarks) -> Option<Raw> {
    let text = &line.text[whole.clone()];
    let length = text.find(is_blank).unwrap_or(text.len());
    let keyword = word(line, whole.start..whole.start + length);
    let known = Keyword::parse(&keyword.text);
    let (flags, rest) = flags::split(line, whole.start + length..whole.end);
    let rest = line.trim(rest);
    let arguments = match known {
        Some(known) => arguments(line, known, rest, escape, out)?,
        None => Arguments::Ignored,
    };
    Some(Raw {
        keyword,
        known,
        flags,
        arguments,
        heredocs: Vec::new(),
        text: text.into(),
        span: line.span(whole),
        comments: Vec::new(),
        empty_line: None,
    })
}

fn arguments(
    line: &Logical<'_>,
    keyword: Keyword,
    rest: Range<usize>,
    escape: char,
    out: &mut Remarks,
) -> Option<Arguments> {
    Some(match keyword {
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run => {
            json_or(line, rest, Form::Command, out)?
        }
        Keyword::Shell => json_or(line, rest, Form::Whole, out)?,
        Keyword::Add | Keyword::Copy | Keyword::Volume => json_or(line, rest, Form::Paths, out)?,
        Keyword::Arg => Arguments::Words(quoted_split(line, rest, escape)),
        Keyword::Expose | Keyword::From => Arguments::Words(blank_split(line, rest)),
        Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
            Arguments::Text(whole(line, rest))
        }
        Keyword::Env | Keyword::Label => Arguments::Pairs(pairs(line, keyword, rest, escape, out)?),
        Keyword::Healthcheck => health(line, rest, out)?,
        Keyword::Onbuild => trigger(line, rest, escape, out)?,
    })
}

/// The blanks that BuildKit splits at; a line feed cannot occur.
fn is_blank(char: char) -> bool {
    matches!(char, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

fn word(line: &Logical<'_>, range: Range<usize>) -> Word {
    Word { text: line.text[range.clone()].into(), span: line.span(range) }
}

fn whole(line: &Logical<'_>, rest: Range<usize>) -> Option<Word> {
    (!rest.is_empty()).then(|| word(line, rest))
}

fn blank_split(line: &Logical<'_>, rest: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = rest.start;
    for part in line.text[rest].split(is_blank) {
        if !part.is_empty() {
            words.push(word(line, at..at + part.len()));
        }
        at += part.len() + 1;
    }
    words
}

/// Splits at blanks outside quotes; quotes and escapes stay for the word's own processing.
fn quoted_split(line: &Logical<'_>, rest: Range<usize>, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let base = rest.start;
    let mut chars = line.text[rest.clone()].char_indices();
    while let Some((at, char)) = chars.next() {
        match quote {
            None if char.is_whitespace() => {
                if let Some(start) = start.take() {
                    words.push(word(line, start..base + at));
                }
                continue;
            }
            None if char == '\'' || char == '"' => quote = Some(char),
            Some(open) if char == open => quote = None,
            _ if char == escape && quote != Some('\'') => {
                chars.next();
            }
            None | Some(_) => {}
        }
        start.get_or_insert(base + at);
    }
    if let Some(start) = start {
        words.push(word(line, start..rest.end));
    }
    words
}

/// Reads the exec form, or what stands in its place.
fn json_or(
    line: &Logical<'_>,
    rest: Range<usize>,
    form: Form,
    out: &mut Remarks,
) -> Option<Arguments> {
    let text = &line.text[rest.clone()];
    match json::parse(text) {
        json::Exec::Array(elements) => {
            let element = |(text, at): (String, Range<usize>)| {
                // The quotes are no part of the word: its span is then exact without escapes.
                let inner = rest.start + at.start + 1..rest.start + at.end - 1;
                Word { text: text.into(), span: line.span(inner) }
            };
            return Some(Arguments::Json(elements.into_iter().map(element).collect()));
        }
        json::Exec::NotStrings if form == Form::Command => {
            let message =
                "this JSON array holds something else than strings, so the shell gets it as text";
            out.push(warning(line.span(rest.clone()), message).with_help(QUOTE_ELEMENTS));
        }
        json::Exec::NotStrings => {
            let message = "the exec form holds something else than strings";
            out.push(Diagnostic::error(line.span(rest), message).with_help(QUOTE_ELEMENTS));
            return None;
        }
        json::Exec::Text if json::is_meant(text) => {
            let message =
                "this looks like the exec form but is no JSON array, so it is read as text";
            out.push(warning(line.span(rest.clone()), message).with_help(
                "use double quotes, no comma behind the last element, nothing behind the `]`",
            ));
        }
        json::Exec::Text => {}
    }
    Some(match form {
        Form::Command | Form::Whole => Arguments::Text(whole(line, rest)),
        Form::Paths => Arguments::Words(blank_split(line, rest)),
    })
}

const QUOTE_ELEMENTS: &str = "quote each element: [\"executable\", \"argument\"]";

/// What a text that is no exec form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A command: the shell form, whatever the text is.
    Command,
    /// One text, but a JSON array must be one of strings.
    Whole,
    /// Words, but a JSON array must be one of strings.
    Paths,
}

fn warning(span: Span, message: &str) -> Diagnostic {
    Diagnostic { severity: crate::Severity::Warning, ..Diagnostic::error(span, message) }
}

fn health(line: &Logical<'_>, rest: Range<usize>, out: &mut Remarks) -> Option<Arguments> {
    let text = &line.text[rest.clone()];
    let length = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = whole(line, rest.start..rest.start + length);
    let command = line.trim(rest.start + length..rest.end);
    let (command, is_json) = match json_or(line, command, Form::Whole, out)? {
        Arguments::Json(words) => (words, true),
        Arguments::Text(text) => (text.into_iter().collect(), false),
        _ => (Vec::new(), false),
    };
    Some(Arguments::Health { kind, command, is_json })
}

fn trigger(
    line: &Logical<'_>,
    rest: Range<usize>,
    escape: char,
    out: &mut Remarks,
) -> Option<Arguments> {
    if rest.is_empty() {
        return Some(Arguments::Trigger(None));
    }
    let text = &line.text[rest.clone()];
    let keyword = text.split(is_blank).next().unwrap_or_default();
    if Keyword::parse(keyword) == Some(Keyword::Onbuild) {
        // Not followed further: a chain is refused, and its length must not be the stack's.
        let message = "a trigger cannot be ONBUILD itself";
        out.push(Diagnostic::error(line.span(rest.start..rest.start + keyword.len()), message));
        return None;
    }
    let trigger = split(line, rest, escape, out)?;
    Some(Arguments::Trigger(Some(Box::new(trigger))))
}

/// Splits `name=value ...`, or `name value` where the first word has no `=`.
fn pairs(
    line: &Logical<'_>,
    keyword: Keyword,
    rest: Range<usize>,
    escape: char,
    out: &mut Remarks,
) -> Option<Vec<Pair>> {
    let name = if keyword == Keyword::Env { "ENV" } else { "LABEL" };
    let words = quoted_split(line, rest.clone(), escape);
    let Some(first) = words.first() else { return Some(Vec::new()) };
    if !first.text.contains('=') {
        let text = &line.text[rest.clone()];
        let Some(length) = text.find(is_blank) else {
            let message = format!("{name} needs a value for `{}`", first.text);
            out.push(
                Diagnostic::error(first.span, message)
                    .with_help(format!("write `{name} {}=VALUE`", first.text)),
            );
            return None;
        };
        let key = word(line, rest.start..rest.start + length);
        let value = word(line, line.trim(rest.start + length..rest.end));
        return Some(vec![Pair { key, value, has_equals: false }]);
    }
    let mut pairs = Vec::with_capacity(words.len());
    let mut whole = true;
    for found in words {
        let Some(at) = found.text.find('=') else {
            let message = format!("`{}` has no `=`", found.text);
            out.push(
                Diagnostic::error(found.span, message)
                    .with_help("expected name=value; quote a value that has blanks"),
            );
            whole = false;
            continue;
        };
        let part = |range: Range<usize>| Word {
            text: found.text[range.clone()].into(),
            span: found.part(range),
        };
        let (key, value) = (part(0..at), part(at + 1..found.text.len()));
        pairs.push(Pair { key, value, has_equals: true });
    }
    whole.then_some(pairs)
}
