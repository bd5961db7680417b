//! Tells a collector of traces how builds went: one OTLP/HTTP request a build, as JSON, after its
//! result was told.
//!
//! Invariant: no build waits for a collector or fails for it. What cannot be delivered in
//! [`TIME_LIMIT`] is dropped, with a line for those who debug.

mod parent;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio_util::task::TaskTracker;

pub use self::parent::TraceParent;
pub(crate) use self::trace::Trace;
use crate::registry::Transport;

/// Time for one request, connection included: a command that built waits for it before it ends.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Requests under way; what a slow collector does not take beyond them is dropped.
const PENDING: usize = 64;

/// Where traces go.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    url: Url,
    headers: HeaderMap,
    service_name: String,
}

/// Why traces cannot go where they should.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address is none.
    #[error("`{0}` is not an http:// or https:// address of a collector")]
    Address(String),
    /// A password in an address is shown wherever the address is.
    #[error("the address of the collector holds credentials")]
    Credentials,
    /// HTTP does not allow it.
    #[error("`{0}` cannot be sent as a header")]
    Header(String),
}

impl TelemetryConfig {
    /// Sends to `url` as it is, with `headers`; traces tell of a service called `service_name`.
    ///
    /// # Errors
    ///
    /// [`TelemetryError`] when the address or a header cannot be used.
    pub fn new(
        url: &str,
        headers: &[(String, String)],
        service_name: &str,
    ) -> Result<Self, TelemetryError> {
        let address = || TelemetryError::Address(frontend::redact_url(url));
        let parsed = Url::parse(url).map_err(|_| address())?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(address());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(TelemetryError::Credentials);
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let refused = || TelemetryError::Header(name.clone());
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
            // Most are tokens.
            value.set_sensitive(true);
            map.insert(key, value);
        }
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self { url: parsed, headers: map, service_name: service_name.to_owned() })
    }

    /// Returns the address.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// Sends traces beside everything else.
#[derive(Debug)]
pub(crate) struct Exporter {
    config: TelemetryConfig,
    transport: Transport,
    tasks: TaskTracker,
}

impl Exporter {
    pub(crate) fn new(config: TelemetryConfig) -> Self {
        Self { config, transport: Transport::default(), tasks: TaskTracker::new() }
    }

    /// Begins the trace of the build `id`; `None` if nobody wants it.
    pub(crate) fn begin(&self, id: &str, parent: Option<&TraceParent>) -> Option<Trace> {
        Trace::begin(&self.config.service_name, id, parent)
    }

    /// Sends a trace, without waiting for it.
    pub(crate) fn export(self: &Arc<Self>, trace: &Trace) {
        if self.tasks.len() >= PENDING {
            tracing::debug!("a trace was dropped: the collector is too slow");
            return;
        }
        let document = serde_json::to_vec(&trace.document()).expect("a document is JSON");
        let exporter = Arc::clone(self);
        self.tasks.spawn(async move {
            match tokio::time::timeout(TIME_LIMIT, exporter.post(document)).await {
                Ok(Ok(status)) if status.is_success() => {}
                Ok(Ok(status)) => tracing::debug!(%status, "the collector refused a trace"),
                Ok(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(error, "a trace could not be sent");
                }
                Err(_) => tracing::debug!("a trace could not be sent in time"),
            }
        });
    }

    async fn post(&self, document: Vec<u8>) -> reqwest::Result<reqwest::StatusCode> {
        let TelemetryConfig { url, headers, .. } = &self.config;
        let clients = self.transport.general();
        let request = clients.named(url).post(url.clone()).headers(headers.clone());
        request.body(document).send().await.map(|answer| answer.status())
    }

    /// Waits until what was to be sent is sent or given up.
    pub(crate) async fn flush(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_sent_is_taken() {
        let token = |value: &str| vec![("authorization".to_owned(), value.to_owned())];
        #[rustfmt::skip]
        let cases = [
            ("http://localhost:4318/v1/traces", token("Bearer x"), ""),
            ("https://collector.example",       vec![],            ""),
            ("localhost:4317",                  vec![],            "`localhost:4317` is not"),
            ("ftp://x",                         vec![],            "`ftp://x` is not"),
            ("http://u:p@x/",                   vec![],            "holds credentials"),
            ("http://x/",                       token("a\nb"),     "`authorization` cannot"),
        ];
        for (url, headers, want) in cases {
            let got = TelemetryConfig::new(url, &headers, "rbuild");
            let error = got.as_ref().map_or_else(ToString::to_string, |_| String::new());
            assert!(error.contains(want) && error.is_empty() == want.is_empty(), "{url}: {error}");
            assert!(!format!("{got:?}").contains("Bearer"), "{url}");
        }
    }
}
