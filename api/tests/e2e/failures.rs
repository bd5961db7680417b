//! Bad input: each case a clear error, an exit code of its class, and nothing damaged.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::embedded::image_id;
use crate::support::{bases, command, context, rbuild, run};

#[test]
fn a_context_that_does_not_exist() {
    run(&mut rbuild(bases(), &["-t", "x", "/no/such/dir"])).fails_with(1).says("/no/such/dir");
}

#[test]
fn a_missing_source_names_the_nearest() {
    let dir =
        context(&[("Dockerfile", "FROM scratch\nCOPY pakage.json /\n"), ("package.json", "{}")]);
    run(rbuild(bases(), &["-t", "x"]).arg(dir.path()))
        .fails_with(1)
        .says("pakage.json")
        .says("package.json");
}

#[test]
fn a_syntax_error_shows_line_and_place() {
    let dir = context(&[("Dockerfile", "FROM scratch\nCOPPY a b\n")]);
    run(rbuild(bases(), &["-t", "x"]).arg(dir.path()))
        .fails_with(1)
        .says("COPPY")
        .says("^")
        .says("COPY")
        .says("2:1");
}

#[test]
fn a_failing_command_shows_its_line_output_and_code_and_keeps_the_tag() {
    let good = context(&[("Dockerfile", "FROM busybox\nLABEL good=1\n")]);
    run(rbuild(bases(), &["-t", "kept:1"]).arg(good.path())).ok();
    let id = image_id(bases(), "kept:1");
    let bad = context(&[("Dockerfile", "FROM busybox\n\nRUN echo almost there && exit 42\n")]);
    run(rbuild(bases(), &["-t", "kept:1"]).arg(bad.path()))
        .fails_with(1)
        .says("Dockerfile:3")
        .says("almost there")
        .says("42");
    assert_eq!(image_id(bases(), "kept:1"), id);
}

#[test]
fn ctrl_c_in_a_run_ends_everything() {
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN echo started && sleep 4321\n")]);
    let mut build = rbuild(bases(), &["-t", "x", "--no-cache"]);
    build.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = build.process_group(0).spawn().unwrap();
    wait_until(|| sleeper_is_there());
    run(&mut command("kill", &["-INT", &child.id().to_string()])).ok();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!sleeper_is_there(), "the step outlives its build");
}

#[test]
fn kill_9_in_a_run_leaves_nothing() {
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN sleep 8765\n")]);
    let mut build = rbuild(bases(), &["-t", "x", "--no-cache"]);
    build.arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = build.spawn().unwrap();
    let there = || pgrep("sleep 8765");
    wait_until(there);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| !there());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bases().to_str().unwrap()), "{mounts}");
    run(&mut rbuild(bases(), &["store", "check"])).ok();
}

#[test]
fn a_full_disk_is_told_and_damages_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk");
    let mount = dir.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    run(command("truncate", &["-s", "24M"]).arg(&image)).ok();
    run(command("mkfs.ext4", &["-q"]).arg(&image)).ok();
    run(command("mount", &["-o", "loop"]).arg(&image).arg(&mount)).ok();
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("small", "1")]);
    let store = mount.join("store");
    let small = run(rbuild(&store, &["-t", "kept:1"]).arg(files.path()));
    std::fs::write(files.path().join("big"), vec![7; 30 << 20]).unwrap();
    let full = run(rbuild(&store, &["-t", "kept:1"]).arg(files.path()));
    let check = run(&mut rbuild(&store, &["store", "check"]));
    std::fs::remove_file(files.path().join("big")).unwrap();
    let again = run(rbuild(&store, &["-t", "kept:1"]).arg(files.path()));
    run(command("umount", &[]).arg(&mount)).ok();
    small.ok();
    full.fails_with(4).says("No space left on device");
    check.ok();
    again.ok();
}

fn pgrep(pattern: &str) -> bool {
    Command::new("pgrep").args(["-fx", pattern]).stdout(Stdio::null()).status().unwrap().success()
}

fn sleeper_is_there() -> bool {
    pgrep("sleep 4321")
}

#[track_caller]
fn wait_until(mut happened: impl FnMut() -> bool) {
    let since = Instant::now();
    while !happened() {
        assert!(since.elapsed() < Duration::from_secs(60), "it never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}
