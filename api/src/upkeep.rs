//! The tables of `rbuild.toml` about what a store keeps.

use std::time::Duration;

use builder::HistoryLimits;
use cache::{Amount, GcPolicy, Item, ItemKind};
use clap::Args;
use serde::Deserialize;

use crate::limits::{bytes, duration};

/// `[history]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HistoryTable {
    /// Builds remembered at most.
    builds: Option<usize>,
    /// Age at which a build is forgotten: `720h`, `30d`.
    age: Option<Age>,
    /// Builds whose failed step's files are kept.
    failed_steps: Option<usize>,
}

impl HistoryTable {
    /// Fills in what the file leaves out.
    pub(crate) fn limits(&self) -> HistoryLimits {
        let HistoryLimits { builds, age, failed_steps } = HistoryLimits::default();
        HistoryLimits {
            builds: self.builds.unwrap_or(builds),
            age: self.age.map_or(age, |Age(age)| age),
            failed_steps: self.failed_steps.unwrap_or(failed_steps),
        }
    }
}

/// `[gc]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GcTable {
    max_used: Option<Part>,
    reserved: Option<Part>,
    min_free: Option<Part>,
    keep_duration: Option<Age>,
}

/// How much the store may take: a size such as 20g, or a part of its disk such as 50%.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Room in the store")]
pub(crate) struct GcArgs {
    /// Make the store smaller when it takes more than this [default: 60%, at most 100g]
    #[arg(id = "gc_max_used", long = "gc-max-used", value_name = "SIZE", value_parser = part)]
    max_used: Option<Amount>,
    /// Remove nothing to make room while it takes less than this [default: 10%, at most 10g]
    #[arg(id = "gc_reserved", long = "gc-reserved", value_name = "SIZE", value_parser = part)]
    reserved: Option<Amount>,
    /// Leave so much of the disk free [default: 5%, at most 10g]
    #[arg(id = "gc_min_free", long = "gc-min-free", value_name = "SIZE", value_parser = part)]
    min_free: Option<Amount>,
    /// Keep what was used more recently than this ago, such as 24h [default: 0]
    #[arg(id = "gc_keep_duration", long = "gc-keep-duration", value_name = "TIME", value_parser = duration)]
    keep_duration: Option<Duration>,
}

impl GcArgs {
    /// Returns whether any was given.
    pub(crate) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// Fills in from the file what the flags leave out.
    pub(crate) fn policy(&self, file: &GcTable) -> GcPolicy {
        let of = |part: Option<Part>| part.map(|Part(amount)| amount);
        let age = self.keep_duration.or(file.keep_duration.map(|Age(age)| age));
        GcPolicy {
            max_used: self.max_used.or(of(file.max_used)),
            reserved: self.reserved.or(of(file.reserved)),
            min_free: self.min_free.or(of(file.min_free)),
            keep_duration: age.unwrap_or_default(),
        }
    }
}

/// Parses a size, or a part of the disk.
fn part(text: &str) -> Result<Amount, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return if text == "0" { Ok(Amount::Bytes(0)) } else { bytes(text).map(Amount::Bytes) };
    };
    let percent = percent.parse().ok().filter(|&percent| percent <= 100);
    percent.map(Amount::Percent).ok_or_else(|| format!("`{text}` is not a part such as 50%"))
}

/// An amount as [`part`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Part(Amount);

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        part(&text).map(Self)
    }
}

/// `--filter` of `du` and `prune`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ItemFilter {
    /// `type=`.
    Kind(ItemKind),
    /// `id=`.
    Id(String),
    /// `until=`: not used for so long.
    Unused(Duration),
    /// `reclaimable=`.
    Reclaimable(bool),
}

impl ItemFilter {
    /// Parses `NAME=VALUE`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        match name {
            "type" => {
                let kind = serde_json::from_value(value.into());
                kind.map(Self::Kind).map_err(|_| format!("there is no type `{value}`"))
            }
            "id" => Ok(Self::Id(value.to_owned())),
            "until" | "unused-for" => duration(value).map(Self::Unused),
            "reclaimable" => {
                let flag = value.parse().map(Self::Reclaimable);
                flag.map_err(|_| format!("`{value}` is neither true nor false"))
            }
            _ => Err(format!("there is no filter `{name}`")),
        }
    }

    /// Whether `item` passes at `now`, in Unix seconds.
    pub(crate) fn admits(&self, item: &Item, now: u64) -> bool {
        match self {
            Self::Kind(kind) => item.kind == *kind,
            Self::Id(prefix) => item.id.starts_with(prefix.as_str()),
            Self::Unused(age) => {
                item.last_used.is_some_and(|used| now.saturating_sub(used) >= age.as_secs())
            }
            Self::Reclaimable(wanted) => item.is_reclaimable == *wanted,
        }
    }
}

/// A time as [`duration`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Age(pub(crate) Duration);

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
            ("age = \"7d\"\nbuilds = 3",     Some(HistoryLimits { builds: 3, age: 7 * day, ..default })),
            ("failed_steps = 0",             Some(HistoryLimits { failed_steps: 0, ..default })),
            ("age = \"soon\"",               None),
            ("count = 3",                    None),
        ];
        for (text, want) in cases {
            assert_eq!(limits(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn filters_admit_what_they_say() {
        let item = Item {
            kind: ItemKind::Mount,
            id: "ab12".into(),
            bytes: 1,
            last_used: Some(1000),
            title: String::new(),
            is_reclaimable: true,
        };
        #[rustfmt::skip]
        let cases = [
            ("type=mount",        Some(true)),
            ("type=step",         Some(false)),
            ("type=mounts",       None),
            ("id=ab",             Some(true)),
            ("id=b",              Some(false)),
            ("until=10s",         Some(true)),
            ("until=11s",         Some(false)),
            ("until=soon",        None),
            ("reclaimable=true",  Some(true)),
            ("reclaimable=false", Some(false)),
            ("reclaimable=yes",   None),
            ("size=1",            None),
            ("type",              None),
        ];
        for (text, want) in cases {
            let got = ItemFilter::parse(text).ok().map(|filter| filter.admits(&item, 1010));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "max_used = \"50%\"\nreserved = \"1g\"\nkeep_duration = \"24h\"";
        let file: GcTable = toml::from_str(text).unwrap();
        let flags = GcArgs { max_used: Some(Amount::Bytes(5)), ..GcArgs::default() };
        let day = Duration::from_secs(24 * 3600);
        let want = GcPolicy {
            max_used: Some(Amount::Bytes(5)),
            reserved: Some(Amount::Bytes(1 << 30)),
            min_free: None,
            keep_duration: day,
        };
        assert_eq!(flags.policy(&file), want);
        let want = GcPolicy { max_used: Some(Amount::Percent(50)), ..want };
        assert_eq!(GcArgs::default().policy(&file), want);
        assert!(flags.is_given() && !GcArgs::default().is_given());
        for wrong in ["max_used = \"101%\"", "reserved = \"x\"", "min = 3"] {
            assert!(toml::from_str::<GcTable>(wrong).is_err(), "{wrong}");
        }
    }
}
