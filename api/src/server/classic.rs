//! Events to the stream of Docker's classic builder: one JSON object a line.
//!
//! That stream knows one step at a time, in the order of the file. Steps that run side by side are
//! therefore held back until those before them have ended, up to [`HELD_LIMIT`].

use std::collections::BTreeMap;

use builder::{Event, Failure, Finished, OutputStream, PlannedStep, SourceDiagnostic, StepOutcome};
use cache::Digest;
use serde_json::{Value, json};

use super::status::{Direction, StatusLines};
use crate::format::{printable, queued, short_id};

/// Bytes of output held back for the sake of order. A step that writes more while an earlier one
/// runs is shown out of order: complete logs and bounded memory matter more.
const HELD_LIMIT: usize = 4 << 20;

/// Ends every object, as in Docker's daemon.
const LINE_END: &str = "\r\n";

/// Turns events into lines.
#[derive(Debug)]
pub(crate) struct Classic {
    /// Makes the names of sandboxes differ between builds.
    build: u64,
    quiet: bool,
    source: String,
    steps: Vec<Step>,
    /// The step whose lines go straight out.
    current: usize,
    held: usize,
    transfers: StatusLines,
}

#[derive(Debug)]
struct Step {
    plan: PlannedStep,
    /// Lines that wait for their turn.
    lines: String,
    has_header: bool,
    has_ended: bool,
    is_cached: bool,
    /// What names its result; of one that has ended, not known yet when it is that of a stage of
    /// this file, which may end later.
    id: Option<String>,
    /// Bytes of a character that was cut, of standard output and of standard error.
    cut: [Vec<u8>; 2],
}

impl Classic {
    /// A stream for build number `build`; `quiet` is `q=1`.
    pub(crate) fn new(build: u64, quiet: bool) -> Self {
        Self {
            build,
            quiet,
            source: "Dockerfile".to_owned(),
            steps: Vec::new(),
            current: 0,
            held: 0,
            transfers: StatusLines::new(Direction::Pull),
        }
    }

    /// Returns the lines that `event` brings, often none.
    pub(crate) fn push(&mut self, event: &Event) -> String {
        match event {
            Event::Failed(failure) => return self.failed(failure),
            Event::Finished(finished) => return self.finished(finished),
            Event::Source(source) => self.source.clone_from(&source.name),
            Event::Planned { steps } => self.plan(steps),
            _ if self.quiet => {}
            Event::Note { .. } | Event::StepLookup { .. } | Event::StepUsage { .. } => {}
            Event::Queued { place } => return stream_line(&(queued(*place) + "\n")),
            Event::Warning(remark) => return self.warning(remark),
            Event::StepStarted { step } => self.started(*step),
            Event::StepOutput { step, stream, data } => {
                self.output(*step, *stream, &data.bytes());
            }
            Event::StepFinished { step, outcome, id, .. } => self.step_finished(*step, outcome, id),
            Event::StepFailed { step, .. } => {
                self.name(*step, "");
                self.end(*step);
            }
            Event::Transfer(transfer) => {
                return self.transfers.line(transfer).as_ref().map_or_else(String::new, line);
            }
        }
        self.take_ready()
    }

    /// Returns what stands for a build that ended without saying how, which only a bug can do.
    pub(crate) fn broken_off(&mut self) -> String {
        self.flush() + &error_line("the build ended without a result: this is a bug in rbuild", 0)
    }

    fn plan(&mut self, steps: &[PlannedStep]) {
        let step = |plan: &PlannedStep| Step {
            plan: plan.clone(),
            lines: String::new(),
            has_header: false,
            has_ended: false,
            is_cached: false,
            id: None,
            cut: Default::default(),
        };
        self.steps = steps.iter().map(step).collect();
    }

    /// Adds a line to a step, after its header.
    fn add(&mut self, index: usize, text: &str) {
        let total = self.steps.len();
        let Some(step) = self.steps.get_mut(index) else { return };
        let before = step.lines.len();
        if !step.has_header {
            step.has_header = true;
            let header = format!("Step {}/{total} : {}", index + 1, printable(&step.plan.text));
            step.lines += &stream_line(&header);
            step.lines += &stream_line("\n");
        }
        if !text.is_empty() {
            step.lines += &stream_line(text);
        }
        self.held += step.lines.len() - before;
    }

    fn started(&mut self, index: usize) {
        self.add(index, "");
        if self.is_run(index) {
            self.add(index, &format!(" ---> Running in {}\n", self.sandbox(index)));
        }
    }

