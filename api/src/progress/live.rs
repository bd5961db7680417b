//! The live view of a terminal: what ended scrolls up, what runs is redrawn below it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use builder::{Event, OutputStream, StepOutcome, Transfer, TransferPhase};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::LineBuffer;
use super::{Seen, View, phase_word, summary};
use crate::format::{self, ellipsis, printable};
use crate::report::{self, Quotable};

/// Lines of output shown below a running step.
const LOG_ROWS: usize = 4;

/// Stands before them.
const LOG_INDENT: &str = "    ";

/// Stands between an instruction and what became of it.
const END_GAP: &str = "  ";

/// Columns that an instruction keeps in the narrowest terminal.
const LEAST_TEXT: usize = 8;

/// Columns of the name of a transfer.
const TRANSFER_NAME: usize = 16;

/// Columns from which on there is room for a bar.
const BAR_WIDTH: usize = 76;

/// Redraws a second at most.
const REDRAW_HERTZ: u8 = 10;

/// A view that redraws itself.
#[derive(Debug)]
pub(super) struct Live {
    rows: MultiProgress,
    /// Returns the columns of the terminal, which may change.
    width: fn() -> usize,
    color: bool,
    seen: Seen,
    running: BTreeMap<usize, RunningStep>,
    transfers: BTreeMap<String, ProgressBar>,
}

#[derive(Debug)]
struct RunningStep {
    head: ProgressBar,
    /// Shows `lines`; made with the first of them.
    log: Option<ProgressBar>,
    lines: VecDeque<String>,
    /// Incomplete lines of standard output and of standard error.
    partial: [LineBuffer; 2],
}

impl Live {
    pub(super) fn on_stderr(color: bool) -> Self {
        Self::new(ProgressDrawTarget::stderr_with_hz(REDRAW_HERTZ), stderr_width, color)
    }

