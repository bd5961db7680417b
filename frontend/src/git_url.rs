//! Git remotes among the sources of ADD and the contexts: URL, fragment and query.
//!
//! `https://host/repo.git#ref:subdir`, `git@host:repo.git`, `ssh://`, `git://`, and the query form
//! with `ref`, `tag`, `branch`, `subdir`, `checksum`, `commit`, `keep-git-dir`, `submodules`, `mtime`
//! and `fetch-by-commit` (Dockerfile reference, "Adding a Git repository").

use crate::check::parse_bool;
use crate::{GitOp, url_credentials};

/// A git source, with what its URL leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// The checkout; `keep_git_dir` is false and `submodules` true where the URL does not say.
    pub op: GitOp,
    /// What the URL says about `.git`.
    pub keep_git_dir: Option<bool>,
}

/// A git URL with a malformed part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct GitUrlError {
    /// What is wrong: lowercase, one sentence.
    pub fault: String,
}

/// Parses `text` as a git remote; `None` where it is none (a path, or a URL of a plain file).
///
/// # Errors
///
/// [`GitUrlError`] where it is one but its query is malformed or contradicts its fragment.
pub fn parse_git_source(text: &str) -> Result<Option<GitSource>, GitUrlError> {
    let (body, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = body.split_once('?').unwrap_or((body, ""));
    let is_git = if let Some((scheme, rest)) = remote.split_once("://") {
        match scheme.to_ascii_lowercase().as_str() {
            // Git servers tell `.git` from `.GIT`, and so do the peers.
            "http" | "https" => rest.contains('/') && rest.as_bytes().ends_with(b".git"),
            "git" | "ssh" => rest.contains('/'),
            _ => false,
        }
    } else {
        is_scp_style(remote)
    };
    if !is_git {
        return Ok(None);
    }
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (url, credentials) = url_credentials::split(remote);
    let op = GitOp {
        url,
        credentials,
        reference: some(reference),
        subdir: some(subdir),
        submodules: true,
        ..GitOp::default()
    };
    let mut source = GitSource { op, keep_git_dir: None };
    source.read_query(query)?;
    source.op.keep_git_dir = source.keep_git_dir.unwrap_or_default();
    Ok(Some(source))
}

/// `user@host:path`: a colon behind a host, no slash before it.
fn is_scp_style(text: &str) -> bool {
    let Some((head, path)) = text.split_once(':') else { return false };
    let Some((user, host)) = head.split_once('@') else { return false };
    let is_name = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    is_name(user) && is_name(host) && !path.is_empty()
}

impl GitSource {
    fn read_query(&mut self, query: &str) -> Result<(), GitUrlError> {
        let fail = |fault: String| Err(GitUrlError { fault });
        let mut seen: Vec<&str> = Vec::new();
        let mut named: Option<String> = None;
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = percent_decode(value);
            if seen.contains(&key) {
                return fail(format!("the query names `{key}` twice"));
            }
            seen.push(key);
            let is_switch = matches!(key, "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !is_switch {
                return fail(format!("the query's `{key}` lacks its value"));
            }
            let boolean = || match parse_bool(if value.is_empty() { "true" } else { &value }) {
                Some(value) => Ok(value),
                None => Err(GitUrlError { fault: format!("`{key}` cannot be `{value}`") }),
            };
            match key {
                "ref" => agree("ref", &mut self.op.reference, value)?,
                "tag" | "branch" => {
                    if named.is_some() {
                        return fail("the query names a branch and a tag".to_owned());
                    }
                    let prefix = if key == "tag" { "refs/tags/" } else { "refs/heads/" };
                    let is_full = value.starts_with(prefix);
                    named = Some(if is_full { value } else { format!("{prefix}{value}") });
                }
                "subdir" => agree("subdir", &mut self.op.subdir, value)?,
                "checksum" | "commit" => agree("checksum", &mut self.op.checksum, value)?,
                "keep-git-dir" => self.keep_git_dir = Some(boolean()?),
                "submodules" => self.op.submodules = boolean()?,
                "mtime" => match value.as_str() {
                    "checkout" => self.op.checkout_time = true,
                    "commit" => {}
                    other => return fail(format!("`mtime` cannot be `{other}`")),
                },
                // A commit is always asked for by its id; what a server refuses is sought by name.
                "fetch-by-commit" => drop(boolean()?),
                other => return fail(format!("the query cannot have `{other}`")),
            }
        }
        if let Some(named) = named {
            agree("ref", &mut self.op.reference, named)?;
        }
        if self.op.reference.is_none() {
            self.op.reference.clone_from(&self.op.checksum);
        }
        Ok(())
    }
}

fn agree(what: &str, slot: &mut Option<String>, value: String) -> Result<(), GitUrlError> {
    match slot {
        Some(given) if *given != value => Err(GitUrlError {
            fault: format!("two values for the {what}: `{given}` and `{value}`"),
        }),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(value.unwrap_or(byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_or_not() {
        let git = |url: &str, reference: Option<&str>, subdir: Option<&str>| {
            Some((url.to_owned(), reference.map(str::to_owned), subdir.map(str::to_owned)))
        };
        #[rustfmt::skip]
        let cases = [
            ("https://a.b/c.git",                git("https://a.b/c.git", None, None)),
            ("https://a.b/c.git#main",           git("https://a.b/c.git", Some("main"), None)),
            ("https://a.b/c.git#main:d/e",       git("https://a.b/c.git", Some("main"), Some("d/e"))),
            ("https://a.b/c.git#:d",             git("https://a.b/c.git", None, Some("d"))),
            ("https://u:p@a.b/c.git#x",          git("https://a.b/c.git", Some("x"), None)),
            ("https://a.b/c.git?mtime=checkout&fetch-by-commit", git("https://a.b/c.git", None, None)),
            ("git@a.b:c/d.git",                  git("git@a.b:c/d.git", None, None)),
            ("git@a.b:c/d",                      git("git@a.b:c/d", None, None)),
            ("ssh://git@a.b/c",                  git("ssh://git@a.b/c", None, None)),
            ("git://a.b/c",                      git("git://a.b/c", None, None)),
            ("https://a.b/c.git?tag=v1&subdir=x", git("https://a.b/c.git", Some("refs/tags/v1"), Some("x"))),
            ("https://a.b/c.git?branch=b%2Fc",   git("https://a.b/c.git", Some("refs/heads/b/c"), None)),
            ("https://a.b/c.tar.gz",             None),
            ("https://a.b/c",                    None),
            ("./c.git",                          None),
            ("c.git",                            None),
            ("a/b@c:d",                          None),
        ];
        for (text, want) in cases {
            let got = parse_git_source(text).expect("the cases are well-formed");
            assert_eq!(got.map(|s| (s.op.url, s.op.reference, s.op.subdir)), want, "{text}");
        }
    }

    #[test]
    fn malformed_queries() {
        for query in
            ["ref=", "x=1", "ref=a&ref=b", "tag=a&branch=b", "submodules=maybe", "mtime=now"]
        {
            let url = format!("https://a.b/c.git?{query}");
            assert!(parse_git_source(&url).is_err(), "{query}");
        }
        assert!(parse_git_source("https://a.b/c.git?ref=a#b").is_err());
    }
}
