//! The words of a script: quotes, escapes, and substitutions, which are kept as text.

use super::{Reader, ScriptWord};

impl Reader<'_> {
    /// Reads one word, blanks before it skipped.
    pub(super) fn raw_word(&mut self) -> Option<ScriptWord> {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
        let start = self.at;
        let mut text = String::new();
        let (mut is_plain, mut is_quoted) = (true, false);
        while let Some(next) = self.peek() {
            let at = self.at;
            match next {
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                '\'' => {
                    is_quoted = true;
                    let length = self.text[at + 1..].find('\'')?;
                    text.push_str(&self.text[at + 1..at + 1 + length]);
                    self.at = at + length + 2;
                }
                '"' => {
                    is_quoted = true;
                    is_plain &= self.double_quoted(&mut text)?;
                }
                '\\' => {
                    is_quoted = true;
                    self.at += 1;
                    let Some(escaped) = self.peek() else { break };
                    self.at += escaped.len_utf8();
                    if escaped != '\n' {
                        text.push(escaped);
                    }
                }
                '$' | '`' => {
                    is_plain = false;
                    self.substitution()?;
                    text.push_str(&self.text[at..self.at]);
                }
                '*' | '?' | '[' | '~' => {
                    is_plain &= next == '~' && at > start;
                    text.push(next);
                    self.at += 1;
                }
                _ => {
                    text.push(next);
                    self.at += next.len_utf8();
                }
            }
        }
        Some(ScriptWord { text, range: start..self.at, is_plain, is_quoted })
    }

    /// Reads `"..."`; false where it holds a substitution.
    fn double_quoted(&mut self, text: &mut String) -> Option<bool> {
        let mut is_plain = true;
        self.at += 1;
        loop {
            let at = self.at;
            match self.peek()? {
                '"' => {
                    self.at += 1;
                    return Some(is_plain);
                }
                '\\' => {
                    self.at += 1;
                    let escaped = self.peek()?;
                    self.at += escaped.len_utf8();
                    if !matches!(escaped, '"' | '\\' | '$' | '`' | '\n') {
                        text.push('\\');
                    }
                    if escaped != '\n' {
                        text.push(escaped);
                    }
                }
                '$' | '`' => {
                    is_plain = false;
                    self.substitution()?;
                    text.push_str(&self.text[at..self.at]);
                }
                other => {
                    text.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
    }

    /// Skips `$name`, `${...}`, `$(...)`, `$((...))` and `` `...` ``.
    fn substitution(&mut self) -> Option<()> {
        if self.take("`") {
            loop {
                let next = self.peek()?;
                self.at += next.len_utf8();
                match next {
                    '`' => return Some(()),
                    '\\' => self.at += self.peek()?.len_utf8(),
                    _ => {}
                }
            }
        }
        self.at += 1;
        match self.peek() {
            Some('(') => self.nested('(', ')'),
            Some('{') => self.nested('{', '}'),
            _ => Some(()),
        }
    }

    /// Skips to the bracket that closes the one here, over quotes.
    fn nested(&mut self, open: char, close: char) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let next = self.peek()?;
            match next {
                '\'' => {
                    self.at += 1;
                    self.at += self.text[self.at..].find('\'')?;
                }
                '"' => {
                    self.double_quoted(&mut String::new())?;
                    continue;
                }
                '\\' => self.at += 1,
                _ if next == open => depth += 1,
                _ if next == close => depth -= 1,
                _ => {}
            }
            self.at += self.peek()?.len_utf8();
            if depth == 0 {
                return Some(());
            }
        }
    }
}
