//! `POST /build` and `POST /v1/builds`: a tar in, a stream of what happens out.

use std::collections::hash_map::Entry;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse as _, Response};
use builder::{BuildRequest, ContextInput, Entered, Event, Events, TraceParent, blocking};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::access::Scope;
use super::classic::Classic;
use super::error::ApiError;
use super::events::EngineEvent;
use super::given::Given;
use super::native::NativeQuery;
use super::query::BuildQuery;
use super::queue::Turn;
use super::{Call, RunningBuild, Service, auth, guard, native};
use crate::telemetry::TRACE_PARENT;
use crate::{pipe, sent_secrets};

/// Events, one a line.
const EVENT_LINES: &str = "application/x-ndjson";

/// A build under way. Dropping it cancels the build.
struct Running {
    number: u64,
    id: String,
    events: mpsc::Receiver<Event>,
    /// Comes when the context is there, or the build is over without it.
    arrived: oneshot::Receiver<()>,
    cancel_on_drop: DropGuard,
}

/// A build that can be cancelled by its name, until this is dropped.
struct NamedBuild {
    service: Service,
    name: String,
}

impl NamedBuild {
    fn enter(
        service: &Service,
        name: String,
        cancel: &CancellationToken,
    ) -> Result<Self, ApiError> {
        match service.named_builds().entry(name.clone()) {
            Entry::Occupied(_) => {
                Err(ApiError::parameter("buildid", format!("a build called `{name}` is under way")))
            }
            Entry::Vacant(place) => {
                place.insert(cancel.clone());
                Ok(Self { service: service.clone(), name })
            }
        }
    }
}

impl Drop for NamedBuild {
    fn drop(&mut self) {
        self.service.named_builds().remove(&self.name);
    }
}

/// Answers in the form of Docker's classic builder. What fails before there is anything to show
/// (a bad Dockerfile, an unknown base) is answered by a status.
pub(super) async fn classic(call: &Call, body: Body) -> Result<Response, ApiError> {
    let mut query = BuildQuery::parse(&call.query)?;
    query.consent_by_asking();
    judge(call, &query, false)?;
    if !query.cache_to.is_empty() {
        // Results leave this machine, as images do by a push.
        call.service.access().judge(&call.headers, Scope::Push)?;
    }
    let (quiet, removal, name) = (query.quiet, query.removal(), query.build_id.clone());
    let given = Given::in_query(&query);
    let request = prepare(call, query)?;
    let mut running = start(call, body, given, name, request).await?;
    let mut classic = Classic::new(running.number, quiet, removal);
    let mut first = String::new();
    // A quiet build has nothing to show before its end; a silent connection would be cut by some.
    while first.is_empty() && !quiet {
        match running.events.recv().await {
            Some(Event::Failed(failure)) => {
                let message = classic.message(&failure);
                return Err(ApiError::Build { kind: failure.kind, message });
            }
            Some(event) => first = classic.push(&event),
            None => break,
        }
    }
    let rest = stream::unfold(Some((running, classic, false)), |state| async move {
        let (mut running, mut classic, mut is_over) = state?;
        if is_over {
            return None;
        }
        let event = running.events.recv().await;
        is_over = matches!(event, None | Some(Event::Finished(_) | Event::Failed(_)));
        let text = match event {
            Some(event) => classic.push(&event),
            None => classic.broken_off(),
        };
        Some((text, Some((running, classic, is_over))))
    });
    let first = stream::once(std::future::ready(first));
    Ok(answer("application/json", futures_util::StreamExt::chain(first, rest)))
}

/// `POST /v1/builds`. Who accepts `application/x-ndjson` gets each event as one line of JSON, and
/// has to stay; others get the build's id as soon as the context has arrived.
pub(super) async fn native(call: &Call, body: Body) -> Result<Response, ApiError> {
    let is_json = native::is_json(&call.headers);
    let (call, body) = if is_json {
        (call.with_options(body).await?, Body::empty())
    } else {
        (call.clone(), body)
    };
    let query = NativeQuery::parse(&call.query)?;
    judge(&call, &query.build, query.context.is_some())?;
    if query.pushes() {
        call.service.access().judge(&call.headers, Scope::Push)?;
    }
    let name = query.build.build_id.clone();
    let prepared = prepare(&call, query.build.clone())?;
    let taking = call.clone();
    let (given, query) = blocking::run(move || {
        let given = Given::take(&taking, &query)?;
        Ok::<_, ApiError>((given, query))
    })
    .await?;
    let prepared: Prepared = Box::new(|context| {
        let mut request = prepared(context);
        query.complete(&mut request);
        request
    });
    let running = start(&call, body, given, name, prepared).await?;
    let location = [(LOCATION, format!("/v1/builds/{}", running.id))];
    if call.accepts(EVENT_LINES) {
        let lines = stream::unfold(running, |mut running| async move {
            let event = running.events.recv().await?;
            let line = serde_json::to_string(&event).expect("events are JSON") + "\n";
            Some((line, running))
        });
        return Ok((location, answer(EVENT_LINES, lines)).into_response());
    }
    let Running { id, arrived, cancel_on_drop, .. } = running;
    // Told or not, it is over by then.
    drop(arrived.await);
    drop(cancel_on_drop.disarm());
    Ok((StatusCode::CREATED, location, Json(json!({ "id": id }))).into_response())
}

/// `POST /build/cancel?id=`: ends the build that was given this name by `buildid`. A build that is
/// over, or never was, is as good as cancelled (as it is for moby).
pub(super) fn cancel(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["id"])?;
    let id = call.parameter("id").ok_or_else(|| ApiError::parameter("id", "it is missing"))?;
    if let Some(build) = call.service.named_builds().get(id) {
        build.cancel();
    }
    Ok(StatusCode::OK.into_response())
}

