//! Only the image ID, and what went wrong.

use std::io::{self, Write};

use builder::Event;

use super::{Seen, View, write_all};
use crate::report;

/// Writes the image ID to `out` at the end, and failures to `errors`.
#[derive(Debug)]
pub(super) struct Quiet<O, E> {
    out: O,
    errors: E,
    color: bool,
    seen: Seen,
}

impl<O: Write + Send, E: Write + Send> Quiet<O, E> {
    pub(super) fn new(out: O, errors: E, color: bool) -> Self {
        Self { out, errors, color, seen: Seen::default() }
    }
}

impl<O: Write + Send, E: Write + Send> View for Quiet<O, E> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.seen.note(event);
        match event {
            Event::Finished(finished) => {
                write_all(&mut self.out, &format!("{}\n", finished.image_id))
            }
            Event::Failed(failure) => {
                let text = report::failure(failure, self.seen.quotable(), self.color);
                write_all(&mut self.errors, &text)
            }
            Event::Source(_)
            | Event::Note { .. }
            | Event::Queued { .. }
            | Event::Warning(_)
            | Event::Planned { .. }
            | Event::StepLookup { .. }
            | Event::StepStarted { .. }
            | Event::StepOutput { .. }
            | Event::StepUsage { .. }
            | Event::StepFinished { .. }
            | Event::StepFailed { .. }
            | Event::Transfer(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::samples;

    fn run(events: &[Event]) -> (String, String) {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let mut view = Quiet::new(&mut out, &mut errors, false);
        for event in events {
            view.event(event).unwrap();
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
    }

    #[test]
    fn only_the_id_or_the_failure_is_told() {
        let (out, errors) = run(&samples::good());
        assert_eq!(out, format!("sha256:{}\n", "0123456789abcdef".repeat(4)));
        assert_eq!(errors, "");
        let (out, errors) = run(&samples::bad());
        assert_eq!(out, "");
        assert!(errors.contains("error: RUN npm install failed"), "{errors}");
    }
}
