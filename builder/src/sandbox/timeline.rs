//! Where the time of a step's sandbox goes, across its processes: for benchmarks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What ended when, in order; nothing is noted unless somebody asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Timeline {
    is_wanted: bool,
    /// Names, and points on the clock that all processes of a machine share.
    marks: Vec<(String, Duration)>,
}

impl Timeline {
    /// Begins to take notes.
    pub(super) fn start() -> Self {
        Self { is_wanted: true, marks: vec![(String::new(), now())] }
    }

    /// An empty one for another process, which takes notes if this one does.
    pub(super) const fn fork(&self) -> Self {
        Self { is_wanted: self.is_wanted, marks: Vec::new() }
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Notes that `what` ended just now.
    pub(super) fn mark(&mut self, what: &str) {
        if self.is_wanted {
            self.marks.push((what.to_owned(), now()));
        }
    }

    /// Takes over what another process noted.
    pub(super) fn join(&mut self, other: Self) {
        self.marks.extend(other.marks);
    }

    /// Tells how long each part took.
    pub(super) fn parts(mut self) -> Vec<(String, Duration)> {
        self.marks.sort_by_key(|(_, at)| *at);
        let pairs = self.marks.windows(2);
        pairs.map(|pair| (pair[1].0.clone(), pair[1].1.saturating_sub(pair[0].1))).collect()
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
