//! Quotes, escapes and variables: what a word means once it is processed.
//!
//! BuildKit's shell lexer: single quotes keep everything, double quotes keep all but variables
//! and escaped `"`, `$` and escape characters; `$name`, `${name}` and the POSIX modifiers (`:-`
//! `:+` `:?` with and without colon, `#` `##` `%` `%%`) and bash's `/` and `//` are expanded.
//! Invariant: the work and the result are bounded, whatever the input.

mod pattern;
mod split;

use std::collections::BTreeSet;
use std::ops::Range;

use split::Split;

/// Modifiers within modifiers deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// No word grows beyond this many bytes.
const MAX_LENGTH: usize = 1 << 20;

/// Where values come from.
pub(crate) trait Variables {
    /// Returns the value of `name`, `None` where it is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Variables for () {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Variables for std::collections::BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// How words are read.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of one lexer")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexer {
    /// Backslash or backtick.
    pub(crate) escape: char,
    /// Keeps quotes in the result.
    pub(crate) raw_quotes: bool,
    /// Keeps escape characters in the result.
    pub(crate) raw_escapes: bool,
    /// Quotes mean nothing.
    pub(crate) plain_quotes: bool,
    /// Leaves references to unset variables as they are.
    pub(crate) keeps_unset: bool,
}

/// A processed word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// The result as one word.
    pub(crate) text: String,
    /// The result split at unquoted blanks, each with the offset where it began in the input.
    pub(crate) words: Vec<(usize, String)>,
    /// Variables that were set.
    pub(crate) matched: BTreeSet<String>,
    /// Variables that were not set and had no modifier that provides for it.
    pub(crate) unmatched: BTreeSet<String>,
}

impl Expansion {
    /// What the expansion cost, in bytes: the result, and the values that were read for it.
    pub(crate) fn cost(&self, variables: &dyn Variables) -> usize {
        let read = self.matched.iter().filter_map(|name| variables.value(name));
        self.text.len() + read.map(str::len).sum::<usize>()
    }
}

/// Why a word cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WordError {
    /// Lowercase, one sentence.
    pub message: String,
    /// The bytes of the word at fault.
    pub range: Range<usize>,
}

impl Lexer {
    /// Reads quotes and variables with the usual rules.
    pub(crate) fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keeps_unset: false,
        }
    }

    /// Processes `word`.
    pub(crate) fn process(
        self,
        word: &str,
        variables: &dyn Variables,
    ) -> Result<Expansion, WordError> {
        let mut reader = Reader {
            lexer: self,
            source: word,
            at: 0,
            depth: 0,
            variables,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let mut split = Split::default();
        let text = reader.until(None, self.raw_escapes, Some(&mut split))?;
        let Reader { matched, unmatched, .. } = reader;
        Ok(Expansion { text, words: split.finish(), matched, unmatched })
    }
}

