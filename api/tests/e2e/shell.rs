//! `rbuild shell`: a look into a past build's step.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::explain::busybox_store;
use crate::support::{Ran, command, context, rbuild, run};

const CANARY: &str = "canary-of-the-shell-3f786850e387550f";

fn build(store: &Path, dockerfile: &str, extra: &[&str]) -> Ran {
    let dir = context(&[("Dockerfile", dockerfile), ("sent/file", "of the context\n")]);
    let mut build = rbuild(store, &["--progress", "plain", "--network", "none"]);
    run(build.args(extra).arg(dir.path()).env("E2E_SECRET", CANARY))
}

/// What `script` prints in a step.
#[track_caller]
fn look(store: &Path, options: &[&str], script: &str) -> String {
    let args = [&["shell"], options, &["-c", script]].concat();
    run(&mut rbuild(store, &args)).ok().stdout
}

#[test]
fn a_failed_step_is_seen_as_it_failed_and_as_it_began() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dockerfile = "FROM busybox AS one\n\
        RUN echo first > /first\n\
        FROM busybox\n\
        ENV OF_IMAGE=1\n\
        ARG OF_BUILD=2\n\
        SHELL [\"/bin/busybox\", \"ash\", \"-e\", \"-c\"]\n\
        WORKDIR /work\n\
        RUN echo begun > /begun\n\
        USER 65534:7\n\
        RUN --mount=type=cache,target=/cache,uid=65534 \
            --mount=type=bind,from=one,source=/first,target=/tmp/first \
            --mount=type=tmpfs,target=/memory \
            echo kept > /cache/kept; echo half > /tmp/half; false; echo never > /tmp/never\n\
        RUN echo not run\n";
    let ran = build(&store, dockerfile, &[]).fails_with(1);
    let id = ran.stderr.split("`rbuild shell ").nth(1).expect("the command is told");
    let id = id.split('`').next().unwrap().to_owned();
    assert_eq!(id.len(), 8, "{ran:?}");

    assert_eq!(look(&store, &[], "cat /tmp/half /begun; ls /tmp"), "half\nbegun\nfirst\nhalf\n");
    assert_eq!(look(&store, &[&id, "--before"], "cat /begun; ls /tmp"), "begun\nfirst\n");
    let world = "echo $OF_IMAGE $OF_BUILD; pwd; id -u; id -g; ls /sys/class/net";
    assert_eq!(look(&store, &[&id[..5]], world), "1 2\n/work\n65534\n7\nlo\n");
    let mounts = "cat /cache/kept /tmp/first; stat -f -c %T /memory";
    assert_eq!(look(&store, &["last"], mounts), "kept\nfirst\ntmpfs\n");
    // SHELL has -e.
    run(&mut rbuild(&store, &["shell", "-c", "false; echo on"])).fails_with(1);
    run(&mut rbuild(&store, &["shell", "--", "busybox", "sh", "-c", "exit 42"])).fails_with(42);
    // What was written is dropped.
    look(&store, &[], "echo x > /tmp/new");
    assert_eq!(look(&store, &[], "ls /tmp"), "first\nhalf\n");
    assert_eq!(look(&store, &["--step", "one/2"], "cat /first"), "first\n");
    assert_eq!(look(&store, &["--step", "one/2", "--before"], "test ! -e /first"), "");

    let shell = |args: &[&str]| run(&mut rbuild(&store, &[&["shell"], args].concat()));
    shell(&["--step", "12"]).fails_with(125).says("its RUN steps are one/2, 1/6, 1/8, 1/9");
    shell(&["--step", "1/9"]).fails_with(125).says("was not run in this build");
    shell(&["ffffffff"]).fails_with(125).says("there is no build `ffffffff`");
    shell(&["--build-arg", "A=1"]).fails_with(125).says("only proxies can");
}

#[test]
fn commands_come_from_standard_input_or_a_terminal() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    build(&store, "FROM busybox\nRUN echo done > /done\n", &["-t", "x:1"]).ok();
    let mut child =
        rbuild(&store, &["shell"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"cat /done\ntty || exit 3\n").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).fails_with(3);
    assert_eq!(ran.stdout, "done\nnot a tty\n");
    // script(1) gives rbuild a terminal, and its -e passes the exit code on.
    let line = format!("{} shell", crate::support::RBUILD);
    let mut typed = command("script", &["-qec", &line, "/dev/null"]);
    typed.env("RBUILD_STORE", &store).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = typed.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"tty; echo $((6 * 7)) $TERM; exit 5\n").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).fails_with(5);
    assert!(ran.stdout.contains("/dev/pts/0") && ran.stdout.contains("42 xterm"), "{ran:?}");
}

