//! `WWW-Authenticate`: what a registry wants to see before it answers (RFC 9110, 11.6.1).
//!
//! Malformed challenges are skipped: the request then fails with the registry's own 401.

/// One challenge that we can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from `realm` (distribution-spec "token authentication", Docker's specification).
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry as the token service knows it.
        service: Option<String>,
        /// What the token must allow, where the registry says so.
        scope: Option<String>,
    },
}

/// Parses the values of all `WWW-Authenticate` headers; unknown schemes are left out.
pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    headers.filter_map(parse_one).collect()
}

/// Parses one header value. Registries send one challenge per header.
fn parse_one(text: &str) -> Option<Challenge> {
    let text = text.trim();
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest;
    while let Some((name, value, tail)) = next_parameter(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = tail;
    }
    realm.map(|realm| Challenge::Bearer { realm, service, scope })
}

/// Takes `name=token` or `name="quoted \" text"` and the comma after it.
fn next_parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (name, rest) = text.split_once('=')?;
    let rest = rest.trim_start();
    let (value, tail) = if let Some(quoted) = rest.strip_prefix('"') {
        unquote(quoted)?
    } else {
        let end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
        (rest[..end].to_owned(), &rest[end..])
    };
    Some((name.trim(), value, tail))
}

/// Reads up to the closing quote (RFC 9110, 5.6.4).
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_header_panics(text in r#"(bearer|basic|[a-z]*)[ =",\\a-z\u{e9}]*"#) {
            parse([text.as_str()].into_iter());
        }
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn challenges() {
        #[rustfmt::skip]
        let cases = [
            ("hub",         r#"Bearer realm="https://a.io/t",service="r.io",scope="repository:x:pull""#,
                            vec![bearer("https://a.io/t", Some("r.io"), Some("repository:x:pull"))]),
            ("spaces",      r#"bearer realm="https://a.io/t" , service="r""#,
                            vec![bearer("https://a.io/t", Some("r"), None)]),
            ("tokens",      "Bearer realm=https://a.io/t,service=r",
                            vec![bearer("https://a.io/t", Some("r"), None)]),
            ("escapes",     r#"Bearer realm="a\"b,c""#,              vec![bearer(r#"a"b,c"#, None, None)]),
            ("unknown kept out", r#"Bearer realm="x",error="invalid_token""#, vec![bearer("x", None, None)]),
            ("basic",       r#"Basic realm="Registry Realm""#,       vec![Challenge::Basic]),
            ("bare basic",  "Basic",                                 vec![Challenge::Basic]),
            ("no realm",    r#"Bearer service="x""#,                 vec![]),
            ("unclosed",    r#"Bearer realm="x"#,                    vec![]),
            ("negotiate",   "Negotiate",                             vec![]),
            ("empty",       "",                                      vec![]),
        ];
        for (name, text, want) in cases {
            assert_eq!(parse([text].into_iter()), want, "{name}");
        }
    }
}
