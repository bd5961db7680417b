//! Progress for people and programs: readers of the one event type.
//!
//! Progress goes to standard error, so that standard output is free for results; only `json` and
//! `quiet`, whose text *is* the result, go to standard output.

mod groups;
mod json;
mod lines;
mod live;
mod plain;
mod quiet;
mod rawjson;

use std::io::{self, IsTerminal as _, Write};

use builder::{Event, Finished, PlannedStep, Saved, SourceText, Transfer, TransferPhase, blocking};
use tokio::sync::mpsc;

use crate::format;
use crate::report::Quotable;

/// `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// `tty` on a terminal, else `plain`
    #[default]
    Auto,
    /// A live view of what is running
    Tty,
    /// One line for everything that happens
    Plain,
    /// One JSON object a line, on standard output
    Json,
    /// One JSON object of BuildKit's a line (vertexes, statuses, logs), on standard error
    Rawjson,
    /// Only the image ID, on standard output
    Quiet,
    /// Nothing but failures
    None,
}

/// A reader of events.
pub(crate) trait View: Send {
    /// Shows one event.
    fn event(&mut self, event: &Event) -> io::Result<()>;
}

/// Shows events until their channel closes. A reader of ours that went away (a closed pipe) ends
/// the showing, never the build.
pub(crate) async fn show(mode: Mode, mut events: mpsc::Receiver<Event>) {
    let mut view = view(mode);
    blocking::run(move || {
        let mut is_open = true;
        while let Some(event) = events.blocking_recv() {
            is_open = is_open && view.event(&event).is_ok();
        }
    })
    .await;
}

fn view(mode: Mode) -> Box<dyn View> {
    let terminal =
        io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
    match mode {
        Mode::Auto if terminal => Box::new(live::Live::on_stderr(wants_color())),
        Mode::Tty => Box::new(live::Live::on_stderr(wants_color())),
        Mode::Auto | Mode::Plain => {
            let seconds = || u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
            let style = groups::Style::of_environment();
            let groups = style.map(|style| groups::Groups::new(style, seconds));
            Box::new(plain::Plain::new(io::stderr(), false).with_groups(groups))
        }
        Mode::Json => Box::new(json::Json::new(io::stdout())),
        Mode::Rawjson => {
            Box::new(rawjson::RawJson::new(io::stderr(), || jiff::Timestamp::now().to_string()))
        }
        Mode::Quiet => Box::new(quiet::Quiet::new(io::stdout(), io::stderr(), wants_color())),
        Mode::None => Box::new(quiet::Quiet::new(io::sink(), io::stderr(), wants_color())),
    }
}

/// Tells whether what goes to standard error may have colours (<https://no-color.org>).
pub(crate) fn wants_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !no_color
}

/// What the events told so far, kept for the reports at the end.
#[derive(Debug, Default)]
struct Seen {
    source: Option<SourceText>,
    steps: Vec<PlannedStep>,
}

impl Seen {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Source(source) => self.source = Some(source.clone()),
            Event::Planned { steps } => self.steps.clone_from(steps),
            Event::Note { .. }
            | Event::Queued { .. }
            | Event::Warning(_)
            | Event::StepLookup { .. }
            | Event::StepStarted { .. }
            | Event::StepOutput { .. }
            | Event::StepUsage { .. }
            | Event::StepFinished { .. }
            | Event::StepFailed { .. }
            | Event::Transfer(_)
            | Event::Finished(_)
            | Event::Failed(_) => {}
        }
    }

    fn quotable(&self) -> Quotable<'_> {
        Quotable { source: self.source.as_ref(), steps: &self.steps, width: None }
    }

    /// Returns `[4/5]` and `RUN npm install`; a step outside the plan, which only a broken service
    /// sends, gets a name all the same.
    fn step(&self, index: usize) -> (String, String) {
        self.steps.get(index).map_or_else(
            || (format!("[step {index}]"), String::new()),
            |step| (crate::report::step_label(step), format::printable(&step.text)),
        )
    }

    fn has_work(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.has_work)
    }
}

/// The last lines of a build that went well.
fn summary(finished: &Finished) -> String {
    let (hits, steps) = finished.cached;
    let mut image = format::short_id(&finished.image_id).to_owned();
    if finished.size > 0 {
        image.extend([", ", &format::size(finished.size)]);
    }
    let name = if finished.tags.is_empty() {
        image
    } else {
        format!("{} ({image})", finished.tags.join(", "))
    };
    let time = format::millis(finished.millis);
    let mut text = format!("Built {name} in {time}, {hits} of {steps} steps cached");
    let Saved { millis, bytes } = finished.saved;
    if hits > 0 {
        text.extend([" (saved ", &format::millis(millis), " and ", &format::size(bytes), ")"]);
    }
    text.push('\n');
    for output in &finished.outputs {
        text.extend(["Wrote ", output, "\n"]);
    }
    text
}

