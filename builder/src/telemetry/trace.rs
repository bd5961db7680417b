//! One build as spans: a reader of the one event type, and the document that a collector takes.
//!
//! The document is `ExportTraceServiceRequest` in the JSON form of OTLP 1.x: ids in hex, 64-bit
//! integers as texts, enums as numbers (opentelemetry-proto, `docs/specification.md`). Names of
//! attributes are those of OpenTelemetry's conventions where there is one, else `rbuild.`.
//!
//! Invariant: no value of a build argument, a variable or a secret is told. Instructions are told as
//! written; of a miss, what differs is told by its name; and messages, which may quote anything,
//! are not told at all.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::parent::TraceParent;
use crate::error::ErrorKind;
use crate::explain::{Answer, Lookup};
use crate::limits::StepUsage;
use crate::progress::{Event, Failure, Finished, OutputBytes, PlannedStep, StepOutcome};

/// `SPAN_KIND_INTERNAL` of trace.proto.
const INTERNAL: u8 = 1;

/// `STATUS_CODE_OK` and `STATUS_CODE_ERROR` of trace.proto.
const OK: u8 = 1;
const ERROR: u8 = 2;

/// Characters of a text; the rest is cut.
const TEXT_LIMIT: usize = 1024;

/// Names of one kind that are told of a miss.
const SHOWN_NAMES: usize = 16;

/// What is known of one build.
#[derive(Debug)]
pub(crate) struct Trace {
    service_name: String,
    build_id: String,
    id: String,
    parent: Option<String>,
    /// When it began: in nanoseconds since 1970, and by the clock that never jumps.
    began: u64,
    since: Instant,
    steps: Vec<Step>,
    /// When it ended, and how.
    end: Option<(u64, Result<Finished, Box<Failure>>)>,
}

#[derive(Debug)]
struct Step {
    plan: PlannedStep,
    started: Option<u64>,
    ended: Option<u64>,
    /// `None` until it ended well.
    is_cached: Option<bool>,
    miss: Option<String>,
    output: u64,
    usage: Option<StepUsage>,
}

impl Trace {
    /// Begins a trace; `None` if the parent's is not kept, or there are no random numbers.
    pub(super) fn begin(service: &str, build: &str, parent: Option<&TraceParent>) -> Option<Self> {
        if parent.is_some_and(|parent| !parent.is_sampled) {
            return None;
        }
        let trace_id = match parent {
            Some(parent) => parent.trace_id.clone(),
            None => format!("{}{}", random_id()?, random_id()?),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Self {
            service_name: service.to_owned(),
            build_id: build.to_owned(),
            id: trace_id,
            parent: parent.map(|parent| parent.span_id.clone()),
            began: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            since: Instant::now(),
            steps: Vec::new(),
            end: None,
        })
    }

    fn now(&self) -> u64 {
        let passed = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.began.saturating_add(passed)
    }

