//! One line for everything that happens: for pipes, files and CI logs.
//!
//! Output of steps is prefixed with the step, since steps run side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use builder::{Event, OutputStream, StepOutcome, StepUsage, Transfer};

use super::groups::Groups;
use super::lines::LineBuffer;
use super::{Seen, View, phase_word, summary, write_all};
use crate::format::{self, printable};
use crate::report;

/// Writes lines to `out`.
#[derive(Debug)]
pub(super) struct Plain<W> {
    out: W,
    color: bool,
    seen: Seen,
    /// Incomplete lines. The two streams of a step must not cut each other's lines.
    partial: BTreeMap<(usize, bool), LineBuffer>,
    /// Transfers and phases already told.
    told: BTreeSet<(String, &'static str)>,
    /// Where the reader knows groups of lines.
    groups: Option<Groups>,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, color: bool) -> Self {
        let (partial, told) = (BTreeMap::new(), BTreeSet::new());
        Self { out, color, seen: Seen::default(), partial, told, groups: None }
    }

    /// Puts what each step says into a group.
    pub(super) fn with_groups(self, groups: Option<Groups>) -> Self {
        Self { groups, ..self }
    }

    /// Puts `text` into the group of its step; what is no step's goes out as it is.
    fn grouped(&mut self, event: &Event, text: String) -> String {
        let Some(groups) = &mut self.groups else { return text };
        let (step, is_over) = match event {
            Event::StepStarted { step }
            | Event::StepOutput { step, .. }
            | Event::StepUsage { step, .. } => (*step, false),
            Event::StepFinished { step, .. } | Event::StepFailed { step, .. } => (*step, true),
            Event::Finished(_) | Event::Failed(_) => return groups.finish() + &text,
            Event::Source(_)
            | Event::Note { .. }
            | Event::Queued { .. }
            | Event::Warning(_)
            | Event::Planned { .. }
            | Event::StepLookup { .. }
            | Event::Transfer(_) => return text,
        };
        if text.is_empty() && !is_over {
            return text;
        }
        let (label, instruction) = self.seen.step(step);
        groups.add(step, &format!("{label} {instruction}"), &text, is_over)
    }

    fn output(&mut self, step: usize, stream: OutputStream, bytes: &[u8]) -> String {
        let (label, _) = self.seen.step(step);
        let mut text = String::new();
        let buffer = self.partial.entry((step, stream == OutputStream::Stderr)).or_default();
        buffer.push(bytes, |line| text += &output_line(&label, line));
        text
    }

    /// What is left of a step's output when the step ends.
    fn rest(&mut self, step: usize) -> String {
        let (label, _) = self.seen.step(step);
        let mut text = String::new();
        for is_stderr in [false, true] {
            if let Some(mut buffer) = self.partial.remove(&(step, is_stderr)) {
                buffer.finish(|line| text += &output_line(&label, line));
            }
        }
        text
    }

    fn finished(&mut self, step: usize, outcome: &StepOutcome, millis: u64) -> String {
        let rest = self.rest(step);
        let (label, instruction) = self.seen.step(step);
        let time = format::millis(millis);
        rest + &match outcome {
            StepOutcome::Cached => format!("{label} {instruction}  CACHED\n"),
            StepOutcome::Executed { .. } if !self.seen.has_work(step) => {
                format!("{label} {instruction}\n")
            }
            StepOutcome::Executed { reason: None } => format!("{label} done in {time}\n"),
            StepOutcome::Executed { reason: Some(reason) } => {
                format!("{label} done in {time}, not cached: {}\n", printable(reason))
            }
        }
    }

    /// A line for what is worth knowing: nothing for commands that used little.
    fn usage(&mut self, step: usize, usage: &StepUsage) -> String {
        const MUCH_MEMORY: u64 = 100_000_000;
        const MUCH_TIME_MICROS: u64 = 1_000_000;
        if usage.peak_memory_bytes < MUCH_MEMORY && usage.cpu_micros < MUCH_TIME_MICROS {
            return String::new();
        }
        let rest = self.rest(step);
        let (label, _) = self.seen.step(step);
        let memory = format::size(usage.peak_memory_bytes);
        let time = format::millis(usage.cpu_micros / 1000);
        rest + &format!("{label} used {time} of processor time and {memory} of memory\n")
    }

    /// A line for each phase of each transfer, not for its progress.
    fn transfer(&mut self, transfer: &Transfer) -> String {
        let Some(word) = phase_word(transfer) else { return String::new() };
        if !self.told.insert((transfer.id.clone(), word)) {
            return String::new();
        }
        let id = printable(&transfer.id);
        match transfer.total {
            Some(total) => format!("{word} {id} ({})\n", format::size(total)),
            None => format!("{word} {id}\n"),
        }
    }
}

