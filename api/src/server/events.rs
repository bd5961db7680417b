//! `GET /events`: what happened to images, as Docker tells it.
//!
//! Invariant: whoever listens gets each event once: the past and the subscription are taken
//! together. A listener that falls behind by more than [`KEPT`] events loses the oldest, as it
//! does with Docker.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Sleep;

use super::Call;
use super::error::ApiError;
use super::filters::{self, FilterMap};
use super::moment::{self, Nanos};
use super::route::Version;

/// Events kept for `since=`, and for listeners that are behind (as many as Docker keeps).
const KEPT: usize = 256;

/// From this version on, the fields of the first API are gone, and the client chooses the form.
const NEW_FORM: Version = (1, 52);

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) struct EngineEvent {
    /// `image` or `builder`.
    kind: &'static str,
    /// `tag`, `untag`, `delete`, `pull`, `push`, `load`, `save`, `import`, `prune`.
    action: &'static str,
    /// Image ID or name; empty where nothing is named.
    id: String,
    attributes: BTreeMap<String, String>,
    time: Nanos,
}

impl EngineEvent {
    /// Something happened to image `id`, called `name`.
    pub(super) fn image(action: &'static str, id: impl Into<String>, name: &str) -> Self {
        let attributes = [("name".to_owned(), name.to_owned())].into();
        Self { kind: "image", action, id: id.into(), attributes, time: moment::now() }
    }

    /// `kind` was pruned.
    pub(super) fn prune(kind: &'static str, reclaimed: u64) -> Self {
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
        Self { kind, action: "prune", id: String::new(), attributes, time: moment::now() }
    }

    fn document(&self, version: Version) -> Value {
        let mut document = json!({
            "Type": self.kind,
            "Action": self.action,
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "scope": "local",
            "time": i64::try_from(self.time / 1_000_000_000).unwrap_or(i64::MAX),
            "timeNano": i64::try_from(self.time).unwrap_or(i64::MAX),
        });
        if version < NEW_FORM && self.kind == "image" {
            document["status"] = self.action.into();
            document["id"] = self.id.clone().into();
        }
        document
    }
}

/// What happened lately, and who wants to know what happens next.
#[derive(Debug)]
pub(super) struct EventLog {
    recent: Mutex<VecDeque<EngineEvent>>,
    sender: broadcast::Sender<EngineEvent>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        let (sender, _) = broadcast::channel(KEPT);
        Self { recent: Mutex::default(), sender }
    }

    /// Notes an event and tells it to everybody who listens.
    pub(super) fn tell(&self, event: EngineEvent) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // Nobody may be listening.
        drop(self.sender.send(event));
    }

    fn subscribe(&self) -> (Vec<EngineEvent>, broadcast::Receiver<EngineEvent>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.sender.subscribe())
    }
}

/// Which events a listener wants.
#[derive(Debug)]
struct Wanted {
    since: Option<Nanos>,
    until: Option<Nanos>,
    filters: FilterMap,
}

impl Wanted {
    fn parse(call: &Call, now: Nanos) -> Result<Self, ApiError> {
        let at = |name| call.parameter(name).map(|text| moment::parse(name, text, now)).transpose();
        let filters = filters::parse(call.parameter("filters"))?;
        for name in filters.keys() {
            match name.as_str() {
                // Known to Docker; of most of these nothing ever happens here.
                "config" | "container" | "daemon" | "event" | "image" | "label" | "network"
                | "node" | "plugin" | "scope" | "secret" | "service" | "type" | "volume" => {}
                _ => return filters::unsupported(name),
            }
        }
        Ok(Self { since: at("since")?, until: at("until")?, filters })
    }

    fn admits(&self, event: &EngineEvent) -> bool {
        let in_time = self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until);
        in_time
            && self.filters.iter().all(|(name, values)| {
                values.is_empty() || values.iter().any(|value| fits(event, name, value))
            })
    }
}

fn fits(event: &EngineEvent, filter: &str, value: &str) -> bool {
    match filter {
        "type" => event.kind == value,
        "event" => event.action == value,
        "scope" => value == "local",
        "image" => {
            let name = event.attributes.get("name").map_or("", String::as_str);
            let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
            event.kind == "image" && (event.id == value || name == value || repository == value)
        }
        "label" => filters::has_label(&event.attributes, value),
        _ => false,
    }
}

/// How events are set apart in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One object after the other, each on its line.
    Lines(&'static str),
    /// RFC 7464: a record separator before each.
    Sequence,
}

