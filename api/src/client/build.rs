//! A build by a service: the context goes there, the events come back.

use std::io::{self, Write as _};
use std::path::Path;

use axum::http::header::ACCEPT;
use axum::http::{HeaderName, Method};
use builder::{
    BuildRequest, ContextInput, DockerfileInput, ErrorKind, Event, Events, Failure, Finished,
    Secrets, blocking,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::context::{self, RemoteContext};
use super::mirror::Sent;
use super::{Client, Payload};
use crate::config::NetworkMode;
use crate::fault::Fault;
use crate::server::BuildQuery;
use crate::telemetry::TRACE_PARENT;
use crate::{pipe, sent_secrets};

/// How a build ended, as far as its events tell.
pub(crate) type Ended = Result<Finished, Box<Failure>>;

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
        let headers = self.request_headers(&request)?;
        let (path, opened) = prepare(request, network).await?;
        let work = async {
            match self.send_changes(opened).await? {
                Sent::Kept(id) => {
                    let path = format!("{path}&context={id}");
                    self.follow_build(&path, Payload::Nothing, headers, events).await
                }
                Sent::Whole(opened) => {
                    let follow = |tar| self.follow_build(&path, tar, headers, events);
                    self.exchange(opened, follow).await
                }
            }
        };
        cancel
            .run_until_cancelled(work)
            .await
            .unwrap_or_else(|| Err(Fault::new(ErrorKind::Cancelled, "the build was cancelled")))
    }

    /// Has the service build `request` by itself; returns the build's id once the context is there.
    ///
    /// # Errors
    ///
    /// As [`Client::build`], as far as it comes.
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
        let headers = self.request_headers(&request)?;
        let (path, opened) = prepare(request, network).await?;
        let start = async |path: &str, payload| {
            let sent = self.send_with(Method::POST, path, payload, &headers).await?;
            sent.document::<Started>().await
        };
        let work = async {
            match self.send_changes(opened).await? {
                Sent::Kept(id) => start(&format!("{path}&context={id}"), Payload::Nothing).await,
                Sent::Whole(opened) => self.exchange(opened, |tar| start(&path, tar)).await,
            }
        };
        let started = cancel
            .run_until_cancelled(work)
            .await
            .unwrap_or_else(|| Err(Fault::new(ErrorKind::Cancelled, "the build was cancelled")))?;
        Ok(crate::format::printable(&started.id))
    }

    /// Returns what goes beside the request: secrets, and the span that it is part of.
    fn request_headers(&self, request: &BuildRequest) -> Result<Vec<(HeaderName, String)>, Fault> {
        let parent = request.trace_parent.as_ref();
        let parent = parent.map(|it| (HeaderName::from_static(TRACE_PARENT), it.to_string()));
        Ok(self.secret_header(&request.secrets)?.into_iter().chain(parent).collect())
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

    async fn follow_build(
        &self,
        path: &str,
        payload: Payload,
        mut headers: Vec<(HeaderName, String)>,
        events: Events,
    ) -> Result<Ended, Fault> {
        headers.push((ACCEPT, "application/x-ndjson".to_owned()));
        let mut answer = self.send_with(Method::POST, path, payload, &headers).await?;
        let mut rest = Vec::new();
        while let Some(event) = answer.line::<Event>(&mut rest).await? {
            let event = seen_from_afar(event);
            let ended = end_of(&event);
            events.send(event).await;
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
        Err(Fault::new(ErrorKind::Remote, "the service ended the stream before the build was over"))
    }
}

/// Reads the context's directory, and says what the service is asked for: path and query.
async fn prepare(
    request: BuildRequest,
    network: Option<NetworkMode>,
) -> Result<(String, RemoteContext), Fault> {
    refuse_unsupported(&request)?;
    let mut query = BuildQuery {
        tags: request.tags,
        build_args: request.build_args.into_iter().map(|(k, v)| (k, Some(v))).collect(),
        labels: request.labels,
        target: request.target,
        platform: request.platforms.into_iter().next(),
        network,
        extra_hosts: request.extra_hosts,
        dns: request.dns,
        limits: request.limits,
        no_new_privs: request.no_new_privs,
        squash: request.squash,
        no_cache: request.no_cache,
        no_cache_filter: request.no_cache_filter,
        cache_ttl: request.cache_ttl,
        cache_from: request.cache_from,
        cache_to: request.cache_to,
        cache_scopes: request.cache_scopes,
        pull: request.pull,
        allow: request.allow,
        ..BuildQuery::default()
    };
    let (input, dockerfile) = (request.context, request.dockerfile);
    if let ContextInput::Url(url) = &input {
        query.remote = Some(url.clone());
        refuse_with_url(&dockerfile, request.ignore_file.as_deref())?;
    }
    let ignore_file = request.ignore_file;
    let opened =
        blocking::run(move || RemoteContext::open(input, dockerfile, ignore_file.as_deref()))
            .await?;
    query.dockerfile = opened.dockerfile().map(str::to_owned);
    let path = format!("/v1/builds?{}", query.encode());
    Ok((path, opened))
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

/// Refuses what cannot be asked of a service.
fn refuse_unsupported(request: &BuildRequest) -> Result<(), Fault> {
    if request.named_contexts.is_empty() {
        return Ok(());
    }
    Err(Fault::user("--build-context cannot be used with --host: only the main context is sent"))
}
