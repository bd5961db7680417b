//! VOLUME, EXPOSE and STOPSIGNAL.

use crate::ast::Word;
use crate::ports::Ports;
use crate::signal;
use crate::syntax::Raw;

use super::Typing;

impl Typing<'_, '_> {
    pub(super) fn expose(&mut self, raw: &mut Raw) -> Option<Vec<Word>> {
        let words = self.some_words(raw)?;
        for word in &words {
            if self.is_plain(word) {
                self.port(word, &word.text);
                continue;
            }
            let constant = self.constant(word);
            for (_, text) in constant.into_iter().flat_map(|expansion| expansion.words) {
                self.port(word, &text);
            }
        }
        Some(words)
    }

    fn port(&mut self, word: &Word, text: &str) {
        if let Err(message) = Ports::parse(text) {
            self.value_error(word.span, message);
        }
    }

    pub(super) fn stopsignal(&mut self, raw: &mut Raw) -> Option<Word> {
        self.ignored_flags(raw);
        let word = self.text(raw)?;
        self.check_word(&word);
        if let Some(constant) = self.constant(&word)
            && let Err(diagnostic) = signal::check(&constant.text, word.span)
        {
            self.value_fault(*diagnostic);
        }
        Some(word)
    }

    pub(super) fn volume(&mut self, raw: &mut Raw) -> Option<Vec<Word>> {
        let words = self.some_words(raw)?;
        let blank: Vec<_> = words.iter().filter(|word| word.text.trim().is_empty()).collect();
        for word in &blank {
            self.error(word.span.join(raw.keyword.span), "a volume's path cannot be empty");
        }
        if !blank.is_empty() {
            return None;
        }
        let trimmed = |word: &Word| {
            let start = word.text.len() - word.text.trim_start().len();
            let range = start..start + word.text.trim().len();
            Word { text: word.text[range.clone()].into(), span: word.part(range) }
        };
        Some(words.iter().map(trimmed).collect())
    }
}