    /// Notes what happened just now.
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            Event::Planned { steps } => self.steps = steps.iter().map(Step::new).collect(),
            Event::StepLookup { step, lookup } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.miss = miss(lookup);
                }
            }
            Event::StepStarted { step } => {
                let now = self.now();
                if let Some(step) = self.steps.get_mut(*step) {
                    step.started = Some(now);
                }
            }
            Event::StepOutput { step, data, .. } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.output += match data {
                        OutputBytes::Text(text) => text.len() as u64,
                        OutputBytes::Base64(text) => text.len() as u64 / 4 * 3,
                    };
                }
            }
            Event::StepUsage { step, usage } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.usage = Some(*usage);
                }
            }
            Event::StepFinished { step, outcome, millis, .. } => {
                self.end_step(*step, *millis, Some(*outcome == StepOutcome::Cached));
            }
            Event::StepFailed { step, millis } => self.end_step(*step, *millis, None),
            Event::Finished(finished) => self.end = Some((self.now(), Ok(finished.clone()))),
            Event::Failed(failure) => {
                self.end = Some((self.now(), Err(Box::new(failure.clone()))));
            }
            Event::Source(_)
            | Event::Note { .. }
            | Event::Queued { .. }
            | Event::Warning(_)
            | Event::Transfer(_) => {}
        }
    }

    fn end_step(&mut self, index: usize, millis: u64, is_cached: Option<bool>) {
        let now = self.now();
        let earliest = self.began;
        if let Some(step) = self.steps.get_mut(index) {
            let before = now.saturating_sub(millis.saturating_mul(1_000_000)).max(earliest);
            step.started.get_or_insert(before);
            (step.ended, step.is_cached) = (Some(now), is_cached);
        }
    }

    /// Returns what a collector takes.
    pub(super) fn document(&self) -> Value {
        let root = random_id().unwrap_or_else(|| "1".repeat(16));
        let end = self.end.as_ref().map_or_else(|| self.now(), |(end, _)| *end);
        let failure = match &self.end {
            Some((_, Err(failure))) => Some(&**failure),
            _ => None,
        };
        let mut spans = vec![self.build_span(&root, end, failure)];
        for (index, step) in self.steps.iter().enumerate() {
            let Some(started) = step.started else { continue };
            let failure = failure.filter(|failure| failure.step == Some(index));
            let mut span = step.span(failure);
            span["traceId"] = json!(self.id);
            span["spanId"] = json!(random_id());
            span["parentSpanId"] = json!(root);
            span["startTimeUnixNano"] = json!(started.to_string());
            span["endTimeUnixNano"] = json!(step.ended.unwrap_or(end).to_string());
            spans.push(span);
        }
        let version = env!("CARGO_PKG_VERSION");
        let resource = Attributes::default()
            .text("service.name", &self.service_name)
            .text("service.version", version);
        json!({ "resourceSpans": [{
            "resource": { "attributes": resource.0 },
            "scopeSpans": [{ "scope": { "name": "rbuild", "version": version }, "spans": spans }],
        }]})
    }

    fn build_span(&self, id: &str, end: u64, failure: Option<&Failure>) -> Value {
        let mut attributes = Attributes::default().text("rbuild.build.id", &self.build_id);
        if let Some((_, Ok(finished))) = &self.end {
            let (cached, steps) = finished.cached;
            attributes = attributes
                .text("container.image.id", &finished.image_id)
                .text("oci.manifest.digest", &finished.manifest_digest)
                .texts("container.image.repo_tags", &finished.tags)
                .number("rbuild.image.size", finished.size)
                .number("rbuild.steps", steps as u64)
                .number("rbuild.steps.cached", cached as u64)
                .number("rbuild.saved.bytes", finished.saved.bytes)
                .number("rbuild.saved.ms", finished.saved.millis);
        }
        let status = match (&self.end, failure) {
            (Some((_, Ok(_))), _) => json!({ "code": OK }),
            (_, failure) => error(failure),
        };
        let mut span = json!({
            "traceId": self.id,
            "spanId": id,
            "name": "build",
            "kind": INTERNAL,
            "startTimeUnixNano": self.began.to_string(),
            "endTimeUnixNano": end.to_string(),
            "attributes": attributes.0,
            "status": status,
        });
        if let Some(parent) = &self.parent {
            span["parentSpanId"] = json!(parent);
        }
        span
    }
}

impl Step {
    fn new(plan: &PlannedStep) -> Self {
        Self {
            plan: plan.clone(),
            started: None,
            ended: None,
            is_cached: None,
            miss: None,
            output: 0,
            usage: None,
        }
    }

    /// Returns what a span tells beside ids and times.
    fn span(&self, failure: Option<&Failure>) -> Value {
        let mut attributes =
            Attributes::default().number("rbuild.step.number", self.plan.number as u64);
        if let Some(stage) = &self.plan.stage {
            attributes = attributes.text("rbuild.step.stage", stage);
        }
        if self.plan.has_work {
            attributes = attributes.flag("rbuild.step.cached", self.is_cached == Some(true));
        }
        if let Some(miss) = self.miss.as_ref().filter(|_| self.is_cached != Some(true)) {
            attributes = attributes.text("rbuild.step.miss", miss);
        }
        if self.output > 0 {
            attributes = attributes.number("rbuild.step.output.bytes", self.output);
        }
        // What was used is told of commands alone; the command of a step that ended well gave 0.
        let good = (self.usage.is_some() && self.is_cached.is_some()).then_some(0);
        if let Some(code) = failure.and_then(|failure| failure.exit_code).or(good) {
            attributes = attributes.integer("process.exit.code", i64::from(code));
        }
        if let Some(usage) = &self.usage {
            attributes = attributes
                .number("rbuild.step.memory.peak_bytes", usage.peak_memory_bytes)
                .number("rbuild.step.cpu_us", usage.cpu_micros);
            for (name, bytes) in [
                ("rbuild.step.read_bytes", usage.read_bytes),
                ("rbuild.step.written_bytes", usage.written_bytes),
            ] {
                if let Some(bytes) = bytes {
                    attributes = attributes.number(name, bytes);
                }
            }
        }
        let status = if self.is_cached.is_some() { json!({ "code": OK }) } else { error(failure) };
        json!({
            "name": cut(&self.plan.text),
            "kind": INTERNAL,
            "attributes": attributes.0,
            "status": status,
        })
    }
}

