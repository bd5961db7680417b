//! Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, no brackets.
//!
//! Neither matches a line feed. A backslash makes `*`, `?` and itself literal; before `}` and `/`
//! it only keeps them from ending the operand. Matching keeps, for each position in the pattern,
//! the earliest start that leads there, so the work is pattern length times value length.

/// Pattern length times value length, in characters, beyond which the work is refused.
const MAX_WORK: usize = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    Any,
    Star,
}

fn parse(pattern: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => match chars.next() {
                Some(next @ ('}' | '/' | '*' | '?' | '\\')) => Token::Literal(next),
                Some(other) => return Err(format!("`\\{other}` is no escape of a pattern")),
                None => return Err("the pattern ends in a lone backslash".to_owned()),
            },
            other => Token::Literal(other),
        });
    }
    Ok(tokens)
}

/// Removes the shortest or longest beginning of `value` that matches.
pub(super) fn trim_start(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let chars: Vec<char> = value.chars().collect();
    let end = anchored(&parse(pattern)?, &chars, longest)?.unwrap_or(0);
    Ok(chars[end..].iter().collect())
}

/// Removes the shortest or longest end of `value` that matches.
pub(super) fn trim_end(pattern: &str, value: &str, longest: bool) -> Result<String, String> {
    let mut tokens = parse(pattern)?;
    tokens.reverse();
    let mut chars: Vec<char> = value.chars().collect();
    chars.reverse();
    let end = anchored(&tokens, &chars, longest)?.unwrap_or(0);
    Ok(chars[end..].iter().rev().collect())
}

/// Replaces the first or every leftmost, longest match.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
    max_length: usize,
) -> Result<String, String> {
    let tokens = parse(pattern)?;
    let chars: Vec<char> = value.chars().collect();
    let mut result = String::new();
    let mut at = 0;
    let mut budget = MAX_WORK;
    // An empty match directly behind a match does not count, as in Go's regexp.
    let mut last_end = None;
    while at <= chars.len() {
        let Some((start, end)) = search(&tokens, &chars, at, &mut budget)? else { break };
        result.extend(&chars[at..start]);
        if start != end || last_end != Some(start) {
            result.push_str(replacement);
        }
        last_end = Some(end);
        at = end;
        if start == end {
            result.extend(chars.get(at));
            at += 1;
        }
        if result.len() > max_length {
            return Err("the replacement grows beyond 1 MiB".to_owned());
        }
        if !all {
            break;
        }
    }
    result.extend(&chars[at.min(chars.len())..]);
    Ok(result)
}

/// Finds the end of the shortest or longest match that begins at the first character.
fn anchored(tokens: &[Token], chars: &[char], longest: bool) -> Result<Option<usize>, String> {
    let mut states = Starts::new(tokens);
    states.enter(0, 0);
    let mut found = None;
    let mut budget = MAX_WORK;
    for at in 0..=chars.len() {
        if states.last().is_some() {
            found = Some(at);
            if !longest {
                break;
            }
        }
        let Some(&char) = chars.get(at) else { break };
        if !states.step(char, &mut budget)? {
            break;
        }
    }
    Ok(found)
}

/// Finds the leftmost match at or behind `from`, and of those with its start the longest.
fn search(
    tokens: &[Token],
    chars: &[char],
    from: usize,
    budget: &mut usize,
) -> Result<Option<(usize, usize)>, String> {
    let mut states = Starts::new(tokens);
    let mut found: Option<(usize, usize)> = None;
    for at in from..=chars.len() {
        if found.is_none() {
            states.enter(0, at);
        }
        if let Some(start) = states.last()
            && found.is_none_or(|(best, _)| start <= best)
        {
            found = Some((start, at));
        }
        let Some(&char) = chars.get(at) else { break };
        let alive = states.step(char, budget)?;
        if found.is_some() && !alive {
            break;
        }
    }
    Ok(found)
}

