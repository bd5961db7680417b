//! How a step ends: by itself, by a signal, by order, or because its builder was killed.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use builder::{Network, StdioMode};
use cache::Digest;

use crate::sandbox::{Image, finish, is_root, program, run, run_with, start};

/// Processes of this machine whose arguments contain `marker`.
fn processes(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
}

/// Cgroups for processes that `program` has made and that are still there.
fn cgroups(program: u32) -> usize {
    let prefix = format!("rbuild-{program}-");
    let entries = fs::read_dir("/sys/fs/cgroup/pids").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
}

/// A word that no other test's processes have among their arguments.
fn marker(number: u32) -> String {
    format!("31{}{number}", std::process::id())
}

#[test]
fn exit_codes_are_passed_on() {
    let image = Image::busybox();
    for code in [0, 1, 3, 255] {
        image.renew();
        assert_eq!(run(&image.script(&format!("exit {code}"))).code, Some(code));
    }
}

#[test]
fn commands_that_cannot_be_executed_are_the_users() {
    let image = Image::busybox();
    image.add("bin/no-interpreter", "#!/no/such/shell\n");
    image.add("bin/text", "plain text");
    image.add("bin/private", "#!/bin/sh\n");
    let mut foreign = vec![0; 64];
    foreign[..6].copy_from_slice(b"\x7fELF\x02\x02");
    (foreign[16], foreign[17], foreign[18], foreign[19]) = (0, 2, 0, 22);
    fs::write(image.lower("bin/foreign"), foreign).unwrap();
    for name in ["no-interpreter", "text", "foreign"] {
        let file = image.lower("bin").join(name);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    #[rustfmt::skip]
    let cases = [
        ("not in PATH",    "no-such-program",     127, "not found in PATH"),
        ("no such file",   "/bin/no-such",        127, "no such file in the image"),
        ("no interpreter", "no-interpreter",      127, "interpreter"),
        ("no format",      "/bin/text",           126, "exec format error"),
        ("another machine", "foreign",            126, "made for s390x, and this machine has no emulator"),
        ("no permission",  "private",             126, "no executable file"),
        ("a directory",    "/bin",                126, "no executable file"),
        ("very long",      &"/x".repeat(1500),  127, "no such file in the image"),
    ];
    for (name, command, code, reason) in cases {
        image.renew();
        let outcome = run(&image.spec(&[command]));
        assert_eq!((outcome.kind.as_str(), outcome.exit_code), ("user", Some(code)), "{name}");
        let message = outcome.message();
        assert!(
            message.contains(&command[..command.len().min(2000)]) && message.contains(reason),
            "{name}: {message}"
        );
    }
    image.renew();
    assert!(run(&image.spec(&[])).message().contains("no command"));
}

#[test]
fn output_is_complete_and_told_apart() {
    let image = Image::busybox();
    // Ends without a newline, and with bytes that are no text.
    let script = r"yes 0123456789abcde | head -c 20000000; printf '\377end'; printf error >&2";
    let outcome = run(&image.script(script));
    let mut want = b"0123456789abcde\n".repeat(20_000_000 / 16);
    want.extend_from_slice(b"\xffend");
    assert_eq!(outcome.stdout_digest, Digest::of(&want).to_string());
    assert_eq!(outcome.stderr, "error");
}

#[test]
fn streams_of_the_caller_can_be_inherited() {
    let image = Image::busybox();
    let mut spec = image.script("read line; echo got $line; echo bad >&2; exit 5");
    spec.stdio = StdioMode::Inherit;
    let file = image.dir.path().join("spec");
    fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut command = Command::new(program());
    command.arg(if is_root() { "run" } else { "rootless" }).env("SANDBOX_SPEC", file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a line\nunread\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("got a line\n{"), "{text}");
    assert!(text.contains("\"code\":5"), "{text}");
    assert_eq!(output.stderr, b"bad\n");
}

#[test]
fn what_was_started_ends_with_the_command() {
    let image = Image::busybox();
    let marker = marker(1);
    let script =
        format!("trap '' TERM HUP INT; setsid sleep {marker} & (sleep {marker} &) ; exit 4");
    let outcome = run(&image.script(&script));
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.millis < 5_000, "{outcome:?}");
    assert_eq!(processes(&marker), 0);
}

