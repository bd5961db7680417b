//! Where traces go: the environment variables of OpenTelemetry, then `[telemetry]` of rbuild.toml.
//!
//! The variables are shared by many programs, so that what is wrong with them is a warning; the file
//! is ours, and what is wrong with it is an error.

use builder::{TelemetryConfig, TraceParent};
use serde::Deserialize;

use crate::config::Environment;
use crate::fault::Fault;

/// What is added to the address of a collector (OpenTelemetry, "OTLP exporter", endpoint URLs).
const PATH: &str = "/v1/traces";

/// The header that names the span of whoever asks (W3C Trace Context).
pub(crate) const TRACE_PARENT: &str = "traceparent";

/// `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryTable {
    /// Base URL of a collector that takes OTLP over HTTP.
    otlp: Option<String>,
}

impl TelemetryTable {
    /// Returns where traces go, if anywhere.
    ///
    /// # Errors
    ///
    /// An address in the file that is none.
    pub(crate) fn resolve(
        &self,
        environment: &Environment,
    ) -> Result<Option<TelemetryConfig>, Fault> {
        let text = |name: &str| environment.text(name).filter(|value| !value.is_empty());
        let is = |name: &str, word: &str| {
            text(name).is_some_and(|value| value.eq_ignore_ascii_case(word))
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let base = |url: &str| format!("{}{PATH}", url.trim_end_matches('/'));
        let of_environment = text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .map(str::to_owned)
            .or_else(|| text("OTEL_EXPORTER_OTLP_ENDPOINT").map(base));
        let is_of_file = of_environment.is_none();
        let Some(url) = of_environment.or_else(|| self.otlp.as_deref().map(base)) else {
            return Ok(None);
        };
        let protocol = text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| text("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if !is_of_file && protocol == Some("grpc") {
            tracing::warn!(
                "no traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and rbuild speaks http/json"
            );
            return Ok(None);
        }
        let headers = text("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            .or_else(|| text("OTEL_EXPORTER_OTLP_HEADERS"))
            .unwrap_or_default();
        let name = text("OTEL_SERVICE_NAME").unwrap_or("rbuild");
        match TelemetryConfig::new(&url, &pairs(headers), name) {
            Ok(config) => Ok(Some(config)),
            Err(error) if is_of_file => Err(Fault::user(format!("[telemetry] otlp: {error}"))
                .with_help("give the base of a collector's address, such as http://host:4318")),
            Err(error) => {
                tracing::warn!("no traces are sent: OTEL_EXPORTER_OTLP_...: {error}");
                Ok(None)
            }
        }
    }
}

/// Reads `NAME=VALUE,NAME=VALUE`, values percent-encoded, as W3C Baggage has them. What has no `=` is
/// left out.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        Some((name.trim().to_owned(), value.into_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

/// Returns the span that this process is part of.
pub(crate) fn parent(environment: &Environment) -> Option<TraceParent> {
    TraceParent::parse(environment.text("TRACEPARENT")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const EXACT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    /// Of the file, of the environment, and what comes of them.
    type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], Option<&'a str>);

    #[test]
    fn variables_win_over_the_file() {
        let file = Some("http://file:4318/");
        #[rustfmt::skip]
        let cases: [Case<'_>; 9] = [
            (None, &[],                                                    None),
            (file, &[],                                                    Some("http://file:4318/v1/traces")),
            (file, &[(BASE, "http://env:1/x")],                            Some("http://env:1/x/v1/traces")),
            (file, &[(BASE, "http://env:1"), (EXACT, "http://exact:2/t")], Some("http://exact:2/t")),
            (file, &[(BASE, "")],                                          Some("http://file:4318/v1/traces")),
            (file, &[("OTEL_SDK_DISABLED", "true")],                       None),
            (file, &[("OTEL_TRACES_EXPORTER", "none")],                    None),
            (None, &[(BASE, "http://env:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None),
            (None, &[(BASE, "env:4317")],                                  None),
        ];
        for (otlp, variables, want) in cases {
            let table = TelemetryTable { otlp: otlp.map(str::to_owned) };
            let got = table.resolve(&Environment::new(false, variables)).unwrap();
            assert_eq!(got.as_ref().map(TelemetryConfig::url), want, "{variables:?}");
        }
        let wrong = TelemetryTable { otlp: Some("collector:4317".into()) };
        let fault = wrong.resolve(&Environment::new(false, &[])).unwrap_err();
        assert!(fault.causes[0].contains("`collector:4317/v1/traces` is not"), "{fault}");
    }

    #[test]
    fn headers_are_pairs() {
        let want = [("authorization", "Bearer a=b"), ("x-scope", "1")];
        let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs("authorization=Bearer%20a=b, x-scope = 1,odd"), want);
    }
}
