//! One request to a registry: redirects by hand, challenges answered, time bounded, tried again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge;
use super::credential::CredentialSource;
use super::endpoint::{Endpoint, origin_of};
use super::error::{RegistryError, is_transient_status};
use super::lanes::{DEFAULT_TRANSFERS, Lane, Lanes};
use super::repository::Repository;
use super::token::{Access, TokenCache};
use super::transport::{Patience, Transport};
use crate::config::RegistryConfig;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Longest error text that is read, bytes.
const ERROR_LIMIT: usize = 64 << 10;
/// Longest error text that is shown, characters.
const SHOWN_LIMIT: usize = 300;
/// The longest pause that a registry can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The longest pause that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What all requests of one client share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: RegistryConfig,
    pub(super) transport: Transport,
    pub(super) lanes: Arc<Lanes>,
    pub(super) patience: Patience,
    pub(super) credentials: CredentialSource,
    pub(super) tokens: TokenCache,
}

/// A repository at one of its endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(super) session: Arc<Session>,
    pub(super) endpoint: Endpoint,
    pub(super) repository: Repository,
}

/// One request without a body.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) access: Access,
    pub(super) headers: HeaderMap,
}

/// The distribution-spec's form of an error.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Session {
    /// Waits for the head of the answer.
    pub(super) async fn head(
        &self,
        host: &str,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        self.patiently(host, request.send()).await
    }

    /// Waits for one part of an answer, no longer than the stall limit.
    pub(super) async fn patiently<T>(
        &self,
        host: &str,
        part: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, RegistryError> {
        match tokio::time::timeout(self.patience.stall, part).await {
            Ok(Ok(part)) => Ok(part),
            // The URL of a redirect target may hold a signature: it is left out of the text.
            Ok(Err(error)) => Err(RegistryError::Unreachable {
                host: host.to_owned(),
                source: error.without_url(),
            }),
            Err(_) => Err(RegistryError::Stalled {
                host: host.to_owned(),
                millis: self.patience.stall.as_millis(),
            }),
        }
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(super) async fn body(
        &self,
        host: &str,
        mut response: Response,
        limit: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.patiently(host, response.chunk()).await? {
            if body.len() + chunk.len() > limit {
                return Err(RegistryError::TooLarge { host: host.to_owned(), what, limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Turns every status but 2xx into an error with the registry's own words.
    pub(super) async fn expect_success(
        &self,
        host: &str,
        response: Response,
    ) -> Result<Response, RegistryError> {
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.status_error(host, "the request", response).await)
    }

    pub(super) async fn status_error(
        &self,
        host: &str,
        request: &str,
        response: Response,
    ) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let body = self.body(host, response, ERROR_LIMIT, "the error").await.unwrap_or_default();
        let (host, request) = (host.to_owned(), request.to_owned());
        RegistryError::Status { host, request, status, message: error_text(&body), retry_after }
    }

    /// Sleeps before try number `attempt + 1`, or says that there is none.
    pub(super) async fn pause(&self, attempt: u32, error: &RegistryError) -> bool {
        // A host that cannot be connected to is tried once more only: people wait for the answer.
        let attempts =
            if error.is_connect() { self.patience.attempts.min(2) } else { self.patience.attempts };
        if !error.is_transient() || attempt + 1 >= attempts {
            return false;
        }
        let backoff = self.patience.backoff.saturating_mul(1 << attempt.min(16)).min(MAX_BACKOFF);
        let pause = error.retry_after().unwrap_or_else(|| jittered(backoff));
        tracing::debug!(attempt, ?pause, %error, "trying again");
        tokio::time::sleep(pause).await;
        true
    }
}

impl Route {
    /// Waits until a blob of `size` bytes, where that is known, may move from or to this place.
    pub(super) async fn lane(&self, size: Option<u64>) -> Lane {
        let count = self.session.config.transfers.unwrap_or(DEFAULT_TRANSFERS);
        self.session.lanes.enter(&self.endpoint, size, count).await
    }

    /// Sends `call` until it is answered by something else than "later".
    pub(super) async fn send(&self, call: &Call) -> Result<Response, RegistryError> {
        let mut attempt = 0;
        loop {
            let error = match self.send_once(call).await {
                Ok(response) if is_transient_status(response.status()) => {
                    self.session.status_error(&self.endpoint.host, &call.shown(), response).await
                }
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !self.session.pause(attempt, &error).await {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Sends `call` with what authorisation is known, and again if the registry challenges it.
    pub(super) async fn send_once(&self, call: &Call) -> Result<Response, RegistryError> {
        let known = self.session.tokens.get(&self.endpoint, &call.access);
        let response = self.travel(call, known).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.answer_challenge(&call.access, &response).await? {
            Some(header) => self.travel(call, Some(header)).await,
            None => Ok(response),
        }
    }

    /// Finds the answer to a 401 of the registry itself. A place that we were redirected to gets
    /// none: it may ask for whatever it likes.
    pub(super) async fn answer_challenge(
        &self,
        access: &Access,
        response: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if !self.endpoint.is_home_of(response.url()) {
            return Ok(None);
        }
        let values = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = challenge::parse(values.iter().filter_map(|value| value.to_str().ok()));
        self.session.authorise(&self.endpoint, access, &challenges).await
    }

    /// Sends `call` and follows redirects. The authorisation is for the registry alone, and once
    /// another host had a say in where to go, it is not shown to the registry either.
    async fn travel(
        &self,
        call: &Call,
        mut authorisation: Option<HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            if !self.endpoint.is_home_of(&url) {
                authorisation = None;
            }
            let mut request = self
                .client_for(&url)?
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone());
            if let Some(header) = &authorisation {
                request = request.header(AUTHORIZATION, header);
            }
            let response = self.session.head(&self.endpoint.host, request).await?;
            let location =
                response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            url = self.redirect_target(&url, location)?;
        }
        Err(self.refused_redirect(&url, "there are too many redirects"))
    }

    /// Returns the client that may connect to `url`.
    pub(super) fn client_for(&self, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let clients = self.session.transport.of(&self.endpoint)?;
        if self.endpoint.is_home_of(url) {
            return Ok(clients.home(url).clone());
        }
        clients.foreign(url, self.endpoint.is_loopback).cloned().ok_or_else(|| {
            self.refused_redirect(url, "it is an address of this machine or its link")
        })
    }

    /// Resolves a `Location` and checks that it may be followed.
    pub(super) fn redirect_target(
        &self,
        from: &Url,
        location: &HeaderValue,
    ) -> Result<Url, RegistryError> {
        let text = location.to_str().unwrap_or_default();
        let target =
            from.join(text).map_err(|_| self.refused_redirect(from, "the target is no URL"))?;
        let is_plain_registry = self.endpoint.base.scheme() == "http";
        match target.scheme() {
            "https" => {}
            "http" if is_plain_registry => {}
            "http" => {
                return Err(self.refused_redirect(&target, "it leads from HTTPS to plain HTTP"));
            }
            _ => return Err(self.refused_redirect(&target, "it is neither HTTP nor HTTPS")),
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(self.refused_redirect(&target, "it carries a user name"));
        }
        Ok(target)
    }

    pub(super) fn refused_redirect(&self, target: &Url, reason: &'static str) -> RegistryError {
        let (host, target) = (self.endpoint.host.clone(), origin_of(target));
        RegistryError::Redirect { host, target, reason }
    }
}

impl Call {
    /// Returns method and path, as errors show them.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }
}

/// Reads `Retry-After`: seconds or a date (RFC 9110, 10.2.3), at most a minute.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let pause = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default()
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Takes off up to a quarter, so that many clients do not come back at the same instant.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    pause.mul_f64(1.0 - f64::from(random) / f64::from(u32::MAX) / 4.0)
}

/// Returns what an error body says in one line, with nothing that could steer a terminal.
fn error_text(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => {
            let one = |entry: ErrorEntry| match (entry.code.is_empty(), entry.message.is_empty()) {
                (false, false) => format!("{}: {}", entry.code, entry.message),
                _ => entry.code + &entry.message,
            };
            body.errors.into_iter().map(one).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let is_page = text.starts_with('<');
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_LIMIT);
    if is_page { String::new() } else { shown.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_and_bounded() {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let date = jiff::fmt::rfc2822::to_string(&soon.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        #[rustfmt::skip]
        let cases = [
            ("seconds",  "7",                               Some(7)),
            ("too long", "99999",                           Some(60)),
            ("date",     date.as_str(),                     Some(60)),
            ("past",     "Wed, 21 Oct 2015 07:28:00 GMT",   Some(0)),
            ("negative", "-1",                              None),
            ("nonsense", "soon",                            None),
        ];
        for (name, text, want) in cases {
            let got = retry_after(&HeaderValue::from_str(text).unwrap());
            assert_eq!(got, want.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn error_bodies_are_tamed() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8], &str); 5] = [
            ("spec",     br#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "DENIED: no"),
            ("no code",  br#"{"errors":[{"message":"no"}]}"#,                 "no"),
            ("plain",    b" slow down \n",                                    "slow down"),
            ("a page",   b"<html>x</html>",                                   ""),
            ("terminal", b"a\x1b[2Jb",                                        "a [2Jb"),
        ];
        for (name, body, want) in cases {
            assert_eq!(error_text(body), want, "{name}");
        }
    }
}
