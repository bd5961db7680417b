//! Decided from a request's head alone, before its body: may this peer ask at all?
//!
//! A service on loopback is reachable by every web page that a user of the machine opens. A page
//! cannot leave out its `Origin`, nor choose the `Host` of a name that was rebound to 127.0.0.1.

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};

use super::error::ApiError;
use crate::address::is_loopback;

/// How peers reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// By a socket file: its mode decides who may.
    Socket,
    /// By a port of the loopback interface.
    Loopback,
    /// From other machines, by a token or a client certificate, which no web page has.
    Network,
}

/// Refuses what a web page could send.
///
/// # Errors
///
/// [`ApiError::Forbidden`].
pub(crate) fn check(headers: &HeaderMap, exposure: Exposure) -> Result<(), ApiError> {
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or("\u{0}"));
    if exposure == Exposure::Loopback {
        let is_ours = host.is_some_and(|host| is_loopback(host_name(host)));
        if !is_ours {
            return Err(ApiError::Forbidden("the Host header does not name this machine"));
        }
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let authority = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        if authority.is_none() || authority != host {
            return Err(ApiError::Forbidden("requests of other origins are refused"));
        }
    }
    Ok(())
}

/// Returns the name in `name:port`, without the brackets of an IPv6 address.
fn host_name(host: &str) -> &str {
    if let Some((name, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return name;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Checks that the body calls itself a tar, plain or compressed. A form of a web page cannot.
///
/// # Errors
///
/// [`ApiError::MediaType`].
pub(crate) fn check_tar(headers: &HeaderMap) -> Result<(), ApiError> {
    const TYPES: [&str; 9] = [
        "application/x-tar",
        "application/tar",
        "application/octet-stream",
        "application/gzip",
        "application/x-gzip",
        "application/x-bzip2",
        "application/x-xz",
        "application/zstd",
        "application/x-zstd",
    ];
    const ENCODINGS: [&str; 6] = ["identity", "gzip", "bzip2", "xz", "zstd", ""];
    let text = |name| headers.get(name).map_or(Some(""), |value| value.to_str().ok());
    let essence = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| TYPES.iter().any(|t| essence.eq_ignore_ascii_case(t))) {
        let got = essence.unwrap_or("unreadable");
        return Err(ApiError::MediaType(format!(
            "the body must be a tar (Content-Type: application/x-tar), not `{got}`"
        )));
    }
    // The reader of the tar sees its compression in its first bytes, whoever names it.
    if !text(CONTENT_ENCODING).is_some_and(|encoding| ENCODINGS.contains(&encoding)) {
        return Err(ApiError::MediaType("unknown Content-Encoding".to_owned()));
    }
    Ok(())
}

/// Refuses a body that says to be larger than `limit` bytes, before any of it is read. One that
/// does not say is cut off where it gets too large.
///
/// # Errors
///
/// [`ApiError::TooLarge`].
pub(crate) fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), ApiError> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|text| text.parse::<u64>().ok()) {
        Some(bytes) if bytes > limit => Err(ApiError::TooLarge { bytes, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    type Pairs<'a> = &'a [(&'static str, &'static str)];

    fn headers(pairs: Pairs<'_>) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn pages_are_kept_out() {
        use Exposure::{Loopback, Socket};
        #[rustfmt::skip]
        let cases: [(&str, Exposure, Pairs<'_>, bool); 13] = [
            ("docker on a socket",   Socket,   &[("host", "api.moby.localhost")], true),
            ("no host on a socket",  Socket,   &[], true),
            ("odd host on a socket", Socket,   &[("host", "docker")], true),
            ("page on a socket",     Socket,   &[("host", "docker"), ("origin", "http://evil.example")], false),
            ("loopback address",     Loopback, &[("host", "127.0.0.1:2375")], true),
            ("loopback ipv6",        Loopback, &[("host", "[::1]:2375")], true),
            ("localhost",            Loopback, &[("host", "localhost:2375")], true),
            ("rebound name",         Loopback, &[("host", "evil.example:2375")], false),
            ("no host",              Loopback, &[], false),
            ("foreign origin",       Loopback, &[("host", "localhost:2375"), ("origin", "https://evil.example")], false),
            ("null origin",          Loopback, &[("host", "localhost:2375"), ("origin", "null")], false),
            ("other port",           Loopback, &[("host", "localhost:2375"), ("origin", "http://localhost:3000")], false),
            ("same origin",          Loopback, &[("host", "localhost:2375"), ("origin", "http://localhost:2375")], true),
        ];
        for (name, exposure, pairs, want) in cases {
            assert_eq!(check(&headers(pairs), exposure).is_ok(), want, "{name}");
        }
    }

    #[test]
    fn bodies_are_as_large_as_they_may_be() {
        let with = |length: &'static str| check_length(&headers(&[("content-length", length)]), 10);
        for (length, want) in [("0", true), ("10", true), ("11", false), ("x", true)] {
            assert_eq!(with(length).is_ok(), want, "{length}");
        }
        assert!(check_length(&headers(&[]), 0).is_ok());
    }

    #[test]
    fn bodies_call_themselves_tars() {
        #[rustfmt::skip]
        let cases: [(&str, Pairs<'_>, bool); 8] = [
            ("docker cli",     &[("content-type", "application/x-tar")], true),
            ("docker-py",      &[("content-type", "application/tar"), ("content-encoding", "gzip")], true),
            ("gzip",           &[("content-type", "application/gzip")], true),
            ("parameters",     &[("content-type", "Application/X-Tar; q=1")], true),
            ("form",           &[("content-type", "application/x-www-form-urlencoded")], false),
            ("text",           &[("content-type", "text/plain")], false),
            ("none",           &[], false),
            ("odd encoding",   &[("content-type", "application/x-tar"), ("content-encoding", "br")], false),
        ];
        for (name, pairs, want) in cases {
            assert_eq!(check_tar(&headers(pairs)).is_ok(), want, "{name}");
        }
    }
}
