//! A build by a service: the context goes there, the events come back.

use std::io::{self, Write as _};
use std::path::Path;

use axum::http::header::ACCEPT;
use axum::http::{HeaderName, Method};
use builder::{
    BuildRequest, CachePlace, ContextInput, DockerfileInput, ErrorKind, Event, Events, Failure,
    Finished, OutputDest, Secrets, blocking,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::agent::Lent;
use super::context::{self, RemoteContext};
use super::fetched::Fetched;
use super::mirror::Sent;
use super::{Client, Payload};
use crate::config::NetworkMode;
use crate::fault::Fault;
use crate::server::{BuildQuery, NativeQuery};
use crate::telemetry::TRACE_PARENT;
use crate::{pipe, sent_secrets};

/// How a build ended, as far as its events tell.
pub(crate) type Ended = Result<Finished, Box<Failure>>;

/// A build whose main context is still to be sent.
struct Prepared {
    query: NativeQuery,
    context: RemoteContext,
    /// What the service writes for this machine.
    results: Vec<Fetched>,
    /// Agents that the service may reach while this is held.
    lent: Lent,
}

impl Client {
    /// Builds `request` at the service; `network` is what the user chose, if anything. Its events
    /// are the service's own.
    ///
    /// # Errors
    ///
    /// What this machine cannot read or the service cannot do; and [`ErrorKind::Cancelled`].
    pub(crate) async fn build(
        &self,
        request: BuildRequest,
        network: Option<NetworkMode>,
        events: Events,
        cancel: &CancellationToken,
    ) -> Result<Ended, Fault> {
        let work = async {
            let headers = self.request_headers(&request).await?;
            let prepared = self.prepare(request, network, &events).await?;
            let Prepared { mut query, context, results, lent: _lent } = prepared;
            match self.send_changes(context, &events).await? {
                Sent::Kept(id) => {
                    query.context = Some(id);
                    let follow = Follow { path: path(&query), headers, results, events };
                    self.follow_build(follow, Payload::Nothing).await
                }
                Sent::Whole(context) => {
                    let follow = Follow { path: path(&query), headers, results, events };
                    self.exchange(context, |tar| self.follow_build(follow, tar)).await
                }
            }
        };
        cancel
            .run_until_cancelled(Box::pin(work))
            .await
            .unwrap_or_else(|| Err(Fault::new(ErrorKind::Cancelled, "the build was cancelled")))
    }

    /// Has the service build `request` by itself; returns the build's id once the context is there.
    ///
    /// # Errors
    ///
    /// As [`Client::build`], as far as it comes; and what needs this machine to the build's end.
    pub(crate) async fn start_build(
        &self,
        request: BuildRequest,
        network: Option<NetworkMode>,
        cancel: &CancellationToken,
    ) -> Result<String, Fault> {
        #[derive(Deserialize)]
        struct Started {
            id: String,
        }
        refuse_detached(&request)?;
        let (events, seen) = Events::channel();
        drop(seen);
        let work = async {
            let headers = self.request_headers(&request).await?;
            let Prepared { mut query, context, .. } =
                self.prepare(request, network, &events).await?;
            let start = async |query: &NativeQuery, payload| {
                let sent = self.send_with(Method::POST, &path(query), payload, &headers).await?;
                sent.document::<Started>().await
            };
            match self.send_changes(context, &events).await? {
                Sent::Kept(id) => {
                    query.context = Some(id);
                    start(&query, Payload::Nothing).await
                }
                Sent::Whole(context) => self.exchange(context, |tar| start(&query, tar)).await,
            }
        };
        let started = cancel
            .run_until_cancelled(Box::pin(work))
            .await
            .unwrap_or_else(|| Err(Fault::new(ErrorKind::Cancelled, "the build was cancelled")))?;
        Ok(crate::format::printable(&started.id))
    }

    /// Sends what goes beside the main context, reads that one's directory, and says what the
    /// service is asked for.
    async fn prepare(
        &self,
        request: BuildRequest,
        network: Option<NetworkMode>,
        events: &Events,
    ) -> Result<Prepared, Fault> {
        let mut query = NativeQuery {
            build: BuildQuery {
                tags: request.tags,
                build_args: request.build_args.into_iter().map(|(k, v)| (k, Some(v))).collect(),
                labels: request.labels,
                target: request.target,
                network,
                extra_hosts: request.extra_hosts,
                dns: request.dns,
                limits: request.limits,
                no_new_privs: request.no_new_privs,
                squash: request.squash,
                no_cache: request.no_cache,
                no_cache_filter: request.no_cache_filter,
                cache_ttl: request.cache_ttl,
                cache_scopes: request.cache_scopes,
                pull: request.pull,
                allow: request.allow,
                ..BuildQuery::default()
            },
            platforms: request.platforms,
            more_targets: request.more_targets,
            annotations: request.annotations,
            ..NativeQuery::default()
        };
        let (input, dockerfile) = (request.context, request.dockerfile);
        if let ContextInput::Url(url) = &input {
            query.build.remote = Some(url.clone());
            refuse_with_url(&dockerfile, request.ignore_file.as_deref())?;
        }
        let ignore_file = request.ignore_file;
        let context =
            blocking::run(move || RemoteContext::open(input, dockerfile, ignore_file.as_deref()))
                .await?;
        query.build.dockerfile = context.dockerfile().map(str::to_owned);
        let results = Fetched::of(&request.outputs, &request.cache_to);
        query.outputs = request.outputs;
        query.build.cache_to = request.cache_to;
        query.contexts = self.send_named(request.named_contexts, events).await?;
        query.build.cache_from = self.send_caches(request.cache_from, events).await?;
        let (agents, lent) = self.lend(&request.ssh).await?;
        query.agents = agents;
        Ok(Prepared { query, context, results, lent })
    }

    /// Returns what goes beside the request: secrets, credentials, and the span that it is part of.
    async fn request_headers(
        &self,
        request: &BuildRequest,
    ) -> Result<Vec<(HeaderName, String)>, Fault> {
        let parent = request.trace_parent.as_ref();
        let parent = parent.map(|it| (HeaderName::from_static(TRACE_PARENT), it.to_string()));
        let secrets = self.secret_header(&request.secrets)?;
        let credentials = self.registry_config().await;
        Ok([parent, secrets, credentials].into_iter().flatten().collect())
    }

    /// Returns what takes secrets to the service, where the way there is private.
    fn secret_header(&self, secrets: &Secrets) -> Result<Option<(HeaderName, String)>, Fault> {
        if secrets.is_empty() {
            return Ok(None);
        }
        if !self.address.is_private() {
            let what = format!("secrets are not sent to {}: others may listen", self.address);
            return Err(Fault::user(what).with_help("use https:// or a socket of this machine"));
        }
        let header = sent_secrets::encode(secrets).ok_or_else(|| {
            let limit = sent_secrets::LIMIT / 1024;
            Fault::user(format!("the secrets are more than {limit} KiB, too much for --host"))
        })?;
        Ok(Some((HeaderName::from_static(sent_secrets::HEADER), header)))
    }

    /// Sends the context while `answer` takes what comes back.
    async fn exchange<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        opened: RemoteContext,
        answer: impl FnOnce(Payload) -> F,
    ) -> Result<T, Fault> {
        let (mut writer, end, chunks) = pipe::writer();
        let send = async move {
            let sent = blocking::run(move || {
                context::write_tar(opened, &mut writer)?;
                writer.flush().map_err(context::ContextError::Send)
            });
            match sent.await {
                // The service has answered before it read everything; what it says counts.
                Ok(()) | Err(context::ContextError::Send(_)) => None,
                Err(error) => {
                    let fault = Fault::of(ErrorKind::User, &error);
                    end.fail(io::Error::other(error)).await;
                    Some(fault)
                }
            }
        };
        let (fault, ended) = tokio::join!(send, answer(Payload::Tar(chunks)));
        fault.map_or(ended, Err)
    }

    async fn follow_build(&self, follow: Follow, payload: Payload) -> Result<Ended, Fault> {
        let Follow { path, mut headers, results, events } = follow;
        headers.push((ACCEPT, "application/x-ndjson".to_owned()));
        let mut answer = self.send_with(Method::POST, &path, payload, &headers).await?;
        let mut rest = Vec::new();
        while let Some(event) = answer.line::<Event>(&mut rest).await? {
            let event = seen_from_afar(event);
            let ended = end_of(&event);
            if let Some(Ok(_)) = &ended {
                // Only with its results is it finished.
                self.fetch_results(answer.build(), results, &events).await?;
                events.send(event).await;
                return Ok(ended.expect("it was just looked at"));
            }
            events.send(event).await;
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
        Err(Fault::new(ErrorKind::Remote, "the service ended the stream before the build was over"))
    }
}

/// A request for a build, and what becomes of its answer.
struct Follow {
    path: String,
    headers: Vec<(HeaderName, String)>,
    results: Vec<Fetched>,
    events: Events,
}

fn path(query: &NativeQuery) -> String {
    format!("/v1/builds?{}", query.encode())
}

/// Takes away what helps at the service alone.
pub(super) fn seen_from_afar(mut event: Event) -> Event {
    if let Event::Failed(failure) = &mut event {
        // The failed step can be looked at there and not from here.
        failure.kept_by = None;
    }
    event
}

/// Returns how a build ended, if this is its last event.
pub(super) fn end_of(event: &Event) -> Option<Ended> {
    match event {
        Event::Finished(finished) => Some(Ok(finished.clone())),
        Event::Failed(failure) => Some(Err(Box::new(failure.clone()))),
        _ => None,
    }
}

/// Refuses what would have to be sent along with a context that the service fetches itself.
fn refuse_with_url(dockerfile: &DockerfileInput, ignore_file: Option<&Path>) -> Result<(), Fault> {
    let what = match (dockerfile, ignore_file) {
        (DockerfileInput::InContext(_), None) => return Ok(()),
        (DockerfileInput::InContext(_), Some(_)) => "--ignorefile",
        _ => "-f with a Dockerfile of this machine",
    };
    let what = format!("{what} cannot be used with --host and a context from a URL");
    Err(Fault::user(what).with_help("the service fetches the context, and reads both from it"))
}

/// Refuses what needs this machine until the build is over.
fn refuse_detached(request: &BuildRequest) -> Result<(), Fault> {
    let is_here = |place: &CachePlace| place.is_local();
    let refused = [
        ("--ssh", !request.ssh.is_empty()),
        ("--output", request.outputs.iter().any(|output| output.dest != OutputDest::Own)),
        ("--cache-to of type=local", request.cache_to.iter().any(|to| is_here(&to.place))),
    ];
    match refused.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((option, _)) => Err(Fault::user(format!("{option} cannot be used with --detach"))
            .with_help("it needs this machine until the build is over")),
    }
}
