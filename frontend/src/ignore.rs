//! `.dockerignore`: which paths of a context stay behind.
//!
//! moby's pattern rules: patterns are rooted at the context, `**` crosses directories, a pattern
//! that matches a directory matches all below it, `!` brings back, and the last pattern that
//! matches decides. So a file below an ignored directory can be brought back, and a tree walk
//! must know which ignored directories to enter: [`IgnoreRules::may_descend`].

use crate::glob::{Pattern, Token};

/// The rules of one ignore file, or of `--exclude` flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

/// A pattern that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{pattern}` is no pattern")]
pub struct IgnoreError {
    /// 1-based; in a list of patterns, the position.
    pub line: usize,
    /// As written.
    pub pattern: String,
}

/// The rule that decided about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IgnoreReason<'r> {
    /// 1-based line of the ignore file.
    pub line: usize,
    /// The pattern, cleaned, with its `!`.
    pub pattern: &'r str,
    /// False where the rule brings the path back.
    pub excluded: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    line: usize,
    text: String,
    brings_back: bool,
    kind: Kind,
}

/// moby sorts patterns into four kinds; the first three never meet the general matcher, and
/// that shows: `**x` matches every path that *ends* in `x`, not only a whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Exact(Vec<u8>),
    /// `dir/**`.
    Prefix(Vec<u8>),
    /// `**/name` or `**name`.
    Suffix(Vec<u8>),
    General(Pattern),
}

impl IgnoreRules {
    /// Parses the text of an ignore file: one pattern a line, `#` in the first column comments,
    /// blanks around a pattern and a leading slash do not count.
    ///
    /// # Errors
    ///
    /// [`IgnoreError`] for the first malformed pattern.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let pattern = line.trim();
            let (mark, body) = match pattern.strip_prefix('!') {
                Some(body) => ("!", body.trim()),
                None => ("", pattern),
            };
            if pattern.is_empty() {
                continue;
            }
            let body = if body.is_empty() { String::new() } else { clean(body) };
            let body = if body.len() > 1 { body.trim_start_matches('/') } else { &body };
            rules.extend(rule(&format!("{mark}{body}"), index + 1)?);
        }
        Ok(Self { rules })
    }

    /// Takes patterns one by one, as of `COPY --exclude`.
    ///
    /// # Errors
    ///
    /// [`IgnoreError`] for the first malformed pattern.
    pub fn from_patterns<P: AsRef<str>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for (index, pattern) in patterns.into_iter().enumerate() {
            rules.extend(rule(pattern.as_ref(), index + 1)?);
        }
        Ok(Self { rules })
    }

    /// Returns the patterns, cleaned, with their `!`: [`Self::from_patterns`] makes the same rules
    /// of them.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule brings files back.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.brings_back)
    }

    /// Whether `path`, relative to the root and parted by slashes, is left out.
    ///
    /// moby's rules do not tell files from directories (unlike git's), so the answer is the same
    /// for both; a walk asks [`Self::may_descend`] about directories that are left out.
    #[must_use]
    pub fn is_excluded(&self, path: impl AsRef<[u8]>, _is_dir: bool) -> bool {
        self.decide(path.as_ref()).is_some_and(|rule| !rule.brings_back)
    }

    /// Returns the rule that decides about `path`, `None` where none matches.
    #[must_use]
    pub fn explain(&self, path: impl AsRef<[u8]>) -> Option<IgnoreReason<'_>> {
        let rule = self.decide(path.as_ref())?;
        Some(IgnoreReason { line: rule.line, pattern: &rule.text, excluded: !rule.brings_back })
    }

    /// Whether a walk must enter the directory `dir`: it is not left out, or something below it
    /// could be brought back.
    #[must_use]
    pub fn may_descend(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = trim(dir.as_ref());
        let decided = self.rules.iter().rposition(|rule| rule.decides(dir));
        let Some(index) = decided.filter(|&index| !self.rules[index].brings_back) else {
            return true;
        };
        // Earlier rules cannot win: the one that decided matches everything below, too.
        self.rules[index + 1..].iter().any(|rule| rule.brings_back && rule.may_match_below(dir))
    }

    fn decide(&self, path: &[u8]) -> Option<&Rule> {
        let path = trim(path);
        if path.is_empty() || path == b"." {
            return None;
        }
        self.rules.iter().rev().find(|rule| rule.decides(path))
    }
}

/// Takes off slashes around a path and `./` before it; the root itself stays.
fn trim(path: &[u8]) -> &[u8] {
    if path == b"/" {
        return path;
    }
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_prefix(b"./")) {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    path
}

impl Rule {
    /// Whether the rule matches `path` or a directory above it.
    fn decides(&self, path: &[u8]) -> bool {
        if self.matches(path) {
            return true;
        }
        let slashes = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        slashes.map(|(at, _)| &path[..at]).any(|parent| self.matches(parent))
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact(text) => path == text,
            Kind::Prefix(prefix) => path.starts_with(prefix),
            Kind::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|name| name == path)
            }
            Kind::General(pattern) => pattern.matches(path),
        }
    }

    /// Whether a path below `dir`, which the rule does not match itself, could match.
    fn may_match_below(&self, dir: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact(text) => text.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/")),
            Kind::Prefix(prefix) => prefix.starts_with(dir) || dir.starts_with(prefix),
            Kind::Suffix(_) => true,
            Kind::General(pattern) => {
                // What comes before the first wildcard must agree with the directory.
                let Some(Token::Literal(head)) = pattern.tokens().first() else { return true };
                let common = head.len().min(dir.len());
                head[..common] == dir[..common] && (head.len() <= dir.len() || head[common] == b'/')
            }
        }
    }
}

/// Makes a rule of one pattern; blank ones make none.
fn rule(pattern: &str, line: usize) -> Result<Option<Rule>, IgnoreError> {
    let fault = || IgnoreError { line, pattern: pattern.to_owned() };
    let trimmed = pattern.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    let text = clean(trimmed);
    let (brings_back, body) = match text.strip_prefix('!') {
        Some("") => return Err(fault()),
        Some(body) => (true, body),
        None => (false, text.as_str()),
    };
    let bytes = body.as_bytes();
    let general = Pattern::parse(bytes, true).map_err(|_| fault())?;
    let is_plain = |bytes: &[u8]| !bytes.iter().any(|byte| b"*?[]\\".contains(byte));
    let kind = if is_plain(bytes) {
        Kind::Exact(bytes.to_vec())
    } else if let Some(suffix) = bytes.strip_prefix(b"**").filter(|rest| is_plain(rest)) {
        Kind::Suffix(suffix.to_vec())
    } else if let Some(prefix) = bytes.strip_suffix(b"**").filter(|rest| is_plain(rest)) {
        Kind::Prefix(prefix.to_vec())
    } else {
        Kind::General(general)
    };
    Ok(Some(Rule { line, text, brings_back, kind }))
}

/// Cleans a path as Go's `filepath.Clean` does: no doubled slashes, `.` or inner `..`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
