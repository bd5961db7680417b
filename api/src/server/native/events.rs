//! `GET /v1/builds/{id}/events`: what happens in a build, as server-sent events (WHATWG HTML,
//! "Server-sent events") or as lines.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cache::EventLines;
use futures_util::{StreamExt as _, stream};

use super::watch::Watch;
use crate::server::Call;
use crate::server::error::ApiError;

/// How long a client waits before it comes back, in milliseconds.
const RETRY: &str = "retry: 1000\n\n";

/// How long nothing is said at most.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The form of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Sse,
    Lines,
}

/// Streams the events from the first on, or from the one after `Last-Event-ID`. An id is the number
/// of bytes of the record up to the end of its event.
pub(super) async fn stream(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&["follow"])?;
    let header = call.headers.get("last-event-id");
    let after = header
        .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()))
        .map(|value| value.ok_or_else(|| ApiError::parameter("Last-Event-ID", "it is no number")))
        .transpose()?;
    let form = if call.accepts("application/x-ndjson") { Form::Lines } else { Form::Sse };
    let follows = call.flag("follow", true)?;
    let watch = Watch::open(&call.service, id, after, follows).await?;
    if after.is_some() && watch.is_at_end() {
        // All is told: this keeps an EventSource from coming back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let chunks = stream::unfold(Some(Box::pin(watch.next())), move |reading| async move {
        let mut reading = reading?;
        let Ok(read) = tokio::time::timeout(HEARTBEAT, &mut reading).await else {
            return Some((Ok(form.heartbeat()), Some(reading)));
        };
        match read {
            Ok(None) => None,
            Ok(Some((lines, watch))) => Some((Ok(form.bytes(lines)), Some(Box::pin(watch.next())))),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    let begin = stream::once(std::future::ready(Ok(form.beginning())));
    let body = Body::from_stream(
        begin
            .chain(chunks)
            .filter(|chunk| std::future::ready(!chunk.as_ref().is_ok_and(Bytes::is_empty))),
    );
    Ok(([(CONTENT_TYPE, form.media_type()), (CACHE_CONTROL, "no-store")], body).into_response())
}

impl Form {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    const fn beginning(self) -> Bytes {
        match self {
            Self::Sse => Bytes::from_static(RETRY.as_bytes()),
            Self::Lines => Bytes::new(),
        }
    }

    /// What tells a client, and what lies between, that the connection lives.
    const fn heartbeat(self) -> Bytes {
        match self {
            Self::Sse => Bytes::from_static(b":\n\n"),
            Self::Lines => Bytes::from_static(b"\n"),
        }
    }

    fn bytes(self, lines: EventLines) -> Bytes {
        if self == Self::Lines {
            return lines.bytes.into();
        }
        let mut text = Vec::with_capacity(lines.bytes.len() + lines.bytes.len() / 4);
        let mut end = lines.offset;
        for line in lines.bytes.split_inclusive(|&byte| byte == b'\n') {
            end += line.len() as u64;
            text.extend_from_slice(format!("id: {end}\ndata: ").as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_place_of_its_end() {
        let lines = EventLines { bytes: b"{}\n{1}\n".to_vec(), offset: 10, is_over: false };
        assert_eq!(Form::Sse.bytes(lines.clone()), "id: 13\ndata: {}\n\nid: 17\ndata: {1}\n\n");
        assert_eq!(Form::Lines.bytes(lines), "{}\n{1}\n");
    }
}
