//! Where a service listens and a client connects: `unix://PATH`, `tcp://HOST:PORT` or
//! `https://HOST:PORT`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The place of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Name or address, an IPv6 one without its brackets.
        host: String,
        /// Port; 0 lets the kernel choose where it listens.
        port: u16,
    },
    /// A TCP port that speaks TLS.
    Https {
        /// As for [`Address::Tcp`].
        host: String,
        /// As for [`Address::Tcp`].
        port: u16,
    },
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// None of the schemes.
    #[error(
        "`{text}` is not an address: expected unix://PATH, tcp://HOST:PORT or https://HOST:PORT"
    )]
    Scheme { text: String },
    /// A socket path that depends on the current directory, or none.
    #[error("`{text}` needs an absolute path, such as unix:///run/rbuild/rbuild.sock")]
    Path { text: String },
    /// No host, no port, or more than these.
    #[error("`{text}` needs a host and a port, such as tcp://127.0.0.1:2375")]
    HostPort { text: String },
}

impl Address {
    /// Whether nobody between can read what is sent there.
    pub(crate) fn is_private(&self) -> bool {
        match self {
            Self::Unix(_) | Self::Https { .. } => true,
            Self::Tcp { host, .. } => is_loopback(host),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let own = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(AddressError::Path { text: own() })
            };
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| AddressError::Scheme { text: own() })?;
        let has_tls = match scheme {
            "tcp" => false,
            "https" => true,
            _ => return Err(AddressError::Scheme { text: own() }),
        };
        let fault = || AddressError::HostPort { text: own() };
        let (host, port) = rest.rsplit_once(':').ok_or_else(fault)?;
        let port = port.parse().map_err(|_| fault())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(fault()),
            None => host,
        };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if host.is_empty() || (bracketed.is_none() && !host.bytes().all(is_plain)) {
            return Err(fault());
        }
        let host = host.to_owned();
        Ok(if has_tls { Self::Https { host, port } } else { Self::Tcp { host, port } })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "tcp://{}", authority(host, *port)),
            Self::Https { host, port } => write!(f, "https://{}", authority(host, *port)),
        }
    }
}

/// Returns `HOST:PORT`, an IPv6 address in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Tells whether `host` (no port, no brackets) can only mean this machine: a loopback address,
/// `localhost`, or a name below it (RFC 6761, 6.3).
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_shown() {
        let tcp = |host: &str, port| Some(Address::Tcp { host: host.into(), port });
        #[rustfmt::skip]
        let cases = [
            ("socket",        "unix:///run/rbuild/rbuild.sock", Some(Address::Unix("/run/rbuild/rbuild.sock".into()))),
            ("relative",      "unix://rbuild.sock",             None),
            ("no path",       "unix://",                        None),
            ("loopback",      "tcp://127.0.0.1:2375",           tcp("127.0.0.1", 2375)),
            ("name",          "tcp://build-1.example:80",       tcp("build-1.example", 80)),
            ("ipv6",          "tcp://[::1]:2375",               tcp("::1", 2375)),
            ("bad ipv6",      "tcp://[::zz]:2375",              None),
            ("bare ipv6",     "tcp://::1:2375",                 None),
            ("no port",       "tcp://127.0.0.1",                None),
            ("no host",       "tcp://:2375",                    None),
            ("port too big",  "tcp://127.0.0.1:70000",          None),
            ("with a path",   "tcp://127.0.0.1:80/x",           None),
            ("with a user",   "tcp://a@b:80",                   None),
            ("tls",           "https://build.example:2376",     Some(Address::Https { host: "build.example".into(), port: 2376 })),
            ("other scheme",  "ftp://127.0.0.1:2375",           None),
            ("nothing",       "",                               None),
        ];
        for (name, text, want) in cases {
            let got = text.parse::<Address>().ok();
            assert_eq!(got, want, "{name}");
            if let Some(address) = got {
                assert_eq!(address.to_string(), text, "{name}");
            }
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        #[rustfmt::skip]
        let cases = [
            ("127.0.0.1", true), ("127.8.8.8", true), ("::1", true), ("localhost", true),
            ("LOCALHOST.", true), ("api.moby.localhost", true), ("0.0.0.0", false), ("::", false),
            ("localhost.example", false), ("10.0.0.1", false), ("notlocalhost", false), ("", false),
        ];
        for (host, want) in cases {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }
}