/// A failure without its messages.
fn error(failure: Option<&Failure>) -> Value {
    let message = match failure {
        None => "it did not come to its end".to_owned(),
        Some(Failure { exit_code: Some(code), .. }) => {
            format!("the command exited with code {code}")
        }
        Some(failure) => match failure.kind {
            ErrorKind::User => "what was asked for is at fault",
            ErrorKind::Remote => "a remote is at fault, or cannot be reached",
            ErrorKind::Host => "the machine lacks something",
            ErrorKind::Cancelled => "the build was cancelled",
            ErrorKind::Bug => "rbuild is at fault",
        }
        .to_owned(),
    };
    json!({ "code": ERROR, "message": message })
}

/// Says why a step was not found, without values.
fn miss(lookup: &Lookup) -> Option<String> {
    let answer = match lookup.answer {
        Answer::Hit => return None,
        Answer::Unused => "the cache was not to be used",
        Answer::NeverBuilt => "never built here",
        Answer::Changed => "changed",
        Answer::Follows => "a step before it ran or changed",
        Answer::Unfinished => "did not come to its end the last time",
        Answer::Evicted => "its record was removed to make room",
        Answer::Lost => "its record is gone",
    };
    let changes = lookup.changes.iter().map(|change| change.name.as_str());
    let files = lookup.files.iter().flat_map(|files| {
        [&files.changed, &files.added, &files.removed, &files.modes]
            .into_iter()
            .flat_map(|named| named.names.iter().map(String::as_str))
    });
    let names: Vec<&str> = changes.take(SHOWN_NAMES).chain(files.take(SHOWN_NAMES)).collect();
    let names = names.join(", ");
    Some(if names.is_empty() { answer.to_owned() } else { format!("{answer}: {names}") })
}

/// Key and value pairs in the form of `common.proto`.
#[derive(Debug, Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    fn with(mut self, name: &str, value: &Value) -> Self {
        self.0.push(json!({ "key": name, "value": value }));
        self
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.with(name, &json!({ "stringValue": cut(value) }))
    }

    fn texts(self, name: &str, values: &[String]) -> Self {
        let values: Vec<Value> =
            values.iter().map(|value| json!({ "stringValue": cut(value) })).collect();
        self.with(name, &json!({ "arrayValue": { "values": values } }))
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.with(name, &json!({ "boolValue": value }))
    }

    fn integer(self, name: &str, value: i64) -> Self {
        self.with(name, &json!({ "intValue": value.to_string() }))
    }

    /// Numbers there are signed.
    fn number(self, name: &str, value: u64) -> Self {
        self.integer(name, i64::try_from(value).unwrap_or(i64::MAX))
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_LIMIT).map_or(text, |(end, _)| &text[..end])
}

