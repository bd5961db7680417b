//! The steps of a build and the lines of each, which come out in the order of the file.
//!
//! That stream knows one step at a time. Steps that run side by side are therefore held back until
//! those before them have ended, up to [`HELD_LIMIT`].

use builder::{OutputStream, PlannedStep};

use super::text::{colored, take_text};
use crate::format::printable;
use crate::server::lines::stream_line;

/// Bytes of output held back for the sake of order. A step that writes more while an earlier one
/// runs is shown out of order: complete logs and bounded memory matter more.
pub(super) const HELD_LIMIT: usize = 4 << 20;

/// All steps of a build.
#[derive(Debug, Default)]
pub(super) struct Steps {
    all: Vec<Step>,
    /// The step whose lines go straight out.
    current: usize,
    /// Bytes of lines that wait.
    pub(super) held: usize,
}

/// One step: an instruction and what is to be shown of it.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) plan: PlannedStep,
    /// Lines that wait for their turn.
    lines: String,
    has_header: bool,
    /// Bytes of a character that was cut, of standard output and of standard error.
    cut: [Vec<u8>; 2],
    end: Option<End>,
    /// What it came to, once that of all steps before it is known.
    result: Option<StepResult>,
}

/// How a step ended.
#[derive(Debug)]
pub(super) enum End {
    Failed,
    Done {
        /// Whether its result was there already; what needs no work follows what it stands upon.
        is_cached: Option<bool>,
        /// What names its result; of a FROM, empty for that of a stage of this file, which may end
        /// later.
        id: String,
        /// What is said of its sandbox.
        removal: Option<String>,
    },
}

#[derive(Clone, Debug, Default)]
struct StepResult {
    is_cached: bool,
    id: String,
}

impl Steps {
    /// The steps of `plan`, of which nothing has happened.
    pub(super) fn of(plan: &[PlannedStep]) -> Self {
        let step = |plan: &PlannedStep| Step {
            plan: plan.clone(),
            lines: String::new(),
            has_header: false,
            cut: <[Vec<u8>; 2]>::default(),
            end: None,
            result: None,
        };
        Self { all: plan.iter().map(step).collect(), ..Self::default() }
    }

    /// Returns step `index`.
    pub(super) fn get(&self, index: usize) -> Option<&Step> {
        self.all.get(index)
    }

    /// Adds a line to a step, after its header.
    pub(super) fn add(&mut self, index: usize, text: &str) {
        let total = self.all.len();
        let Some(step) = self.all.get_mut(index) else { return };
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

    /// Adds what a step wrote.
    pub(super) fn output(&mut self, index: usize, stream: OutputStream, bytes: &[u8]) {
        let Some(step) = self.all.get_mut(index) else { return };
        let cut = &mut step.cut[usize::from(stream == OutputStream::Stderr)];
        cut.extend_from_slice(bytes);
        let text = take_text(cut);
        if !text.is_empty() {
            self.add(index, &colored(stream, &text));
        }
    }

    /// Ends a step: those after it may be shown.
    pub(super) fn end(&mut self, index: usize, end: End) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let Some(step) = self.all.get_mut(index) else { return };
            // A character that was never completed.
            let cut = std::mem::take(&mut step.cut[usize::from(stream == OutputStream::Stderr)]);
            if !cut.is_empty() {
                self.add(index, &colored(stream, &String::from_utf8_lossy(&cut)));
            }
        }
        if let Some(step) = self.all.get_mut(index) {
            step.end = Some(end);
        }
    }

    /// Takes what may go out now: the current step's lines, and those of the steps after it as far
    /// as all before them have ended.
    pub(super) fn take_ready(&mut self) -> String {
        let mut text = String::new();
        loop {
            self.close(self.current);
            let Some(step) = self.all.get_mut(self.current) else { break };
            let lines = std::mem::take(&mut step.lines);
            text = if text.is_empty() { lines } else { text + &lines };
            if step.result.is_none() {
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

    /// Takes all that there is, in order: nothing more will come.
    pub(super) fn take_all(&mut self) -> String {
        (0..self.all.len()).for_each(|index| self.close(index));
        self.flush()
    }

    fn flush(&mut self) -> String {
        self.held = 0;
        self.all.iter_mut().map(|step| std::mem::take(&mut step.lines)).collect()
    }

    /// Tells what step `index` came to, if it has ended; all steps before have.
    fn close(&mut self, index: usize) {
        let end = self.all.get_mut(index).and_then(|step| step.end.take());
        let result = match end {
            None => return,
            Some(End::Failed) => StepResult::default(),
            Some(End::Done { is_cached, id, removal }) => {
                let below = self.below(index).unwrap_or_default();
                let step = &self.all[index];
                let (is_from, base) = (step.is("FROM"), step.base());
                let is_cached = is_cached.unwrap_or(below.is_cached);
                let id = match base.filter(|_| is_from) {
                    Some("scratch") => String::new(),
                    Some(_) if id.is_empty() => below.id,
                    _ => id,
                };
                if is_cached && !is_from {
                    self.add(index, " ---> Using cache\n");
                }
                if let Some(removal) = removal.filter(|_| !is_cached) {
                    self.add(index, &removal);
                }
                self.add(index, &format!(" ---> {}\n", printable(&id)));
                StepResult { is_cached, id }
            }
        };
        self.all[index].result = Some(result);
    }

    /// Returns what the steps came to that step `index` stands upon: of a FROM a stage of this
    /// file, if it is one.
    fn below(&self, index: usize) -> Option<StepResult> {
        let step = &self.all[index];
        let stage = if step.is("FROM") { step.base() } else { step.plan.stage.as_deref() };
        let is_of = |it: &&Step| match (it.plan.stage.as_deref(), stage) {
            (Some(it), Some(stage)) => it.eq_ignore_ascii_case(stage),
            (it, stage) => it == stage,
        };
        self.all[..index].iter().rev().find(is_of).and_then(|step| step.result.clone())
    }

    /// Writes the command of a RUN as the words that were run. A shell that the base image brings
    /// is not known here: Docker's own stands for it.
    pub(super) fn command(&self, run: &Step) -> String {
        let list = |text: &str| serde_json::from_str::<Vec<String>>(text).ok();
        let arguments = |text: &str| text.split_once(' ').unwrap_or_default().1.trim().to_owned();
        let command = arguments(&run.plan.text);
        if let Some(words) = list(&command) {
            return words.join(" ");
        }
        let before = self.all.iter().take_while(|step| step.plan.span < run.plan.span);
        let shell = before
            .filter(|step| step.plan.stage == run.plan.stage)
            .filter(|step| step.is("SHELL"))
            .filter_map(|step| list(&arguments(&step.plan.text)))
            .last();
        format!("{} {command}", shell.map_or_else(|| "/bin/sh -c".to_owned(), |it| it.join(" ")))
    }
}

impl Step {
    /// Whether it is the instruction `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        let word = self.plan.text.split_whitespace().next();
        word.is_some_and(|word| word.eq_ignore_ascii_case(name))
    }

    /// Returns what a FROM names.
    pub(super) fn base(&self) -> Option<&str> {
        let mut words = self.plan.text.split_whitespace().skip(1);
        words.find(|word| !word.starts_with("--"))
    }
}
