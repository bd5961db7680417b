//! From limits to the files of a cgroup: pure, one function a version.

use super::place::Controller;
use crate::limits::{Bound, CpuTime, Limits};

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// What was asked for, as a user calls it; `None` is a default, which may fail.
    pub(super) asked: Option<&'static str>,
}

fn setting(
    controller: Controller,
    file: &'static str,
    value: &dyn ToString,
    asked: &'static str,
) -> Setting {
    Setting { controller, file, value: value.to_string(), asked: Some(asked) }
}

/// Gives way where nothing was asked for.
fn unless(is_asked: bool, mut setting: Setting) -> Setting {
    if !is_asked {
        setting.asked = None;
    }
    setting
}

/// The bounds of memory and of memory with swap. `default_memory` is in bytes.
fn memory(limits: &Limits, default_memory: Option<u64>) -> (Option<u64>, Option<u64>) {
    let memory = match limits.memory {
        Some(Bound::At(bytes)) => Some(bytes),
        Some(Bound::Unlimited) => None,
        None => default_memory,
    };
    let both = match (limits.memory_swap, limits.memory) {
        (Some(Bound::At(bytes)), _) => Some(bytes),
        // As Docker: as much swap as memory.
        (None, Some(Bound::At(bytes))) => Some(bytes.saturating_mul(2)),
        (Some(Bound::Unlimited) | None, _) => None,
    };
    (memory, both)
}

fn pids(limits: &Limits) -> Option<u64> {
    match limits.pids {
        Some(Bound::At(count)) => Some(count),
        Some(Bound::Unlimited) => None,
        None => Some(Limits::PIDS),
    }
}

/// Version 1 (Documentation/admin-guide/cgroup-v1).
pub(super) fn v1(limits: &Limits, default_memory: Option<u64>) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Memory, Pids};
    let (memory, both) = memory(limits, default_memory);
    let mut settings = Vec::new();
    if let Some(bytes) = memory {
        let memory = setting(Memory, "memory.limit_in_bytes", &bytes, "memory");
        settings.push(unless(limits.memory.is_some(), memory));
    }
    // After the limit of memory alone, which may not be above it.
    if let Some(bytes) = both {
        let swap = setting(Memory, "memory.memsw.limit_in_bytes", &bytes, "memory and swap");
        settings.push(unless(limits.memory_swap.is_some(), swap));
    }
    if let Some(count) = pids(limits) {
        let pids = setting(Pids, "pids.max", &count, "processes");
        settings.push(unless(limits.pids.is_some(), pids));
    }
    if let Some(CpuTime { quota_micros, period_micros }) = limits.cpu {
        settings.push(setting(Cpu, "cpu.cfs_period_us", &period_micros, "processor time"));
        settings.push(setting(Cpu, "cpu.cfs_quota_us", &quota_micros, "processor time"));
    }
    if let Some(shares) = limits.cpu_shares {
        settings.push(setting(Cpu, "cpu.shares", &shares, "processor shares"));
    }
    if let Some(list) = &limits.cpuset_cpus {
        settings.push(setting(Cpuset, "cpuset.cpus", list, "processors"));
    }
    if let Some(list) = &limits.cpuset_mems {
        settings.push(setting(Cpuset, "cpuset.mems", list, "memory nodes"));
    }
    settings
}

/// Version 2 (Documentation/admin-guide/cgroup-v2).
pub(super) fn v2(limits: &Limits, default_memory: Option<u64>) -> Vec<Setting> {
    use Controller::{Cpu, Cpuset, Memory, Pids};
    let (memory, both) = memory(limits, default_memory);
    let mut settings = Vec::new();
    if let Some(bytes) = memory {
        let setting = setting(Memory, "memory.max", &bytes, "memory");
        settings.push(unless(limits.memory.is_some(), setting));
    }
    // Version 2 bounds swap alone.
    if let Some(bytes) = both {
        let swap = bytes.saturating_sub(memory.unwrap_or(0));
        let setting = setting(Memory, "memory.swap.max", &swap, "memory and swap");
        settings.push(unless(limits.memory_swap.is_some(), setting));
    }
    if let Some(count) = pids(limits) {
        let pids = setting(Pids, "pids.max", &count, "processes");
        settings.push(unless(limits.pids.is_some(), pids));
    }
    if let Some(CpuTime { quota_micros, period_micros }) = limits.cpu {
        let value = format!("{quota_micros} {period_micros}");
        settings.push(setting(Cpu, "cpu.max", &value, "processor time"));
    }
    if let Some(shares) = limits.cpu_shares {
        settings.push(setting(Cpu, "cpu.weight", &weight(shares), "processor shares"));
    }
    if let Some(list) = &limits.cpuset_cpus {
        settings.push(setting(Cpuset, "cpuset.cpus", list, "processors"));
    }
    if let Some(list) = &limits.cpuset_mems {
        settings.push(setting(Cpuset, "cpuset.mems", list, "memory nodes"));
    }
    settings
}

/// Maps shares (2 to 262144) onto weights (1 to 10000), as OCI runtimes do.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        let line = |it: &Setting| {
            let mark = if it.asked.is_some() { "" } else { "?" };
            format!("{}={}{mark}", it.file, it.value)
        };
        settings.iter().map(line).collect()
    }

    #[test]
    fn limits_become_files() {
        let none = Limits::default;
        let at = |value| Some(Bound::At(value));
        let all = Limits {
            memory: at(100),
            memory_swap: at(150),
            cpu: Some(CpuTime { quota_micros: 150_000, period_micros: 100_000 }),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: at(7),
            timeout: Some(Duration::from_secs(1)),
            ..none()
        };
        let lifted =
            Limits { memory: Some(Bound::Unlimited), pids: Some(Bound::Unlimited), ..none() };
        #[rustfmt::skip]
        let cases = [
            ("nothing", none(), "memory.limit_in_bytes=999? pids.max=4096?", "memory.max=999? pids.max=4096?"),
            ("lifted",  lifted, "", ""),
            ("memory",  Limits { memory: at(100), ..none() },
                "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=200? pids.max=4096?",
                "memory.max=100 memory.swap.max=100? pids.max=4096?"),
            ("swap too", Limits { memory: at(100), memory_swap: Some(Bound::Unlimited), pids: at(1), ..none() },
                "memory.limit_in_bytes=100 pids.max=1", "memory.max=100 pids.max=1"),
            ("all",     all,
                "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=150 pids.max=7 cpu.cfs_period_us=100000 \
                 cpu.cfs_quota_us=150000 cpu.shares=1024 cpuset.cpus=0-1 cpuset.mems=0",
                "memory.max=100 memory.swap.max=50 pids.max=7 cpu.max=150000 100000 cpu.weight=39 \
                 cpuset.cpus=0-1 cpuset.mems=0"),
        ];
        for (name, limits, want_v1, want_v2) in cases {
            assert_eq!(lines(&v1(&limits, Some(999))).join(" "), want_v1, "{name}");
            assert_eq!(lines(&v2(&limits, Some(999))).join(" "), want_v2, "{name}");
        }
    }

    #[test]
    fn shares_map_onto_weights() {
        for (shares, want) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
