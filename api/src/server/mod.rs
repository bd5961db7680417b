//! The service: Docker's Engine API as far as images and builds go, and our own beside it.
//!
//! Invariants: a request is judged by its head before its body is read. A client that goes away
//! cancels its build. Every spawned task is tracked, and joined when the service ends.

mod absent;
mod access;
mod auth;
mod build;
mod classic;
mod error;
mod events;
mod filters;
mod guard;
mod image;
mod import;
mod leftover;
mod listen;
mod login;
mod metrics;
mod moment;
mod prune;
mod query;
mod route;
mod status;
mod system;
mod transfer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use axum::response::{IntoResponse as _, Response};
use builder::Builder;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use access::Access;
pub(crate) use error::kind_of;
pub(crate) use guard::Exposure;
pub(crate) use listen::{Listener, Port, serve};
pub(crate) use query::{BuildDefaults, BuildQuery, parse_extra_host, parse_word};

use error::ApiError;
use events::EventLog;
use metrics::Metrics;
use query::Pairs;
use route::{Route, Version};

/// Builds that may run at once; a further one is told to come again. Steps within them are
/// bounded by the builder.
const MAX_BUILDS: usize = 64;

/// All that the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    builder: Builder,
    defaults: BuildDefaults,
    exposure: Exposure,
    access: Access,
    root: std::path::PathBuf,
    builds: Arc<Semaphore>,
    build_number: AtomicU64,
    /// Builds under way that their clients gave a name, to be cancelled by it.
    named_builds: Mutex<HashMap<String, CancellationToken>>,
    events: EventLog,
    metrics: Metrics,
    tasks: TaskTracker,
    /// Cancels everything that still runs.
    stop: CancellationToken,
}

impl Service {
    /// A service around `builder`, whose store is at `root`.
    pub(crate) fn new(
        builder: Builder,
        root: std::path::PathBuf,
        defaults: BuildDefaults,
        exposure: Exposure,
        access: Access,
    ) -> Self {
        Self(Arc::new(Shared {
            builder,
            defaults,
            exposure,
            access,
            root,
            builds: Arc::new(Semaphore::new(MAX_BUILDS)),
            build_number: AtomicU64::new(0),
            named_builds: Mutex::default(),
            events: EventLog::new(),
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    fn builder(&self) -> &Builder {
        &self.0.builder
    }

    /// Runs `work` in the background, to be joined when the service ends.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.tasks.spawn(work));
    }

    fn named_builds(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.named_builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_build(&self) -> u64 {
        self.0.build_number.fetch_add(1, Ordering::Relaxed)
    }
}

/// Answers all paths; see [`Route`].
pub(crate) fn router(service: Service) -> Router {
    Router::new().fallback(dispatch).with_state(service)
}

/// The parts of a request that handlers look at; the body is handed to those that want it.
#[derive(Debug)]
struct Call {
    service: Service,
    /// The dialect that the client speaks.
    version: Version,
    query: Pairs,
    headers: HeaderMap,
}

impl Call {
    /// Returns the last value of parameter `name`, if it is not empty.
    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Refuses parameters that are not in `known`: none is silently ignored.
    fn expect_only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.query.iter().find(|(name, value)| !known.contains(&&**name) && !value.is_empty())
        {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::Unsupported { name: name.clone(), instead: None }),
        }
    }
}

async fn dispatch(State(service): State<Service>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    // Who waits to be told to go on sends nothing after a refusal.
    let waits = head.headers.contains_key(EXPECT);
    let (body, leftover) = leftover::lend(body);
    let response = match answer(service.clone(), Request::from_parts(head, body)).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "request refused");
            if !waits {
                leftover.drain().await;
            }
            error.into_response()
        }
    };
    service.0.metrics.answered(response.status());
    response
}

async fn answer(service: Service, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    guard::check(&head.headers, service.0.exposure)?;
    let (version, route) = Route::parse(&head.method, head.uri.path())?;
    if let Some(scope) = route.scope() {
        let who = service.0.access.judge(&head.headers, scope)?;
        tracing::debug!(who, method = %head.method, path = head.uri.path(), "request");
    }
    let query = query::pairs(head.uri.query());
    let call = Call { service, version, query, headers: head.headers };
    match route {
        Route::Ping => Ok(system::ping()),
        Route::Health => Ok("ok\n".into_response()),
        Route::Ready => metrics::ready(&call).await,
        Route::Metrics => metrics::show(&call).await,
        Route::Version => Ok(system::version()),
        Route::Info => system::info(&call).await,
        Route::DiskUsage => system::disk_usage(&call).await,
        Route::Build => build::classic(&call, body).await,
        Route::NativeBuild => build::native(&call, body),
        Route::Images => image::list(&call).await,
        Route::Image(name) => image::inspect(&call, name).await,
        Route::History(name) => image::history(&call, name).await,
        Route::Tag(name) => image::tag(&call, name).await,
        Route::RemoveImage(name) => image::remove(&call, name).await,
        Route::SaveImages => transfer::save(&call, None).await,
        Route::SaveImage(name) => transfer::save(&call, Some(name)).await,
        Route::LoadImages => transfer::load(&call, body).await,
        Route::Pull if call.parameter("fromSrc").is_some() => import::import(&call, body).await,
        Route::Pull => transfer::pull(&call).await,
        Route::Push(name) => transfer::push(&call, &name).await,
        Route::Events => events::stream(&call),
        Route::Login => login::check(&call, body).await,
        Route::CancelBuild => build::cancel(&call),
        Route::PruneBuilds => prune::builds(&call).await,
        Route::PruneImages => prune::images(&call).await,
        Route::Distribution(name) => image::distribution(&call, &name).await,
        Route::Absent(absent) => absent::answer(absent),
    }
}

#[cfg(test)]
mod tests;
