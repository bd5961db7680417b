//! Path patterns: Go's `filepath.Match` for sources, moby's patternmatcher for `--exclude` and
//! `--parents`.
//!
//! A pattern is compiled to tokens and run as a set of states over the path, so that no pattern
//! takes more than its length times the path's.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

/// One character: a code point, or a byte that is not UTF-8, above all code points.
type Char = u32;

const SLASH: Char = '/' as Char;
const RAW_BYTE: Char = 0x11_0000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Exactly(Char),
    /// `?`
    Any,
    /// `*`
    Run,
    /// `[a-z]`, `[^a-z]`
    Class {
        negated: bool,
        ranges: Vec<(Char, Char)>,
    },
    /// `**` or `**/` before more: nothing, or anything that ends with a slash.
    Dirs,
    /// `**` at the end: anything.
    Everything,
}

/// A pattern that neither dialect can read, such as `[a`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern `{0}`")]
pub struct PatternError(String);

impl Pattern {
    /// Compiles a pattern of Go's `filepath.Match` for one component or several.
    pub(crate) fn glob(text: &str) -> Result<Self, PatternError> {
        Self::compile(text, false)
    }

    /// Compiles a pattern of moby's patternmatcher, where `**` crosses slashes.
    pub(crate) fn rule(text: &str) -> Result<Self, PatternError> {
        Self::compile(text, true)
    }

    fn compile(text: &str, crosses: bool) -> Result<Self, PatternError> {
        let error = || PatternError(text.to_owned());
        let mut chars = text.chars().peekable();
        let mut tokens = Vec::new();
        while let Some(next) = chars.next() {
            tokens.push(match next {
                '*' if crosses && chars.peek() == Some(&'*') => {
                    while chars.next_if_eq(&'*').is_some() {}
                    chars.next_if_eq(&'/');
                    if chars.peek().is_none() { Token::Everything } else { Token::Dirs }
                }
                '*' => Token::Run,
                '?' => Token::Any,
                '[' => class(&mut chars).ok_or_else(error)?,
                '\\' => Token::Exactly(chars.next().ok_or_else(error)?.into()),
                literal => Token::Exactly(literal.into()),
            });
        }
        Ok(Self { tokens })
    }

    /// Whether the pattern stands for all of `path`.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.run(path).contains(&self.tokens.len())
    }

    /// Whether some path below the directory `dir` can match.
    pub(crate) fn may_match_below(&self, dir: &[u8]) -> bool {
        let states = self.run(&[dir, b"/"].concat());
        states.iter().any(|&state| state < self.tokens.len()) || dir.is_empty()
    }

    /// Returns the positions in the pattern that `path` can lead to, sorted.
    fn run(&self, path: &[u8]) -> Vec<usize> {
        let mut states = Vec::new();
        self.enter(0, &mut states);
        let mut next = Vec::new();
        for c in chars_of(path) {
            next.clear();
            for &state in &states {
                self.step(state, c, &mut next);
            }
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut states, &mut next);
            if states.is_empty() {
                break;
            }
        }
        states
    }

    /// Adds `state` and those that it leads to without a character.
    fn enter(&self, state: usize, states: &mut Vec<usize>) {
        states.push(state);
        if matches!(self.tokens.get(state), Some(Token::Run | Token::Dirs | Token::Everything)) {
            self.enter(state + 1, states);
        }
    }

    fn step(&self, state: usize, c: Char, next: &mut Vec<usize>) {
        let Some(token) = self.tokens.get(state) else { return };
        match token {
            Token::Run if c != SLASH => self.enter(state, next),
            Token::Everything => self.enter(state, next),
            Token::Dirs => {
                // Only after a slash may the rest of the pattern begin.
                next.push(state);
                if c == SLASH {
                    self.enter(state + 1, next);
                }
            }
            Token::Exactly(want) if c == *want => self.enter(state + 1, next),
            Token::Any if c != SLASH => self.enter(state + 1, next),
            Token::Class { negated, ranges } if c != SLASH => {
                let inside = ranges.iter().any(|&(low, high)| (low..=high).contains(&c));
                if inside != *negated {
                    self.enter(state + 1, next);
                }
            }
            Token::Run | Token::Exactly(_) | Token::Any | Token::Class { .. } => {}
        }
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            ']' | '-' => return None,
            '\\' => chars.next()?,
            c => c,
        };
        let high = match chars.next_if_eq(&'-') {
            None => low,
            Some(_) => match chars.next()? {
                ']' | '-' => return None,
                '\\' => chars.next()?,
                c => c,
            },
        };
        ranges.push((low.into(), high.into()));
    }
}

