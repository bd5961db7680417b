//! What a step may use up and what it used: plain data, from the request to the kernel's files.
//!
//! A limit that was asked for holds or the step fails; one that was not is a default, which
//! protects the machine where it can ([`Limits::default`] asks for nothing).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A limit that can be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// At most so much.
    At(u64),
    /// No limit, not even the default.
    Unlimited,
}

/// Processor time in each period (`cpu.max` of cgroups, version 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    /// Microseconds of processor time, of all processors together.
    pub quota_micros: u64,
    /// Microseconds of wall time.
    pub period_micros: u64,
}

impl CpuTime {
    /// The kernel's default period.
    pub const PERIOD_MICROS: u64 = 100_000;

    /// Compares shares of a processor, whatever the periods are.
    fn exceeds(self, other: Self) -> bool {
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        wide(self.quota_micros, other.period_micros) > wide(other.quota_micros, self.period_micros)
    }
}

/// One limit of setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As Docker names it: `nofile`, `nproc`, ...
    pub name: String,
    /// `None` is unlimited.
    pub soft: Option<u64>,
    /// `None` is unlimited.
    pub hard: Option<u64>,
}

/// Names of setrlimit(2)'s limits as Docker's `--ulimit` takes them.
pub const ULIMIT_NAMES: [&str; 15] = [
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "stack",
];

/// What a step may use up; `None` is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory; by default three quarters of what the machine or its cgroup has.
    pub memory: Option<Bound>,
    /// Bytes of memory and swap together; by default twice the memory that was asked for.
    pub memory_swap: Option<Bound>,
    /// Processor time; by default unlimited.
    pub cpu: Option<CpuTime>,
    /// Weight among steps that compete for processors, 2 to 262144; by default 1024.
    pub cpu_shares: Option<u64>,
    /// Processors that may be used, such as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// Processes and threads at once; by default [`Limits::PIDS`].
    pub pids: Option<Bound>,
    /// Size of `/dev/shm` in bytes; by default [`Limits::SHM_BYTES`].
    pub shm_bytes: Option<u64>,
    /// Limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// Wall time; by default unlimited.
    pub timeout: Option<Duration>,
}

/// A request that is above what the builder allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} of {asked} is above the {allowed} that this builder allows")]
pub struct LimitError {
    /// What is limited: `memory`.
    pub name: &'static str,
    /// In the units of the limit.
    pub asked: String,
    /// The most that can be asked for.
    pub allowed: String,
}

impl Limits {
    /// Processes and threads that no honest build reaches.
    pub const PIDS: u64 = 4096;

    /// Docker's size of `/dev/shm`.
    pub const SHM_BYTES: u64 = 64 << 20;

    /// Size of `/dev/shm` in bytes.
    #[must_use]
    pub fn shm(&self) -> u64 {
        self.shm_bytes.unwrap_or(Self::SHM_BYTES)
    }

    /// Keeps a request under the caps of a builder, which also hold where nothing was asked for.
    ///
    /// # Errors
    ///
    /// [`LimitError`] names the first that is above its cap.
    pub fn within(mut self, caps: &Self) -> Result<Self, LimitError> {
        bound(&mut self.memory, caps.memory, "memory", "bytes")?;
        bound(&mut self.memory_swap, caps.memory_swap, "memory and swap", "bytes")?;
        bound(&mut self.pids, caps.pids, "number of processes", "processes")?;
        if let Some(cap) = caps.cpu {
            if let Some(asked) = self.cpu.filter(|asked| asked.exceeds(cap)) {
                return Err(above("processor time", processors(asked), processors(cap)));
            }
            self.cpu.get_or_insert(cap);
        }
        if let Some(cap) = caps.timeout {
            if let Some(asked) = self.timeout.filter(|asked| *asked > cap) {
                return Err(above("time", format!("{asked:?}"), format!("{cap:?}")));
            }
            self.timeout.get_or_insert(cap);
        }
        if let Some(cap) = caps.shm_bytes
            && self.shm() > cap
        {
            match self.shm_bytes {
                Some(asked) => {
                    let (asked, cap) = (format!("{asked} bytes"), format!("{cap} bytes"));
                    return Err(above("shared memory", asked, cap));
                }
                None => self.shm_bytes = Some(cap),
            }
        }
        Ok(self)
    }
}

