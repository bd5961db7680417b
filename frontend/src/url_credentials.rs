//! User and password in the URLs of ADD and of contexts: taken out before anything is kept or shown.

use std::fmt;

use crate::git_url::percent_decode;

/// What stands for a part that was taken out, as in BuildKit's texts.
const REDACTED: &str = "xxxxx";

/// What stood before the `@` of a URL. `Debug` hides it, and nothing serialises it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UrlCredentials {
    /// Decoded; a lone token is a user without a password.
    pub username: String,
    /// Decoded, empty where there is none.
    pub password: String,
}

impl fmt::Debug for UrlCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlCredentials").finish_non_exhaustive()
    }
}

/// Splits an `http` or `https` URL into itself without credentials, and these. Users of other
/// schemes (`ssh://git@host`) are names, not secrets: they stay, passwords behind them do not.
pub(crate) fn split(url: &str) -> (String, Option<UrlCredentials>) {
    let Some(parts) = Parts::of(url) else { return (url.to_owned(), None) };
    let (user, password) = parts.userinfo.split_once(':').unwrap_or((parts.userinfo, ""));
    let credentials =
        UrlCredentials { username: percent_decode(user), password: percent_decode(password) };
    if parts.is_http() {
        return (format!("{}://{}", parts.scheme, parts.rest), Some(credentials));
    }
    (format!("{}://{user}@{}", parts.scheme, parts.rest), None)
}

/// Returns `url` with its credentials made unreadable: what may be shown and kept.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some(parts) = Parts::of(url) else { return url.to_owned() };
    let user = parts.userinfo.split(':').next().unwrap_or_default();
    let user = if parts.is_http() { REDACTED } else { user };
    let password =
        if parts.userinfo.contains(':') { format!(":{REDACTED}") } else { String::new() };
    format!("{}://{user}{password}@{}", parts.scheme, parts.rest)
}

/// Makes the credentials of all `http` and `https` URLs in `text` unreadable without moving any byte:
/// spans into it stay what they were. Variables stay, they show no value.
#[must_use]
pub fn mask_urls(text: &str) -> String {
    let mut masked = text.as_bytes().to_vec();
    // Whole words are replaced, and by ASCII: the rest stays text.
    for (at, _) in text.match_indices("://") {
        let scheme = text[..at].bytes().rev().take_while(u8::is_ascii_alphabetic).count();
        let scheme = text[at - scheme..at].to_ascii_lowercase();
        let begin = at + "://".len();
        let is_end =
            |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\');
        let end = text[begin..].find(is_end).map_or(text.len(), |length| begin + length);
        let Some(length) = text[begin..end].rfind('@') else { continue };
        if !matches!(scheme.as_str(), "http" | "https") {
            continue;
        }
        let mut part = begin;
        for word in text[begin..begin + length].split(':') {
            if !word.starts_with('$') {
                masked[part..part + word.len()].fill(b'x');
            }
            part += word.len() + 1;
        }
    }
    String::from_utf8_lossy(&masked).into_owned()
}

/// A URL with something before the `@` of its authority.
struct Parts<'u> {
    scheme: &'u str,
    userinfo: &'u str,
    /// Host and all behind it.
    rest: &'u str,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let at = rest[..end].rfind('@')?;
        Some(Self { scheme, userinfo: &rest[..at], rest: &rest[at + 1..] })
    }

    fn is_http(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("http") || self.scheme.eq_ignore_ascii_case("https")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out() {
        #[rustfmt::skip]
        let cases = [
            // url, without, credentials, shown
            ("https://a.b/c@d",         "https://a.b/c@d",     None,             "https://a.b/c@d"),
            ("https://u:p@a.b/c",       "https://a.b/c",       Some(("u", "p")), "https://xxxxx:xxxxx@a.b/c"),
            ("https://tok%40n@a.b/c#x", "https://a.b/c#x",     Some(("tok@n", "")), "https://xxxxx@a.b/c#x"),
            ("HTTP://u:a@b@a.b:1?q",    "HTTP://a.b:1?q",      Some(("u", "a@b")), "HTTP://xxxxx:xxxxx@a.b:1?q"),
            ("ssh://git@a.b/c",         "ssh://git@a.b/c",     None,             "ssh://git@a.b/c"),
            ("ssh://git:p@a.b/c",       "ssh://git@a.b/c",     None,             "ssh://git:xxxxx@a.b/c"),
            ("git@a.b:c",               "git@a.b:c",           None,             "git@a.b:c"),
        ];
        for (url, want, credentials, shown) in cases {
            let (got, found) = split(url);
            let found = found.map(|found| (found.username, found.password));
            let credentials = credentials.map(|(user, password)| (user.into(), password.into()));
            assert_eq!((got.as_str(), found), (want, credentials), "{url}");
            assert_eq!(redact_url(url), shown, "{url}");
        }
    }

    #[test]
    fn texts_are_masked_in_place() {
        #[rustfmt::skip]
        let cases = [
            ("ADD https://u:pw@a.b/c /d",             "ADD https://x:xx@a.b/c /d"),
            ("ADD \"HTTP://tökén@a.b\" x@y",          "ADD \"HTTP://xxxxxxx@a.b\" x@y"),
            ("ADD https://u:$PW@a.b https://a.b/c@d", "ADD https://x:$PW@a.b https://a.b/c@d"),
            ("ssh://git@a.b/c a://b",                 "ssh://git@a.b/c a://b"),
            ("https://u:p@a.b:1@c/ ://",              "https://x:xxxxx:x@c/ ://"),
            ("://@",                                  "://@"),
        ];
        for (text, want) in cases {
            assert_eq!(mask_urls(text), want);
            assert_eq!(mask_urls(text).len(), text.len());
        }
    }

    #[test]
    fn nothing_of_them_is_shown() {
        let (_, credentials) = split("https://user:secret@a.b/c");
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("user:") && !shown.contains("secret"), "{shown}");
    }
}