fn chars_of(bytes: &[u8]) -> impl Iterator<Item = Char> + '_ {
    bytes.utf8_chunks().flat_map(|chunk| {
        let raw = chunk.invalid().iter().map(|&byte| RAW_BYTE + Char::from(byte));
        chunk.valid().chars().map(Char::from).chain(raw)
    })
}

/// Whether a source names several files: one of `*?[`, not behind a backslash.
pub(crate) fn has_wildcard(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Takes the backslashes out of a source without wildcards, as a match would.
pub(crate) fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

/// A list of patternmatcher's patterns, of which the last that matches decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleList {
    rules: Vec<(Pattern, bool)>,
}

impl RuleList {
    /// Compiles patterns; `!` before one takes back what earlier ones match.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let compile = |text: &String| {
            let (text, exception) = match text.trim().strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (text.trim(), false),
            };
            let cleaned = text.split('/').filter(|name| !name.is_empty() && *name != ".");
            let cleaned = cleaned.collect::<Vec<_>>().join("/");
            Ok((Pattern::rule(&cleaned)?, exception))
        };
        Ok(Self { rules: patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Whether the list has no pattern.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether anything is taken back.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|(_, exception)| *exception)
    }

    /// Whether the list says yes to `path`; a pattern that matches a directory matches all below.
    /// `parent` is what each pattern said to the directory above, and becomes what it says here.
    pub(crate) fn matches(&self, path: &[u8], parent: &[bool]) -> (bool, Vec<bool>) {
        let mut verdict = false;
        let mut each = Vec::with_capacity(self.rules.len());
        for (index, (pattern, exception)) in self.rules.iter().enumerate() {
            let matched = parent.get(index).copied().unwrap_or(false) || pattern.matches(path);
            if matched {
                verdict = !exception;
            }
            each.push(matched);
        }
        (verdict, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_follow_filepath_match() {
        #[rustfmt::skip]
        let cases = [
            ("abc", "abc", true), ("*", "abc", true), ("*c", "abc", true), ("a*", "a", true),
            ("a*", "ab/c", false), ("a*/b", "abc/b", true), ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true), ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false), ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true), ("ab[e-g]", "abc", false), ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true), ("a\\*b", "a*b", true), ("a\\*b", "ab", false),
            ("a?b", "a☺b", true), ("a???b", "a☺b", false), ("[a-ζ]*", "α", true),
            ("[\\]a]", "]", true), ("[\\-x]", "-", true), ("a?b", "a/b", false),
            ("*x", "xxx", true), ("**", "a/b", false),
        ];
        for (pattern, path, want) in cases {
            let pattern_compiled = Pattern::glob(pattern).unwrap();
            assert_eq!(pattern_compiled.matches(path.as_bytes()), want, "{pattern} on {path}");
        }
        for bad in ["[", "[a", "[]a]", "[-]", "[x-]", "[-x]", "a[", "a\\", "[^", "[^bc"] {
            assert!(Pattern::glob(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_follow_patternmatcher() {
        #[rustfmt::skip]
        let cases = [
            ("**", "file", true), ("**", "dir/file", true), ("**/", "dir/file", true),
            ("**/file", "dir/file", true), ("**/file", "file", true), ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true), ("dir/**", "dir/dir2/file", true), ("dir/**", "dir", false),
            ("**/dir2/*", "dir/dir2/file", true), ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "dir/file", true), ("**file", "afile", false), ("**/*.txt", "a/b.txt", true), ("*.txt", "a/b.txt", false),
            ("a/**/b", "a/b", true), ("a/**/b", "a/x/y/b", true), ("a**/b", "ax/y/b", true), ("a**/*.txt", "a/d/f.txt", true),
            ("**/b", "ab", false),
        ];
        for (pattern, path, want) in cases {
            let compiled = Pattern::rule(pattern).unwrap();
            assert_eq!(compiled.matches(path.as_bytes()), want, "{pattern} on {path}");
        }
    }

    #[test]
    fn what_cannot_match_below_is_known() {
        #[rustfmt::skip]
        let cases = [
            ("a/b/c", "a", true), ("a/b/c", "a/b", true), ("a/b/c", "a/x", false),
            ("a/b/c", "b", false), ("**/c", "x/y", true), ("a/*/c", "a/q", true),
            ("a*", "b", false), ("a/b", "a/b", false),
        ];
        for (pattern, dir, want) in cases {
            let compiled = Pattern::rule(pattern).unwrap();
            assert_eq!(compiled.may_match_below(dir.as_bytes()), want, "{pattern} below {dir}");
        }
    }

    #[test]
    fn long_patterns_end() {
        let pattern = Pattern::rule(&"*a".repeat(2000)).unwrap();
        assert!(!pattern.matches("a".repeat(4000).replace('a', "ab").as_bytes()));
    }
}
