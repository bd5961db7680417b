//! `rbuild run`: an image tried out.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{RBUILD, bases, command, rbuild, run};

fn busybox(options: &[&str], args: &[&str]) -> Command {
    let mut command = rbuild(bases(), &["run", "--rm", "--network", "none"]);
    command.args(options).arg("busybox").args(args);
    command
}

#[test]
fn the_command_gets_what_the_options_say() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "from outside\n").unwrap();
    std::fs::write(dir.path().join("env"), "A=of file\nB=2\n").unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (env, shown, file) =
        (path("env"), format!("{}:/v", path("")), format!("{}:/etc/one:ro", path("file")));
    #[rustfmt::skip]
    let cases: [(&[&str], &str, &str); 11] = [
        (&["-e", "A=1"],                    "echo $A",                             "1"),
        (&["--env-file", &env, "-e", "A=1"], "echo $A $B",                         "1 2"),
        (&["-w", "/tmp/new"],               "pwd",                                 "/tmp/new"),
        (&["-u", "65534:7"],                "echo $(id -u):$(id -g)",              "65534:7"),
        (&["--hostname", "box"],            "hostname",                            "box"),
        (&["-v", &shown],                   "cat /v/file; echo back > /v/made",    "from outside"),
        (&["-v", &file],                    "cat /etc/one; echo x 2>&- > /etc/one || echo kept", "from outside\nkept"),
        (&["--tmpfs", "/t:size=1m"],        "df -k /t | tail -1 | awk '{print $2}'", "1024"),
        (&["--read-only", "--tmpfs", "/t"], "touch /x 2>&- || touch /t/x && echo ok", "ok"),
        (&["--shm-size", "1m"],             "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
        (&[],                               "cat; echo end",                       "end"),
    ];
    for (options, script, want) in cases {
        let ran = run(&mut busybox(options, &["sh", "-c", script])).ok();
        assert_eq!(ran.stdout.trim_end(), want, "{options:?} {script}: {ran:?}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("made")).unwrap(), "back\n");
    let ran = run(&mut busybox(&["--entrypoint", "echo"], &["a", "b"])).ok();
    assert_eq!(ran.stdout, "a b\n");
}

#[test]
fn exit_codes_are_those_of_docker() {
    #[rustfmt::skip]
    let cases: [(&[&str], &[&str], i32); 7] = [
        (&[],                       &["sh", "-c", "exit 42"],        42),
        (&[],                       &["no-such-command"],            127),
        (&[],                       &["/etc"],                       126),
        (&[],                       &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (&["-v", "/no/such:/x"],    &["true"],                       125),
        (&["-u", "nobody-here"],    &["true"],                       125),
        (&["-i", "-t"],             &["true"],                       125),
    ];
    for (options, args, want) in cases {
        run(&mut busybox(options, args)).fails_with(want);
    }
}

#[test]
fn input_is_handed_over_when_asked_for() {
    let mut child = busybox(&["-i"], &["sh", "-c", "read a; echo got $a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a line\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "got a line\n");
}

/// util-linux's `script` gives the command line a terminal, as a user has one.
#[test]
fn a_terminal_is_one_on_both_sides() {
    let script = "stty size; test -t 0 -a -t 1 -a -t 2 && tty && read a && echo got:$a; exit 9";
    let inner = format!(
        "stty rows 33 cols 77; {RBUILD} run --rm -it --network none busybox sh -c '{script}'; \
         echo code:$?; stty -a | grep -o ' icanon'"
    );
    let mut child = command("script", &["-qec", &inner, "/dev/null"])
        .env("RBUILD_STORE", bases())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    stdin.write_all(b"typed\r").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for want in ["33 77", "/dev/pts/0", "got:typed", "code:9", " icanon"] {
        assert!(said.contains(want), "{want} in {said:?}");
    }
}

#[test]
fn signals_are_passed_on_and_too_many_end_it() {
    let trap = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let cases: [(_, _, &[&str], _); 3] =
        [(trap, 1, &[], 7), (deaf, 3, &[], 130), (deaf, 1, &["--stop-timeout", "1"], 130)];
    for (script, signals, options, want) in cases {
        let mut ran = busybox(options, &["sh", "-c", script]);
        let mut child = ran.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        for _ in 0..signals {
            run(&mut command("kill", &[&child.id().to_string()])).ok();
            std::thread::sleep(Duration::from_millis(100));
        }
        let since = Instant::now();
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(want), "{script}");
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}