    fn output(&mut self, index: usize, stream: OutputStream, bytes: &[u8]) {
        let Some(step) = self.steps.get_mut(index) else { return };
        let cut = &mut step.cut[usize::from(stream == OutputStream::Stderr)];
        cut.extend_from_slice(bytes);
        let text = take_text(cut);
        if !text.is_empty() {
            self.add(index, &colored(stream, &text));
        }
    }

    fn step_finished(&mut self, index: usize, outcome: &StepOutcome, id: &str) {
        self.add(index, "");
        self.output_rest(index);
        let is_from = self.is_instruction(index, "FROM");
        let has_work = self.steps.get(index).is_some_and(|step| step.plan.has_work);
        // An instruction that only changes the config follows what it stands upon.
        let is_cached = match outcome {
            StepOutcome::Cached => true,
            StepOutcome::Executed { .. } if has_work => false,
            StepOutcome::Executed { .. } => self.follows_cached(index),
        };
        if is_cached && !is_from {
            self.add(index, " ---> Using cache\n");
        }
        if has_work && !is_cached && self.is_run(index) {
            let removing = format!("Removing intermediate container {}\n", self.sandbox(index));
            self.add(index, &removing);
        }
        let is_scratch = is_from && self.is_scratch(index);
        let id = if is_scratch { "" } else { id };
        if !(is_from && !is_scratch && id.is_empty()) {
            self.add(index, &format!(" ---> {}\n", printable(id)));
            self.name(index, id);
        }
        if let Some(step) = self.steps.get_mut(index) {
            step.is_cached = is_cached;
        }
        self.end(index);
    }