impl Form {
    fn chosen(call: &Call) -> Self {
        let plain = Self::Lines("application/json");
        if call.version < NEW_FORM {
            return plain;
        }
        let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let types = accept.split(',').filter_map(|part| part.split(';').next()).map(str::trim);
        for media_type in types {
            match media_type {
                "application/json-seq" => return Self::Sequence,
                "application/x-ndjson" => return Self::Lines("application/x-ndjson"),
                "application/jsonl" => return Self::Lines("application/jsonl"),
                _ => {}
            }
        }
        plain
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Lines(media_type) => media_type,
            Self::Sequence => "application/json-seq",
        }
    }

    fn text(self, event: &EngineEvent, version: Version) -> String {
        let separator = if self == Self::Sequence { "\u{1e}" } else { "" };
        format!("{separator}{}\n", event.document(version))
    }
}

/// A listener at work.
struct Listening {
    past: std::vec::IntoIter<EngineEvent>,
    live: broadcast::Receiver<EngineEvent>,
    end: Option<Pin<Box<Sleep>>>,
    wanted: Wanted,
}

impl Listening {
    async fn next(&mut self) -> Option<EngineEvent> {
        if let Some(event) = self.past.by_ref().find(|event| self.wanted.admits(event)) {
            return Some(event);
        }
        loop {
            let received = match &mut self.end {
                None => self.live.recv().await,
                Some(end) => tokio::select! {
                    received = self.live.recv() => received,
                    () = end.as_mut() => return None,
                },
            };
            match received {
                Ok(event) if self.wanted.admits(&event) => return Some(event),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// `GET /events?since=&until=&filters=`.
pub(super) fn stream(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["since", "until", "filters"])?;
    let now = moment::now();
    let wanted = Wanted::parse(call, now)?;
    let (mut past, live) = call.service.0.events.subscribe();
    if wanted.since.is_none() {
        past.clear();
    }
    let end = wanted.until.map(|until| {
        let left = u64::try_from(until - now).unwrap_or(0);
        Box::pin(tokio::time::sleep(Duration::from_nanos(left)))
    });
    let (form, version) = (Form::chosen(call), call.version);
    let listening = Listening { past: past.into_iter(), live, end, wanted };
    let chunks = stream::unfold(listening, move |mut listening| async move {
        let event = listening.next().await?;
        Some((Ok::<_, std::io::Error>(Bytes::from(form.text(&event, version))), listening))
    });
    Ok(([(CONTENT_TYPE, form.media_type())], Body::from_stream(chunks)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(filters: &str) -> Wanted {
        let filters = filters::parse(Some(filters)).unwrap();
        Wanted { since: None, until: None, filters }
    }

    #[test]
    fn filters_choose_events() {
        let event = EngineEvent::image("tag", "sha256:01", "app-node:1");
        #[rustfmt::skip]
        let cases = [
            ("none",        "{}",                                        true),
            ("type",        r#"{"type":["image"]}"#,                     true),
            ("other type",  r#"{"type":["container"]}"#,                 false),
            ("one of two",  r#"{"event":["untag","tag"]}"#,              true),
            ("both needed", r#"{"event":["tag"],"type":["builder"]}"#,   false),
            ("by name",     r#"{"image":{"app-node:1":true}}"#,          true),
            ("repository",  r#"{"image":["app-node"]}"#,                 true),
            ("other image", r#"{"image":["app"]}"#,                      false),
            ("by id",       r#"{"image":["sha256:01"]}"#,                true),
            ("containers",  r#"{"container":["x"]}"#,                    false),
        ];
        for (name, text, want) in cases {
            assert_eq!(wanted(text).admits(&event), want, "{name}");
        }
    }

    #[test]
    fn old_clients_get_the_fields_of_old() {
        let event = EngineEvent::image("tag", "sha256:01", "a:1");
        let old = event.document((1, 41));
        assert_eq!((&old["status"], &old["id"]), (&json!("tag"), &json!("sha256:01")));
        let new = event.document((1, 52));
        assert_eq!(new.get("status"), None);
        assert_eq!(new["Actor"]["Attributes"]["name"], "a:1");
    }

    #[tokio::test]
    async fn the_past_and_the_present_join_without_a_gap() {
        let log = EventLog::new();
        for number in 0..KEPT + 3 {
            log.tell(EngineEvent::image("tag", number.to_string(), "a"));
        }
        let (past, live) = log.subscribe();
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, "3");
        log.tell(EngineEvent::image("untag", "last", "a"));
        let mut listening = Listening {
            past: past.into_iter(),
            live,
            end: None,
            wanted: wanted(r#"{"event":["untag"]}"#),
        };
        assert_eq!(listening.next().await.unwrap().id, "last");
    }
}
