//! What happens during a build, as one type that every reader of progress understands.
//!
//! Terminal, plain and JSON output, the Docker stream and the stored history are all consumers of
//! [`Event`]. Events flow outward only, on one bounded channel; when the reader is gone the build
//! is cancelled by its owner, not by a failed send.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::ErrorKind;
use crate::explain::Lookup;
use crate::limits::StepUsage;
use crate::spool::{Spool, SpoolError};

/// Events that may wait in a channel for a slow reader before the sender waits in turn. A build's
/// events wait in a spool before that, so that no step is held up.
pub const EVENT_BUFFER: usize = 1024;

/// One thing that happened. Steps are named by their index in [`Event::Planned`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The Dockerfile was read. Diagnostics and steps that follow point into it.
    Source(SourceText),
    /// Something the user may want to know, such as `resolving docker.io/library/node:14`.
    Note {
        /// One line.
        text: String,
    },
    /// The build waits for others. Repeated as it moves on.
    Queued {
        /// 1 for the next that begins.
        place: usize,
    },
    /// A check rule or a deprecation.
    Warning(SourceDiagnostic),
    /// The work is known. Sent once, before any step event.
    Planned {
        /// One an instruction, in file order.
        steps: Vec<PlannedStep>,
    },
    /// A step was looked up in the cache. Sent for each step that has a key, before its start or
    /// its end; instructions that only change the config have none.
    StepLookup {
        /// Index into the plan.
        step: usize,
        /// What was looked up, and what came of it.
        #[serde(flatten)]
        lookup: Box<Lookup>,
    },
    /// A step began to execute; cached steps send only their end.
    StepStarted {
        /// Index into the plan.
        step: usize,
    },
    /// Output of a RUN step.
    StepOutput {
        /// Index into the plan.
        step: usize,
        /// Where it was written.
        stream: OutputStream,
        /// Exact bytes, cut anywhere.
        #[serde(flatten)]
        data: OutputBytes,
    },
    /// What the command of a RUN step used; before the step's end.
    StepUsage {
        /// Index into the plan.
        step: usize,
        /// Memory, processor time, input and output.
        usage: StepUsage,
    },
    /// A step ended well.
    StepFinished {
        /// Index into the plan.
        step: usize,
        /// How its result came about.
        outcome: StepOutcome,
        /// Wall time in milliseconds.
        millis: u64,
        /// Short name of its result: the first 12 hex digits of its cache key.
        id: String,
    },
    /// A step failed; [`Event::Failed`] follows with the reason.
    StepFailed {
        /// Index into the plan.
        step: usize,
        /// Wall time in milliseconds.
        millis: u64,
    },
    /// Bytes on the move: pulls, pushes, exports, contexts. Repeated as it goes on.
    Transfer(Transfer),
    /// The build is done. Last event.
    Finished(Finished),
    /// The build failed. Last event.
    Failed(Failure),
}

/// A Dockerfile and the name to show for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceText {
    /// `Dockerfile`.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A diagnostic of the frontend, self-contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDiagnostic {
    /// False for warnings.
    pub is_error: bool,
    /// Check rule, if one speaks.
    pub rule: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Byte offsets into [`SourceText::text`], half open.
    pub span: (usize, usize),
    /// 1-based line and column of its start.
    pub line_column: (usize, usize),
}

impl SourceDiagnostic {
    /// Makes `diagnostic` self-contained; `source` is the text that its span points into.
    #[must_use]
    pub fn new(diagnostic: &frontend::Diagnostic, source: &str) -> Self {
        Self {
            is_error: diagnostic.severity == frontend::Severity::Error,
            rule: diagnostic.rule.map(str::to_owned),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            span: (diagnostic.span.start, diagnostic.span.end),
            line_column: diagnostic.span.line_column(source),
        }
    }
}

/// One row of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Stage name or number, `None` where the file has but one.
    pub stage: Option<String>,
    /// 1-based position within its stage.
    pub number: usize,
    /// Instructions in its stage.
    pub total: usize,
    /// The instruction on one line.
    pub text: String,
    /// Byte offsets into the Dockerfile.
    pub span: (usize, usize),
    /// Whether it does work of its own (false for ENV, LABEL, ENTRYPOINT ...).
    pub has_work: bool,
    /// Indexes of the steps whose results it needs.
    #[serde(default)]
    pub inputs: Vec<usize>,
}

/// Which descriptor a step wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Bytes that are text where they can be: JSON cannot carry invalid UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputBytes {
    /// Valid UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
}

impl OutputBytes {
    /// Wraps `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        use base64::Engine as _;
        String::from_utf8(bytes).map_or_else(
            |error| {
                Self::Base64(base64::engine::general_purpose::STANDARD.encode(error.as_bytes()))
            },
            Self::Text,
        )
    }

    /// Returns the bytes; damaged base64 (which `new` never makes) reads as nothing.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        use base64::Engine as _;
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => {
                base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
            }
        }
    }
}