struct Reader<'w> {
    lexer: Lexer,
    source: &'w str,
    at: usize,
    depth: usize,
    variables: &'w dyn Variables,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'w> Reader<'w> {
    fn peek(&self) -> Option<char> {
        self.source[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn fault<T>(&self, start: usize, message: impl Into<String>) -> Result<T, WordError> {
        Err(WordError { message: message.into(), range: start..self.at.max(start) })
    }

    fn grow(&self, result: &mut String, text: &str) -> Result<(), WordError> {
        if result.len() + text.len() > MAX_LENGTH {
            return self.fault(0, "the word grows beyond 1 MiB when its variables are expanded");
        }
        result.push_str(text);
        Ok(())
    }

    /// Processes up to `stop`, which is consumed, or to the end where there is none.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut split: Option<&mut Split>,
    ) -> Result<String, WordError> {
        let start = self.at;
        let mut result = String::new();
        while let Some(next) = self.peek() {
            let at = self.at;
            if Some(next) == stop {
                self.next();
                return Ok(result);
            }
            match next {
                '$' => {
                    let value = self.dollar()?;
                    self.grow(&mut result, &value)?;
                    if let Some(split) = split.as_deref_mut() {
                        split.text(at, &value);
                    }
                }
                '\'' | '"' if !self.lexer.plain_quotes => {
                    let value = if next == '"' { self.double() } else { self.single() }?;
                    self.grow(&mut result, &value)?;
                    if let Some(split) = split.as_deref_mut() {
                        split.raw(at, &value);
                    }
                }
                '<' => {
                    let mark = self.heredoc_mark();
                    result.push_str(mark);
                    if let Some(split) = split.as_deref_mut() {
                        split.raw(at, mark);
                    }
                }
                escape if escape == self.lexer.escape => {
                    self.next();
                    let end = self.at + self.peek().map_or(0, char::len_utf8);
                    let from = if raw_escapes { at } else { self.at };
                    self.at = end;
                    let value = &self.source[from..end];
                    self.grow(&mut result, value)?;
                    if let Some(split) = split.as_deref_mut() {
                        split.raw(at, value);
                    }
                }
                other => {
                    self.next();
                    result.push(other);
                    if let Some(split) = split.as_deref_mut() {
                        split.char(at, other);
                    }
                }
            }
        }
        match stop {
            None => Ok(result),
            Some(stop) => self.fault(start, format!("a `{stop}` is missing")),
        }
    }

    /// Takes `<`, or `<<` with the blanks behind it: they belong to a heredoc's word.
    fn heredoc_mark(&mut self) -> &'w str {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while self.peek().is_some_and(char::is_whitespace) {
                self.next();
            }
        }
        &self.source[start..self.at]
    }

    fn single(&mut self) -> Result<String, WordError> {
        let start = self.at;
        let body = start + 1;
        let Some(length) = self.source[body..].find('\'') else {
            self.at = self.source.len();
            return self.fault(start, "the single quote is never closed");
        };
        self.at = body + length + 1;
        let kept = if self.lexer.raw_quotes { start..self.at } else { body..body + length };
        Ok(self.source[kept].to_owned())
    }

    fn double(&mut self) -> Result<String, WordError> {
        let start = self.at;
        let mut result = String::new();
        self.next();
        if self.lexer.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return self.fault(start, "the double quote is never closed"),
                Some('"') => {
                    self.next();
                    if self.lexer.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.grow(&mut result, &value)?;
                }
                Some(escape) if escape == self.lexer.escape => {
                    self.next();
                    if self.lexer.raw_escapes {
                        result.push(escape);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == escape => {
                            self.next();
                            result.push(next);
                        }
                        Some(_) => result.push(escape),
                    }
                }
                Some(other) => {
                    self.next();
                    result.push(other);
                }
            }
        }
    }

    /// Processes `$...`.
    fn dollar(&mut self) -> Result<String, WordError> {
        let start = self.at;
        self.next();
        if self.peek() == Some('{') {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return self.fault(start, "substitutions are nested too deeply");
            }
            let value = self.braces(start);
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        if let Some(value) = self.look_up(name) {
            return Ok(value.to_owned());
        }
        self.missing(name);
        Ok(if self.lexer.keeps_unset { format!("${name}") } else { String::new() })
    }

    /// Processes `${...}`, the brace not yet read.
    fn braces(&mut self, start: usize) -> Result<String, WordError> {
        self.next();
        match self.peek() {
            None => return self.fault(start, "the substitution misses its `}`"),
            Some('{' | '}' | ':') => {
                self.next();
                return self.fault(start, "a substitution needs a variable's name");
            }
            Some(_) => {}
        }
        let name = self.name();
        let sign = self.at;
        match self.next() {
            Some('}') => {
                let value = self.look_up(name);
                if value.is_none() {
                    self.missing(name);
                    if self.lexer.keeps_unset {
                        return Ok(format!("${{{name}}}"));
                    }
                }
                Ok(value.unwrap_or_default().to_owned())
            }
            Some(':') => match self.next() {
                Some(modifier) => self.modified(start, sign, name, modifier, true),
                None => self.fault(start, "the substitution misses its `}`"),
            },
            Some('/') => self.replaced(start, name),
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(start, sign, name, modifier, false)
            }
            Some(other) => self.fault(start, format!("`{other}` is no modifier of a substitution")),
            None => self.fault(start, "the substitution misses its `}`"),
        }
    }

    /// Processes what follows the modifier of `${name:-...}` and its like.
    fn modified(
        &mut self,
        start: usize,
        sign: usize,
        name: &'w str,
        modifier: char,
        empty_is_unset: bool,
    ) -> Result<String, WordError> {
        let sign = &self.source[sign..self.at];
        let is_pattern = matches!(modifier, '#' | '%');
        let word = self.operand(start, '}', is_pattern)?;
        let value = self.look_up(name);
        if self.lexer.keeps_unset && value.is_none() {
            return Ok(format!("${{{name}{sign}{word}}}"));
        }
        let given = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match modifier {
            '-' => Ok(given.map_or(word, str::to_owned)),
            '+' => Ok(given.map_or_else(String::new, |_| word)),
            '?' => match given {
                Some(value) => Ok(value.to_owned()),
                None if !word.is_empty() => self.fault(start, format!("{name}: {word}")),
                None if value.is_some() => self.fault(start, format!("`{name}` must not be empty")),
                None => self.fault(start, format!("`{name}` must be set")),
            },
            '#' | '%' => {
                if value.is_none() {
                    self.missing(name);
                }
                let longest = word.strip_prefix(modifier);
                let pattern = longest.unwrap_or(&word);
                let value = value.unwrap_or_default();
                let trimmed = if modifier == '#' {
                    pattern::trim_start(pattern, value, longest.is_some())
                } else {
                    pattern::trim_end(pattern, value, longest.is_some())
                };
                trimmed.or_else(|message| self.fault(start, message))
            }
            other => self.fault(start, format!("`{other}` is no modifier of a substitution")),
        }
    }

    /// Processes what follows the `/` of `${name/pattern/text}`.
    fn replaced(&mut self, start: usize, name: &'w str) -> Result<String, WordError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand(start, '/', true)?;
        let replacement = self.operand(start, '}', true)?;
        let value = self.look_up(name);
        if value.is_none() {
            self.missing(name);
            if self.lexer.keeps_unset {
                return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
            }
        }
        let value = value.unwrap_or_default();
        pattern::replace(&pattern, value, &replacement, all, MAX_LENGTH)
            .or_else(|message| self.fault(start, message))
    }

    fn operand(&mut self, start: usize, stop: char, raw: bool) -> Result<String, WordError> {
        let outer = std::mem::replace(&mut self.lexer.raw_escapes, raw);
        let result = self.until(Some(stop), raw, None);
        self.lexer.raw_escapes = outer;
        result.or_else(|error| {
            if self.at < self.source.len() || !error.message.contains("missing") {
                return Err(error);
            }
            self.fault(start, format!("the substitution misses its `{stop}`"))
        })
    }

    /// Reads a name: letters, digits and `_`, or digits alone, or one special parameter.
    fn name(&mut self) -> &'w str {
        let rest = &self.source[self.at..];
        let first = rest.chars().next();
        let length = match first {
            Some(digit) if digit.is_numeric() => {
                rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len())
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    fn look_up(&mut self, name: &str) -> Option<&'w str> {
        let value = self.variables.value(name);
        if value.is_some() {
            self.matched.insert(name.to_owned());
        }
        value
    }

    fn missing(&mut self, name: &str) {
        let is_special = !name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !is_special {
            self.unmatched.insert(name.to_owned());
        }
    }
}

/// Processes `text` as one word: quotes removed, variables of `env` (`NAME=value`) expanded.
///
/// # Errors
///
/// [`WordError`] for an unclosed quote or a bad substitution.
pub fn process_word(text: &str, env: &[String]) -> Result<String, WordError> {
    Ok(Lexer::new('\\').process(text, &variables(env))?.text)
}

/// Processes `text` and splits the result at unquoted blanks.
///
/// # Errors
///
/// [`WordError`] for an unclosed quote or a bad substitution.
pub fn process_words(text: &str, env: &[String]) -> Result<Vec<String>, WordError> {
    let expansion = Lexer::new('\\').process(text, &variables(env))?;
    Ok(expansion.words.into_iter().map(|(_, word)| word).collect())
}

fn variables(env: &[String]) -> std::collections::BTreeMap<String, String> {
    let pair = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    env.iter().map(pair).collect()
}

#[cfg(test)]
mod tests;
