//! A step's output on its way to events: masked, and its end kept for the report of a failure.

use std::cell::OnceCell;
use std::collections::VecDeque;

use crate::progress::{Events, OutputStream};
use crate::secret::{Masker, OutputMask};
use crate::spool::SpoolError;

/// Lines of output that a failure repeats.
const TAIL_LINES: usize = 20;

/// Bytes of one line that a failure repeats.
const TAIL_LINE_LIMIT: usize = 400;

/// Takes what a command writes.
#[derive(Debug)]
pub(super) struct Output<'a> {
    /// Index in the plan; `None` keeps the output to itself.
    step: Option<usize>,
    events: &'a Events,
    stdout: OutputMask,
    stderr: OutputMask,
    tail: Tail,
    /// Why output was lost.
    failure: &'a OnceCell<SpoolError>,
}

impl<'a> Output<'a> {
    /// Sends to `events`; where that fails, `failure` tells why, and the step has to end.
    pub(super) fn new(
        step: Option<usize>,
        events: &'a Events,
        masker: Option<&Masker>,
        failure: &'a OnceCell<SpoolError>,
    ) -> Self {
        let mask = || OutputMask::new(masker.cloned());
        Self { step, events, stdout: mask(), stderr: mask(), tail: Tail::default(), failure }
    }

    /// Takes bytes as they come.
    pub(super) fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        let Self { step, events, stdout, stderr, tail, failure } = self;
        let mask = match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        };
        mask.push(bytes, |bytes| pass(*step, events, tail, failure, stream, bytes));
    }

    /// Ends the output and returns its last lines.
    pub(super) fn finish(self) -> Vec<String> {
        let Self { step, events, mut stdout, mut stderr, mut tail, failure } = self;
        for (mask, stream) in
            [(&mut stdout, OutputStream::Stdout), (&mut stderr, OutputStream::Stderr)]
        {
            mask.finish(|bytes| pass(step, events, &mut tail, failure, stream, bytes));
        }
        tail.lines()
    }
}

fn pass(
    step: Option<usize>,
    events: &Events,
    tail: &mut Tail,
    failure: &OnceCell<SpoolError>,
    stream: OutputStream,
    bytes: &[u8],
) {
    tail.push(bytes);
    if let Some(step) = step
        && failure.get().is_none()
        && let Err(error) = events.send_output(step, stream, bytes)
    {
        // The first failure ends the step; what comes until then is lost.
        let _ = failure.set(error);
    }
}

/// The last lines of a step's output.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Tail {
    /// Looks at no more of `bytes` than what can still be among the last lines.
    fn push(&mut self, bytes: &[u8]) {
        let mut lines: Vec<&[u8]> = bytes.rsplitn(TAIL_LINES + 2, |&byte| byte == b'\n').collect();
        if lines.len() > TAIL_LINES + 1 {
            lines.pop();
            self.open.clear();
        }
        let (last, ended) = lines.split_first().expect("a split has at least one part");
        for line in ended.iter().rev() {
            self.extend(line);
            self.close();
        }
        self.extend(last);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = TAIL_LINE_LIMIT.saturating_sub(self.open.len());
        self.open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn close(&mut self) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(std::mem::take(&mut self.open));
    }

    fn lines(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.close();
        }
        self.lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::progress::Event;

    #[test]
    fn the_tail_keeps_the_last_lines_however_they_come() {
        let mut text = String::new();
        for number in 0..60 {
            write!(text, "line {number}\r\n").unwrap();
        }
        text += "no end";
        for size in [1, 7, 100, text.len()] {
            let mut tail = Tail::default();
            for piece in text.as_bytes().chunks(size) {
                tail.push(piece);
            }
            let lines = tail.lines();
            assert_eq!(lines.len(), TAIL_LINES, "in pieces of {size}");
            assert_eq!(lines[0], "line 41");
            assert_eq!(lines[TAIL_LINES - 1], "no end");
        }
    }

    #[test]
    fn the_tail_cuts_endless_lines() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; 4 * TAIL_LINE_LIMIT]);
        tail.push(b"y\n");
        assert_eq!(tail.lines(), ["x".repeat(TAIL_LINE_LIMIT)]);
    }

    #[test]
    fn secrets_are_masked_in_events_and_in_the_tail() {
        let (events, mut seen) = Events::channel();
        let failure = OnceCell::new();
        let masker = Masker::new(&[("t".to_owned(), "hunter2".into())].into());
        let mut output = Output::new(Some(3), &events, masker.as_ref(), &failure);
        for (stream, text) in [
            (OutputStream::Stdout, "a hun"),
            (OutputStream::Stderr, "err\n"),
            (OutputStream::Stdout, "ter2 b hunter"),
        ] {
            output.push(stream, text.as_bytes());
        }
        assert_eq!(output.finish(), ["a err", "*** b hunter"]);
        drop(events);
        let mut shown = String::new();
        while let Ok(Event::StepOutput { step: 3, stream, data }) = seen.try_recv() {
            let text = String::from_utf8(data.bytes()).unwrap();
            write!(shown, "{stream:?} {text:?};").unwrap();
        }
        assert_eq!(shown, r#"Stdout "a ";Stderr "err\n";Stdout "*** b ";Stdout "hunter";"#);
    }
}