#[test]
fn secrets_are_given_again_and_kept_nowhere() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let secret = ["--secret", "id=t,env=E2E_SECRET"];
    let clean = "FROM busybox\n\
        RUN --mount=type=secret,id=t,required,env=T \
            --mount=type=bind,source=sent,target=/sent echo x > /x && test -z \"$T\"\n";
    build(&store, clean, &secret).fails_with(1).says("rbuild shell");
    let mut shell = rbuild(&store, &["shell", "-c", "cat /x /sent/file; echo \"[$T]\""]);
    let ran = run(&mut shell).ok().says("secret `t`; give it with --secret id=t");
    // The context is gone with its directory.
    assert!(ran.stderr.contains("missing at /sent: the directory"), "{ran:?}");
    assert_eq!(ran.stdout, "x\n[]\n");
    let mut shell = rbuild(&store, &["shell", secret[0], secret[1], "-c", "echo ${#T}"]);
    let ran = run(shell.env("E2E_SECRET", CANARY)).ok();
    assert_eq!(ran.stdout, format!("{}\n", CANARY.len()));

    let leak = "FROM busybox\nRUN --mount=type=secret,id=t,env=T echo $T > /leak; exit 1\n";
    let ran = build(&store, leak, &secret).fails_with(1);
    let ran = ran.says("secret `t` is in the file `/leak` as it is; what the step left was");
    assert!(!ran.stderr.contains("rbuild shell"), "{ran:?}");
    run(&mut rbuild(&store, &["shell"])).fails_with(125).says("--before shows");
    let found = run(&mut command("grep", &["-rlF", CANARY, store.to_str().unwrap()]));
    assert_eq!(found.stdout, "", "the value is nowhere in the store");
}

#[test]
fn what_was_kept_is_counted_bounded_and_goes_with_the_record() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let snapshots = || std::fs::read_dir(store.join("snapshots")).unwrap().count();
    let config = stores.path().join("rbuild.toml");
    std::fs::write(&config, "[history]\nfailed_steps = 2\n").unwrap();
    let fail = |name: &str| {
        let dockerfile =
            format!("FROM busybox\nRUN head -c 3000000 /dev/urandom > /{name}; exit 1\n");
        let dir = context(&[("Dockerfile", &dockerfile)]);
        run(rbuild(&store, &[]).arg(dir.path()).env("RBUILD_CONFIG", &config)).fails_with(1);
    };
    fail("a");
    let with_one = snapshots();
    ["b", "c"].into_iter().for_each(fail);
    assert_eq!(snapshots(), with_one + 1, "two are kept");
    assert_eq!(look(&store, &[], "ls /c"), "/c\n");
    let kept = run(&mut rbuild(&store, &["du", "-v", "--filter", "type=step"])).ok();
    assert_eq!(kept.stdout.matches("the failed step of build").count(), 2, "{kept:?}");
    assert_eq!(kept.stdout.matches("3.02MB").count(), 2, "{kept:?}");
    let ids = run(&mut rbuild(&store, &["builds", "ls", "-q"])).ok().stdout;
    let ids: Vec<&str> = ids.lines().collect();
    let gone = ["shell", ids[2], "-c", "true"];
    run(&mut rbuild(&store, &gone)).fails_with(125).says("no longer in the store");
    run(&mut rbuild(&store, &["shell", ids[2], "--before", "-c", "true"])).ok();
    run(&mut rbuild(&store, &["builds", "rm", ids[0]])).ok();
    assert_eq!(snapshots(), with_one, "it went with its record");
    run(&mut rbuild(&store, &["prune"])).ok();
    assert_eq!(snapshots(), with_one - 1);
    run(&mut rbuild(&store, &["shell", ids[1]])).fails_with(125).says("no longer in the store");
    run(&mut rbuild(&store, &["builds", "show", ids[1]])).ok();
    run(&mut rbuild(&store, &["store", "check"])).ok();
}

#[test]
fn what_weakens_the_sandbox_must_be_allowed_again() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dockerfile = "FROM busybox\nRUN --security=insecure true\n";
    build(&store, dockerfile, &["--allow", "security.insecure"]).ok();
    let refused = run(&mut rbuild(&store, &["shell", "-c", "true"])).fails_with(125);
    refused.says("it needs the entitlement `security.insecure`").says("add `--allow");
    let caps = look(&store, &["--allow", "security.insecure"], "grep CapBnd /proc/self/status");
    assert!(caps.contains("000001ff"), "{caps}");
}
