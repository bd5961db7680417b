//! The options that bound what steps may use up, of `build` and `run` alike.

use std::time::Duration;

use builder::{Bound, CpuTime, Limits, Ulimit};
use clap::Args;

use crate::limits::{bytes, bytes_or_unlimited, count_or_unlimited, cpus, duration, set, ulimit};

/// Limits of each command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Limits of each command")]
pub(crate) struct LimitArgs {
    /// Memory, such as 512m or 2g; -1 lifts the default [default: three quarters of what there is]
    #[arg(short, long, value_name = "SIZE", value_parser = bytes_or_unlimited, allow_hyphen_values = true)]
    memory: Option<Bound>,
    /// Memory and swap together; -1 for as much swap as there is [default: twice --memory]
    #[arg(long, value_name = "SIZE", value_parser = bytes_or_unlimited, allow_hyphen_values = true)]
    memory_swap: Option<Bound>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "N", value_parser = cpus, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<CpuTime>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<u64>,
    /// Length of a period in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", requires = "cpu_quota")]
    cpu_period: Option<u64>,
    /// Weight among commands that compete for processors [default: 1024]
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Processors that may be used, such as 0-2,7
    #[arg(long, value_name = "LIST", value_parser = set)]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST", value_parser = set)]
    cpuset_mems: Option<String>,
    /// Processes and threads at once; -1 for no limit [default: 4096]
    #[arg(long, value_name = "N", value_parser = count_or_unlimited, allow_hyphen_values = true)]
    pids_limit: Option<Bound>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    shm_size: Option<u64>,
    /// Limit of each process, such as nofile=1024:4096 (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
    /// Wall time after which the command is ended, such as 90s or 10m [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl LimitArgs {
    /// What was asked for.
    pub(crate) fn limits(&self) -> Limits {
        let period_micros = self.cpu_period.unwrap_or(CpuTime::PERIOD_MICROS);
        let quota = self.cpu_quota.map(|quota_micros| CpuTime { quota_micros, period_micros });
        Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu: self.cpus.or(quota),
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids: self.pids_limit,
            shm_bytes: self.shm_size,
            ulimits: self.ulimit.clone(),
            timeout: self.timeout,
        }
    }
}
