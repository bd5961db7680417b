//! Transfers as the status lines of Docker's pulls and pushes.

use std::collections::{BTreeMap, BTreeSet};

use builder::{Transfer, TransferPhase};
use serde_json::{Value, json};

use crate::format;

/// Characters of the bar between its brackets.
const BAR: u64 = 50;

/// Which way the bytes go: Docker's words differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From a registry.
    Pull,
    /// To a registry.
    Push,
}

/// Makes status lines, and remembers what each transfer was at.
#[derive(Debug)]
pub(crate) struct StatusLines {
    direction: Direction,
    phases: BTreeMap<String, TransferPhase>,
    /// What has been sent: it is there when it is looked at once more.
    sent: BTreeSet<String>,
}

impl StatusLines {
    pub(crate) fn new(direction: Direction) -> Self {
        Self { direction, phases: BTreeMap::new(), sent: BTreeSet::new() }
    }

    /// Returns the line for `transfer`; contexts and archives have none in Docker.
    pub(crate) fn line(&mut self, transfer: &Transfer) -> Option<Value> {
        let status = match transfer.phase {
            TransferPhase::Loading | TransferPhase::Exporting => return None,
            TransferPhase::Downloading => "Downloading",
            TransferPhase::Extracting => "Extracting",
            TransferPhase::Pushing => "Pushing",
            TransferPhase::AlreadyPresent if self.sent.contains(&transfer.id) => return None,
            TransferPhase::AlreadyPresent if self.direction == Direction::Push => {
                "Layer already exists"
            }
            TransferPhase::AlreadyPresent => "Already exists",
            TransferPhase::Done => match self.phases.remove(&transfer.id)? {
                TransferPhase::Downloading => "Download complete",
                TransferPhase::Extracting => "Pull complete",
                TransferPhase::Pushing => {
                    self.sent.insert(transfer.id.clone());
                    "Pushed"
                }
                TransferPhase::Loading
                | TransferPhase::Exporting
                | TransferPhase::Done
                | TransferPhase::AlreadyPresent => return None,
            },
        };
        let is_moving =
            !matches!(transfer.phase, TransferPhase::Done | TransferPhase::AlreadyPresent);
        if !is_moving {
            return Some(json!({ "status": status, "progressDetail": {}, "id": transfer.id }));
        }
        self.phases.insert(transfer.id.clone(), transfer.phase);
        let mut detail = json!({ "current": transfer.current });
        if let Some(total) = transfer.total {
            detail["total"] = total.into();
        }
        let progress = bar(transfer.current, transfer.total);
        let id = &transfer.id;
        Some(json!({ "status": status, "progressDetail": detail, "progress": progress, "id": id }))
    }
}

/// Draws `[====>     ]  1.2MB/4.5MB` as Docker does.
fn bar(current: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|&total| total >= current && total > 0) else {
        return format!("{:>8}", format::size(current));
    };
    let done = u128::from(current) * u128::from(BAR) / u128::from(total);
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    let left = usize::try_from(BAR).unwrap_or(done).saturating_sub(done);
    let numbers = format!("{:>8}/{}", format::size(current), format::size(total));
    format!("[{}>{}] {numbers}", "=".repeat(done), " ".repeat(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_dockers_word() {
        use TransferPhase::{
            AlreadyPresent, Done, Downloading, Exporting, Extracting, Loading, Pushing,
        };
        #[rustfmt::skip]
        let cases: [(Direction, &[TransferPhase], &[&str]); 7] = [
            (Direction::Pull, &[Downloading, Downloading, Done, Extracting, Done],
                &["Downloading", "Downloading", "Download complete", "Extracting", "Pull complete"]),
            (Direction::Pull, &[AlreadyPresent], &["Already exists"]),
            (Direction::Push, &[AlreadyPresent], &["Layer already exists"]),
            (Direction::Push, &[Pushing, Done], &["Pushing", "Pushed"]),
            (Direction::Push, &[Pushing, Done, AlreadyPresent], &["Pushing", "Pushed"]),
            (Direction::Pull, &[Loading, Done], &[]),
            (Direction::Pull, &[Exporting, Done, Done], &[]),
        ];
        for (direction, phases, want) in cases {
            let mut lines = StatusLines::new(direction);
            let got: Vec<String> = phases
                .iter()
                .filter_map(|&phase| {
                    let id = "x".to_owned();
                    lines.line(&Transfer { id, phase, current: 1, total: None })
                })
                .map(|line| line["status"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(got, want, "{phases:?}");
        }
    }

    #[test]
    fn bars_are_fifty_wide() {
        let want = format!("[{}>{}]      1kB/2kB", "=".repeat(25), " ".repeat(25));
        assert_eq!(bar(1000, Some(2000)), want);
        assert_eq!(bar(1000, None), "     1kB");
        assert_eq!(bar(3000, Some(2000)), "     3kB");
        assert_eq!(bar(0, Some(0)), "      0B");
    }
}
