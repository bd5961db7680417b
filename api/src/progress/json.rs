//! One event a line, as JSON: for programs.

use std::io::{self, Write};

use builder::Event;

use super::View;

/// Writes each event as one line of JSON.
#[derive(Debug)]
pub(super) struct Json<W>(W);

impl<W: Write + Send> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write + Send> View for Json<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_event() {
        let mut out = Vec::new();
        let events = crate::progress::samples::bad();
        let mut view = Json::new(&mut out);
        for event in &events {
            view.event(event).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let back: Vec<Event> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, events);
    }
}