/// What is done to the bytes, in one word; `None` where there is nothing to tell.
const fn phase_word(transfer: &Transfer) -> Option<&'static str> {
    match transfer.phase {
        TransferPhase::Loading => Some("loading"),
        TransferPhase::Downloading => Some("downloading"),
        TransferPhase::Extracting => Some("extracting"),
        TransferPhase::Pushing => Some("pushing"),
        TransferPhase::Exporting => Some("exporting"),
        TransferPhase::Done | TransferPhase::AlreadyPresent => None,
    }
}

/// Writes `text` in one call, so that lines of several programs on one pipe do not mix.
fn write_all(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
pub(crate) mod samples {
    //! One build for the tests of all views.

    use builder::{ErrorKind, Failure, OutputBytes, OutputStream, StepOutcome};

    use super::*;

    const DOCKERFILE: &str = "FROM node:14\nCOPY . .\nRUN npm install\nENTRYPOINT npm start\n";

    /// What both builds below begin with.
    fn beginning() -> Vec<Event> {
        let step = |number, text: &str, start: usize| PlannedStep {
            stage: None,
            number,
            total: 4,
            text: text.into(),
            span: (start, start + text.len()),
            has_work: number < 4,
            inputs: Vec::new(),
        };
        let output = |text: &str| Event::StepOutput {
            step: 2,
            stream: OutputStream::Stdout,
            data: OutputBytes::new(text.as_bytes().to_vec()),
        };
        let layer = |phase, current| {
            let total = Some(46_000_000);
            Event::Transfer(Transfer { id: "4f4fb700ef54".into(), phase, current, total })
        };
        vec![
            Event::Source(SourceText { name: "Dockerfile".into(), text: DOCKERFILE.into() }),
            Event::Note { text: "resolving docker.io/library/node:14".into() },
            Event::Planned {
                steps: vec![
                    step(1, "FROM node:14", 0),
                    step(2, "COPY . .", 13),
                    step(3, "RUN npm install", 22),
                    step(4, "ENTRYPOINT npm start", 38),
                ],
            },
            Event::StepFinished {
                step: 0,
                outcome: StepOutcome::Cached,
                millis: 0,
                id: "a1".into(),
            },
            Event::StepStarted { step: 1 },
            layer(TransferPhase::Downloading, 0),
            layer(TransferPhase::Downloading, 23_000_000),
            layer(TransferPhase::Done, 46_000_000),
            Event::StepFinished {
                step: 1,
                outcome: StepOutcome::Executed {
                    reason: Some("COPY .: 1 file changed (a.js)".into()),
                },
                millis: 140,
                id: "a2".into(),
            },
            Event::StepStarted { step: 2 },
            output("one\ntw"),
            output("o\r\n10%\r100%\n\x1b[32mgreen\x1b[0m"),
        ]
    }

    pub(crate) fn good() -> Vec<Event> {
        let finished = |step, millis| Event::StepFinished {
            step,
            outcome: StepOutcome::Executed { reason: None },
            millis,
            id: "a3".into(),
        };
        let mut events = beginning();
        events.extend([
            finished(2, 61_000),
            finished(3, 0),
            Event::Finished(Finished {
                image_id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
                manifest_digest: format!("sha256:{}", "f".repeat(64)),
                tags: vec!["app-node:1".into()],
                outputs: vec!["oci archive out.tar".into()],
                pushed: Vec::new(),
                millis: 62_300,
                cached: (1, 3),
                saved: Saved { millis: 7100, bytes: 187_000_000 },
                size: 762_000,
            }),
        ]);
        events
    }

    pub(crate) fn bad() -> Vec<Event> {
        let mut events = beginning();
        events.extend([
            Event::StepFailed { step: 2, millis: 1200 },
            Event::Failed(Failure {
                kind: ErrorKind::User,
                causes: vec![
                    "RUN npm install failed".into(),
                    "the command exited with code 1".into(),
                ],
                help: None,
                diagnostics: Vec::new(),
                step: Some(2),
                exit_code: Some(1),
                log_tail: vec!["npm ERR! code E404".into()],
                kept_by: None,
            }),
        ]);
        events
    }
}