/// Returns 16 hex digits, not all 0.
fn random_id() -> Option<String> {
    let random = getrandom::u64().ok()?;
    Some(format!("{:016x}", random.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::OutputStream;

    fn planned(number: usize, text: &str) -> PlannedStep {
        PlannedStep {
            stage: (number > 1).then(|| "two".to_owned()),
            number,
            total: 3,
            text: text.to_owned(),
            span: (0, 0),
            has_work: true,
            inputs: Vec::new(),
        }
    }

    fn lookup(answer: Answer) -> Box<Lookup> {
        let change = |name: &str| cache::Change {
            name: name.to_owned(),
            before: Some("secret-1".to_owned()),
            after: Some("secret-2".to_owned()),
        };
        let changed = cache::Named { count: 1, names: vec!["a.js".to_owned()] };
        let files = cache::FileChanges { changed, ..cache::FileChanges::default() };
        Box::new(Lookup {
            key: String::new(),
            answer,
            reason: Some("build arg V: secret-1 -> secret-2".to_owned()),
            earlier: None,
            changes: vec![change("env[V]"), change("content")],
            files: Some(files),
            cause: None,
        })
    }

    fn failed() -> Trace {
        let mut trace = Trace::begin("ci", "b1", None).unwrap();
        // So that times are those of the events alone.
        trace.began = 1_000;
        let failure = Failure {
            kind: ErrorKind::User,
            causes: vec!["RUN false secret-3 failed".to_owned()],
            help: None,
            diagnostics: Vec::new(),
            step: Some(1),
            exit_code: Some(9),
            log_tail: vec!["secret-4".to_owned()],
            kept_by: None,
        };
        let usage = StepUsage { peak_memory_bytes: 5, read_bytes: Some(6), ..StepUsage::default() };
        let output = OutputBytes::new(b"secret-4".to_vec());
        let cached = StepOutcome::Cached;
        let events = [
            Event::Planned {
                steps: vec![planned(1, "COPY . ."), planned(2, "RUN false"), planned(3, "RUN x")],
            },
            Event::StepLookup { step: 0, lookup: lookup(Answer::Hit) },
            Event::StepFinished { step: 0, outcome: cached, millis: u64::MAX, id: String::new() },
            Event::StepLookup { step: 1, lookup: lookup(Answer::Changed) },
            Event::StepStarted { step: 1 },
            Event::StepOutput { step: 1, stream: OutputStream::Stdout, data: output },
            Event::StepUsage { step: 1, usage },
            Event::StepFailed { step: 1, millis: 3 },
            // Steps that no plan has are a bug somewhere, and no reason to panic.
            Event::StepStarted { step: 9 },
            Event::Failed(failure),
        ];
        for event in &events {
            trace.note(event);
        }
        trace
    }

    #[test]
    fn a_document_has_the_form_of_otlp_and_tells_no_values() {
        let document = failed().document();
        let text = document.to_string();
        assert!(!text.contains("secret-"), "{text}");
        let resource = &document["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0],
            json!({ "key": "service.name", "value": { "stringValue": "ci" } })
        );
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        // The third step never began.
        let [build, copy, run] = spans.as_slice() else { panic!("{text}") };
        assert_eq!(build["startTimeUnixNano"], "1000");
        assert_eq!(build["parentSpanId"], Value::Null);
        let error = json!({ "code": 2, "message": "the command exited with code 9" });
        assert_eq!((&build["status"], &run["status"]), (&error, &error));
        assert_eq!(
            copy["attributes"],
            json!([
                { "key": "rbuild.step.number", "value": { "intValue": "1" } },
                { "key": "rbuild.step.cached", "value": { "boolValue": true } },
            ])
        );
        assert_eq!(
            run["attributes"],
            json!([
                { "key": "rbuild.step.number", "value": { "intValue": "2" } },
                { "key": "rbuild.step.stage", "value": { "stringValue": "two" } },
                { "key": "rbuild.step.cached", "value": { "boolValue": false } },
                { "key": "rbuild.step.miss", "value": { "stringValue": "changed: env[V], content, a.js" } },
                { "key": "rbuild.step.output.bytes", "value": { "intValue": "8" } },
                { "key": "process.exit.code", "value": { "intValue": "9" } },
                { "key": "rbuild.step.memory.peak_bytes", "value": { "intValue": "5" } },
                { "key": "rbuild.step.cpu_us", "value": { "intValue": "0" } },
                { "key": "rbuild.step.read_bytes", "value": { "intValue": "6" } },
            ])
        );
    }

    #[test]
    fn a_parent_gives_its_trace_or_forbids_one() {
        let parent = |flags: &str| {
            let text = format!("00-{}-{}-{flags}", "a".repeat(32), "b".repeat(16));
            TraceParent::parse(&text).unwrap()
        };
        let document = Trace::begin("ci", "b1", Some(&parent("01"))).unwrap().document();
        let build = &document["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(build["traceId"], "a".repeat(32));
        assert_eq!(build["parentSpanId"], "b".repeat(16));
        assert_eq!(build["status"]["message"], "it did not come to its end");
        assert!(Trace::begin("ci", "b1", Some(&parent("00"))).is_none());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"ä".repeat(TEXT_LIMIT + 5)), "ä".repeat(TEXT_LIMIT));
        assert_eq!(cut("short"), "short");
    }
}
