//! Image references: Docker's grammar and defaults (distribution `reference`, "Grammar").

use std::fmt;

use serde::Serialize;

/// An image's name with registry and repository made explicit.
///
/// `Display` writes the full form, `docker.io/library/node:14`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Reference {
    /// Host, perhaps with port: `docker.io`.
    pub registry: String,
    /// Path below the registry: `library/node`.
    pub repository: String,
    /// As written, `None` where there is none.
    pub tag: Option<String>,
    /// `sha256:<hex>`, as written.
    pub digest: Option<String>,
}

/// A name that does not follow the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image name: {fault}")]
pub struct ReferenceError {
    /// As given.
    pub text: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

const DEFAULT_REGISTRY: &str = "docker.io";

/// Repository names (registry included) are no longer than this.
const MAX_NAME: usize = 255;

impl Reference {
    /// Parses a name as people write it: `node:14` is `docker.io/library/node:14`.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] where Docker refuses the name.
    pub fn parse_normalized(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text).map_err(|fault| ReferenceError { text: text.to_owned(), fault })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err("64 hexadecimal digits are an id, not a name");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err("behind `@` stands a digest: sha256: and 64 hexadecimal digits"),
            None => (text, None),
        };
        let (registry, path) = split_registry(rest);
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            Some(_) => return Err("a tag has letters, digits, `_`, `.`, `-`, at most 128"),
            None => (path, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("the repository must be in lower case");
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(
                "parts of a repository are letters and digits, joined by `.`, `_`, `__`, `-`",
            );
        }
        let registry = match registry {
            Some(registry) if !is_domain(registry) => return Err("malformed registry host"),
            Some("index.docker.io") | None => DEFAULT_REGISTRY,
            Some(registry) => registry,
        };
        let is_official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err("the name is longer than 255 characters");
        }
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Adds the tag `latest` where neither tag nor digest is given.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// Returns the short form that people write: `node:14`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = String::new();
        if self.registry != DEFAULT_REGISTRY {
            text.push_str(&self.registry);
            text.push('/');
        }
        let is_docker = self.registry == DEFAULT_REGISTRY;
        let official = self.repository.strip_prefix("library/").filter(|_| is_docker);
        text.push_str(official.unwrap_or(&self.repository));
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        for (sign, part) in [(':', &self.tag), ('@', &self.digest)] {
            if let Some(part) = part {
                text.push(sign);
                text.push_str(part);
            }
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut suffix = String::new();
        self.push_suffix(&mut suffix);
        write!(f, "{}/{}{suffix}", self.registry, self.repository)
    }
}

/// Splits a registry off: the first part is one if it has a dot or a port, is `localhost`, or
/// has upper-case letters, which no repository has.
fn split_registry(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = text.bytes().next().is_some_and(is_word);
    first && text.len() <= 128 && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// A part of a path: runs of letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends =
        text.bytes().next().is_some_and(is_letter) && text.bytes().last().is_some_and(is_letter);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators
        .filter(|separator| !separator.is_empty())
        .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|byte| byte == b'-'))
}

fn is_domain(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') && port_is_good;
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let sha = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("node@{sha}");
        let full = format!("docker.io/library/node@{sha}");
        #[rustfmt::skip]
        let cases = [
            ("node",                      Some("docker.io/library/node:latest"), "node:latest"),
            ("node:14",                   Some("docker.io/library/node:14"),     "node:14"),
            ("a/b",                       Some("docker.io/a/b:latest"),          "a/b:latest"),
            ("index.docker.io/node",      Some("docker.io/library/node:latest"), "node:latest"),
            ("docker.io/node",            Some("docker.io/library/node:latest"), "node:latest"),
            ("localhost/a",               Some("localhost/a:latest"),            "localhost/a:latest"),
            ("localhost:5000/a:b",        Some("localhost:5000/a:b"),            "localhost:5000/a:b"),
            ("ghcr.io/a/b/c:1",           Some("ghcr.io/a/b/c:1"),               "ghcr.io/a/b/c:1"),
            ("[::1]:5000/a",              Some("[::1]:5000/a:latest"),           "[::1]:5000/a:latest"),
            ("a__b--c.d",                 Some("docker.io/library/a__b--c.d:latest"), "a__b--c.d:latest"),
            (pinned.as_str(),             Some(full.as_str()),                   pinned.as_str()),
            ("Node",                      None, ""),
            ("a/B",                       None, ""),
            ("a:",                        None, ""),
            ("a:b:c",                     None, ""),
            (":14",                       None, ""),
            ("",                          None, ""),
            ("a//b",                      None, ""),
            ("-a",                        None, ""),
            ("a___b",                     None, ""),
            ("a@sha256:1",                None, ""),
            ("a b",                       None, ""),
            ("-x.y/a",                    None, ""),
        ];
        for (text, want, familiar) in cases {
            let got = Reference::parse_normalized(text).map(Reference::with_default_tag).ok();
            assert_eq!(got.as_ref().map(ToString::to_string).as_deref(), want, "{text}");
            assert_eq!(got.map(|r| r.familiar()).unwrap_or_default(), familiar, "{text}");
        }
    }
}
