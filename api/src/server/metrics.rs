//! `GET /metrics`: what the service did, in the text form of OpenMetrics 1.0, which Prometheus
//! reads. And whether it lives and can work: `GET /healthz`, `GET /readyz`.

use std::sync::atomic::AtomicU64;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{ErrorKind, Failure, Finished, blocking};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::Call;
use super::error::ApiError;

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

/// The numbers of one service.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    builds: Family<ResultLabel, Counter>,
    build_seconds: Histogram,
    steps: Family<ResultLabel, Counter>,
    running: Gauge,
    waiting: Gauge,
    requests: Family<StatusLabel, Counter>,
    store_bytes: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("rbuild"),
            builds: Family::default(),
            // 10 ms to about an hour.
            build_seconds: Histogram::new(exponential_buckets(0.01, 2.5, 14)),
            steps: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            requests: Family::default(),
            store_bytes: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("builds", "Builds that ended", metrics.builds.clone());
        let (text, seconds) = ("Duration of builds that went well", metrics.build_seconds.clone());
        registry.register_with_unit("build_duration", text, Unit::Seconds, seconds);
        registry.register(
            "steps",
            "Steps with work of builds that went well",
            metrics.steps.clone(),
        );
        registry.register("builds_running", "Builds under way", metrics.running.clone());
        let waiting = metrics.waiting.clone();
        registry.register("builds_waiting", "Builds that wait for their turn", waiting);
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        let (text, bytes) = ("Room that the store takes", metrics.store_bytes.clone());
        registry.register_with_unit("store", text, Unit::Bytes, bytes);
        metrics
    }

    /// Counts a build as running until the guard is dropped.
    pub(super) fn build_started(&self) -> RunningBuild {
        self.running.inc();
        RunningBuild(self.running.clone())
    }

    /// Counts a build's end.
    pub(super) fn build_ended(&self, result: &Result<Finished, Box<Failure>>) {
        let label = match result {
            Ok(_) => "ok",
            Err(failure) if failure.kind == ErrorKind::Cancelled => "cancelled",
            Err(_) => "failed",
        };
        self.builds.get_or_create(&ResultLabel { result: label }).inc();
        let Ok(finished) = result else { return };
        let (cached, all) = finished.cached;
        let count = |result, steps: usize| {
            self.steps.get_or_create(&ResultLabel { result }).inc_by(steps as u64);
        };
        count("cached", cached);
        count("executed", all.saturating_sub(cached));
        self.build_seconds.observe(std::time::Duration::from_millis(finished.millis).as_secs_f64());
    }

    /// Counts an answer.
    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
    }
}

/// See [`Metrics::build_started`].
pub(super) struct RunningBuild(Gauge);

impl Drop for RunningBuild {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `GET /metrics`.
pub(super) async fn show(call: &Call) -> Result<Response, ApiError> {
    let builder = call.service.builder().clone();
    let usage = blocking::run(move || builder.usage().map_err(ApiError::from)).await?;
    let metrics = &call.service.0.metrics;
    metrics.store_bytes.set(usage.bytes);
    let (_, waiting) = call.service.builds();
    metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    let mut text = String::new();
    encode(&mut text, &metrics.registry).expect("writing to a string works");
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}

/// `GET /readyz`: 200 while builds are taken and the store can be read.
pub(super) async fn ready(call: &Call) -> Result<Response, ApiError> {
    if call.service.0.tasks.is_closed() {
        return Err(ApiError::Ending);
    }
    let builder = call.service.builder().clone();
    blocking::run(move || builder.images().map_err(ApiError::from)).await?;
    Ok("ok\n".into_response())
}