    fn output_rest(&mut self, index: usize) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let Some(step) = self.steps.get_mut(index) else { return };
            let cut = std::mem::take(&mut step.cut[usize::from(stream == OutputStream::Stderr)]);
            if !cut.is_empty() {
                self.add(index, &colored(stream, &String::from_utf8_lossy(&cut)));
            }
        }
    }

    fn end(&mut self, index: usize) {
        self.output_rest(index);
        if let Some(step) = self.steps.get_mut(index) {
            step.has_ended = true;
        }
    }

    /// Takes what may go out now: the current step's lines, and those of the steps after it as far
    /// as all before them have ended.
    fn take_ready(&mut self) -> String {
        let mut text = String::new();
        loop {
            self.name_stage(self.current);
            let Some(step) = self.steps.get_mut(self.current) else { break };
            text += &std::mem::take(&mut step.lines);
            if !step.has_ended {
                break;
            }
            self.current += 1;
        }
        self.held -= text.len();
        if self.held > HELD_LIMIT {
            text += &self.flush();
        }
        text
    }

    /// Tells the name of the stage that step `index` stands upon; all steps before have ended.
    fn name_stage(&mut self, index: usize) {
        if !self.steps.get(index).is_some_and(|step| step.has_ended && step.id.is_none()) {
            return;
        }
        let name = self.base(index);
        let is_of = |stage: &Option<String>| {
            stage
                .as_deref()
                .is_some_and(|stage| stage.eq_ignore_ascii_case(name.unwrap_or_default()))
        };
        let last = self.steps[..index].iter().rev().find(|step| is_of(&step.plan.stage));
        let id = last.and_then(|step| step.id.clone()).unwrap_or_default();
        self.add(index, &format!(" ---> {}\n", printable(&id)));
        self.name(index, &id);
    }

    fn name(&mut self, index: usize, id: &str) {
        if let Some(step) = self.steps.get_mut(index) {
            step.id = Some(id.to_owned());
        }
    }

    /// Takes all that is held, in order.
    fn flush(&mut self) -> String {
        self.held = 0;
        self.steps.iter_mut().map(|step| std::mem::take(&mut step.lines)).collect()
    }

    fn warning(&self, remark: &SourceDiagnostic) -> String {
        let (at, what) = (remark.line_column.0, printable(&remark.message));
        stream_line(&format!("[Warning] {what} ({}:{at})\n", self.source))
    }

    fn finished(&mut self, finished: &Finished) -> String {
        if self.quiet {
            return stream_line(&format!("{}\n", finished.image_id));
        }
        let mut text = self.flush();
        text += &line(&json!({ "aux": { "ID": finished.image_id } }));
        let id = short_id(&finished.image_id);
        text += &stream_line(&format!("Successfully built {id}\n"));
        for tag in &finished.tags {
            text += &stream_line(&format!("Successfully tagged {tag}\n"));
        }
        text
    }

    fn failed(&mut self, failure: &Failure) -> String {
        let mut text = self.flush();
        if self.quiet {
            for tail in &failure.log_tail {
                text += &stream_line(&format!("{}\n", printable(tail)));
            }
        }
        text + &error_line(&self.message(failure), failure.exit_code.unwrap_or(0))
    }

    /// Tells in one text why a build failed, in Docker's words where it has some.
    pub(crate) fn message(&self, failure: &Failure) -> String {
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
                    let command = self.command(step);
                    format!("The command '{command}' returned a non-zero code: {code}")
                }
                _ => failure.causes.join(": "),
            });
            faults.extend(failure.help.clone());
        }
        printable_lines(&faults.join("\n"))
    }

    fn is_run(&self, index: usize) -> bool {
        self.is_instruction(index, "RUN")
    }

    fn is_instruction(&self, index: usize, name: &str) -> bool {
        let step = self.steps.get(index);
        let word = step.and_then(|step| step.plan.text.split_whitespace().next());
        word.is_some_and(|word| word.eq_ignore_ascii_case(name))
    }

    /// Returns what a FROM names.
    fn base(&self, index: usize) -> Option<&str> {
        let step = self.steps.get(index);
        let mut words = step.into_iter().flat_map(|step| step.plan.text.split_whitespace().skip(1));
        words.find(|word| !word.starts_with("--"))
    }

    fn is_scratch(&self, index: usize) -> bool {
        self.base(index) == Some("scratch")
    }

    /// Writes the command of a RUN as the words that were run. A shell that the base image brings
    /// is not known here: Docker's own stands for it.
    fn command(&self, run: &Step) -> String {
        let list = |text: &str| serde_json::from_str::<Vec<String>>(text).ok();
        let arguments = |text: &str| text.split_once(' ').unwrap_or_default().1.trim().to_owned();
        let command = arguments(&run.plan.text);
        if let Some(words) = list(&command) {
            return words.join(" ");
        }
        let before = self.steps.iter().take_while(|step| step.plan.span < run.plan.span);
        let shell = before
            .filter(|step| step.plan.stage == run.plan.stage)
            .filter(|step| step.plan.text.to_ascii_uppercase().starts_with("SHELL "))
            .filter_map(|step| list(&arguments(&step.plan.text)))
            .last();
        format!("{} {command}", shell.map_or_else(|| "/bin/sh -c".to_owned(), |it| it.join(" ")))
    }

    fn follows_cached(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1).and_then(|before| self.steps.get(before)) else {
            return false;
        };
        before.is_cached && before.plan.stage == self.steps[index].plan.stage
    }

    /// Returns the name of the sandbox of step `index`: 12 hex digits, as containers have.
    fn sandbox(&self, index: usize) -> String {
        Digest::of(format!("{} {index}", self.build).as_bytes()).short()
    }
}

/// Takes the whole characters off `bytes`; at most three bytes of a cut one stay. What is no UTF-8
/// comes out as U+FFFD.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) => text.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len() - cut_at_end(bytes),
    };
    let rest = bytes.split_off(whole);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Counts the bytes at the end that may be the beginning of a character.
fn cut_at_end(bytes: &[u8]) -> usize {
    let is_cut = |length: &usize| {
        let tail = &bytes[bytes.len() - length..];
        std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none() && e.valid_up_to() == 0)
    };
    (1..=3.min(bytes.len())).find(is_cut).unwrap_or(0)
}

/// Docker's classic builder marks what went to standard error with red.
fn colored(stream: OutputStream, text: &str) -> String {
    match stream {
        OutputStream::Stdout => text.to_owned(),
        OutputStream::Stderr => format!("\x1b[91m{text}\x1b[0m"),
    }
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn stream_line(text: &str) -> String {
    line(&BTreeMap::from([("stream", text)]))
}

/// Makes the line that ends a stream with an error; `code` 0 is none.
pub(crate) fn error_line(message: &str, code: i32) -> String {
    let detail = match code {
        0 => json!({ "message": message }),
        code => json!({ "code": code, "message": message }),
    };
    line(&json!({ "errorDetail": detail, "error": message }))
}

/// Makes one line of a stream.
pub(crate) fn line(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).map(|value: Value| value.to_string());
    text.expect("texts and numbers are JSON") + LINE_END
}

#[cfg(test)]
#[path = "classic_tests.rs"]
mod tests;
