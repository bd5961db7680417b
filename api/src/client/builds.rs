//! Builds and the store of a service.

use std::time::Duration;

use axum::http::header::ACCEPT;
use axum::http::{HeaderName, Method};
use builder::{ErrorKind, Event, Events, RecordedEvent};
use cache::{BuildRecord, BuildResult, Item, PruneOptions, Pruned, Usage};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::build::Ended;
use super::{Answer, Client, Payload};
use crate::fault::Fault;

/// Builds asked for at most.
const MOST: usize = 100_000;

/// How often a broken connection is made anew without a word from the service in between, and the
/// pause before it, which doubles.
const RETRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What a service's store holds.
#[derive(Debug, Deserialize)]
pub(crate) struct StoreAnswer {
    pub(crate) root: String,
    pub(crate) usage: Usage,
    #[serde(default)]
    pub(crate) items: Vec<Item>,
}

impl Client {
    /// Lists the builds whose ids begin with `prefix`, newest first; all for an empty one.
    pub(crate) async fn list_builds(&self, prefix: &str) -> Result<Vec<BuildRecord>, Fault> {
        #[derive(Deserialize)]
        struct Builds {
            builds: Vec<BuildRecord>,
        }
        if !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) || prefix.len() > 8 {
            return Ok(Vec::new());
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &MOST.to_string());
        if !prefix.is_empty() {
            query.append_pair("prefix", prefix);
        }
        let query = query.finish();
        let Builds { builds } = self.json(Method::GET, &format!("/v1/builds?{query}")).await?;
        // Ids go into paths and on terminals.
        let is_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match builds.iter().find(|build| !is_id(&build.id)) {
            None => Ok(builds),
            Some(_) => Err(Fault::new(ErrorKind::Remote, "the service has builds with odd ids")),
        }
    }

    /// Hands out what happened in a build until now.
    pub(crate) async fn recorded_events(
        &self,
        id: &str,
        mut each: impl FnMut(RecordedEvent) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let path = format!("/v1/builds/{id}/events?follow=false");
        let accept = [(ACCEPT, "application/x-ndjson".to_owned())];
        let mut answer = self.send_with(Method::GET, &path, Payload::Nothing, &accept).await?;
        let mut rest = Vec::new();
        while let Some(event) = answer.line(&mut rest).await? {
            each(event)?;
        }
        Ok(())
    }

    /// Ends a build that runs or waits.
    pub(crate) async fn cancel_build(&self, id: &str) -> Result<(), Fault> {
        let path = format!("/v1/builds/{id}");
        self.send(Method::DELETE, &path, Payload::Nothing).await.map(drop)
    }

    /// Forgets a build.
    pub(crate) async fn forget_build(&self, id: &str) -> Result<(), Fault> {
        let path = format!("/v1/builds/{id}/record");
        self.send(Method::DELETE, &path, Payload::Nothing).await.map(drop)
    }

    /// Measures the service's store; `items` asks for everything one by one.
    pub(crate) async fn store(&self, items: bool) -> Result<StoreAnswer, Fault> {
        self.json(Method::GET, &format!("/v1/store?items={}", u8::from(items))).await
    }

    /// Has the service delete what no image needs.
    pub(crate) async fn prune(&self, options: &PruneOptions) -> Result<Pruned, Fault> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, is_set) in [("all", options.all), ("dry_run", options.dry_run)] {
            if is_set {
                query.append_pair(name, "1");
            }
        }
        if let Some(bytes) = options.keep_bytes {
            query.append_pair("keep_bytes", &bytes.to_string());
        }
        if let Some(age) = options.older_than {
            query.append_pair("unused_for", &age.as_secs().to_string());
        }
        if let Some(kind) = options.only {
            query.append_pair("kind", json!(kind).as_str().unwrap_or_default());
        }
        self.json(Method::POST, &format!("/v1/store/prune?{}", query.finish())).await
    }

    /// Follows a build from its beginning to its end; a connection that breaks is made anew, and
    /// nothing is told twice. Cancelling `cancel` ends the following alone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`], a build that left no end, a service that stays away.
    pub(crate) async fn follow_to_end(
        &self,
        id: &str,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Ended, Fault> {
        let (mut place, mut tries) = (None, 0);
        loop {
            let before = place.clone();
            let reading = self.follow_once(id, &mut place, events);
            let Some(read) = cancel.run_until_cancelled(reading).await else {
                return Err(Fault::new(ErrorKind::Cancelled, "no longer following the build"));
            };
            match read {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {
                    if let Some(fault) = self.fate(id).await? {
                        return Err(fault);
                    }
                }
                Err(fault) if fault.kind != ErrorKind::Remote || tries == RETRIES => {
                    return Err(fault);
                }
                Err(fault) => tracing::debug!(%fault, "the connection broke"),
            }
            tries = if place == before { tries + 1 } else { 1 };
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
        }
    }

    /// Reads events from `place` on until the stream ends; `None` if the build did not.
    async fn follow_once(
        &self,
        id: &str,
        place: &mut Option<String>,
        events: &Events,
    ) -> Result<Option<Ended>, Fault> {
        let path = format!("/v1/builds/{id}/events");
        let mut headers = vec![(ACCEPT, "text/event-stream".to_owned())];
        if let Some(place) = place.as_ref() {
            headers.push((HeaderName::from_static("last-event-id"), place.clone()));
        }
        let mut answer = self.send_with(Method::GET, &path, Payload::Nothing, &headers).await?;
        let mut rest = Vec::new();
        while let Some((id, event)) = next_event(&mut answer, &mut rest).await? {
            let ended = super::build::end_of(&event);
            events.send(event).await;
            *place = Some(id);
            if ended.is_some() {
                return Ok(ended);
            }
        }
        Ok(None)
    }

    /// Says why a build told no end; nothing while it goes on.
    async fn fate(&self, id: &str) -> Result<Option<Fault>, Fault> {
        let found = self.list_builds(id).await?;
        let what = match found.first().map(|record| &record.summary.result) {
            Some(BuildResult::Running) => return Ok(None),
            Some(BuildResult::Interrupted) => "the build was interrupted: its service was killed",
            Some(_) => "the service does not know how the build ended",
            None => "the service has forgotten the build",
        };
        Ok(Some(Fault::new(ErrorKind::Remote, what)))
    }
}

/// Reads one server-sent event; those of other fields and comments are left out.
async fn next_event(
    answer: &mut Answer,
    rest: &mut Vec<u8>,
) -> Result<Option<(String, Event)>, Fault> {
    let mut id = String::new();
    while let Some(line) = answer.text_line(rest).await? {
        if let Some(text) = line.strip_prefix(b"id: ") {
            id = String::from_utf8_lossy(text).into_owned();
        } else if let Some(text) = line.strip_prefix(b"data: ") {
            let recorded: RecordedEvent =
                serde_json::from_slice(text).map_err(|error| super::not_understood(&error))?;
            return Ok(Some((id, super::build::seen_from_afar(recorded.event))));
        }
    }
    Ok(None)
}
