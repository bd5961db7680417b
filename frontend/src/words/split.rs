//! Splitting a processed word at its unquoted blanks.

/// Collects the words of one text; blanks split unless they came from quotes or escapes.
#[derive(Debug, Default)]
pub(super) struct Split {
    words: Vec<(usize, String)>,
    word: String,
    start: Option<usize>,
}

impl Split {
    /// Adds a character that splits if it is a blank; `at` is its offset in the input.
    pub(super) fn char(&mut self, at: usize, char: char) {
        if !char.is_whitespace() {
            self.start.get_or_insert(at);
            self.word.push(char);
        } else if !self.word.is_empty() {
            let start = self.start.take().unwrap_or(at);
            self.words.push((start, std::mem::take(&mut self.word)));
        }
    }

    /// Adds a variable's value: its blanks split too.
    pub(super) fn text(&mut self, at: usize, text: &str) {
        for char in text.chars() {
            self.char(at, char);
        }
    }

    /// Adds what was quoted or escaped.
    pub(super) fn raw(&mut self, at: usize, text: &str) {
        self.start.get_or_insert(at);
        self.word.push_str(text);
    }

    /// Returns the words; an empty quoted text alone is none.
    pub(super) fn finish(mut self) -> Vec<(usize, String)> {
        if !self.word.is_empty() {
            self.words.push((self.start.unwrap_or_default(), self.word));
        }
        self.words
    }
}
