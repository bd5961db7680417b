//! Findings for people: the source with what is said about it, and a count at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use builder::{SourceDiagnostic, SourceText};
use frontend::{Checked, Severity};

use super::explain;
use crate::report::{self, Quotable};

/// Whether standard output takes colours.
pub(super) fn wants_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !no_color
}

/// Writes all findings; a rule's reason stands with the first of its findings.
pub(super) fn write(source: &SourceText, checked: &Checked, color: bool) -> String {
    let quotable = Quotable { source: Some(source), steps: &[], width: None };
    let mut text = String::new();
    let mut told = BTreeSet::new();
    for finding in &checked.findings {
        let remark = SourceDiagnostic::new(&finding.diagnostic, &source.text);
        let rule = finding.diagnostic.rule.and_then(|name| frontend::rule(name).ok());
        let reason = rule.filter(|rule| told.insert(rule.name)).map(|rule| explain::wrap(rule.why));
        text += &report::finding(&remark, reason.as_deref().map(str::trim_end), quotable, color);
        text.push('\n');
    }
    text + &summary(checked)
}

fn summary(checked: &Checked) -> String {
    let total = checked.findings.len();
    if total == 0 {
        return "Check complete, nothing to say.\n".to_owned();
    }
    let is_error = |severity| severity == Severity::Error;
    let errors = checked.findings.iter().filter(|f| is_error(f.diagnostic.severity)).count();
    let mendable = checked.findings.iter().filter(|finding| !finding.edits.is_empty()).count();
    let mut parts = Vec::new();
    for (count, noun) in [(errors, "error"), (total - errors, "warning")] {
        match count {
            0 => {}
            1 => parts.push(format!("1 {noun}")),
            count => parts.push(format!("{count} {noun}s")),
        }
    }
    let mut text = format!("Check complete: {}.", parts.join(" and "));
    if mendable > 0 && !checked.has_faults() {
        let _ = write!(text, " `rbuild check --fix` mends {mendable} of them.");
    }
    text.push('\n');
    text
}

/// Tells which rules were mended, and how often.
pub(super) fn mended(name: &str, rules: &[&str]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for rule in rules {
        *counts.entry(rule).or_default() += 1;
    }
    let told: Vec<String> = counts
        .iter()
        .map(
            |(rule, count)| {
                if *count == 1 { (*rule).to_owned() } else { format!("{rule} ({count})") }
            },
        )
        .collect();
    format!("mended {name}: {}\n", told.join(", "))
}
