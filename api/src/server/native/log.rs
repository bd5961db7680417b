//! `GET /v1/builds/{id}/log`: what the steps of a build wrote.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use builder::PlannedStep;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::watch::Watch;
use crate::server::Call;
use crate::server::error::ApiError;
use crate::story;

/// Streams the exact bytes of all steps in the order in which they were written, or of one step;
/// `offset` of them are left out.
pub(super) async fn stream(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&["step", "offset", "follow"])?;
    let log = Log {
        wanted: call.parameter("step").map(str::to_owned),
        steps: Vec::new(),
        skip: call.number("offset")?.unwrap_or_default(),
    };
    let follows = call.flag("follow", false)?;
    let watch = Watch::open(&call.service, id, None, follows).await?;
    let chunks = stream::unfold(Some((watch, log)), |state| async {
        let (watch, mut log) = state?;
        match watch.next().await {
            Ok(None) => None,
            Ok(Some((lines, watch))) => Some((Ok(log.output(&lines.bytes)), Some((watch, log)))),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    let chunks =
        chunks.filter(|chunk| std::future::ready(!chunk.as_ref().is_ok_and(Bytes::is_empty)));
    let headers = [
        (CONTENT_TYPE, "text/plain"),
        (CACHE_CONTROL, "no-store"),
        // Whatever a step writes is no page.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// Takes the output out of events.
#[derive(Debug)]
struct Log {
    /// `2` or `STAGE/2`.
    wanted: Option<String>,
    steps: Vec<PlannedStep>,
    /// Bytes that are still to be left out.
    skip: u64,
}

/// What is looked at of an event.
#[derive(Deserialize)]
struct Line<'a> {
    event: &'a str,
    step: Option<usize>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    base64: Option<&'a str>,
    steps: Option<Vec<PlannedStep>>,
}

impl Log {
    /// Returns what the events of `lines` wrote.
    fn output(&mut self, lines: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split(|&byte| byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { continue };
            match (line.event, line.step) {
                ("planned", _) => self.steps = line.steps.unwrap_or_default(),
                ("step-output", Some(step)) if self.wants(step) => {
                    if let Some(text) = line.text {
                        self.push(&mut out, text.as_bytes());
                    } else if let Some(Ok(bytes)) = line.base64.map(|text| STANDARD.decode(text)) {
                        self.push(&mut out, &bytes);
                    }
                }
                _ => {}
            }
        }
        out.into()
    }

    fn wants(&self, step: usize) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        self.steps.get(step).is_some_and(|step| story::is_called(step, wanted))
    }

    fn push(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let skipped = self.skip.min(length);
        self.skip -= skipped;
        let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
        out.extend_from_slice(&bytes[skipped..]);
    }
}

#[cfg(test)]
mod tests {
    use builder::RecordedEvent;

    use super::*;
    use crate::progress::samples;

    fn output(wanted: Option<&str>, skip: u64) -> String {
        let lines = samples::bad()
            .into_iter()
            .map(|event| serde_json::to_string(&RecordedEvent { at_ms: 1, event }).unwrap() + "\n");
        let mut log = Log { wanted: wanted.map(str::to_owned), steps: Vec::new(), skip };
        String::from_utf8(log.output(lines.collect::<String>().as_bytes()).to_vec()).unwrap()
    }

    #[test]
    fn output_is_what_the_steps_wrote() {
        let all = output(None, 0);
        assert!(all.len() > 10, "{all}");
        assert_eq!(output(Some("3"), 0), all);
        assert_eq!(output(Some("1"), 0), "");
        assert_eq!(output(None, 3), all[3..]);
        assert_eq!(output(None, 1 << 40), "");
    }
}
