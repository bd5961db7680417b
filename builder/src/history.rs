//! Remembers builds: a reader of the one event type, between the build and whoever watches it.
//!
//! Invariant: what cannot be written down is a warning and never ends a build; what was written
//! down is there whatever becomes of the process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cache::{
    BuildHeader, BuildLog, BuildResult, BuildSummary, Builds, Digest, SnapshotId, StepLog,
    StoreError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::HistoryLimits;
use crate::error::ErrorKind;
use crate::progress::{Event, StepOutcome, TransferPhase};
use crate::request::{BuildRequest, ContextInput};
use crate::shell::RecordedSteps;

/// One line of a build's record after its header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// Milliseconds since the build began.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A [`RecordedEvent`] that is written.
#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    #[serde(flatten)]
    event: &'a Event,
}

/// Tells what a build is, before it begins.
pub(crate) fn header(request: &BuildRequest) -> BuildHeader {
    let context = match &request.context {
        ContextInput::Directory(path) => {
            path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string()
        }
        ContextInput::Tar(_) => "an archive".to_owned(),
        ContextInput::Empty => "nothing".to_owned(),
        ContextInput::Url(url) => frontend::redact_url(url),
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    BuildHeader {
        started_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        context,
        tags: request.tags.clone(),
        target: request.target.clone(),
        platform: (!request.platforms.is_empty()).then(|| {
            let platforms = request.platforms.iter().map(ToString::to_string);
            platforms.collect::<Vec<_>>().join(",")
        }),
        build_args: request.build_args.keys().cloned().collect(),
        no_cache: request.no_cache,
    }
}

/// Writes a build down as it goes. Blocking.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Gone after a failed write: half a record would be believed.
    log: Option<BuildLog>,
    since: Instant,
    summary: BuildSummary,
    builds: Builds,
    limits: HistoryLimits,
    /// Bytes of the record, for those who read it meanwhile; closed with the record.
    growth: watch::Sender<u64>,
}

impl Recorder {
    /// Begins the record of the build `id` that `header` tells of; past builds beyond `limits` go
    /// when it ends.
    pub(crate) fn begin(
        builds: &Builds,
        id: &str,
        header: &BuildHeader,
        limits: HistoryLimits,
    ) -> Option<Self> {
        let log = told(builds.begin(id, header))?;
        let summary = BuildSummary {
            result: BuildResult::Interrupted,
            millis: 0,
            dockerfile: None,
            steps: 0,
            cached: 0,
            warnings: 0,
            log_bytes: 0,
        };
        let (since, builds) = (Instant::now(), builds.clone());
        let growth = watch::Sender::new(log.length());
        Some(Self { log: Some(log), since, summary, builds, limits, growth })
    }

    /// Tells how the record grows, in bytes, until it is complete.
    pub(crate) fn growth(&self) -> watch::Receiver<u64> {
        self.growth.subscribe()
    }

    /// Returns what notes the build's steps.
    pub(crate) fn steps(&self) -> Option<StepLog> {
        self.log.as_ref().map(BuildLog::steps)
    }

    /// Writes down one event.
    pub(crate) fn note(&mut self, event: &Event) {
        self.sum_up(event);
        let is_passing = matches!(event, Event::Transfer(transfer)
            if !matches!(transfer.phase, TransferPhase::Done | TransferPhase::AlreadyPresent));
        let at_ms = self.millis();
        let Some(log) = self.log.as_mut().filter(|_| !is_passing) else { return };
        let mut line = serde_json::to_vec(&Line { at_ms, event }).expect("events are JSON");
        line.push(b'\n');
        if told(log.append(&line)).is_none() {
            self.log = None;
            return;
        }
        self.growth.send_replace(log.length());
    }

    fn sum_up(&mut self, event: &Event) {
        let summary = &mut self.summary;
        match event {
            Event::Source(source) => summary.dockerfile = Some(Digest::of(source.text.as_bytes())),
            Event::Warning(_) => summary.warnings += 1,
            Event::Planned { steps } => {
                summary.steps = steps.iter().filter(|step| step.has_work).count();
            }
            Event::StepOutput { data, .. } => summary.log_bytes += data.bytes().len() as u64,
            Event::StepFinished { outcome: StepOutcome::Cached, .. } => summary.cached += 1,
            Event::Finished(finished) => {
                (summary.cached, summary.steps) = finished.cached;
                summary.result = BuildResult::Done { image: finished.image_id.clone() };
            }
            Event::Failed(failure) if failure.kind == ErrorKind::Cancelled => {
                summary.result = BuildResult::Cancelled;
            }
            Event::Failed(failure) => {
                summary.result = BuildResult::Failed { causes: failure.causes.clone() };
            }
            Event::Note { .. }
            | Event::Queued { .. }
            | Event::StepLookup { .. }
            | Event::StepStarted { .. }
            | Event::StepUsage { .. }
            | Event::StepFinished { .. }
            | Event::StepFailed { .. }
            | Event::Transfer(_) => {}
        }
    }

