//! Answers to challenges: Basic, and bearer tokens with their cache (Docker "Token Authentication
//! Specification" and "OAuth 2.0 Token Authentication").
//!
//! Invariant: a password leaves only for the host it was stored for, or for a token service that
//! the same registrable domain runs over HTTPS.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::challenge::Challenge;
use super::endpoint::{Endpoint, origin_of};
use super::error::RegistryError;
use super::exchange::Session;
use crate::request::Credentials;

/// A token that does not say how long it lives lives this long (the specification's default).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used for its last seconds: clocks and networks differ.
const LIFE_MARGIN: Duration = Duration::from_secs(10);
/// Longest answer of a token service, bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// Token services of other domains that registries are known to use: registry host, realm host.
const KNOWN_REALMS: [(&str, &str); 1] = [("registry-1.docker.io", "auth.docker.io")];

/// What a token service knows us as.
const CLIENT_ID: &str = "rbuild";

/// What a request needs to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Access {
    /// Path of the repository; empty where no repository is asked for.
    pub(super) repository: String,
    /// Whether it is written.
    pub(super) writes: bool,
    /// Repository that a blob is mounted from.
    pub(super) mounts_from: Option<String>,
    /// Whether a token that outlasts the session is wanted too, to be kept in the password's place.
    pub(super) is_login: bool,
}

impl Access {
    fn scopes(&self, challenged: Option<&str>) -> Vec<String> {
        let actions = if self.writes { "pull,push" } else { "pull" };
        let own = (!self.repository.is_empty())
            .then(|| format!("repository:{}:{actions}", self.repository));
        let mut scopes: Vec<String> = own.into_iter().collect();
        if let Some(from) = &self.mounts_from {
            scopes.push(format!("repository:{from}:pull"));
        }
        // Behind a path prefix the registry knows the repository by another name.
        if let Some(text) = challenged
            && !scopes.iter().any(|scope| scope == text)
        {
            scopes.push(text.to_owned());
        }
        scopes
    }
}

/// `Authorization` headers that worked, by registry and access.
#[derive(Debug, Default)]
pub(super) struct TokenCache(Mutex<HashMap<(String, Access), Granted>>);

#[derive(Clone, Debug)]
struct Granted {
    header: HeaderValue,
    until: Option<Instant>,
    /// What further tokens can be had for (OAuth 2.0, "Refresh Token").
    identity: Option<String>,
}

impl TokenCache {
    /// Returns the header for `access` at `endpoint`, if one is still good.
    pub(super) fn get(&self, endpoint: &Endpoint, access: &Access) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = tokens.get(&(origin_of(&endpoint.base), access.clone()))?;
        let is_good = granted.until.is_none_or(|until| Instant::now() < until);
        is_good.then(|| granted.header.clone())
    }

    /// Returns the token that came with that for `access`, to be kept.
    pub(super) fn identity(&self, endpoint: &Endpoint, access: &Access) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&(origin_of(&endpoint.base), access.clone()))?.identity.clone()
    }

    fn put(&self, endpoint: &Endpoint, access: &Access, granted: Granted) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, granted| granted.until.is_none_or(|until| now < until));
        tokens.insert((origin_of(&endpoint.base), access.clone()), granted);
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token shall be good for.
struct Wanted<'a> {
    service: Option<&'a str>,
    scopes: Vec<String>,
    is_login: bool,
}

impl Session {
    /// Finds the `Authorization` header that meets one of `challenges`; `None` when there is
    /// nothing to answer with.
    pub(super) async fn authorise(
        &self,
        endpoint: &Endpoint,
        access: &Access,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let credentials =
            self.credentials.find(&endpoint.host).await.map_err(|source| {
                RegistryError::Credential { host: endpoint.host.clone(), source }
            })?;
        for challenge in challenges {
            let granted = match (challenge, &credentials) {
                (Challenge::Basic, Some(credentials)) => {
                    Granted { header: basic(credentials), until: None, identity: None }
                }
                (Challenge::Basic, None) => continue,
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let wanted = Wanted {
                        service: service.as_deref(),
                        scopes: access.scopes(scope.as_deref()),
                        is_login: access.is_login,
                    };
                    self.fetch_token(endpoint, realm, &wanted, credentials.as_ref()).await?
                }
            };
            self.tokens.put(endpoint, access, granted.clone());
            return Ok(Some(granted.header));
        }
        Ok(None)
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        wanted: &Wanted<'_>,
        credentials: Option<&Credentials>,
    ) -> Result<Granted, RegistryError> {
        let realm = check_realm(endpoint, realm, credentials.is_some())?;
        let clients = self.transport.of(endpoint)?;
        let client = if endpoint.is_home_of(&realm) {
            Some(clients.home(&realm))
        } else {
            clients.foreign(&realm, endpoint.is_loopback)
        };
        let refused = |reason| RegistryError::Realm {
            host: endpoint.host.clone(),
            realm: origin_of(&realm),
            reason,
        };
        let client =
            client.ok_or_else(|| refused("it is an address of this machine or its link"))?;
        let Wanted { service, scopes, is_login } = wanted;
        let fields = service.map(|service| ("service", service)).into_iter();
        let identity = credentials.and_then(|credentials| credentials.identity_token.as_deref());
        let request = if let Some(refresh_token) = identity {
            let scope = scopes.join(" ");
            let fields = fields.chain([
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh_token),
                ("client_id", CLIENT_ID),
                ("scope", scope.as_str()),
            ]);
            let body = form(fields);
            client
                .post(realm.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        } else {
            let mut url = realm.clone();
            let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
            url.query_pairs_mut().extend_pairs(fields.chain(scopes));
            if *is_login {
                let fields = [("offline_token", "true"), ("client_id", CLIENT_ID)];
                url.query_pairs_mut().extend_pairs(fields);
            }
            let request = client.get(url);
            match credentials {
                Some(pair) => request.basic_auth(&pair.username, Some(&pair.password)),
                None => request,
            }
        };
        let response = self.head(&origin_of(&realm), request).await?;
        let response = self.expect_success(&origin_of(&realm), response).await?;
        let what = "the token";
        let body = self.body(&origin_of(&realm), response, ANSWER_LIMIT, what).await?;
        granted(&body).ok_or_else(|| RegistryError::Header {
            host: origin_of(&realm),
            request: "the request for a token".to_owned(),
            header: "token",
        })
    }
}