fn output_line(label: &str, line: &str) -> String {
    format!("{label} | {line}\n")
}

impl<W: Write + Send> View for Plain<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.seen.note(event);
        let text = match event {
            Event::Source(_) | Event::Planned { .. } | Event::StepLookup { .. } => String::new(),
            Event::StepUsage { step, usage } => self.usage(*step, usage),
            Event::Note { text } => printable(text) + "\n",
            Event::Queued { place } => format::queued(*place) + "\n",
            Event::Warning(remark) => report::diagnostic(remark, self.seen.quotable(), self.color),
            Event::StepStarted { step } => {
                let (label, instruction) = self.seen.step(*step);
                format!("{label} {instruction}\n")
            }
            Event::StepOutput { step, stream, data } => self.output(*step, *stream, &data.bytes()),
            Event::StepFinished { step, outcome, millis, .. } => {
                self.finished(*step, outcome, *millis)
            }
            Event::StepFailed { step, millis } => {
                let rest = self.rest(*step);
                let (label, _) = self.seen.step(*step);
                rest + &format!("{label} FAILED after {}\n\n", format::millis(*millis))
            }
            Event::Transfer(transfer) => self.transfer(transfer),
            Event::Finished(finished) => summary(finished),
            Event::Failed(failure) => report::failure(failure, self.seen.quotable(), self.color),
        };
        let text = self.grouped(event, text);
        write_all(&mut self.out, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::samples;

    fn run(events: &[Event]) -> String {
        let mut out = Vec::new();
        let mut view = Plain::new(&mut out, false);
        for event in events {
            view.event(event).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    const BEGINNING: &str = "\
resolving docker.io/library/node:14
[1/4] FROM node:14  CACHED
[2/4] COPY . .
downloading 4f4fb700ef54 (46MB)
[2/4] done in 0.1s, not cached: COPY .: 1 file changed (a.js)
[3/4] RUN npm install
[3/4] | one
[3/4] | two
[3/4] | 100%
[3/4] | \x1b[32mgreen\x1b[0m
";

    #[test]
    fn a_good_build_reads_well() {
        let end = "\
[3/4] done in 1m 01s
[4/4] ENTRYPOINT npm start
Built app-node:1 (0123456789ab, 762kB) in 1m 02s, 1 of 3 steps cached (saved 7.1s and 187MB)
Wrote oci archive out.tar
";
        assert_eq!(run(&samples::good()), format!("{BEGINNING}{end}"));
    }

    #[test]
    fn a_failed_build_says_why() {
        let end = "\
[3/4] FAILED after 1.2s

Last output of [3/4]:
  npm ERR! code E404

error: RUN npm install failed
 --> Dockerfile:3:1
  |
3 | RUN npm install
  | ^^^^^^^^^^^^^^^ step [3/4]
  |
  = caused by: the command exited with code 1
  = exit code: 1
";
        assert_eq!(run(&samples::bad()), format!("{BEGINNING}{end}"));
    }

    #[test]
    fn a_ci_gets_a_group_for_each_step() {
        use crate::progress::groups::Style;

        let mut out = Vec::new();
        let groups = Groups::new(Style::Github, || 7);
        let mut view = Plain::new(&mut out, false).with_groups(Some(groups));
        for event in samples::bad() {
            view.event(&event).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let want = "\
::group::[2/4] COPY . .
[2/4] COPY . .
downloading 4f4fb700ef54 (46MB)
[2/4] done in 0.1s, not cached: COPY .: 1 file changed (a.js)
::endgroup::
::group::[3/4] RUN npm install
";
        assert!(text.contains(want), "{text}");
        let end = "[3/4] FAILED after 1.2s\n\n::endgroup::\nLast output of [3/4]:\n";
        assert!(text.contains(end), "the reason stands outside: {text}");
        assert_eq!(text.matches("::group::").count(), text.matches("::endgroup::").count());
    }

    #[test]
    fn much_is_told_and_little_is_not() {
        let usage = |peak_memory_bytes, cpu_micros| {
            let usage = StepUsage { peak_memory_bytes, cpu_micros, ..StepUsage::default() };
            run(&[Event::StepUsage { step: 9, usage }])
        };
        assert_eq!(usage(99_999_999, 999_999), "");
        let want = "[step 9] used 2.5s of processor time and 1GB of memory\n";
        assert_eq!(usage(1_000_000_000, 2_500_000), want);
    }

    #[test]
    fn a_step_outside_the_plan_is_shown_all_the_same() {
        assert_eq!(run(&[Event::StepStarted { step: 9 }]), "[step 9] \n");
    }
}
