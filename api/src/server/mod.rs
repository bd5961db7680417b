//! The service: Docker's Engine API as far as images and builds go, and our own beside it.
//!
//! Invariants: a request is judged by its head before its body is read. A client that goes away
//! cancels its build. Every spawned task is tracked, and joined when the service ends.

mod absent;
mod access;
mod agents;
mod auth;
mod build;
mod classic;
mod error;
mod events;
mod filters;
mod given;
mod guard;
mod image;
mod import;
mod leftover;
mod lines;
mod listen;
mod listing;
mod login;
mod metrics;
mod mirror;
mod moment;
mod native;
mod prune;
mod query;
mod queue;
mod route;
mod settings;
mod status;
mod system;
mod transfer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, EXPECT};
use axum::response::{IntoResponse as _, Response};
use builder::Builder;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use access::Access;
pub(crate) use agents::PROTOCOL as AGENT_PROTOCOL;
pub(crate) use error::{ApiError, kind_of};
pub(crate) use guard::Exposure;
pub(crate) use image::list_images;
pub(crate) use listen::{Listener, Port, serve};
pub(crate) use native::{NativeQuery, SENT, SENT_LAYOUT};
pub(crate) use prune::prune_images;
pub(crate) use query::{BuildDefaults, BuildQuery, parse_extra_host, parse_word};
pub(crate) use settings::{ServerLimits, ServerTable};

use agents::Agents;
use events::EventLog;
use metrics::Metrics;
use native::Native;
use query::Pairs;
use queue::Queue;
use route::{Route, Version};

/// Records of builds that are read at once.
const READERS: usize = 16;

/// All that the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    builder: Builder,
    defaults: BuildDefaults,
    exposure: Exposure,
    access: RwLock<Arc<Access>>,
    root: std::path::PathBuf,
    limits: RwLock<ServerLimits>,
    queue: Queue,
    build_number: AtomicU64,
    /// Builds under way, by their ids.
    running: Mutex<HashMap<String, RunningBuild>>,
    readers: Arc<Semaphore>,
    contexts: native::Contexts,
    agents: Agents,
    deliveries: native::Deliveries,
    /// Builds under way that their clients gave a name, to be cancelled by it.
    named_builds: Mutex<HashMap<String, CancellationToken>>,
    events: EventLog,
    metrics: Metrics,
    tasks: TaskTracker,
    /// No more requests are taken, and nobody waits for what others do.
    ending: CancellationToken,
    /// Cancels everything that still runs.
    stop: CancellationToken,
}

/// A build under way.
#[derive(Debug)]
struct RunningBuild {
    cancel: CancellationToken,
    /// How its record grows.
    growth: Option<watch::Receiver<u64>>,
    /// Its place in the queue; 0 once it runs.
    place: watch::Receiver<usize>,
}

/// Who is at the other end of a connection, as far as it tells: a user of this machine, an address.
#[derive(Clone, Debug)]
struct Peer(String);