fn granted(body: &[u8]) -> Option<Granted> {
    let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|text| !text.is_empty())?;
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).max(DEFAULT_LIFE);
    // A life that overflows the clock is as good as none.
    let until = Instant::now().checked_add(life.saturating_sub(LIFE_MARGIN));
    let identity = answer.refresh_token.filter(|text| !text.is_empty());
    Some(Granted { header, until, identity })
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let text = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut header = HeaderValue::from_str(&format!("Basic {text}"))
        .expect("base64 is made of characters that a header may hold");
    header.set_sensitive(true);
    header
}

fn form<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // A URL's query is encoded as a form is, so no second encoder is needed.
    let mut url = Url::parse("http://localhost/").expect("the text is a URL");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

/// Parses a realm and refuses one that must not be asked, or not with a password.
fn check_realm(endpoint: &Endpoint, text: &str, with_password: bool) -> Result<Url, RegistryError> {
    let fault =
        |realm: String, reason| RegistryError::Realm { host: endpoint.host.clone(), realm, reason };
    let realm = Url::parse(text).map_err(|_| fault(String::new(), "it is no URL"))?;
    let shown = origin_of(&realm);
    let is_plain = endpoint.base.scheme() == "http";
    let same_host = endpoint.base.host_str() == realm.host_str();
    match realm.scheme() {
        "https" => {}
        "http" if is_plain && (same_host || endpoint.is_loopback) => {}
        _ => return Err(fault(shown, "it is not HTTPS")),
    }
    if with_password && !is_trusted(endpoint, &realm) {
        return Err(fault(shown, "it belongs to another domain than the registry"));
    }
    Ok(realm)
}

/// Whether the owner of the registry also owns the token service.
fn is_trusted(endpoint: &Endpoint, realm: &Url) -> bool {
    let (Some(registry), Some(realm)) = (endpoint.base.host_str(), realm.host_str()) else {
        return false;
    };
    if registry == realm || KNOWN_REALMS.contains(&(registry, realm)) {
        return true;
    }
    let is_address = |host: &str| host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    if is_address(registry) || is_address(realm) {
        return false;
    }
    // The public suffix list knows that a.co.uk and b.co.uk have different owners.
    let owner = psl::domain_str(registry);
    owner.is_some() && owner == psl::domain_str(realm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_to_trusted_realms_only() {
        #[rustfmt::skip]
        let cases = [
            ("hub",            "https://registry-1.docker.io", "https://auth.docker.io/token",     true,  true),
            ("same host",      "https://ghcr.io",              "https://ghcr.io/token",            true,  true),
            ("parent",         "https://registry.gitlab.com",  "https://gitlab.com/jwt/auth",      true,  true),
            ("sibling",        "https://registry.corp.co.uk",  "https://auth.corp.co.uk/token",    true,  true),
            ("public suffix",  "https://registry.co.uk",       "https://auth.co.uk/token",         false, true),
            ("shared hosting", "https://me.github.io",         "https://you.github.io/token",      false, true),
            ("look-alike",     "https://corp.com",             "https://evilcorp.com/token",       false, true),
            ("elsewhere",      "https://corp.com",             "https://evil.com/token",           false, true),
            ("addresses",      "https://10.0.0.1",             "https://10.0.0.2/token",           false, true),
            ("not https",      "https://corp.com",             "http://corp.com/token",            false, false),
            ("plain loopback", "http://localhost:5000",        "http://localhost:5001/token",      true,  true),
            ("plain to out",   "http://plain.example:5000",    "http://other.example/token",       false, false),
            ("file",           "https://corp.com",             "file:///etc/passwd",               false, false),
            ("no url",         "https://corp.com",             "nonsense",                         false, false),
        ];
        for (name, base, realm, with_password, without) in cases {
            let base = Url::parse(base).unwrap();
            let is_loopback = super::super::transport::is_loopback(&base);
            let endpoint = Endpoint { base, host: "x".into(), is_loopback, identity: None };
            assert_eq!(check_realm(&endpoint, realm, true).is_ok(), with_password, "{name}");
            assert_eq!(check_realm(&endpoint, realm, false).is_ok(), without, "{name} anonymous");
        }
    }

    #[test]
    fn token_answers() {
        #[rustfmt::skip]
        let cases = [
            ("token",         r#"{"token":"a","expires_in":300}"#,           Some("Bearer a")),
            ("access token",  r#"{"access_token":"b"}"#,                     Some("Bearer b")),
            ("huge life",     r#"{"token":"c","expires_in":18446744073709551615}"#, Some("Bearer c")),
            ("newline",       r#"{"token":"a\nX-Evil: 1"}"#,                 None),
            ("empty",         r#"{"token":""}"#,                             None),
            ("none",          "{}",                                          None),
            ("not json",      "<html>",                                      None),
        ];
        for (name, body, want) in cases {
            let got = granted(body.as_bytes()).map(|granted| granted.header);
            assert_eq!(got.as_ref().map(|header| header.to_str().unwrap()), want, "{name}");
        }
    }
}
