//! What a step may use up, tried from inside; and what is told of what it used.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use builder::{Bound, CpuTime, Limits, Ulimit};

use crate::sandbox::{Image, Outcome, finish, is_root, program, run, start};

/// Whether cgroups of version 1 or 2 can be made here, by root or by a user who was given some; says
/// so if not.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn has_cgroups() -> bool {
    let is_v1 = Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists();
    let is_v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")
        .is_ok_and(|text| text.contains("memory"));
    let is_delegated = std::env::var_os("SANDBOX_CGROUPS").is_some();
    let has = (is_root() || is_delegated) && (is_v1 || is_v2);
    if !has {
        println!("Skipped: needs cgroups of its own with a memory controller");
    }
    has
}

fn run_limited(script: &str, limits: Limits) -> Outcome {
    let image = Image::busybox();
    let mut spec = image.script(script);
    spec.limits = limits;
    run(&spec)
}

/// Fills memory in a process of its own: a string that doubles.
const HOG: &str = "(s=0123456789abcdef; while :; do s=$s$s; done)";

#[test]
fn a_memory_hog_is_killed_and_named() {
    if !has_cgroups() {
        return;
    }
    let memory = Some(Bound::At(32 << 20));
    let limits = Limits { memory, memory_swap: memory, ..Limits::default() };
    let outcome = run_limited(&format!("echo before; {HOG}"), limits.clone());
    assert!(outcome.out_of_memory, "{outcome:?}");
    assert_eq!(outcome.usage.memory_limit_bytes, Some(32 << 20));
    let peak = outcome.usage.peak_memory_bytes;
    assert!((24 << 20..=32 << 20).contains(&peak), "{outcome:?}");
    assert!(outcome.usage.out_of_memory().contains("with a limit of 32 MiB"), "{outcome:?}");

    // What the command makes of it is the command's business.
    let outcome = run_limited(&format!("{HOG}; exit 0"), limits);
    assert_eq!((outcome.code, outcome.out_of_memory), (Some(0), false));
    assert!(outcome.usage.oom_kills > 0, "{outcome:?}");
}

#[test]
fn usage_is_counted() {
    let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let outcome = run_limited(script, Limits::default());
    let usage = outcome.usage;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!((20_000..60_000_000).contains(&usage.cpu_micros), "{usage:?}");
    assert!((100_000..1 << 30).contains(&usage.peak_memory_bytes), "{usage:?}");
    if has_cgroups() {
        assert!(usage.memory_limit_bytes.is_some(), "a default protects the machine: {usage:?}");
    }
}

#[test]
fn processor_time_is_bounded() {
    if !has_cgroups() {
        return;
    }
    let cpu = Some(CpuTime { quota_micros: 20_000, period_micros: 100_000 });
    let script = "timeout 1 sh -c 'while :; do :; done'; true";
    let outcome = run_limited(script, Limits { cpu, ..Limits::default() });
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // A fifth of a second's second, with room for the period that was begun.
    assert!(outcome.usage.cpu_micros < 500_000, "{outcome:?}");

    let script = "nproc; grep Cpus_allowed_list /proc/self/status | cut -f2";
    let limits = Limits { cpuset_cpus: Some("0".to_owned()), ..Limits::default() };
    assert_eq!(run_limited(script, limits).text(), "1\n0");
}

#[test]
fn time_is_bounded_whatever_signals_do() {
    let timeout = Some(Duration::from_millis(300));
    let script = "trap '' TERM INT HUP; echo begun; (sleep 60 & ) ; sleep 60";
    let outcome = run_limited(script, Limits { timeout, ..Limits::default() });
    assert_eq!(outcome.kind, "user", "{outcome:?}");
    assert!(outcome.message().contains("after its time limit of 300ms"), "{outcome:?}");
    assert_eq!(outcome.stdout, "begun\n");
    assert!(outcome.millis < 1_500, "{outcome:?}");
    let outcome = run_limited("true", Limits { timeout, ..Limits::default() });
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn ulimits_and_shared_memory_are_set() {
    let ulimit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    let limits = Limits {
        ulimits: vec![
            ulimit("nofile", Some(77), Some(99)),
            ulimit("fsize", Some(2048), Some(2048)),
        ],
        shm_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let script = "ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'
        head -c 5000 /dev/zero > /big 2>/dev/null; wc -c < /big";
    assert_eq!(run_limited(script, limits).text(), "77\n99\n1024\n2048");

    let wrong = Limits { ulimits: vec![ulimit("files", None, None)], ..Limits::default() };
    assert!(run_limited("true", wrong).message().contains("no ulimit `files`"));
}

#[test]
fn a_limit_that_cannot_hold_is_an_error() {
    if !has_cgroups() {
        return;
    }
    let limits = Limits { cpuset_cpus: Some("4000".to_owned()), ..Limits::default() };
    let outcome = run_limited("true", limits);
    let message = outcome.message();
    assert!(message.contains("limit of processors cannot be enforced"), "{message}");
}

#[test]
fn a_fork_bomb_ends_as_a_failed_step() {
    if !has_cgroups() {
        return;
    }
    let image = Image::busybox();
    let mut spec = image.script("bomb() { bomb | bomb & }; bomb; sleep 1; exit 9");
    spec.limits = Limits {
        pids: Some(Bound::At(64)),
        timeout: Some(Duration::from_secs(20)),
        ..Limits::default()
    };
    let mut command = Command::new(program());
    command.arg(if is_root() { "run" } else { "rootless" });
    let outcome = finish(start(command, &spec));
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.millis < 21_000, "{outcome:?}");
}
