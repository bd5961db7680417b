//! What gets us into servers that ADD and contexts name: secrets of the build, by name.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::UrlCredentials;
use reqwest::header::HeaderValue;

use crate::secret::Secrets;

/// The build's secrets, looked up by the ids that servers go by.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceSecrets {
    secrets: Secrets,
    /// Socket of the ssh agent that repositories may be fetched with.
    agent: Option<PathBuf>,
}

impl SourceSecrets {
    /// Takes the build's secrets.
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self { secrets, agent: None }
    }

    /// Lends repositories an ssh agent.
    pub(crate) fn with_agent(self, agent: Option<PathBuf>) -> Self {
        Self { agent, ..self }
    }

    /// Returns the ssh agent's socket.
    pub(crate) fn agent(&self) -> Option<&Path> {
        self.agent.as_deref()
    }

    fn text(&self, id: &str) -> Option<&str> {
        let text = std::str::from_utf8(self.secrets.get(id)?.bytes()).ok()?;
        Some(text.trim_end_matches(['\r', '\n']))
    }

    /// Returns the `Authorization` for a download from `host`: `HTTP_AUTH_TOKEN_<host>` as a
    /// bearer, `HTTP_AUTH_HEADER_<host>` as it is (Dockerfile reference, "ADD"), else what the URL
    /// itself gave.
    pub(crate) fn http(
        &self,
        host: &str,
        credentials: Option<&UrlCredentials>,
    ) -> Option<HeaderValue> {
        let token = self.text(&format!("HTTP_AUTH_TOKEN_{host}"));
        let text = token
            .map(|token| format!("Bearer {token}"))
            .or_else(|| self.text(&format!("HTTP_AUTH_HEADER_{host}")).map(str::to_owned))
            .or_else(|| credentials.map(basic));
        sensitive(&text?)
    }

    /// Returns the `Authorization` for a repository at `host`: `GIT_AUTH_TOKEN`, with or without
    /// `.<host>`, as GitHub takes it, `GIT_AUTH_HEADER` as it is (docs.docker.com, "Build
    /// secrets"), else what the URL itself gave.
    pub(crate) fn git(&self, host: &str, credentials: Option<&UrlCredentials>) -> Option<String> {
        for suffix in [format!(".{host}"), String::new()] {
            if let Some(header) = self.text(&format!("GIT_AUTH_HEADER{suffix}")) {
                return Some(header.to_owned());
            }
            if let Some(password) = self.text(&format!("GIT_AUTH_TOKEN{suffix}")) {
                let (username, password) = ("x-access-token".to_owned(), password.to_owned());
                return Some(basic(&UrlCredentials { username, password }));
            }
        }
        credentials.map(basic)
    }
}

/// HTTP Basic (RFC 7617).
fn basic(credentials: &UrlCredentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", STANDARD.encode(pair))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Known = &'static [(&'static str, &'static str)];

    fn secrets(known: Known) -> SourceSecrets {
        let known = known.iter().map(|&(id, value)| (id.to_owned(), value.into()));
        SourceSecrets::new(known.collect())
    }

    #[test]
    fn who_opens_which_door() {
        let url = UrlCredentials { username: "u".into(), password: "p".into() };
        #[rustfmt::skip]
        let cases: [(&str, Known, Option<&str>, Option<&str>); 7] = [
            ("nothing but the URL", &[], Some("Basic dTpw"), Some("Basic dTpw")),
            ("token",       &[("HTTP_AUTH_TOKEN_a.b", "t\n")],     Some("Bearer t"), Some("Basic dTpw")),
            ("header",      &[("HTTP_AUTH_HEADER_a.b", "Digest x")], Some("Digest x"), Some("Basic dTpw")),
            ("other host",  &[("HTTP_AUTH_TOKEN_c.d", "t")],       Some("Basic dTpw"), Some("Basic dTpw")),
            ("git token",   &[("GIT_AUTH_TOKEN", "t")],            Some("Basic dTpw"), Some("Basic eC1hY2Nlc3MtdG9rZW46dA==")),
            ("git, by host", &[("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER.a.b", "X y")], Some("Basic dTpw"), Some("X y")),
            ("no header",   &[("HTTP_AUTH_TOKEN_a.b", "a\nb")],    None, Some("Basic dTpw")),
        ];
        for (name, known, http, git) in cases {
            let found = secrets(known).http("a.b", Some(&url));
            let found = found.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(found, http, "{name}");
            assert_eq!(secrets(known).git("a.b", Some(&url)).as_deref(), git, "{name}");
        }
        assert_eq!(SourceSecrets::default().http("a.b", None), None);
        assert_eq!(SourceSecrets::default().git("a.b", None), None);
    }
}
