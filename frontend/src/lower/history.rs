//! Texts of the history and of progress.

use std::fmt::Write as _;

use crate::ast::{Instruction, Statement};
use crate::{HistoryStep, mask_urls};

/// Bytes that a history takes when it is copied.
pub(super) fn bytes(history: &[HistoryStep]) -> usize {
    history.iter().map(|entry| entry.created_by.len() + size_of::<HistoryStep>()).sum()
}

/// Puts a text on one line: runs of blanks become one.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// The text that progress shows: the instruction on one line, a heredoc of RUN by its first line.
pub(super) fn step_text(statement: &Statement) -> String {
    let mut text = one_line(&mask_urls(&statement.text));
    if let Instruction::Run(run) = &statement.instruction
        && let Some(heredoc) = run.heredocs.first()
    {
        let mut lines = heredoc.content.trim().lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { "..." } else { "" };
        let _ = write!(text, " ({first}{more})");
    }
    text
}