#[test]
fn signals_are_passed_on() {
    let image = Image::busybox();
    let script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let outcome = run_with(&image.script(script), &["15", "500"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(7), "ready\ncaught\n"));
    image.renew();
    let outcome = run_with(&image.script("while :; do sleep 0.05; done"), &["9", "300"]);
    assert_eq!(outcome.code, Some(128 + 9), "a shell's code for SIGKILL");
}

#[test]
fn cancelling_ends_everything_within_a_second() {
    let image = Image::busybox();
    let marker = marker(2);
    let script =
        format!("trap '' TERM INT HUP; setsid sleep {marker} & sleep {marker}; sleep {marker}");
    let outcome = run_with(&image.script(&script), &["cancel", "300"]);
    assert_eq!((outcome.kind.as_str(), outcome.code), ("cancelled", None), "{outcome:?}");
    assert!(outcome.millis < 1_300, "{outcome:?}");
    assert_eq!(processes(&marker), 0);
}

#[test]
fn killing_the_builder_leaves_nothing() {
    let marker = marker(3);
    let mode = if is_root() { "run" } else { "rootless" };
    let mut killed = Vec::new();
    // At different moments: while the sandbox is made, and while the command runs.
    for delay in [0, 1, 2, 4, 8, 16, 32, 400] {
        let image = Image::busybox();
        let mut spec = image.script(&format!("setsid sleep {marker} & exec sleep {marker}"));
        spec.env.push(("MARKER".to_owned(), marker.clone()));
        let mut command = Command::new(program());
        command.arg(mode);
        let mut child = start(command, &spec);
        sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        killed.push(child.id());
        let deadline = Instant::now() + Duration::from_secs(3);
        while processes(&marker) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        assert_eq!(processes(&marker), 0, "killed after {delay} ms");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = image.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "killed after {delay} ms: {mounts}");
    }
    // An empty cgroup survives, until the next builder starts.
    assert_eq!(run(&Image::busybox().script("true")).code, Some(0));
    assert_eq!(killed.into_iter().map(cgroups).sum::<usize>(), 0);
}

#[test]
fn a_fork_bomb_is_bounded() {
    let pids = "/sys/fs/cgroup/pids";
    if !is_root() || !std::path::Path::new(pids).exists() {
        println!("Skipped: needs root and a pids controller of version 1");
        return;
    }
    let image = Image::busybox();
    let script = "i=0; while [ $i -lt 60 ]; do (sleep 5 &) 2>/dev/null || break; i=$((i+1)); done; ls -d /proc/[0-9]* | wc -l";
    let mut spec = image.script(script);
    spec.limits.pids = Some(builder::Bound::At(20));
    let mut command = Command::new(program());
    command.arg("run");
    let child = start(command, &spec);
    let program = child.id();
    let outcome = finish(child);
    let count: u32 = outcome.stdout.trim().parse().unwrap_or(0);
    assert!(count <= 20, "{outcome:?}");
    assert_eq!(cgroups(program), 0, "none is left");
}

#[test]
fn steps_run_beside_each_other() {
    let children: Vec<_> = (0..8)
        .map(|number| {
            let image = Image::busybox();
            let mut spec = image.script(&format!("hostname; echo {number} > /out; cat /out"));
            spec.hostname = format!("h{number}");
            spec.network = Network::None;
            let mut command = Command::new(program());
            command.arg(if is_root() { "run" } else { "rootless" });
            (number, start(command, &spec), image)
        })
        .collect();
    for (number, child, image) in children {
        assert_eq!(finish(child).text(), format!("h{number}\n{number}"));
        assert_eq!(image.changes(), ["out"]);
    }
}
