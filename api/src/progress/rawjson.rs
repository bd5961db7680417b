//! BuildKit's progress: one `SolveStatus` a line, as JSON, for programs that read `buildx`'s.
//!
//! The fields are those of `client.SolveStatus` (moby/buildkit, `client/graph.go`): vertexes with
//! their times, statuses of what moves, logs in base64, warnings. A vertex here is a step; what has no
//! step, such as a pull, has a vertex of its own. Times are this machine's when an event is seen.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine as _;
use builder::{
    Event, Failure, Finished, OutputStream, SourceDiagnostic, StepOutcome, Transfer, TransferPhase,
};
use cache::Digest;
use serde::Serialize;

use super::{Seen, View, phase_word};
use crate::format::printable;

/// What BuildKit's exporter is called where nobody chose another.
const EXPORT: &str = "exporting to image";

/// One line.
#[derive(Debug, Default, Serialize)]
struct SolveStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Vertex {
    digest: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Debug, Serialize)]
struct VertexStatus {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Debug, Serialize)]
struct VertexLog {
    vertex: String,
    /// The descriptor: 1 or 2.
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct VertexWarning {
    vertex: String,
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    range: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

/// 1-based.
#[derive(Debug, Serialize)]
struct Position {
    line: usize,
}

/// Writes each event as one line of JSON; some have none.
pub(super) struct RawJson<W> {
    out: W,
    now: fn() -> String,
    seen: Seen,
    /// Times at which vertices began, by their digests.
    started: BTreeMap<String, String>,
}

impl<W: Write + Send> RawJson<W> {
    /// Writes to `out`, with times of `now`, in RFC 3339.
    pub(super) fn new(out: W, now: fn() -> String) -> Self {
        Self { out, now, seen: Seen::default(), started: BTreeMap::new() }
    }

    /// Returns the vertex of a step as it begins, or as it was begun.
    fn step(&mut self, step: usize) -> Vertex {
        let (label, text) = self.seen.step(step);
        self.vertex(&format!("{label} {text}"))
    }

    fn vertex(&mut self, name: &str) -> Vertex {
        let digest = Digest::of(name.as_bytes()).to_string();
        let started = self.started.entry(digest.clone()).or_insert_with(self.now).clone();
        Vertex { digest, name: name.to_owned(), started: Some(started), ..Vertex::default() }
    }

    fn completed(&self, vertex: Vertex) -> SolveStatus {
        let completed = Some((self.now)());
        SolveStatus { vertexes: vec![Vertex { completed, ..vertex }], ..SolveStatus::default() }
    }

    fn transfer(&mut self, transfer: &Transfer) -> SolveStatus {
        // A vertex is known by its name: it must be the same in every phase.
        let id = printable(&transfer.id);
        let vertex = self.vertex(&format!("[internal] transfer of {id}"));
        let now = (self.now)();
        let is_over = matches!(transfer.phase, TransferPhase::Done | TransferPhase::AlreadyPresent);
        let completed = is_over.then(|| now.clone());
        let status = VertexStatus {
            id: phase_word(transfer).map_or_else(|| id.clone(), |word| format!("{word} {id}")),
            vertex: vertex.digest.clone(),
            total: transfer.total,
            current: transfer.current,
            started: vertex.started.clone(),
            completed: completed.clone(),
            timestamp: now,
        };
        SolveStatus {
            vertexes: vec![Vertex { completed, ..vertex }],
            statuses: vec![status],
            ..SolveStatus::default()
        }
    }

    fn warning(&mut self, remark: &SourceDiagnostic) -> SolveStatus {
        let vertex = self.vertex("[internal] load build definition");
        let line = remark.line_column.0;
        let message = match &remark.rule {
            Some(rule) => format!("{rule}: {} (line {line})", remark.message),
            None => format!("{} (line {line})", remark.message),
        };
        let warning = VertexWarning {
            vertex: vertex.digest.clone(),
            level: 1,
            short: base64(message.as_bytes()),
            detail: remark.help.iter().map(|help| base64(help.as_bytes())).collect(),
            range: vec![Range { start: Position { line }, end: Position { line } }],
        };
        SolveStatus { warnings: vec![warning], ..self.completed(vertex) }
    }

    fn finished(&mut self, finished: &Finished) -> SolveStatus {
        let vertex = self.vertex(EXPORT);
        let now = (self.now)();
        let done = |id: String| VertexStatus {
            id,
            vertex: vertex.digest.clone(),
            total: None,
            current: 0,
            timestamp: now.clone(),
            started: vertex.started.clone(),
            completed: Some(now.clone()),
        };
        let manifest = (!finished.manifest_digest.is_empty())
            .then(|| format!("exporting manifest {}", finished.manifest_digest));
        let names = finished.tags.iter().map(|tag| format!("naming to {tag}"));
        let outputs = finished.outputs.iter().map(|output| format!("writing {output}"));
        let all = manifest
            .into_iter()
            .chain([format!("writing image {}", finished.image_id)])
            .chain(names)
            .chain(outputs);
        let statuses = all.map(done).collect();
        SolveStatus { statuses, ..self.completed(vertex) }
    }

    fn failed(&mut self, failure: &Failure) -> SolveStatus {
        let vertex = match failure.step {
            Some(step) => self.step(step),
            None => self.vertex("[internal] load build definition"),
        };
        let faults = failure.diagnostics.iter().filter(|remark| remark.is_error);
        let faults = faults.map(|fault| format!("line {}: {}", fault.line_column.0, fault.message));
        let error = failure.causes.iter().cloned().chain(faults).collect::<Vec<_>>().join(": ");
        self.completed(Vertex { error, ..vertex })
    }

    fn status(&mut self, event: &Event) -> Option<SolveStatus> {
        Some(match event {
            Event::Planned { .. }
            | Event::Queued { .. }
            | Event::StepLookup { .. }
            | Event::StepUsage { .. }
            // The reason follows with the end of the build.
            | Event::StepFailed { .. } => return None,
            Event::Source(_) => {
                let vertex = self.vertex("[internal] load build definition");
                self.completed(vertex)
            }
            Event::Note { text } => {
                let vertex = self.vertex(&format!("[internal] {text}"));
                self.completed(vertex)
            }
            Event::Warning(remark) => self.warning(remark),
            Event::StepStarted { step } => {
                SolveStatus { vertexes: vec![self.step(*step)], ..SolveStatus::default() }
            }
            Event::StepOutput { step, stream, data } => {
                let log = VertexLog {
                    vertex: self.step(*step).digest,
                    stream: if *stream == OutputStream::Stdout { 1 } else { 2 },
                    data: base64(&data.bytes()),
                    timestamp: (self.now)(),
                };
                SolveStatus { logs: vec![log], ..SolveStatus::default() }
            }
            Event::StepFinished { step, outcome, .. } => {
                let cached = *outcome == StepOutcome::Cached;
                let vertex = Vertex { cached, ..self.step(*step) };
                self.completed(vertex)
            }
            Event::Transfer(transfer) => self.transfer(transfer),
            Event::Finished(finished) => self.finished(finished),
            Event::Failed(failure) => self.failed(failure),
        })
    }
}

impl<W: Write + Send> View for RawJson<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.seen.note(event);
        let Some(status) = self.status(event) else { return Ok(()) };
        let mut line = serde_json::to_vec(&status)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::progress::samples;

    fn run(events: &[Event]) -> Vec<Value> {
        let mut out = Vec::new();
        let mut view = RawJson::new(&mut out, || "2024-05-06T07:08:09Z".to_owned());
        for event in events {
            view.event(event).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn steps_are_vertexes() {
        let lines = run(&samples::good());
        let digest = |name: &str| Digest::of(name.as_bytes()).to_string();
        let now = "2024-05-06T07:08:09Z";
        let cached = json!({ "vertexes": [{
            "digest": digest("[1/4] FROM node:14"), "name": "[1/4] FROM node:14",
            "started": now, "completed": now, "cached": true,
        }] });
        assert!(lines.contains(&cached), "{lines:#?}");
        let run = digest("[3/4] RUN npm install");
        let log = json!({ "logs": [
            { "vertex": run, "stream": 1, "data": "b25lCnR3", "timestamp": now },
        ] });
        assert!(lines.contains(&log), "{lines:#?}");
        let last = lines.last().unwrap();
        assert_eq!(last["vertexes"][0]["name"], "exporting to image");
        assert_eq!(last["statuses"][2]["id"], "naming to app-node:1");
        let begun = |line: &&Value| line["vertexes"][0]["digest"] == run.as_str();
        assert_eq!(lines.iter().filter(begun).count(), 2, "begun, and done");
    }

    #[test]
    fn transfers_have_statuses_and_failures_an_error() {
        let lines = run(&samples::bad());
        let moved: Vec<&Value> = lines.iter().filter(|line| line["statuses"].is_array()).collect();
        assert_eq!(moved[1]["statuses"][0]["current"], 23_000_000);
        assert_eq!(moved[1]["statuses"][0]["total"], 46_000_000);
        assert!(moved[2]["statuses"][0]["completed"].is_string());
        let last = lines.last().unwrap();
        let error = "RUN npm install failed: the command exited with code 1";
        assert_eq!(last["vertexes"][0]["error"], error);
        assert_eq!(last["vertexes"][0]["name"], "[3/4] RUN npm install");
    }
}
