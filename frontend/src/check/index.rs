//! Where the instructions and lines of a file are, to be asked often.

use crate::Span;
use crate::ast::{Dockerfile, Stage, Statement};
use crate::lines::Lines;

/// The instructions and lines of one file. Looking up takes logarithmic time: a file can have as
/// many findings as lines.
#[derive(Debug)]
pub(super) struct FileIndex<'a> {
    source: &'a str,
    escape: char,
    /// In the order of the file, which is that of their spans.
    instructions: Vec<Place<'a>>,
    /// Offsets of the lines.
    lines: Vec<usize>,
}

/// An instruction; FROM and the ARGs before it are in no stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) span: Span,
    /// The stage of a FROM, or of the statement.
    pub(super) stage: Option<&'a Stage>,
    pub(super) statement: Option<&'a Statement>,
}

impl<'a> FileIndex<'a> {
    pub(super) fn new(source: &'a str, dockerfile: &'a Dockerfile) -> Self {
        let globals = dockerfile.globals.iter().map(|statement| Place {
            span: statement.span,
            stage: None,
            statement: Some(statement),
        });
        let stages = dockerfile.stages.iter().flat_map(|stage| {
            let head = Place { span: stage.from.span, stage: Some(stage), statement: None };
            let statements = stage.statements.iter().map(move |statement| Place {
                span: statement.span,
                stage: Some(stage),
                statement: Some(statement),
            });
            std::iter::once(head).chain(statements)
        });
        let feeds = source.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            escape: dockerfile.directives.escape,
            instructions: globals.chain(stages).collect(),
            lines: std::iter::once(0).chain(feeds).collect(),
        }
    }

    pub(super) fn source(&self) -> &'a str {
        self.source
    }

    /// The instruction that covers the offset `at`.
    pub(super) fn instruction(&self, at: usize) -> Option<Place<'a>> {
        let after = self.instructions.partition_point(|place| place.span.start <= at);
        let place = self.instructions.get(after.checked_sub(1)?)?;
        (at <= place.span.end).then_some(*place)
    }

    /// The 1-based number of the line that holds the offset `at`.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    /// Where the lines of the instruction at `span` end, its heredocs not counted.
    pub(super) fn end_of_lines(&self, span: Span) -> usize {
        let mut lines = Lines::at(self.source, span.start);
        if let Some(first) = lines.next_line() {
            lines.join(first, self.escape);
        }
        lines.position()
    }
}
