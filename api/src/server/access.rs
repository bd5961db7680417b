//! Who may ask for what: bearer tokens with names and scopes.
//!
//! Invariants: decided from a request's head, before its body (a body that is too large to look at
//! is no way in); a token is compared in time that does not depend on how much of it is right; its
//! text is kept nowhere but in the file that it came from.

use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use cache::Digest;
use subtle::{Choice, ConstantTimeEq as _};

use super::error::ApiError;
use crate::fault::Fault;

/// Bytes of a token file.
const FILE_LIMIT: u64 = 1 << 20;

/// Characters of the shortest token that is taken: less can be guessed over a network.
const MIN_TOKEN: usize = 16;

/// What a token allows. None of them holds another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Looking at images and builds.
    Read,
    /// Building, and bringing images in.
    Build,
    /// Sending images to registries.
    Push,
    /// Deleting.
    Admin,
}

/// Words in a token file.
const SCOPES: [(&str, Scope); 4] = [
    ("read", Scope::Read),
    ("build", Scope::Build),
    ("push", Scope::Push),
    ("admin", Scope::Admin),
];

/// The tokens that a service takes; without any, everybody who reaches it may do everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug)]
struct Token {
    name: String,
    digest: Digest,
    scopes: Vec<Scope>,
}

impl Access {
    /// Adds the token of `RBUILD_TOKEN`, which may do everything.
    pub(crate) fn with_token(mut self, text: &str) -> Result<Self, Fault> {
        let scopes = SCOPES.iter().map(|&(_, scope)| scope).collect();
        self.tokens.push(token("RBUILD_TOKEN", text, scopes).map_err(Fault::user)?);
        Ok(self)
    }

    /// Reads a file of lines `NAME SCOPE[,SCOPE] TOKEN`; `#` begins a comment. Blocking.
    ///
    /// # Errors
    ///
    /// A file that others may read, or a line of another form, told without its token.
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        use std::io::Read as _;
        use std::os::unix::fs::PermissionsExt as _;
        let fault = |error: &std::io::Error| Fault::file("read the tokens", path, error);
        let file = std::fs::File::open(path).map_err(|error| fault(&error))?;
        let mode = file.metadata().map_err(|error| fault(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            let what = format!("others may read the tokens in `{}`", path.display());
            return Err(Fault::user(what).with_help("chmod 600 it"));
        }
        let mut text = String::new();
        file.take(FILE_LIMIT).read_to_string(&mut text).map_err(|error| fault(&error))?;
        Self::parse(&text)
            .map_err(|(line, reason)| Fault::user(format!("{}:{line}: {reason}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut access = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |reason: String| (index + 1, reason);
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, scopes, text] = words[..] else {
                return Err(at("expected NAME SCOPE[,SCOPE] TOKEN".to_owned()));
            };
            let scopes = scopes.split(',').map(scope).collect::<Result<_, _>>().map_err(at)?;
            access.tokens.push(token(name, text, scopes).map_err(at)?);
        }
        if access.tokens.is_empty() {
            return Err((1, "there is no token in it".to_owned()));
        }
        Ok(access)
    }

    /// Whether a token is asked for.
    pub(crate) fn is_guarded(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Lets a request pass that has a token for `scope`; returns the token's name.
    ///
    /// # Errors
    ///
    /// [`ApiError::Unauthorized`] without a token that is known, [`ApiError::Scope`] with one that
    /// is for something else.
    pub(super) fn judge(
        &self,
        headers: &HeaderMap,
        scope: Scope,
    ) -> Result<Option<&str>, ApiError> {
        if !self.is_guarded() {
            return Ok(None);
        }
        let refuse = || ApiError::Unauthorized("a valid token is needed".to_owned());
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = header.and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(refuse)?;
        let asked = Digest::of(text.trim().as_bytes());
        // All are looked at, so that the time tells nothing of which one was meant.
        let mut found = None;
        for token in &self.tokens {
            let is_equal: Choice = token.digest.as_bytes().ct_eq(asked.as_bytes());
            if bool::from(is_equal) {
                found = Some(token);
            }
        }
        let token = found.ok_or_else(refuse)?;
        if !token.scopes.contains(&scope) {
            let name = token.name.clone();
            return Err(ApiError::Scope { name, scope: word(scope) });
        }
        Ok(Some(&token.name))
    }
}

fn token(name: &str, text: &str, scopes: Vec<Scope>) -> Result<Token, String> {
    let text = text.trim();
    if text.len() < MIN_TOKEN {
        return Err(format!("the token `{name}` is shorter than {MIN_TOKEN} characters"));
    }
    Ok(Token { name: name.to_owned(), digest: Digest::of(text.as_bytes()), scopes })
}

fn scope(word: &str) -> Result<Scope, String> {
    let found = SCOPES.iter().find(|(known, _)| *known == word);
    found
        .map(|&(_, scope)| scope)
        .ok_or_else(|| format!("`{word}` is no scope; the scopes are read, build, push and admin"))
}

fn word(scope: Scope) -> &'static str {
    let found = SCOPES.iter().find(|(_, known)| *known == scope);
    found.map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# who may do what\n\nci  read,build  0123456789abcdef\nview read fedcba9876543210\n";

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn tokens_open_what_they_are_for() {
        let access = Access::parse(FILE).unwrap();
        #[rustfmt::skip]
        let cases = [
            ("its scope",      "Bearer 0123456789abcdef", Scope::Build, Ok("ci")),
            ("another token",  "Bearer fedcba9876543210", Scope::Read,  Ok("view")),
            ("another scope",  "Bearer fedcba9876543210", Scope::Build, Err("the token `view` is not for `build`")),
            ("unknown",        "Bearer 0123456789abcdee", Scope::Read,  Err("a valid token is needed")),
            ("a part of one",  "Bearer 0123456789",       Scope::Read,  Err("a valid token is needed")),
            ("another scheme", "Basic 0123456789abcdef",  Scope::Read,  Err("a valid token is needed")),
            ("none",           "",                        Scope::Read,  Err("a valid token is needed")),
        ];
        for (name, header, scope, want) in cases {
            let got = access.judge(&headers(header), scope).map_err(|error| error.to_string());
            assert_eq!(got, want.map(Some).map_err(str::to_owned), "{name}");
        }
        assert_eq!(Access::default().judge(&headers(""), Scope::Admin).unwrap(), None);
    }

    #[test]
    fn faults_name_the_line_and_not_the_token() {
        #[rustfmt::skip]
        let cases = [
            ("too few words", "ci read",                        1, "expected NAME"),
            ("unknown scope", "\nci write 0123456789abcdef",    2, "`write` is no scope"),
            ("too short",     "ci read hunter2",                1, "shorter than"),
            ("nothing",       "# none\n",                       1, "no token"),
        ];
        for (name, text, line, want) in cases {
            let (at, reason) = Access::parse(text).unwrap_err();
            assert_eq!(at, line, "{name}");
            assert!(reason.contains(want) && !reason.contains("hunter2"), "{name}: {reason}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        assert!(Access::read(file.path()).unwrap().is_guarded());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Access::read(file.path()).is_err());
    }
}
