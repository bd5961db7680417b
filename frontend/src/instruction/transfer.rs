//! COPY and ADD.

use std::collections::VecDeque;

use crate::ast::{Heredoc, Transfer, TransferSource, Word};
use crate::flags::{Known, Takes};
use crate::syntax::Raw;
use crate::{chmod, heredoc};

use super::{Typing, take_words};

const ADD_FLAGS: Known = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("exclude", Takes::Values),
    ("keep-git-dir", Takes::Switch),
    ("checksum", Takes::Value),
    ("unpack", Takes::Switch),
];

const COPY_FLAGS: Known = &[
    ("from", Takes::Value),
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
    ("exclude", Takes::Values),
];

impl Typing<'_, '_> {
    pub(super) fn transfer(&mut self, raw: &mut Raw, is_add: bool) -> Option<Transfer> {
        let keyword = if is_add { "ADD" } else { "COPY" };
        let mut flags = self.flags(raw, if is_add { ADD_FLAGS } else { COPY_FLAGS });
        let mut sources = take_words(&mut raw.arguments);
        let Some(destination) = sources.pop() else {
            self.missing(raw, keyword, "a source and a destination");
            return None;
        };
        if sources.is_empty() {
            self.missing(raw, keyword, "a destination behind the source");
            return None;
        }
        if heredoc::parse_mark(&destination.text).is_some() {
            self.error(destination.span, "a heredoc cannot be the destination");
            return None;
        }
        let sources = sources_of(sources, std::mem::take(&mut raw.heredocs));
        let transfer = Transfer {
            destination,
            from: flags.value("from").filter(|from| !from.text.is_empty()),
            owner: flags.value("chown"),
            mode: flags.value("chmod"),
            link: flags.switch("link").unwrap_or_default(),
            parents: flags.switch("parents").unwrap_or_default(),
            exclude: flags.values("exclude"),
            keep_git_dir: flags.switch("keep-git-dir"),
            checksum: flags.value("checksum"),
            unpack: flags.switch("unpack"),
            sources,
        };
        self.check_transfer(&transfer);
        Some(transfer)
    }

    fn missing(&mut self, raw: &Raw, keyword: &str, what: &str) {
        self.error(raw.span, format!("{keyword} needs {what}")).help =
            Some(format!("write `{keyword} SOURCE... DESTINATION`"));
    }

    fn check_transfer(&mut self, transfer: &Transfer) {
        for source in &transfer.sources {
            if let TransferSource::Path(word) = source {
                self.check_word(word);
            }
        }
        self.check_word(&transfer.destination);
        self.check_words(&transfer.owner);
        self.check_words(&transfer.mode);
        self.check_words(&transfer.checksum);
        self.check_words(&transfer.exclude);
        if let Some(word) = &transfer.mode
            && let Some(constant) = self.constant(word).filter(|mode| !mode.text.is_empty())
            && let Err(diagnostic) = chmod::check(&constant.text, word.span)
        {
            self.value_fault(*diagnostic);
        }
        if let Some(from) = transfer.from.as_ref().filter(|from| from.text.contains('$')) {
            self.value_error(from.span, "`--from` does not expand variables").help = Some(
                "name a stage: `ARG` before the first FROM, then `FROM $IMAGE AS name`".into(),
            );
        }
    }
}

/// Tells paths from heredocs: each mark among the words takes the next body of its name.
fn sources_of(words: Vec<Word>, heredocs: Vec<Heredoc>) -> Vec<TransferSource> {
    let mut bodies: VecDeque<Heredoc> = heredocs.into();
    let source = |word: Word| {
        let body = heredoc::parse_mark(&word.text).and_then(|mark| {
            let at = bodies.iter().position(|body| body.name == mark.name)?;
            bodies.remove(at)
        });
        body.map_or_else(|| TransferSource::Path(word), TransferSource::Heredoc)
    };
    words.into_iter().map(source).collect()
}
