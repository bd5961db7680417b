//! A past build told from its record: the same events that its watcher saw, folded.

use std::fmt::Write as _;
use std::io::BufRead;

use builder::{
    Event, Lookup, PlannedStep, RecordedEvent, SourceDiagnostic, SourceText, StepOutcome, StepUsage,
};
use cache::BuildRecord;
use serde_json::{Value, json};

use crate::report;

/// What a record tells.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The Dockerfile, once it was read.
    pub(crate) source: Option<SourceText>,
    /// One an instruction.
    pub(crate) steps: Vec<StepStory>,
    /// What the checks had to say.
    pub(crate) warnings: Vec<SourceDiagnostic>,
    /// The last event, where there was one.
    pub(crate) end: Option<Event>,
}

/// What became of one step.
#[derive(Debug)]
pub(crate) struct StepStory {
    /// As it was planned.
    pub(crate) planned: PlannedStep,
    /// What the cache had.
    pub(crate) lookup: Option<Lookup>,
    /// How it ended.
    pub(crate) state: State,
    /// Wall time in milliseconds.
    pub(crate) millis: u64,
    /// What its command used up.
    pub(crate) usage: Option<StepUsage>,
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not begun.
    Waiting,
    /// Begun, and no end was seen.
    Started,
    /// Taken from the cache.
    Cached,
    /// Executed.
    Executed,
    /// Failed.
    Failed,
}

impl State {
    /// One word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "not begun",
            Self::Started => "not finished",
            Self::Cached => "cached",
            Self::Executed => "executed",
            Self::Failed => "failed",
        }
    }
}

/// Reads the events of a record; a line cut short by a crash, or of an unknown form, is left out.
pub(crate) fn events(record: impl BufRead) -> impl Iterator<Item = RecordedEvent> {
    let lines = record.split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_slice(&line).ok())
}

impl Story {
    /// Folds events.
    pub(crate) fn of(events: impl Iterator<Item = Event>) -> Self {
        let mut story = Self::default();
        events.for_each(|event| story.note(event));
        story
    }

    /// Adds one event.
    pub(crate) fn note(&mut self, event: Event) {
        match event {
            Event::Source(source) => self.source = Some(source),
            Event::Warning(warning) => self.warnings.push(warning),
            Event::Planned { steps } => {
                let begin = |planned| StepStory {
                    planned,
                    lookup: None,
                    state: State::Waiting,
                    millis: 0,
                    usage: None,
                };
                self.steps = steps.into_iter().map(begin).collect();
            }
            Event::StepLookup { step, lookup } => self.step(step, |it| it.lookup = Some(*lookup)),
            Event::StepStarted { step } => self.step(step, |it| it.state = State::Started),
            Event::StepUsage { step, usage } => self.step(step, |it| it.usage = Some(usage)),
            Event::StepFinished { step, outcome, millis, .. } => self.step(step, |it| {
                it.millis = millis;
                it.state = match outcome {
                    StepOutcome::Cached => State::Cached,
                    StepOutcome::Executed { .. } => State::Executed,
                };
            }),
            Event::StepFailed { step, millis } => self.step(step, |it| {
                (it.state, it.millis) = (State::Failed, millis);
            }),
            Event::Finished(_) | Event::Failed(_) => self.end = Some(event),
            Event::Note { .. }
            | Event::Queued { .. }
            | Event::StepOutput { .. }
            | Event::Transfer(_) => {}
        }
    }

    fn step(&mut self, index: usize, change: impl FnOnce(&mut StepStory)) {
        if let Some(step) = self.steps.get_mut(index) {
            change(step);
        }
    }

    /// Returns the 1-based line of the Dockerfile that a step stands on, and that it ends on.
    pub(crate) fn lines(&self, step: &StepStory) -> (usize, usize) {
        let text = self.source.as_ref().map_or("", |source| source.text.as_str());
        let line = |offset: usize| {
            text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
        };
        let (start, end) = step.planned.span;
        (line(start), line(end.max(start + 1) - 1))
    }

    /// Returns the steps as JSON.
    pub(crate) fn steps_json(&self) -> Vec<Value> {
        self.steps.iter().map(|step| self.step_json(step)).collect()
    }

    /// Returns what needs what in Graphviz' language.
    pub(crate) fn dot(&self) -> String {
        let mut dot = String::from("digraph build {\n  node [shape=box, fontname=monospace];\n");
        for (index, step) in self.steps.iter().enumerate() {
            let label = format!("{} {}", report::step_label(&step.planned), step.planned.text);
            let label = label.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(dot, "  s{index} [label=\"{label}\\n{}\"];", step.state.word());
            for input in &step.planned.inputs {
                let _ = writeln!(dot, "  s{input} -> s{index};");
            }
        }
        dot + "}\n"
    }

    fn step_json(&self, step: &StepStory) -> Value {
        json!({
            "stage": step.planned.stage,
            "number": step.planned.number,
            "total": step.planned.total,
            "text": step.planned.text,
            "line": self.lines(step).0,
            "has_work": step.planned.has_work,
            "inputs": step.planned.inputs,
            "state": step.state.word(),
            "millis": step.millis,
            "lookup": step.lookup,
            "usage": step.usage,
        })
    }
}

/// Returns a build with its steps as one JSON object.
pub(crate) fn record_json(record: &BuildRecord, story: &Story) -> Value {
    let mut value = json!(record);
    value["dockerfile_text"] = json!(story.source.as_ref().map(|source| &source.text));
    value["warnings"] = json!(story.warnings);
    value["plan"] = story.steps_json().into();
    value["end"] = json!(story.end);
    value
}

/// Whether `name`, `2` or `STAGE/2`, means `step`.
pub(crate) fn is_called(step: &PlannedStep, name: &str) -> bool {
    let number = step.number.to_string();
    let full = step.stage.as_ref().map(|stage| format!("{stage}/{number}"));
    name == number || full.as_deref() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::samples;

    #[test]
    fn a_record_tells_what_its_watcher_saw() {
        let mut text = Vec::new();
        for event in samples::bad() {
            let line = RecordedEvent { at_ms: 1, event };
            text.extend(serde_json::to_vec(&line).unwrap());
            text.push(b'\n');
        }
        text.extend(b"{\"at_ms\":2,\"event\":\"step-sta");
        let story = Story::of(events(text.as_slice()).map(|it| it.event));
        let states: Vec<State> = story.steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [State::Cached, State::Executed, State::Failed, State::Waiting]);
        assert_eq!(story.steps[2].millis, 1200);
        let lines: Vec<_> = story.steps.iter().map(|step| story.lines(step)).collect();
        assert_eq!(lines, [(1, 1), (2, 2), (3, 3), (4, 4)]);
        assert!(matches!(story.end, Some(Event::Failed(_))));
    }
}