    fn new(target: ProgressDrawTarget, width: fn() -> usize, color: bool) -> Self {
        Self {
            rows: MultiProgress::with_draw_target(target),
            width,
            color,
            seen: Seen::default(),
            running: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }

    fn quotable(&self) -> Quotable<'_> {
        Quotable { width: Some((self.width)()), ..self.seen.quotable() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn start(&mut self, step: usize) {
        let (label, instruction) = self.seen.step(step);
        let head = ProgressBar::new_spinner()
            .with_style(style("{spinner} {prefix} {wide_msg} {elapsed}"))
            .with_prefix(label)
            .with_message(instruction);
        let head = self.rows.add(head);
        head.enable_steady_tick(Duration::from_millis(200));
        let running =
            RunningStep { head, log: None, lines: VecDeque::new(), partial: Default::default() };
        self.running.insert(step, running);
    }

    fn output(&mut self, step: usize, stream: OutputStream, bytes: &[u8]) {
        let Some(running) = self.running.get_mut(&step) else { return };
        let lines = &mut running.lines;
        let room = (self.width)().saturating_sub(LOG_INDENT.len());
        let mut is_new = false;
        running.partial[usize::from(stream == OutputStream::Stderr)].push(bytes, |line| {
            is_new = true;
            lines.push_back(format!("{LOG_INDENT}{}", ellipsis(&printable(line), room)));
            if lines.len() > LOG_ROWS {
                lines.pop_front();
            }
        });
        if is_new {
            // All lines are one row, so that they move up in one redraw.
            let text = lines.make_contiguous().join("\n");
            let row = running.log.get_or_insert_with(|| {
                let row = ProgressBar::new_spinner().with_style(style("{msg}"));
                self.rows.insert_after(&running.head, row.with_message(text.clone()))
            });
            row.set_message(text);
        }
    }

    fn end(&mut self, step: usize) {
        if let Some(running) = self.running.remove(&step) {
            for row in [running.log.as_ref(), Some(&running.head)].into_iter().flatten() {
                row.finish_and_clear();
                self.rows.remove(row);
            }
        }
    }

    fn finished(&mut self, step: usize, outcome: &StepOutcome, millis: u64) -> String {
        self.end(step);
        match outcome {
            StepOutcome::Cached => self.row(step, ("32", "CACHED"), None),
            StepOutcome::Executed { .. } if !self.seen.has_work(step) => {
                self.row(step, ("", ""), None)
            }
            StepOutcome::Executed { reason } => {
                self.row(step, ("1", &format::millis(millis)), reason.as_deref())
            }
        }
    }

    /// Returns what stays of a step: one row, in which the instruction gives way to what became of
    /// it, and the reason behind that or, where it is too long, below.
    fn row(&self, step: usize, (code, end): (&str, &str), reason: Option<&str>) -> String {
        let width = (self.width)();
        let (label, instruction) = self.seen.step(step);
        let around = label.len() + 1 + if end.is_empty() { 0 } else { END_GAP.len() + end.len() };
        let instruction = ellipsis(&instruction, width.saturating_sub(around).max(LEAST_TEXT));
        let mut row = format!("{} {instruction}", self.paint("36", &label));
        if !end.is_empty() {
            row.extend([END_GAP, &self.paint(code, end)]);
        }
        if let Some(reason) = reason {
            let reason = format!("({})", printable(reason));
            let taken = around + instruction.chars().count() + END_GAP.len();
            if taken + reason.chars().count() <= width {
                row.extend([END_GAP, &self.paint("2", &reason)]);
            } else {
                let room = width.saturating_sub(LOG_INDENT.len()).max(LEAST_TEXT);
                for line in wrapped(&reason, room) {
                    row.extend(["\n", LOG_INDENT, &self.paint("2", &line)]);
                }
            }
        }
        row
    }

    fn transfer(&mut self, transfer: &Transfer) {
        let Some(word) = phase_word(transfer) else {
            if let Some(bar) = self.transfers.remove(&transfer.id) {
                bar.finish_and_clear();
                self.rows.remove(&bar);
            }
            return;
        };
        // Unpacking has no total that could be known; the download's would mislead.
        let total = transfer.total.filter(|_| transfer.phase != TransferPhase::Extracting);
        let style = match total {
            None => style("  {prefix} {msg} {decimal_bytes}"),
            Some(_) if (self.width)() < BAR_WIDTH => style("  {prefix} {msg} {percent}%"),
            Some(_) => style("  {prefix} {msg} {bar:20} {decimal_bytes}/{decimal_total_bytes}")
                .progress_chars("=> "),
        };
        let show = |bar: &ProgressBar| {
            bar.set_style(style);
            bar.set_message(word);
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(transfer.current);
        };
        if let Some(bar) = self.transfers.get(&transfer.id) {
            return show(bar);
        }
        // Shown with its first state, not before.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_prefix(ellipsis(&printable(&transfer.id), TRANSFER_NAME));
        show(&bar);
        self.transfers.insert(transfer.id.clone(), self.rows.add(bar));
    }

    /// Takes all that is redrawn off the screen.
    fn clear(&mut self) {
        for step in self.running.keys().copied().collect::<Vec<_>>() {
            self.end(step);
        }
        for (_, bar) in std::mem::take(&mut self.transfers) {
            bar.finish_and_clear();
            self.rows.remove(&bar);
        }
    }
}

/// Breaks a text into lines of at most `width` characters, between words where there are such.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        let line = lines.last_mut().expect("there is always one");
        if length > 0 && length + 1 + rest.len() <= width {
            line.push(' ');
            line.extend(&rest);
            length += 1 + rest.len();
            continue;
        }
        if length > 0 {
            lines.push(String::new());
        }
        while rest.len() > width {
            let after = rest.split_off(width);
            lines.last_mut().expect("there is always one").extend(rest);
            lines.push(String::new());
            rest = after;
        }
        length = rest.len();
        lines.last_mut().expect("there is always one").extend(rest);
    }
    lines
}

fn stderr_width() -> usize {
    const UNKNOWN: usize = 80;
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&width| width > 0).unwrap_or(UNKNOWN)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well formed")
}

