//! Path patterns: Go's `filepath.Match`, and moby's patterns, which add `**`.
//!
//! `*` and `?` stop at a slash, a bracket class does not (as in Go). Paths are bytes; where they
//! are no UTF-8, a stray byte counts as one character that only `*`, `?` and negated classes meet.

/// A pattern that does not follow the grammar of Go's `filepath.Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed pattern")]
pub struct BadPattern;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(Vec<u8>),
    /// Any character but a slash.
    Any,
    /// Any number of characters but slashes.
    Star,
    /// `**/` within a pattern: nothing, or anything that ends in a slash.
    Directories,
    /// `**` at the end of a pattern: anything.
    Everything,
    /// Ranges, and whether the class is negated.
    Class(Vec<(char, char)>, bool),
}

/// A pattern ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Parses a pattern; `double_star` gives `**` moby's meaning.
    pub(crate) fn parse(text: &[u8], double_star: bool) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut literal = Vec::new();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            at += 1;
            let token = match byte {
                b'*' if double_star && text.get(at) == Some(&b'*') => {
                    at += 1;
                    at += usize::from(text.get(at) == Some(&b'/'));
                    if at == text.len() { Token::Everything } else { Token::Directories }
                }
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'[' => {
                    let (class, end) = class(text, at)?;
                    at = end;
                    class
                }
                b'\\' => {
                    literal.push(*text.get(at).ok_or(BadPattern)?);
                    at += 1;
                    continue;
                }
                other => {
                    literal.push(other);
                    continue;
                }
            };
            if !literal.is_empty() {
                tokens.push(Token::Literal(std::mem::take(&mut literal)));
            }
            // Two stars in a row mean one.
            if token != Token::Star || tokens.last() != Some(&Token::Star) {
                tokens.push(token);
            }
        }
        if !literal.is_empty() {
            tokens.push(Token::Literal(literal));
        }
        Ok(Self { tokens })
    }

    /// The parts of the pattern.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether the whole of `path` matches.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        if let [Token::Literal(literal)] = self.tokens.as_slice() {
            return literal == path;
        }
        if let Some(Token::Literal(end)) = self.tokens.last()
            && !path.ends_with(end)
        {
            return false;
        }
        Matcher { tokens: &self.tokens, path, failed: Vec::new() }.run(0, 0)
    }
}

struct Matcher<'m> {
    tokens: &'m [Token],
    path: &'m [u8],
    /// One bit for each token and position: no match from there. Filled only by repeating
    /// tokens, so that no place is tried twice.
    failed: Vec<u64>,
}

impl Matcher<'_> {
    /// Whether the tokens from `token` match the path from `at`; the depth of recursion is the
    /// number of repeating tokens.
    fn run(&mut self, mut token: usize, mut at: usize) -> bool {
        while let Some(current) = self.tokens.get(token) {
            let rest = &self.path[at..];
            match current {
                Token::Literal(literal) => {
                    if !rest.starts_with(literal) {
                        return false;
                    }
                    at += literal.len();
                }
                Token::Any => match next_char(rest) {
                    Some((char, length)) if char != '/' => at += length,
                    _ => return false,
                },
                Token::Class(ranges, negated) => match next_char(rest) {
                    Some((char, length)) if in_class(ranges, char) != *negated => at += length,
                    _ => return false,
                },
                Token::Everything => return true,
                Token::Star | Token::Directories => return self.repeat(token, at),
            }
            token += 1;
        }
        at == self.path.len()
    }

    fn repeat(&mut self, token: usize, from: usize) -> bool {
        if self.is_failed(token, from) {
            return false;
        }
        let is_star = self.tokens[token] == Token::Star;
        if is_star && token + 1 == self.tokens.len() {
            return !self.path[from..].contains(&b'/');
        }
        let mut at = from;
        loop {
            let may_end = is_star || at == from || self.path[at - 1] == b'/';
            if may_end && self.run(token + 1, at) {
                return true;
            }
            if at == self.path.len() || (is_star && self.path[at] == b'/') {
                break;
            }
            at += 1;
            if is_star && self.is_failed(token, at) {
                break;
            }
        }
        // What a star cannot do from here it cannot do from further on in the same segment.
        let end = if is_star { at } else { from };
        for place in from..=end {
            self.fail(token, place);
        }
        false
    }

    fn bit(&self, token: usize, at: usize) -> (usize, u64) {
        let bit = token * (self.path.len() + 1) + at;
        (bit / 64, 1 << (bit % 64))
    }

    fn is_failed(&self, token: usize, at: usize) -> bool {
        let (word, mask) = self.bit(token, at);
        self.failed.get(word).is_some_and(|bits| bits & mask != 0)
    }

    fn fail(&mut self, token: usize, at: usize) {
        let (word, mask) = self.bit(token, at);
        if self.failed.is_empty() {
            self.failed = vec![0; self.bit(self.tokens.len(), self.path.len()).0 + 1];
        }
        self.failed[word] |= mask;
    }
}

