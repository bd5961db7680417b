//! One request for a file: redirects by hand, waits bounded, authorisation for one host alone.

use std::future::Future;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, Url};

use super::error::HttpError;
use crate::registry::{Patience, Transport, is_loopback};

/// Redirects followed for one file.
const MAX_REDIRECTS: usize = 10;

/// What is asked for, and how.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) transport: &'a Transport,
    pub(super) patience: Patience,
    /// Without credentials.
    pub(super) url: Url,
    /// Goes to the URL's own scheme, host and port only.
    pub(super) authorization: Option<HeaderValue>,
}

impl Asking<'_> {
    pub(super) fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Sends the request with `headers` and follows where it leads.
    ///
    /// The first address is the user's choice; one that a server names must not be of this machine
    /// or its link, unless the server is on this machine itself.
    pub(super) async fn send(&self, headers: &HeaderMap) -> Result<Response, HttpError> {
        let mut url = self.url.clone();
        let clients = self.transport.general();
        let starts_here = is_loopback(&self.url);
        // Once another host had a say in where to go, nobody is shown the authorisation.
        let mut authorization = self.authorization.as_ref();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = url.origin() == self.url.origin();
            let client = if is_home {
                clients.named(&url)
            } else {
                let refuse =
                    || self.refused(&url, "that is an address of this machine or its link");
                clients.foreign(&url, starts_here).ok_or_else(refuse)?
            };
            authorization = authorization.filter(|_| is_home);
            let mut request = client.get(url.clone()).headers(headers.clone());
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let response = self.patiently(request.send()).await?;
            let is_redirect =
                response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
            let location = response.headers().get(LOCATION).filter(|_| is_redirect);
            let Some(location) = location else { return Ok(response) };
            url = self.target(&url, location)?;
        }
        Err(self.refused(&url, "there are too many redirects"))
    }

    fn target(&self, from: &Url, location: &HeaderValue) -> Result<Url, HttpError> {
        let text = location.to_str().unwrap_or_default();
        let target = from.join(text).map_err(|_| self.refused(from, "that is no URL"))?;
        if !matches!(target.scheme(), "http" | "https") {
            return Err(self.refused(&target, "only http and https are followed"));
        }
        Ok(target)
    }

    fn refused(&self, target: &Url, reason: &'static str) -> HttpError {
        let target = target.origin().ascii_serialization();
        HttpError::Redirect { url: self.shown(), target, reason }
    }

    /// Waits for one part of the answer, no longer than the stall limit.
    pub(super) async fn patiently<T>(
        &self,
        part: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, HttpError> {
        let stall = self.patience.stall;
        match tokio::time::timeout(stall, part).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(source)) => {
                Err(HttpError::Unreachable { url: self.shown(), source: source.without_url() })
            }
            Err(_) => Err(HttpError::Stalled { url: self.shown(), seconds: stall.as_secs() }),
        }
    }

    /// Sleeps before the try after number `attempt`, or says that there is none.
    pub(super) async fn pause(&self, attempt: u32, error: &HttpError) -> bool {
        let is_dead = matches!(error, HttpError::Unreachable { source, .. } if source.is_connect());
        // A host that cannot be connected to is tried once more only: people wait for the answer.
        let attempts = if is_dead { 2 } else { self.patience.attempts };
        if !error.is_transient() || attempt + 1 >= attempts {
            return false;
        }
        tracing::debug!(attempt, %error, "trying again");
        tokio::time::sleep(self.patience.backoff.saturating_mul(1 << attempt.min(5))).await;
        true
    }
}