fn answer(
    media_type: &'static str,
    texts: impl stream::Stream<Item = String> + Send + 'static,
) -> Response {
    let chunks = futures_util::StreamExt::filter_map(texts, |text| {
        std::future::ready((!text.is_empty()).then(|| Ok::<_, std::io::Error>(Bytes::from(text))))
    });
    ([(CONTENT_TYPE, media_type)], Body::from_stream(chunks)).into_response()
}

/// A request whose context is still to come.
type Prepared = Box<dyn FnOnce(ContextInput) -> BuildRequest + Send>;

/// Judges whether the body can be what the query says; `is_sent` is a context that came before.
fn judge(call: &Call, query: &BuildQuery, is_sent: bool) -> Result<(), ApiError> {
    if is_sent && query.remote.is_some() {
        return Err(ApiError::parameter("remote", "there is a context already"));
    }
    // A context that is fetched needs no body, and no body needs no type.
    let is_named = query.remote.is_some() || is_sent;
    if native::is_json(&call.headers) {
        if !is_named {
            let reason = "options as JSON need a `remote` or a `context`";
            return Err(ApiError::parameter("remote", reason));
        }
    } else if !is_named || call.headers.contains_key(CONTENT_TYPE) {
        guard::check_tar(&call.headers)?;
    }
    guard::check_length(&call.headers, call.service.limits().upload.bytes)
}

/// Takes from the head what a build needs beside its query.
fn prepare(call: &Call, query: BuildQuery) -> Result<Prepared, ApiError> {
    let credentials = auth::for_build(&call.headers)?;
    let defaults = call.service.0.defaults.clone();
    let secrets = match call.headers.get(sent_secrets::HEADER) {
        Some(value) => sent_secrets::decode(value.as_bytes())
            .map_err(|reason| ApiError::parameter("X-Rbuild-Secrets", reason))?,
        None => builder::Secrets::new(),
    };
    let parent = call.headers.get(TRACE_PARENT).and_then(|value| value.to_str().ok());
    let trace_parent = parent.and_then(TraceParent::parse);
    Ok(Box::new(move |context| BuildRequest {
        secrets,
        trace_parent,
        ..query.into_request(context, credentials, &defaults)
    }))
}

/// Starts the build, or lets it wait for its turn; its task lives on until everything is cleaned up,
/// also when the client went away.
async fn start(
    call: &Call,
    body: Body,
    given: Given,
    name: Option<String>,
    prepared: Prepared,
) -> Result<Running, ApiError> {
    let service = &call.service;
    let mut turn = service.0.queue.enter(&call.client)?;
    let (reader, feed) = pipe::upload(body.into_data_stream(), service.limits().upload);
    let mut request = prepared(match given.main() {
        Some(dir) => ContextInput::Directory(dir),
        None => ContextInput::Tar(Box::new(reader)),
    });
    given.complete(&mut request);
    let (events, receiver) = Events::channel();
    let cancel = service.0.stop.child_token();
    let cancel_on_drop = CancellationToken::clone(&cancel).drop_guard();
    let named = name.map(|name| NamedBuild::enter(service, name, &cancel)).transpose()?;
    let entered = service.builder().enter(&request).await?;
    let id = entered.id().to_owned();
    let known = KnownBuild::enter(service, &entered, &turn, &cancel);
    let is_fetched = match given.delivery() {
        Some(delivery) => {
            service.0.deliveries.offer(&id, &call.client, delivery);
            true
        }
        None => false,
    };
    let (has_arrived, arrived) = oneshot::channel();
    let (of_task, of_build) = (service.clone(), id.clone());
    service.spawn(async move {
        let _known = (known, named);
        let metrics = of_task.clone();
        let wait = |events: Events| async move {
            while let Some(place) = turn.next_place().await {
                events.send(Event::Queued { place }).await;
            }
            (turn, given, metrics.0.metrics.build_started())
        };
        let build = async {
            // How it ended is in the events; Docker's own tell the names alone.
            let builder = of_task.builder();
            let ended = builder.build_entered(entered, request, events, cancel, wait).await;
            of_task.0.metrics.build_ended(&ended);
            if is_fetched {
                native::withdraw(&of_task, of_build, ended.is_ok());
            }
            if let Ok(finished) = ended {
                for tag in &finished.tags {
                    let event = EngineEvent::image("tag", finished.image_id.as_str(), tag);
                    of_task.0.events.tell(event);
                }
            }
        };
        let mut build = std::pin::pin!(build);
        tokio::select! {
            () = &mut build => {}
            () = feed => {
                // Nobody may be waiting for it.
                let _ = has_arrived.send(());
                build.await;
            }
        }
    });
    let number = service.next_build();
    Ok(Running { number, id, events: receiver, arrived, cancel_on_drop })
}

/// A build that can be looked at and cancelled by its id, until this is dropped.
struct KnownBuild {
    service: Service,
    id: String,
}

impl KnownBuild {
    fn enter(
        service: &Service,
        entered: &Entered,
        turn: &Turn,
        cancel: &CancellationToken,
    ) -> Self {
        let id = entered.id().to_owned();
        let (growth, place) = (entered.growth(), turn.place());
        let build = RunningBuild { cancel: cancel.clone(), growth, place };
        service.running().insert(id.clone(), build);
        Self { service: service.clone(), id }
    }
}

impl Drop for KnownBuild {
    fn drop(&mut self) {
        self.service.running().remove(&self.id);
    }
}