/// How a step's result came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// Found in the cache.
    Cached,
    /// Executed; `reason` says in one line why there was no hit.
    Executed {
        /// `never built here`, `COPY src: 2 files changed (a.js, b.js)`; `None` for instructions
        /// that have no key of their own.
        reason: Option<String>,
    },
}

/// Bytes on the move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Stable name of the thing moved (a short digest, `context`).
    pub id: String,
    /// What is done to it.
    pub phase: TransferPhase,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// What is done to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferPhase {
    /// Context on its way in.
    Loading,
    /// From a registry or a URL.
    Downloading,
    /// Layer into a snapshot.
    Extracting,
    /// To a registry.
    Pushing,
    /// Into an archive, a directory or the store.
    Exporting,
    /// Over.
    Done,
    /// Nothing had to move: it is there already.
    AlreadyPresent,
}

/// The end of a build that went well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// `sha256:<hex>` of the config: the image ID.
    pub image_id: String,
    /// `sha256:<hex>` of the manifest in the local store.
    pub manifest_digest: String,
    /// Names given, in familiar form (`app-node:1`).
    pub tags: Vec<String>,
    /// What was written where (`oci archive out.tar`).
    pub outputs: Vec<String>,
    /// What was pushed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushed: Vec<PushedImage>,
    /// Wall time in milliseconds.
    pub millis: u64,
    /// Steps with work that were cached, and steps with work in all.
    pub cached: (usize, usize),
    /// What the cached steps would have cost.
    #[serde(default)]
    pub saved: Saved,
    /// Bytes of the image's uncompressed layers; of this machine's platform, if there are several.
    #[serde(default)]
    pub size: u64,
}

/// What a registry was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedImage {
    /// The name, in familiar form; without a tag if it was pushed by its digest.
    pub name: String,
    /// `sha256:<hex>` of the manifest or index there.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
}

/// What a cache spared a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Time that the steps took when they ran, in milliseconds.
    pub millis: u64,
    /// Bytes of the layers that they made.
    pub bytes: u64,
}

/// The end of a build that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Who must act.
    pub kind: ErrorKind,
    /// What failed, outermost first, then its causes.
    pub causes: Vec<String>,
    /// What to do, where something can be said.
    pub help: Option<String>,
    /// Faults in the Dockerfile, each with its place.
    pub diagnostics: Vec<SourceDiagnostic>,
    /// The step that failed.
    pub step: Option<usize>,
    /// Exit code of the step's command.
    pub exit_code: Option<i32>,
    /// Last lines of the step's output, lossily decoded.
    pub log_tail: Vec<String>,
    /// The build whose record keeps what the failed step had left: `rbuild shell` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<String>,
}

/// The sending end, for async and blocking code alike. A reader that left is not an error.
#[derive(Clone, Debug)]
pub struct Events(Sink);

#[derive(Clone, Debug)]
enum Sink {
    Channel(mpsc::Sender<Event>),
    /// A build's: senders never wait for the reader.
    Spool(Arc<Spool>),
}

impl Events {
    /// Makes a channel of [`EVENT_BUFFER`] events.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(EVENT_BUFFER);
        (Self(Sink::Channel(sender)), receiver)
    }

    /// Sends to `spool`.
    pub(crate) fn spooled(spool: Arc<Spool>) -> Self {
        Self(Sink::Spool(spool))
    }

    /// Sends from async code.
    pub async fn send(&self, event: Event) {
        match &self.0 {
            // A reader that left has no use for the event; the build's owner cancels it.
            Sink::Channel(sender) => drop(sender.send(event).await),
            // Only output can be refused.
            Sink::Spool(spool) => drop(spool.push(event)),
        }
    }

    /// Sends from blocking code; never call it on an async worker thread.
    pub fn send_blocking(&self, event: Event) {
        match &self.0 {
            Sink::Channel(sender) => drop(sender.blocking_send(event)),
            Sink::Spool(spool) => drop(spool.push(event)),
        }
    }

    /// Sends output of a step from blocking code.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] when it cannot be kept until it is read.
    pub(crate) fn send_output(
        &self,
        step: usize,
        stream: OutputStream,
        bytes: &[u8],
    ) -> Result<(), SpoolError> {
        let event = Event::StepOutput { step, stream, data: OutputBytes::new(bytes.to_vec()) };
        match &self.0 {
            Sink::Channel(sender) => drop(sender.blocking_send(event)),
            Sink::Spool(spool) => spool.push(event)?,
        }
        Ok(())
    }

    /// Sends if there is room: for repeated reports that may be lost, such as transfers.
    pub fn offer(&self, event: Event) {
        match &self.0 {
            Sink::Channel(sender) => drop(sender.try_send(event)),
            Sink::Spool(spool) => drop(spool.push(event)),
        }
    }
}