/// Decodes the first character; a byte that begins none is U+FFFD of length one.
fn next_char(bytes: &[u8]) -> Option<(char, usize)> {
    let &first = bytes.first()?;
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    let longest = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(longest) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&longest[..error.valid_up_to()]).unwrap_or_default(),
    };
    let char = valid.chars().next();
    Some(char.map_or((char::REPLACEMENT_CHARACTER, 1), |char| (char, char.len_utf8())))
}

fn in_class(ranges: &[(char, char)], char: char) -> bool {
    ranges.iter().any(|&(low, high)| low <= char && char <= high)
}

/// Parses a class behind its `[`; returns it and the offset behind its `]`.
fn class(text: &[u8], mut at: usize) -> Result<(Token, usize), BadPattern> {
    let negated = text.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if text.get(at) == Some(&b']') && !ranges.is_empty() {
            return Ok((Token::Class(ranges, negated), at + 1));
        }
        let (low, end) = class_char(text, at)?;
        at = end;
        let mut high = low;
        if text.get(at) == Some(&b'-') {
            (high, at) = class_char(text, at + 1)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(text: &[u8], mut at: usize) -> Result<(char, usize), BadPattern> {
    match text.get(at) {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => at += 1,
        Some(_) => {}
    }
    let (char, length) = next_char(text.get(at..).unwrap_or_default()).ok_or(BadPattern)?;
    if at + length >= text.len() {
        return Err(BadPattern);
    }
    Ok((char, at + length))
}

/// Says whether `path` matches `pattern` by the rules of Go's `filepath.Match`, as wildcards in
/// sources of COPY and ADD do.
///
/// # Errors
///
/// [`BadPattern`] for an unclosed or empty class and a lone backslash at the end.
pub fn match_pattern(
    pattern: impl AsRef<[u8]>,
    path: impl AsRef<[u8]>,
) -> Result<bool, BadPattern> {
    Ok(Pattern::parse(pattern.as_ref(), false)?.matches(path.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        #[rustfmt::skip]
        let cases = [
            ("abc", "abc", Ok(true)), ("*", "abc", Ok(true)), ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)), ("a*", "ab/c", Ok(false)), ("a*/b", "abc/b", Ok(true)),
            ("a*/b", "a/c/b", Ok(false)), ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Ok(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)), ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)), ("ab[b-d]", "abc", Ok(true)), ("ab[^b-d]", "abc", Ok(false)),
            ("a\\*b", "a*b", Ok(true)), ("a\\*b", "ab", Ok(false)), ("a?b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)), ("[a-ζ]*", "α", Ok(true)), ("*[a-ζ]", "A", Ok(false)),
            ("a?b", "a/b", Ok(false)), ("a*b", "a/b", Ok(false)), ("[\\]a]", "]", Ok(true)),
            ("[\\-x]", "-", Ok(true)), ("[\\-x]", "a", Ok(false)), ("**", "a/b", Ok(false)),
            ("a**b", "axxb", Ok(true)), ("", "", Ok(true)), ("", "a", Ok(false)),
            ("*x", "xxx", Ok(true)), ("[]a]", "]", Err(BadPattern)), ("[-]", "-", Err(BadPattern)),
            ("[x-]", "x", Err(BadPattern)), ("\\", "a", Err(BadPattern)), ("[", "a", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)), ("[^bc", "a", Err(BadPattern)),
        ];
        for (pattern, path, want) in cases {
            assert_eq!(match_pattern(pattern, path), want, "{pattern} on {path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(match_pattern(b"a?b", b"a\xffb"), Ok(true));
        assert_eq!(match_pattern(b"a*", b"a\xff\xfe"), Ok(true));
        assert_eq!(match_pattern(b"a[^x]b", b"a\xffb"), Ok(true));
        assert_eq!(match_pattern(b"a\xffb", b"a\xffb"), Ok(true));
        assert_eq!(match_pattern(b"ab", b"a\xffb"), Ok(false));
    }

    #[test]
    fn many_stars_stay_cheap() {
        let stars = "a*".repeat(200);
        let path = "a".repeat(4000) + "b";
        assert_eq!(match_pattern(format!("{stars}x*b"), &path), Ok(false));
        assert_eq!(match_pattern(format!("{stars}b"), &path), Ok(true));
    }
}