impl View for Live {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.seen.note(event);
        let text = match event {
            Event::Source(_)
            | Event::Planned { .. }
            | Event::StepLookup { .. }
            | Event::StepUsage { .. } => return Ok(()),
            Event::Note { text } => self.paint("2", &printable(text)),
            Event::Queued { place } => self.paint("2", &format::queued(*place)),
            Event::Warning(remark) => report::diagnostic(remark, self.quotable(), self.color),
            Event::StepStarted { step } => {
                self.start(*step);
                return Ok(());
            }
            Event::StepOutput { step, stream, data } => {
                self.output(*step, *stream, &data.bytes());
                return Ok(());
            }
            Event::StepFinished { step, outcome, millis, .. } => {
                self.finished(*step, outcome, *millis)
            }
            Event::StepFailed { step, millis } => {
                self.end(*step);
                let failed = format!("FAILED after {}", format::millis(*millis));
                self.row(*step, ("31", &failed), None)
            }
            Event::Transfer(transfer) => {
                self.transfer(transfer);
                return Ok(());
            }
            Event::Finished(finished) => {
                self.clear();
                summary(finished)
            }
            Event::Failed(failure) => {
                self.clear();
                report::failure(failure, self.quotable(), self.color)
            }
        };
        self.rows.println(text.strip_suffix('\n').unwrap_or(&text))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;
    use crate::progress::samples;

    /// Eighty columns that keep every line ever written to them.
    #[derive(Clone, Debug, Default)]
    struct Tape(Arc<Mutex<String>>);

    impl Tape {
        fn put(&self, text: &str) {
            self.0.lock().unwrap().push_str(text);
        }
    }

    impl TermLike for Tape {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.put(text);
            self.put("\n");
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.put(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn run(events: &[Event]) -> String {
        run_at(|| 80, events)
    }

    fn run_at(width: fn() -> usize, events: &[Event]) -> String {
        let tape = Tape::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(tape.clone()), 255);
        let mut view = Live::new(target, width, false);
        for event in events {
            view.event(event).unwrap();
            // Redraws are limited in time; this one wants to see them all.
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(view);
        tape.0.lock().unwrap().clone()
    }

    #[test]
    fn what_runs_is_shown_while_it_runs() {
        let tape = run(&samples::good());
        for want in [
            "[3/4] RUN npm install",
            "    two",
            "    100%",
            "4f4fb700ef54 downloading",
            "23.00 MB/46.00 MB",
        ] {
            assert!(tape.contains(want), "{want} is not in:\n{tape}");
        }
        assert!(!tape.contains("\x1b[32m"), "output of steps drives the terminal:\n{tape}");
    }

    #[test]
    fn a_narrow_terminal_keeps_its_rows() {
        let tape = run_at(|| 28, &samples::good());
        for want in [
            "[2/4] COPY . .  0.1s ",
            "    (COPY .: 1 file changed ",
            "    (a.js)) ",
            "[3/4] RUN npm insta…  1m 01s ",
            "downloading 50%",
        ] {
            assert!(tape.contains(want), "{want} is not in:\n{tape}");
        }
        for (text, want) in [
            ("", &[""][..]),
            ("a bc d", &["a bc", "d"]),
            ("abcdefghij k", &["abcde", "fghij", "k"]),
            ("a abcdefg", &["a", "abcde", "fg"]),
        ] {
            assert_eq!(wrapped(text, 5), want, "{text}");
        }
    }

    #[test]
    fn what_ended_stays() {
        let tape = run(&samples::good());
        for want in [
            "[1/4] FROM node:14  CACHED",
            "[2/4] COPY . .  0.1s  (COPY .: 1 file changed (a.js))",
            "[3/4] RUN npm install  1m 01s",
            "[4/4] ENTRYPOINT npm start",
            "Built app-node:1 (0123456789ab, 762kB) in 1m 02s, 1 of 3 steps cached (saved 7.1s and 187MB)",
        ] {
            assert!(tape.contains(want), "{want} is not in:\n{tape}");
        }
        let tape = run(&samples::bad());
        for want in ["FAILED after 1.2s", "  npm ERR! code E404", "3 | RUN npm install"] {
            assert!(tape.contains(want), "{want} is not in:\n{tape}");
        }
    }
}