/// For each position in the pattern the earliest start of a match in progress.
struct Starts<'t> {
    tokens: &'t [Token],
    starts: Vec<Option<usize>>,
}

impl<'t> Starts<'t> {
    fn new(tokens: &'t [Token]) -> Self {
        Self { tokens, starts: vec![None; tokens.len() + 1] }
    }

    /// Notes that a match begun at `start` reached `position`; a star may match nothing.
    fn enter(&mut self, mut position: usize, start: usize) {
        loop {
            if self.starts[position].is_some_and(|known| known <= start) {
                return;
            }
            self.starts[position] = Some(start);
            if self.tokens.get(position) != Some(&Token::Star) {
                return;
            }
            position += 1;
        }
    }

    fn last(&self) -> Option<usize> {
        self.starts[self.tokens.len()]
    }

    /// Consumes one character; false when no match is in progress any more.
    fn step(&mut self, char: char, budget: &mut usize) -> Result<bool, String> {
        let Some(left) = budget.checked_sub(self.tokens.len() + 1) else {
            return Err("the pattern and the value are too long to be matched".to_owned());
        };
        *budget = left;
        let before = std::mem::replace(&mut self.starts, vec![None; self.tokens.len() + 1]);
        let mut alive = false;
        for (position, (token, start)) in self.tokens.iter().zip(before).enumerate() {
            let Some(start) = start else { continue };
            let next = match token {
                Token::Literal(literal) if *literal == char => position + 1,
                Token::Any if char != '\n' => position + 1,
                Token::Star if char != '\n' => position,
                Token::Literal(_) | Token::Any | Token::Star => continue,
            };
            self.enter(next, start);
            alive = true;
        }
        Ok(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming() {
        #[rustfmt::skip]
        let cases = [
            ("shortest start",   trim_start("*/", "a/b/c", false),    "b/c"),
            ("longest start",    trim_start("*/", "a/b/c", true),     "c"),
            ("shortest end",     trim_end(".*", "a.tar.gz", false),   "a.tar"),
            ("longest end",      trim_end(".*", "a.tar.gz", true),    "a"),
            ("no match",         trim_start("x", "abc", true),        "abc"),
            ("any",              trim_start("?b", "abc", false),      "c"),
            ("escaped star",     trim_start("\\*", "*a", false),      "a"),
            ("escaped at end",   trim_end("\\*", "a*", false),        "a"),
            ("no line feed",     trim_start("*c", "a\nc", true),      "a\nc"),
            ("whole",            trim_start("*", "abc", true),        ""),
            ("empty pattern",    trim_start("", "abc", true),         "abc"),
        ];
        for (name, got, want) in cases {
            assert_eq!(got.as_deref(), Ok(want), "{name}");
        }
        assert!(trim_start("\\a", "a", false).is_err());
    }

    #[test]
    fn replacing() {
        #[rustfmt::skip]
        let cases = [
            ("first",          "a",    "banana", "o", false, "bonana"),
            ("all",            "a",    "banana", "o", true,  "bonono"),
            ("longest",        "b*n",  "banana", "-", false, "-a"),
            ("with a gap",     "a?",   "banana", "-", true,  "b--a"),
            ("none",           "x",    "banana", "-", true,  "banana"),
            ("empty pattern",  "",     "ab",     "-", true,  "-a-b-"),
            ("escaped slash",  "\\/",  "a/b/c",  "-", true,  "a-b-c"),
            ("star all",       "*",    "ab",     "-", true,  "-"),
        ];
        for (name, pattern, value, text, all, want) in cases {
            let got = replace(pattern, value, text, all, 1 << 20);
            assert_eq!(got.as_deref(), Ok(want), "{name}");
        }
    }

    #[test]
    fn work_is_bounded() {
        let value = "a".repeat(1 << 20);
        let pattern = "a*".repeat(1 << 10);
        assert!(trim_start(&pattern, &value, true).is_err());
        assert!(replace("*b", &value, "-", true, 1 << 20).is_ok());
    }
}