impl Service {
    /// A service around `builder`, whose store is at `root`.
    pub(crate) fn new(
        builder: Builder,
        root: std::path::PathBuf,
        defaults: BuildDefaults,
        exposure: Exposure,
        access: Access,
        limits: ServerLimits,
    ) -> Self {
        Self(Arc::new(Shared {
            builder,
            defaults,
            exposure,
            access: RwLock::new(Arc::new(access)),
            root,
            limits: RwLock::new(limits),
            queue: Queue::new(limits.queue),
            build_number: AtomicU64::new(0),
            running: Mutex::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            contexts: native::Contexts::default(),
            agents: Agents::default(),
            deliveries: native::Deliveries::default(),
            named_builds: Mutex::default(),
            events: EventLog::new(),
            metrics: Metrics::new(),
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Lets other tokens and limits hold from now on; what runs is left alone.
    pub(crate) fn reload(&self, access: Access, limits: ServerLimits) {
        *self.0.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
        *self.0.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.0.queue.set_limits(limits.queue);
    }

    /// Returns how many builds run, and how many wait.
    pub(crate) fn builds(&self) -> (usize, usize) {
        self.0.queue.counts()
    }

    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.0.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn limits(&self) -> ServerLimits {
        *self.0.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, RunningBuild>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
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
#[derive(Clone, Debug)]
struct Call {
    service: Service,
    /// The dialect that the client speaks.
    version: Version,
    query: Pairs,
    headers: HeaderMap,
    /// Whose limits count: a token's, or a peer's.
    client: String,
}

impl Call {
    /// Returns the last value of parameter `name`, if it is not empty.
    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns the parameter `name` as a number.
    fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| text.parse().ok();
        let refuse = || ApiError::parameter(name, "it is no number");
        self.parameter(name).map(|text| parse(text).ok_or_else(refuse)).transpose()
    }

    /// Returns the parameter `name` as yes or no: `1`, `true`, `0`, `false`.
    fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.parameter(name) {
            None => Ok(default),
            Some("1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(_) => Err(ApiError::parameter(name, "it is neither true nor false")),
        }
    }

    /// Whether the client asks for this very type.
    fn accepts(&self, media_type: &str) -> bool {
        let accept = self.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let types = accept.split(',').filter_map(|part| part.split(';').next()).map(str::trim);
        types.into_iter().any(|it| it.eq_ignore_ascii_case(media_type))
    }

    /// Adds the options of a body of JSON, if it is one.
    async fn with_options(&self, body: axum::body::Body) -> Result<Self, ApiError> {
        let mut call = self.clone();
        if native::is_json(&self.headers) {
            let options = native::read_options(body).await?;
            let is_given = |name: &String| self.query.iter().any(|(given, _)| given == name);
            if let Some((name, _)) = options.iter().find(|(name, _)| is_given(name)) {
                return Err(ApiError::parameter(name, "it is in the query and in the body"));
            }
            call.query.extend(options);
        }
        Ok(call)
    }

    /// Refuses parameters that are not in `known`: none is silently ignored.
    fn expect_only(&self, known: &[&str]) -> Result<(), ApiError> {
        // What is switched off asks for nothing, and Docker's clients send such.
        let is_odd = |name: &String, value: &String| {
            !known.contains(&name.as_str()) && query::boolean(value)
        };
        match self.query.iter().find(|(name, value)| is_odd(name, value)) {
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
    let answered = answer(service.clone(), Request::from_parts(head, body)).await;
    if !waits {
        // Also after a good answer: a connection with an unread body is closed, and some clients
        // send one where none is asked for, and go on on the same connection.
        leftover.drain().await;
    }
    let response = answered.unwrap_or_else(|error| {
        tracing::debug!(%error, "request refused");
        error.into_response()
    });
    service.0.metrics.answered(response.status());
    response
}

async fn answer(service: Service, request: Request) -> Result<Response, ApiError> {
    let (mut head, body) = request.into_parts();
    guard::check(&head.headers, service.0.exposure)?;
    let (version, route) = Route::parse(&head.method, head.uri.path())?;
    let peer = head.extensions.get::<Peer>();
    let mut client = peer.map_or_else(String::new, |Peer(name)| name.clone());
    if let Some(scope) = route.scope() {
        let access = service.access();
        if let Some(token) = access.judge(&head.headers, scope)? {
            client = format!("token {token}");
        }
        tracing::debug!(client, method = %head.method, path = head.uri.path(), "request");
    }
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let query = query::pairs(head.uri.query());
    let call = Call { service, version, query, headers: head.headers, client };
    match route {
        Route::Ping => Ok(system::ping()),
        Route::Health => Ok("ok\n".into_response()),
        Route::Ready => metrics::ready(&call).await,
        Route::Metrics => metrics::show(&call).await,
        Route::Version => Ok(system::version()),
        Route::Info => system::info(&call).await,
        Route::DiskUsage => system::disk_usage(&call).await,
        Route::Build => build::classic(&call, body).await,
        Route::Native(Native::LinkAgent(id)) => agents::link(&call, &id, upgrade),
        Route::Native(native) => native::answer(&call, native, body).await,
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
