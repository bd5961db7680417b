//! The second layer of parsing: what the arguments of each instruction mean.
//!
//! Everything that can be decided without values of variables is decided here, so that a file's
//! faults show in one pass. An instruction with a fault has no [`Statement`].

mod command;
mod config;
mod from;
mod health;
pub(crate) mod mount;
mod pairs;
mod transfer;

use std::collections::BTreeMap;

use crate::ast::{Instruction, StageHead, Statement, Word};
use crate::check::{self, Checks};
use crate::flags::{Flags, Known};
use crate::nearest::did_you_mean;
use crate::syntax::{Arguments, Keyword, Raw};
use crate::words::{Expansion, Lexer};
use crate::{Diagnostic, Extent, Span};

/// A typed instruction.
#[derive(Debug)]
pub(crate) enum Typed {
    /// The head of a stage.
    From(StageHead),
    /// Everything else.
    Statement(Statement),
}

/// What typing an instruction needs beside the instruction.
pub(crate) struct Typing<'c, 'o> {
    pub(crate) checks: &'c mut Checks<'o>,
    /// The file's escape character.
    pub(crate) escape: char,
    /// `--build-arg`: nobody reads the default of an argument that is given.
    pub(crate) build_args: &'c BTreeMap<String, String>,
}

impl Typing<'_, '_> {
    fn error(&mut self, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.checks.out.add(Diagnostic::error(span, message))
    }

    /// Speaks of a value that BuildKit looks at only when it builds the stage.
    fn value_error(&mut self, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.checks.out.add(Diagnostic::error(span, message).within(Extent::File))
    }

    /// Adds what was found of such a value.
    fn value_fault(&mut self, fault: Diagnostic) {
        self.checks.out.push(fault.within(Extent::File));
    }

    /// Speaks of flags that an instruction does not look at, as in BuildKit.
    fn ignored_flags(&mut self, raw: &Raw) {
        let first = self.checks.out.len();
        self.flags(raw, &[]);
        self.checks.out.forgive(first, |remark| {
            remark.message.push_str(", so it is ignored");
            remark.help = None;
        });
    }

    fn flags(&mut self, raw: &Raw, known: Known) -> Flags {
        Flags::read(&raw.keyword.text, &raw.flags, known, &mut self.checks.out)
    }

    /// Speaks of quotes and substitutions in `word` that no value can mend.
    fn check_word(&mut self, word: &Word) {
        if self.is_plain(word) {
            return;
        }
        if let Err(error) = Lexer::new(self.escape).process(&word.text, &Anything) {
            self.value_error(word.part(error.range), error.message);
        }
    }

