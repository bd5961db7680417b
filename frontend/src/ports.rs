//! Port specifications of EXPOSE: `[[ip:]host:]container[-container][/protocol]`.

use std::net::IpAddr;

/// The container's ports of one specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// `tcp`, `udp` or `sctp`, as written.
    pub(crate) protocol: String,
    /// An address or a host's port is given, which EXPOSE has no use for.
    pub(crate) has_host: bool,
}

impl Ports {
    /// Parses one specification.
    ///
    /// # Errors
    ///
    /// What is wrong: lowercase, one sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.rsplitn(3, ':');
        let container = parts.next().unwrap_or_default();
        let host = parts.next();
        let address = parts.next();
        let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
        if range.is_empty() {
            return Err(format!("`{text}` names no port"));
        }
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        if !["tcp", "udp", "sctp"].contains(&protocol.to_ascii_lowercase().as_str()) {
            return Err(format!("`{protocol}` is no protocol: expected tcp, udp or sctp"));
        }
        if let Some(address) = address.filter(|address| !address.is_empty()) {
            let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            if inner.unwrap_or(address).parse::<IpAddr>().is_err() {
                return Err(format!("`{address}` is no IP address"));
            }
        }
        let (first, last) = parse_range(range)?;
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            let (host_first, host_last) = parse_range(host)?;
            if last - first != host_last - host_first && first != last {
                return Err(format!("the ranges `{host}` and `{range}` differ in length"));
            }
        }
        let given = |part: Option<&str>| part.is_some_and(|part| !part.is_empty());
        let has_host = given(host) || given(address);
        Ok(Self { first, last, protocol: protocol.to_owned(), has_host })
    }
}

fn parse_range(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u16>().ok().filter(|_| digits);
        number.ok_or_else(|| format!("`{text}` is no port: expected a number up to 65535"))
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(format!("the range `{text}` ends before it begins"));
            }
            Ok((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        #[rustfmt::skip]
        let cases = [
            ("80",                    Some((80, 80, "tcp", false))),
            ("80/udp",                Some((80, 80, "udp", false))),
            ("80/TCP",                Some((80, 80, "TCP", false))),
            ("7000-7002/tcp",         Some((7000, 7002, "tcp", false))),
            ("8080:80",               Some((80, 80, "tcp", true))),
            ("127.0.0.1:8080:80",     Some((80, 80, "tcp", true))),
            ("127.0.0.1::80",         Some((80, 80, "tcp", true))),
            ("[::1]:8080:80",         Some((80, 80, "tcp", true))),
            ("8000-9000:80",          Some((80, 80, "tcp", true))),
            ("0",                     Some((0, 0, "tcp", false))),
            ("65536", None), ("80/http", None), ("a", None), ("/tcp", None), ("90-80", None),
            ("1-3:80-81", None), ("x:8080:80", None), ("-80", None), ("+80", None), ("", None),
        ];
        for (text, want) in cases {
            let got = Ports::parse(text).ok();
            let got = got.as_ref().map(|p| (p.first, p.last, p.protocol.as_str(), p.has_host));
            assert_eq!(got, want, "{text}");
        }
    }
}