fn above(name: &'static str, asked: String, allowed: String) -> LimitError {
    LimitError { name, asked, allowed }
}

fn processors(time: CpuTime) -> String {
    let thousandths = u128::from(time.quota_micros) * 1000 / u128::from(time.period_micros.max(1));
    format!("{}.{:03} processors", thousandths / 1000, thousandths % 1000)
}

/// Fills in a cap, or refuses what is above it.
fn bound(
    asked: &mut Option<Bound>,
    cap: Option<Bound>,
    name: &'static str,
    unit: &str,
) -> Result<(), LimitError> {
    let Some(Bound::At(most)) = cap else { return Ok(()) };
    match *asked {
        None => *asked = Some(Bound::At(most)),
        Some(Bound::At(value)) if value <= most => {}
        Some(Bound::At(value)) => {
            return Err(above(name, format!("{value} {unit}"), format!("{most} {unit}")));
        }
        Some(Bound::Unlimited) => {
            return Err(above(name, "unlimited".to_owned(), format!("{most} {unit}")));
        }
    }
    Ok(())
}

/// What a step used, as far as this machine can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepUsage {
    /// The most memory at once in bytes, files in memory and caches of the step included where
    /// there is a cgroup; otherwise that of its largest process.
    pub peak_memory_bytes: u64,
    /// Processor time in microseconds, of all its processes.
    pub cpu_micros: u64,
    /// Bytes read from disks, and not from memory; `None` without a cgroup that counts them.
    pub read_bytes: Option<u64>,
    /// Bytes written to disks so far: most writes reach them later.
    pub written_bytes: Option<u64>,
    /// Processes killed because the step was out of memory.
    pub oom_kills: u64,
    /// The limit of memory in bytes that held, if one did.
    pub memory_limit_bytes: Option<u64>,
}

impl StepUsage {
    /// Says that memory ran out, how much there was and how much was used, in mebibytes.
    #[must_use]
    pub fn out_of_memory(&self) -> String {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let (peak, kills) = (mebibytes(self.peak_memory_bytes), self.oom_kills);
        let limit = self.memory_limit_bytes.map_or_else(
            || "without a limit of its own".to_owned(),
            |bytes| format!("with a limit of {} MiB", mebibytes(bytes)),
        );
        format!("ran out of memory: it used {peak} MiB {limit}; processes killed: {kills}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_fill_in_and_refuse() {
        let cpu = |quota_micros| Some(CpuTime { quota_micros, period_micros: 100_000 });
        let at = |value| Some(Bound::At(value));
        let caps = Limits {
            memory: at(1000),
            cpu: cpu(200_000),
            pids: at(10),
            shm_bytes: Some(1 << 20),
            timeout: Some(Duration::from_secs(60)),
            ..Limits::default()
        };
        let filled = Limits::default().within(&caps).unwrap();
        assert_eq!(filled, caps);
        let none = Limits::default;
        #[rustfmt::skip]
        let cases = [
            ("less",         Limits { memory: at(999), cpu: cpu(50_000), ..none() },   None),
            ("as much",      Limits { pids: at(10), timeout: Some(Duration::from_secs(60)), ..none() }, None),
            ("memory",       Limits { memory: at(1001), ..none() },                    Some("memory of 1001 bytes is above the 1000 bytes that this builder allows")),
            ("lifted",       Limits { pids: Some(Bound::Unlimited), ..none() },        Some("number of processes of unlimited is above the 10 processes that this builder allows")),
            ("processors",   Limits { cpu: Some(CpuTime { quota_micros: 25, period_micros: 10 }), ..none() },
                                                                                       Some("processor time of 2.500 processors is above the 2.000 processors that this builder allows")),
            ("time",         Limits { timeout: Some(Duration::from_secs(61)), ..none() }, Some("time of 61s is above the 60s that this builder allows")),
            ("shared memory", Limits { shm_bytes: Some(2 << 20), ..none() },           Some("shared memory of 2097152 bytes is above the 1048576 bytes that this builder allows")),
        ];
        for (name, asked, want) in cases {
            let got = asked.within(&caps).err().map(|error| error.to_string());
            assert_eq!(got.as_deref(), want, "{name}");
        }
        let free = Limits { memory: Some(Bound::Unlimited), ..none() };
        assert_eq!(free.clone().within(&none()).unwrap(), free);
    }
}