    fn check_words<'w>(&mut self, words: impl IntoIterator<Item = &'w Word>) {
        for word in words {
            self.check_word(word);
        }
    }

    /// Types one instruction; `None` where a fault was found.
    pub(crate) fn instruction(&mut self, raw: Raw) -> Option<Typed> {
        let Some(keyword) = raw.known else {
            if self.checks.out.counts_errors() {
                self.checks.out.leave_out();
                return None;
            }
            let message = format!("unknown instruction `{}`", raw.keyword.text);
            self.error(raw.keyword.span, message).help =
                did_you_mean(&raw.keyword.text, Keyword::names());
            return None;
        };
        if keyword == Keyword::From {
            return self.from(raw).map(Typed::From);
        }
        self.statement(keyword, raw).map(Typed::Statement)
    }

    fn statement(&mut self, keyword: Keyword, mut raw: Raw) -> Option<Statement> {
        let instruction = match keyword {
            Keyword::Add => Instruction::Add(Box::new(self.transfer(&mut raw, true)?)),
            Keyword::Copy => Instruction::Copy(Box::new(self.transfer(&mut raw, false)?)),
            Keyword::Run => Instruction::Run(self.run(&mut raw)),
            Keyword::Cmd => {
                self.flags(&raw, &[]);
                Instruction::Cmd(command::command(&mut raw.arguments, raw.span))
            }
            Keyword::Entrypoint => {
                self.flags(&raw, &[]);
                Instruction::Entrypoint(command::command(&mut raw.arguments, raw.span))
            }
            Keyword::Shell => Instruction::Shell(self.shell(&mut raw)?),
            Keyword::Healthcheck => Instruction::Healthcheck(Box::new(self.healthcheck(&raw)?)),
            Keyword::Onbuild => Instruction::Onbuild(self.onbuild(&mut raw)?),
            Keyword::Arg => Instruction::Arg(self.arg(&mut raw)?),
            Keyword::Env => Instruction::Env(self.pairs(&mut raw)?),
            Keyword::Label => Instruction::Label(self.pairs(&mut raw)?),
            Keyword::Expose => Instruction::Expose(self.expose(&mut raw)?),
            Keyword::Volume => Instruction::Volume(self.volume(&mut raw)?),
            Keyword::Maintainer => {
                let author = self.one_word(&mut raw)?;
                let (span, comments) = (raw.span, &raw.comments);
                let message = "Maintainer instruction is deprecated in favor of using label";
                if let Some(warning) =
                    self.checks.warn(comments, check::MAINTAINER_DEPRECATED, span, message)
                {
                    warning.help = Some("use `LABEL org.opencontainers.image.authors=...`".into());
                }
                Instruction::Maintainer(author)
            }
            Keyword::Stopsignal => Instruction::Stopsignal(self.stopsignal(&mut raw)?),
            Keyword::User => Instruction::User(self.one_checked_word(&mut raw)?),
            Keyword::Workdir => Instruction::Workdir(self.one_checked_word(&mut raw)?),
            Keyword::From => return None,
        };
        let Raw { keyword, span, text, comments, .. } = raw;
        Some(Statement { instruction, keyword, span, text, comments })
    }

    /// Whether a word means just what is written.
    fn is_plain(&self, word: &Word) -> bool {
        let is_special = |char| matches!(char, '$' | '\'' | '"') || char == self.escape;
        !word.text.contains(is_special)
    }

    /// Returns what a word means, where no variable has a say in it.
    fn constant(&self, word: &Word) -> Option<Expansion> {
        if word.text.contains('$') {
            return None;
        }
        Lexer::new(self.escape).process(&word.text, &()).ok()
    }

    /// Returns the words of an instruction that needs at least one.
    fn some_words(&mut self, raw: &mut Raw) -> Option<Vec<Word>> {
        self.flags(raw, &[]);
        let words = take_words(&mut raw.arguments);
        if words.is_empty() {
            self.error(raw.span, format!("{} needs an argument", raw.keyword.text.to_uppercase()));
            return None;
        }
        self.check_words(&words);
        Some(words)
    }

    /// Returns the text of an instruction that takes the rest of its line, and no flags.
    fn one_word(&mut self, raw: &mut Raw) -> Option<Word> {
        self.flags(raw, &[]);
        self.text(raw)
    }

    fn text(&mut self, raw: &mut Raw) -> Option<Word> {
        let text = take_text(&mut raw.arguments);
        if text.is_none() {
            self.error(raw.span, format!("{} needs an argument", raw.keyword.text.to_uppercase()));
        }
        text
    }

    fn one_checked_word(&mut self, raw: &mut Raw) -> Option<Word> {
        let word = self.one_word(raw)?;
        self.check_word(&word);
        Some(word)
    }
}

/// Takes the words of arguments that are words.
fn take_words(arguments: &mut Arguments) -> Vec<Word> {
    match arguments {
        Arguments::Words(words) | Arguments::Json(words) => std::mem::take(words),
        Arguments::Text(_)
        | Arguments::Health { .. }
        | Arguments::Pairs(_)
        | Arguments::Trigger(_)
        | Arguments::Ignored => Vec::new(),
    }
}

/// Takes the text of arguments that are one.
fn take_text(arguments: &mut Arguments) -> Option<Word> {
    if let Arguments::Text(text) = arguments { text.take() } else { None }
}

/// Variables of which every one is set: finds the faults that no value can mend.
pub(crate) struct Anything;

impl crate::words::Variables for Anything {
    fn value(&self, _: &str) -> Option<&str> {
        Some("x")
    }
}
