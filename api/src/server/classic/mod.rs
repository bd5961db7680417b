//! Events to the stream of Docker's classic builder: one JSON object a line.

mod steps;
mod text;

use builder::{Event, Failure, Finished, SourceDiagnostic, StepOutcome};
use cache::Digest;
use serde_json::json;

use self::steps::{End, Steps};
use super::lines::{error_line, line, stream_line};
use super::status::{Direction, StatusLines};
use crate::format::{printable, queued, short_id};

/// When Docker's builder removes the container of a RUN, and says so. Here none is ever left
/// behind, so that what is said is all that differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Removal {
    /// `rm=0`
    Never,
    /// Unless asked otherwise.
    #[default]
    AfterSuccess,
    /// `forcerm=1`
    Always,
}

/// Turns events into lines.
#[derive(Debug)]
pub(super) struct Classic {
    /// Makes the names of sandboxes differ between builds.
    build: u64,
    quiet: bool,
    removal: Removal,
    source: String,
    steps: Steps,
    transfers: StatusLines,
}

impl Classic {
    /// A stream for build number `build`; `quiet` is `q=1`.
    pub(super) fn new(build: u64, quiet: bool, removal: Removal) -> Self {
        Self {
            build,
            quiet,
            removal,
            source: "Dockerfile".to_owned(),
            steps: Steps::default(),
            transfers: StatusLines::new(Direction::Pull),
        }
    }

    /// Returns the lines that `event` brings, often none.
    pub(super) fn push(&mut self, event: &Event) -> String {
        match event {
            Event::Failed(failure) => return self.failed(failure),
            Event::Finished(finished) => return self.finished(finished),
            Event::Source(source) => self.source.clone_from(&source.name),
            Event::Planned { steps } => self.steps = Steps::of(steps),
            _ if self.quiet => {}
            Event::Note { .. } | Event::StepLookup { .. } | Event::StepUsage { .. } => {}
            Event::Queued { place } => return stream_line(&(queued(*place) + "\n")),
            Event::Warning(remark) => return self.warning(remark),
            Event::StepStarted { step } => self.started(*step),
            Event::StepOutput { step, stream, data } => {
                self.steps.output(*step, *stream, &data.bytes());
            }
            Event::StepFinished { step, outcome, id, .. } => self.step_finished(*step, outcome, id),
            Event::StepFailed { step, .. } => self.step_failed(*step),
            Event::Transfer(transfer) => {
                return self.transfers.line(transfer).as_ref().map_or_else(String::new, line);
            }
        }
        self.steps.take_ready()
    }

    /// Returns what stands for a build that ended without saying how, which only a bug can do.
    pub(super) fn broken_off(&mut self) -> String {
        let message = "the build ended without a result: this is a bug in rbuild";
        self.steps.take_all() + &error_line(message, 0)
    }

    fn started(&mut self, index: usize) {
        self.steps.add(index, "");
        if self.is_run(index) {
            self.steps.add(index, &format!(" ---> Running in {}\n", self.sandbox(index)));
        }
    }

    fn step_finished(&mut self, index: usize, outcome: &StepOutcome, id: &str) {
        self.steps.add(index, "");
        let has_work = self.steps.get(index).is_some_and(|step| step.plan.has_work);
        let is_cached = match outcome {
            StepOutcome::Cached => Some(true),
            StepOutcome::Executed { .. } => has_work.then_some(false),
        };
        let removal = (self.removal != Removal::Never).then(|| self.removed(index)).flatten();
        self.steps.end(index, End::Done { is_cached, id: id.to_owned(), removal });
    }

    fn step_failed(&mut self, index: usize) {
        self.steps.end(index, End::Failed);
        if self.removal == Removal::Always
            && let Some(removal) = self.removed(index)
        {
            self.steps.add(index, &removal);
        }
    }

    /// What is said of the sandbox of a RUN.
    fn removed(&self, index: usize) -> Option<String> {
        let name = self.is_run(index).then(|| self.sandbox(index))?;
        Some(format!("Removing intermediate container {name}\n"))
    }

    fn warning(&self, remark: &SourceDiagnostic) -> String {
        let (at, what) = (remark.line_column.0, printable(&remark.message));
        stream_line(&format!("[Warning] {what} ({}:{at})\n", self.source))
    }

    fn finished(&mut self, finished: &Finished) -> String {
        if self.quiet {
            return stream_line(&format!("{}\n", finished.image_id));
        }
        let mut text = self.steps.take_all();
        text += &line(&json!({ "aux": { "ID": finished.image_id } }));
        let id = short_id(&finished.image_id);
        text += &stream_line(&format!("Successfully built {id}\n"));
        for tag in &finished.tags {
            text += &stream_line(&format!("Successfully tagged {tag}\n"));
        }
        text
    }

    fn failed(&mut self, failure: &Failure) -> String {
        let mut text = self.steps.take_all();
        if self.quiet {
            for tail in &failure.log_tail {
                text += &stream_line(&format!("{}\n", printable(tail)));
            }
        }
        text + &error_line(&self.message(failure), failure.exit_code.unwrap_or(0))
    }

    /// Tells in one text why a build failed, in Docker's words where it has some.
    pub(super) fn message(&self, failure: &Failure) -> String {
        let faults = failure.diagnostics.iter().filter(|remark| remark.is_error);
        let mut faults: Vec<String> = faults
            .map(|fault| {
                let (row, column) = fault.line_column;
                let help = fault.help.as_ref().map(|help| format!(" ({help})"));
                let help = help.unwrap_or_default();
                format!("{}:{row}:{column}: {}{help}", self.source, fault.message)
            })
            .collect();
        if faults.is_empty() {
            let step = failure.step.and_then(|step| self.steps.get(step));
            faults.push(match (step, failure.exit_code) {
                (Some(step), Some(code)) => {
                    let command = self.steps.command(step);
                    format!("The command '{command}' returned a non-zero code: {code}")
                }
                _ => failure.causes.join(": "),
            });
            faults.extend(failure.help.clone());
        }
        printable_lines(&faults.join("\n"))
    }

    fn is_run(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.is("RUN"))
    }

    /// Returns the name of the sandbox of step `index`: 12 hex digits, as containers have.
    fn sandbox(&self, index: usize) -> String {
        Digest::of(format!("{} {index}", self.build).as_bytes()).short()
    }
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