    /// Ends the record, and forgets builds that are too many or too old.
    pub(crate) fn finish(mut self) {
        self.summary.millis = self.millis();
        if let Some(log) = self.log {
            told(log.finish(&self.summary));
        }
        told(self.builds.keep(self.limits.builds, self.limits.age));
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Notes a build's steps, and keeps what the one that failed had left, as those of `kept_builds`
/// builds in all; returns the id of the build if it is kept. Blocking.
pub(crate) fn note_steps(
    log: &StepLog,
    (steps, failed): &(RecordedSteps, Option<SnapshotId>),
    kept_builds: usize,
) -> Option<String> {
    told(log.note(steps))?;
    told(log.keep_failed(failed.as_ref()?, kept_builds))?;
    Some(log.id().to_owned())
}

/// Speaks once of what failed.
fn told<T>(result: Result<T, StoreError>) -> Option<T> {
    result
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, "the build goes on, but is not remembered");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;
    use crate::progress::{Events, Failure, Finished, OutputBytes, OutputStream, SourceText};
    use crate::spool::{OUTPUT_LIMIT, Spool};

    const LIMITS: HistoryLimits =
        HistoryLimits { builds: 10, age: std::time::Duration::from_secs(3600), failed_steps: 0 };

    fn recorded(events: &[Event]) -> (tempfile::TempDir, cache::Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = cache::Store::open(&dir.path().join("store")).unwrap();
        let (outer, mut passed) = Events::channel();
        let header = BuildHeader { started_ms: header_time(), ..BuildHeader::default() };
        let recorder = Recorder::begin(store.builds(), "0a1b2c3d", &header, LIMITS);
        let (spool, end) = Spool::new(store.clone(), OUTPUT_LIMIT, recorder, None);
        for event in events {
            spool.push(event.clone()).unwrap();
        }
        drop(end);
        spool.drain(&outer);
        drop(outer);
        let passed: Vec<Event> = std::iter::from_fn(|| passed.blocking_recv()).collect();
        assert_eq!(passed, events, "all is passed on, in its order");
        (dir, store)
    }

    fn header_time() -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }

    fn output() -> Event {
        let data = OutputBytes::new(vec![0xff, b'\n']);
        Event::StepOutput { step: 0, stream: OutputStream::Stderr, data }
    }

    #[test]
    fn what_happened_can_be_read_back() {
        let source = SourceText { name: "Dockerfile".into(), text: "FROM scratch\n".into() };
        let finished =
            Finished { image_id: "sha256:aa".into(), cached: (1, 2), ..Default::default() };
        let events = vec![Event::Source(source), output(), Event::Finished(finished)];
        let (_dir, store) = recorded(&events);
        let records = store.builds().list().unwrap();
        let [record] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!(record.summary.result, BuildResult::Done { image: "sha256:aa".into() });
        assert_eq!((record.summary.cached, record.summary.steps), (1, 2));
        assert_eq!(record.summary.log_bytes, 2);
        assert_eq!(record.summary.dockerfile, Some(Digest::of(b"FROM scratch\n")));
        let lines = store.builds().events(&record.id).unwrap().unwrap().lines();
        let read: Vec<Event> = lines
            .map(|line| serde_json::from_str::<RecordedEvent>(&line.unwrap()).unwrap().event)
            .collect();
        assert_eq!(read, events);
    }

    #[test]
    fn ends_are_told_apart() {
        let failure = |kind| {
            Event::Failed(Failure {
                kind,
                causes: vec!["why".into()],
                help: None,
                diagnostics: Vec::new(),
                step: None,
                exit_code: None,
                log_tail: Vec::new(),
                kept_by: None,
            })
        };
        #[rustfmt::skip]
        let cases = [
            (vec![failure(ErrorKind::User)],      BuildResult::Failed { causes: vec!["why".into()] }),
            (vec![failure(ErrorKind::Cancelled)], BuildResult::Cancelled),
            (vec![output()],                      BuildResult::Interrupted),
        ];
        for (events, want) in cases {
            let (_dir, store) = recorded(&events);
            assert_eq!(store.builds().list().unwrap()[0].summary.result, want);
        }
    }
}
