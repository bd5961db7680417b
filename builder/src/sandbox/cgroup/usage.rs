//! What a cgroup counted, read from its files.

use std::fs;
use std::path::Path;

use super::place::Controller;
use crate::limits::StepUsage;

/// Adds to `usage` what the files of version 1 tell; `dir` finds the directory of a controller.
pub(super) fn v1<'a>(usage: &mut StepUsage, dir: impl Fn(Controller) -> Option<&'a Path>) {
    if let Some(memory) = dir(Controller::Memory) {
        usage.peak_memory_bytes = number(memory, "memory.max_usage_in_bytes").unwrap_or_default();
        usage.oom_kills = field(memory, "memory.oom_control", "oom_kill").unwrap_or_default();
        usage.memory_limit_bytes = number(memory, "memory.limit_in_bytes").filter(is_limit);
    }
    if let Some(nanos) = dir(Controller::CpuAccount).and_then(|dir| number(dir, "cpuacct.usage")) {
        usage.cpu_micros = nanos / 1000;
    }
    if let Some(io) = dir(Controller::Io) {
        let text = read(io, "blkio.throttle.io_service_bytes");
        let sum = |kind: &str| {
            let rows = text.lines().filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().filter(|word| *word == kind)?;
                words.next()?.parse::<u64>().ok()
            });
            rows.sum()
        };
        usage.read_bytes = Some(sum("Read"));
        usage.written_bytes = Some(sum("Write"));
    }
}

/// Adds to `usage` what the files of version 2 in `dir` tell.
pub(super) fn v2(usage: &mut StepUsage, dir: &Path) {
    if let Some(peak) = number(dir, "memory.peak") {
        usage.peak_memory_bytes = peak;
    }
    usage.oom_kills = field(dir, "memory.events", "oom_kill").unwrap_or_default();
    usage.memory_limit_bytes = number(dir, "memory.max");
    if let Some(micros) = field(dir, "cpu.stat", "usage_usec") {
        usage.cpu_micros = micros;
    }
    if let Ok(text) = fs::read_to_string(dir.join("io.stat")) {
        let sum = |key: &str| {
            let words = text.split_whitespace();
            words.filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
        };
        usage.read_bytes = Some(sum("rbytes="));
        usage.written_bytes = Some(sum("wbytes="));
    }
}

/// Version 1 says "no limit" by a number that no machine has.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form of a filter")]
const fn is_limit(bytes: &u64) -> bool {
    *bytes < 1 << 62
}

pub(super) fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).trim().parse().ok()
}

/// Reads a value from a file of lines `name value`.
pub(super) fn field(dir: &Path, file: &str, name: &str) -> Option<u64> {
    let text = read(dir, file);
    text.lines().find_map(|line| {
        line.strip_prefix(name)?.strip_prefix(' ')?.split_whitespace().next()?.parse().ok()
    })
}

/// A file that is missing or unreadable counts nothing.
fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn version_1_is_read() {
        let dir = layout(&[
            ("memory.max_usage_in_bytes", "1048576\n"),
            ("memory.limit_in_bytes", "2097152\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ("cpuacct.usage", "2500000\n"),
            (
                "blkio.throttle.io_service_bytes",
                "8:0 Read 5\n8:0 Write 7\n8:16 Write 1\n8:0 Total 12\nTotal 13\n",
            ),
        ]);
        let mut usage = StepUsage::default();
        v1(&mut usage, |_| Some(dir.path()));
        let want = StepUsage {
            peak_memory_bytes: 1 << 20,
            cpu_micros: 2500,
            read_bytes: Some(5),
            written_bytes: Some(8),
            oom_kills: 3,
            memory_limit_bytes: Some(2 << 20),
        };
        assert_eq!(usage, want);

        let unlimited = layout(&[("memory.limit_in_bytes", "9223372036854771712\n")]);
        let mut usage = StepUsage { cpu_micros: 5, ..StepUsage::default() };
        v1(&mut usage, |it| (it == Controller::Memory).then_some(unlimited.path()));
        assert_eq!(usage, StepUsage { cpu_micros: 5, ..StepUsage::default() });
    }

    #[test]
    fn version_2_is_read() {
        let dir = layout(&[
            ("memory.peak", "1048576\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\noom_group_kill 0\n"),
            ("cpu.stat", "usage_usec 2500\nuser_usec 2000\n"),
            ("io.stat", "8:0 rbytes=5 wbytes=7 rios=1\n8:16 rbytes=1 wbytes=0 rios=1\n"),
        ]);
        let mut usage = StepUsage::default();
        v2(&mut usage, dir.path());
        let want = StepUsage {
            peak_memory_bytes: 1 << 20,
            cpu_micros: 2500,
            read_bytes: Some(6),
            written_bytes: Some(7),
            oom_kills: 2,
            memory_limit_bytes: None,
        };
        assert_eq!(usage, want);
    }
}
