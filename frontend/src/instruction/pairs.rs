//! ENV, LABEL and ARG.

use std::ops::Range;

use crate::ast::{ArgDeclaration, Pair, Word};
use crate::check;
use crate::syntax::{Arguments, Keyword, Raw};

use super::{Typing, take_words};

impl Typing<'_, '_> {
    pub(super) fn pairs(&mut self, raw: &mut Raw) -> Option<Vec<Pair>> {
        self.flags(raw, &[]);
        let keyword = if raw.known == Some(Keyword::Env) { "ENV" } else { "LABEL" };
        let pairs = match &mut raw.arguments {
            Arguments::Pairs(pairs) if !pairs.is_empty() => std::mem::take(pairs),
            _ => {
                self.error(raw.span, format!("{keyword} needs an argument"));
                return None;
            }
        };
        for pair in &pairs {
            if pair.key.text.is_empty() {
                self.blank_name(keyword, pair.key.span.join(pair.value.span));
                return None;
            }
            self.check_words([&pair.key, &pair.value]);
        }
        Some(pairs)
    }

    pub(super) fn arg(&mut self, raw: &mut Raw) -> Option<Vec<ArgDeclaration>> {
        self.ignored_flags(raw);
        let words = take_words(&mut raw.arguments);
        if words.is_empty() {
            self.error(raw.span, "ARG needs a name");
            return None;
        }
        let mut declarations = Vec::with_capacity(words.len());
        for word in words {
            let span = word.span;
            let part = |range: Range<usize>| Word {
                text: word.text[range.clone()].into(),
                span: word.part(range),
            };
            let (name, default) = match word.text.find('=') {
                Some(at) => (part(0..at), Some(part(at + 1..word.text.len()))),
                None => (word, None),
            };
            if name.text.is_empty() {
                self.blank_name("ARG", span);
                return None;
            }
            if !self.build_args.contains_key(name.text.as_str()) {
                self.check_words(&default);
            }
            declarations.push(ArgDeclaration { name, default });
        }
        self.check_description("ARG", &raw.comments, &declarations, raw);
        Some(declarations)
    }

    fn blank_name(&mut self, keyword: &str, span: crate::Span) {
        let help = format!("write `{keyword} NAME=VALUE`");
        self.error(span, format!("{keyword} has a blank name")).help = Some(help);
    }

    fn check_description(
        &mut self,
        keyword: &str,
        comments: &[String],
        declarations: &[ArgDeclaration],
        raw: &Raw,
    ) {
        if comments.is_empty() {
            return;
        }
        let names: Vec<&str> = declarations.iter().map(|d| d.name.text.as_str()).collect();
        self.describe(keyword, comments, &names, raw.span);
    }

    /// Speaks of a comment above `names` that does not begin with one of them.
    pub(super) fn describe(
        &mut self,
        keyword: &str,
        comments: &[String],
        names: &[&str],
        span: crate::Span,
    ) {
        let Some(comment) = comments.last() else { return };
        let first = comment.split(' ').next().unwrap_or_default();
        if names.contains(&first) {
            return;
        }
        let example = if let [name] = names { name } else { "<arg_key>" };
        let message =
            format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        self.checks.warn(comments, check::INVALID_DEFINITION_DESCRIPTION, span, message);
    }
}
