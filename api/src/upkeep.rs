//! The tables of `rbuild.toml` about what a store keeps.

use std::time::Duration;

use builder::HistoryLimits;
use serde::Deserialize;

use crate::limits::duration;

/// `[history]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HistoryTable {
    /// Builds remembered at most.
    builds: Option<usize>,
    /// Age at which a build is forgotten: `720h`, `30d`.
    age: Option<Age>,
}

impl HistoryTable {
    /// Fills in what the file leaves out.
    pub(crate) fn limits(&self) -> HistoryLimits {
        let HistoryLimits { builds, age } = HistoryLimits::default();
        HistoryLimits {
            builds: self.builds.unwrap_or(builds),
            age: self.age.map_or(age, |Age(age)| age),
        }
    }
}

/// A time as [`duration`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Age(Duration);

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        duration(&text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_by_count_and_age() {
        let limits = |text: &str| toml::from_str::<HistoryTable>(text).map(|table| table.limits());
        let default = HistoryLimits::default();
        let day = Duration::from_secs(24 * 3600);
        #[rustfmt::skip]
        let cases = [
            ("",                             Some(default)),
            ("builds = 0",                   Some(HistoryLimits { builds: 0, ..default })),
            ("age = \"7d\"\nbuilds = 3",     Some(HistoryLimits { builds: 3, age: 7 * day })),
            ("age = \"soon\"",               None),
            ("count = 3",                    None),
        ];
        for (text, want) in cases {
            assert_eq!(limits(text).ok(), want, "{text}");
        }
    }
}
