//! The solver seen from outside: what runs at once, what runs once, and what does not run at all.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{RBUILD, Ran, Server, bases, command, context, rbuild, run};

/// A text that no build before this one has seen.
fn unique() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}-{}", std::process::id(), since.as_nanos())
}

fn build(dir: &Path, options: &[&str]) -> Ran {
    let dir = dir.to_str().expect("UTF-8 path");
    run(&mut rbuild(bases(), &[&["build", "--progress", "plain"], options, &[dir]].concat()))
}

/// Returns the lines of progress that say that a step was found in the cache.
fn cached(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter_map(|line| line.strip_suffix("  CACHED")).collect()
}

fn spawn(dir: &Path) -> Child {
    let dir = dir.to_str().expect("UTF-8 path");
    let mut command: Command = rbuild(bases(), &["build", "--progress", "plain", dir]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("rbuild starts")
}

fn wait(child: Child) -> Ran {
    child.wait_with_output().expect("it can be waited for").into()
}

#[test]
fn a_step_that_gives_the_same_tree_again_invalidates_nothing() {
    let id = unique();
    let dockerfile = |comment: &str| {
        format!(
            "FROM busybox AS made\n\
             COPY version /version\n\
             RUN : {comment}; echo fixed > /version; echo {id} > /out\n\
             RUN cat /out > /second\n\
             FROM busybox\n\
             COPY --from=made /second /second\n\
             RUN --mount=from=made,source=/out,target=/m cat /m /second > /last\n"
        )
    };
    let dir = context(&[("Dockerfile", &dockerfile("one")), ("version", &id)]);
    assert_eq!(cached(&build(dir.path(), &[]).ok()).len(), 0);

    // The command changed, and so did a file that it writes over: its tree did not.
    std::fs::write(dir.path().join("Dockerfile"), dockerfile("two")).expect("writable");
    std::fs::write(dir.path().join("version"), format!("{id} 2")).expect("writable");
    let again = build(dir.path(), &["-t", "cutoff:1"]).ok();
    let hits = cached(&again);
    assert_eq!(hits.len(), 3, "{hits:#?}\n{}", again.stderr);
    assert!(hits.iter().all(|line| !line.contains("echo fixed") && !line.contains("version /")));

    // The layers fit on each other: the image holds what the steps made.
    let script = format!("test \"$(cat /last)\" = '{id}\n{id}'");
    run(&mut rbuild(bases(), &["run", "--rm", "cutoff:1", "sh", "-c", &script])).ok();

    // From now on it is found by its history alone.
    let third = build(dir.path(), &[]).ok();
    assert_eq!(cached(&third).len(), 7, "{}", third.stderr);
}

#[test]
fn a_reused_layer_on_a_new_one_makes_the_right_image() {
    let id = unique();
    let dockerfile = |how: &str| {
        format!(
            "FROM busybox\nRUN : {id}; {how}\nRUN rm /gone && echo {id} > /kept/new\nRUN ls -R /kept > /list\n"
        )
    };
    let first = "mkdir /kept; echo a > /kept/a; echo x > /gone";
    let second = "mkdir /kept; echo b > /kept/b; echo a > /kept/a; rm /kept/b; echo x > /gone";
    let dir = context(&[("Dockerfile", &dockerfile(first))]);
    build(dir.path(), &["-t", "cutoff:a"]).ok();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile(second)).expect("writable");
    let again = build(dir.path(), &["-t", "cutoff:b"]).ok();
    assert_eq!(cached(&again).len(), 2, "{}", again.stderr);
    for image in ["cutoff:a", "cutoff:b"] {
        let script = format!("test ! -e /gone && test \"$(cat /kept/new)\" = {id} && cat /list");
        run(&mut rbuild(bases(), &["run", "--rm", image, "sh", "-c", &script])).ok().says("new");
    }
    // And as a base, from layers that were never one stack in the store.
    let on_top = context(&[("Dockerfile", "FROM cutoff:b\nRUN test ! -e /gone && cat /kept/a\n")]);
    build(on_top.path(), &["--no-cache"]).ok();
}

#[test]
fn a_stage_may_be_built_anew_alone() {
    let id = unique();
    let text = format!(
        "FROM busybox AS volatile\nRUN echo {id} > /same\nRUN cat /proc/sys/kernel/random/uuid > /other\n\
         FROM busybox AS a\nCOPY --from=volatile /same /same\nRUN echo {id} a\n\
         FROM a\nCOPY --from=volatile /other /other\nRUN cat /other\n"
    );
    let dir = context(&[("Dockerfile", &text)]);
    build(dir.path(), &[]).ok();
    let again = build(dir.path(), &["--no-cache-filter", "volatile"]).ok();
    let hits = cached(&again);
    assert_eq!(hits.len(), 2, "{hits:#?}\n{}", again.stderr);
    assert!(hits.iter().any(|line| line.contains("COPY --from=volatile /same")));
    assert!(hits.iter().any(|line| line.contains(" a") && line.contains("RUN echo")));
    build(dir.path(), &["--no-cache-filter", "volatil"])
        .fails_with(1)
        .says("did you mean `volatile`?");
    build(dir.path(), &["--no-cache-filter", "0,7"]).fails_with(1).says("there is no stage `7`");
}

#[test]
fn what_a_command_made_grows_old() {
    let text = format!("FROM busybox\nWORKDIR /w\nRUN echo {}\n", unique());
    let dir = context(&[("Dockerfile", &text)]);
    build(dir.path(), &[]).ok();
    assert_eq!(cached(&build(dir.path(), &["--cache-ttl", "1h"]).ok()).len(), 3);
    std::thread::sleep(Duration::from_millis(1100));
    let old = build(dir.path(), &["--cache-ttl", "1s"]).ok();
    assert!(cached(&old).iter().all(|line| !line.contains("RUN")), "{}", old.stderr);
    build(dir.path(), &["--cache-ttl", "soon"]).fails_with(2).says("not a duration");
}

#[test]
fn stages_that_wait_wait_together() {
    let made: Vec<String> = (0..8)
        .map(|at| format!("FROM busybox AS s{at}\nRUN sleep 2; echo {} > /{at}\n", unique()))
        .collect();
    let used: Vec<String> = (0..8).map(|at| format!("COPY --from=s{at} /{at} /{at}\n")).collect();
    // An unused stage costs nothing, not even a look at its base.
    let text = format!(
        "FROM registry.invalid/none:1 AS unused\nRUN sleep 60\n{}FROM busybox\n{}",
        made.concat(),
        used.concat()
    );
    let dir = context(&[("Dockerfile", &text)]);
    let since = Instant::now();
    build(dir.path(), &[]).ok();
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "8 sleeps of 2 s took {took:?}");
}

#[test]
fn two_processes_run_an_equal_step_once() {
    let text = format!("FROM busybox\nRUN sleep 2; echo {}\n", unique());
    let dir = context(&[("Dockerfile", &text)]);
    let (one, other) = (spawn(dir.path()), spawn(dir.path()));
    let (one, other) = (wait(one).ok(), wait(other).ok());
    let ran = |ran: &Ran| usize::from(!cached(ran).iter().any(|line| line.contains("sleep")));
    assert_eq!(ran(&one) + ran(&other), 1, "{}\n{}", one.stderr, other.stderr);
}

#[test]
fn a_step_whose_process_is_killed_is_taken_over() {
    let text = format!("FROM busybox\nRUN sleep 3; echo {}\n", unique());
    let dir = context(&[("Dockerfile", &text)]);
    let mut first = spawn(dir.path());
    std::thread::sleep(Duration::from_secs(1));
    let second = spawn(dir.path());
    std::thread::sleep(Duration::from_millis(500));
    first.kill().expect("it runs");
    drop(first.wait());
    let second = wait(second).ok();
    assert!(!cached(&second).iter().any(|line| line.contains("sleep")), "{}", second.stderr);
}

#[test]
fn a_cancelled_step_is_handed_over_within_a_service() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("rbuild.sock");
    let url = format!("unix://{}", socket.display());
    let mut serve = rbuild(bases(), &["serve", "--listen", &url]);
    let _server = Server::start(serve.stdout(Stdio::null()), || socket.exists());
    let id = unique();
    let text = format!("FROM busybox\nRUN echo begun {id}; sleep 3; echo done {id}\n");
    let files = context(&[("Dockerfile", &text)]);
    let client = || {
        let mut build = command(RBUILD, &["--host", &url, "--progress", "plain"]);
        build.arg(files.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        build.spawn().expect("rbuild starts")
    };
    let sleeps = format!("echo begun {id}; sleep 3");
    let runs = || run(&mut command("pgrep", &["-f", &sleeps])).code == Some(0);
    let first = client();
    let since = Instant::now();
    while !runs() {
        assert!(since.elapsed() < Duration::from_secs(60), "the step never began");
        std::thread::sleep(Duration::from_millis(50));
    }
    let second = client();
    std::thread::sleep(Duration::from_millis(500));
    run(&mut command("kill", &["-INT", &first.id().to_string()])).ok();
    assert_ne!(wait(first).code, Some(0), "it was cancelled");
    let second = wait(second).ok();
    let output = format!("{}{}", second.stdout, second.stderr);
    assert!(output.contains(&format!("done {id}")), "it ran for the second: {output}");
}

#[test]
fn cancelling_ends_everything() {
    let id = unique();
    // Each ignores what asks it to end, and has left children of its own behind.
    let stage = |at: usize| {
        format!(
            "FROM busybox AS s{at}\n\
             RUN trap '' INT TERM HUP; (setsid sh -c 'sleep 600; : {id}' &) ; \
             sleep 600; sleep 600; : {id} {at}\n"
        )
    };
    let stages: String = (0..4).map(stage).collect();
    let copies: Vec<String> = (0..4).map(|at| format!("COPY --from=s{at} / /\n")).collect();
    let text = format!("{stages}FROM busybox\n{}", copies.concat());
    let dir = context(&[("Dockerfile", &text)]);
    let count = || {
        let found = run(&mut command("pgrep", &["-f", &format!(": {id}")])).stdout;
        found.lines().count()
    };
    let child = spawn(dir.path());
    let since = Instant::now();
    while count() < 8 {
        assert!(since.elapsed() < Duration::from_secs(60), "{} processes began", count());
        std::thread::sleep(Duration::from_millis(50));
    }
    let since = Instant::now();
    run(&mut command("kill", &["-INT", &child.id().to_string()])).ok();
    let ran = wait(child).fails_with(130);
    // It takes less than a second; other work of this machine may take the rest.
    assert!(since.elapsed() < Duration::from_secs(10), "{}", ran.stderr);
    assert_eq!(count(), 0, "processes outlive their build");
}

#[test]
fn a_failed_step_is_never_remembered() {
    let text = format!("FROM busybox\nRUN echo {}; exit 3\n", unique());
    let dir = context(&[("Dockerfile", &text)]);
    for _ in 0..2 {
        let failed = build(dir.path(), &[]);
        assert!(failed.stderr.contains("exit code 3") || failed.code != Some(0));
        assert!(!cached(&failed).iter().any(|line| line.contains("RUN")), "{}", failed.stderr);
    }
}

#[test]
fn faults_between_stages_are_named() {
    #[rustfmt::skip]
    let cases = [
        ("unknown --from",    "FROM busybox AS builder\nFROM busybox\nCOPY --from=bilder /a /\n",  &[][..],                  "did you mean `builder`?"),
        ("unknown --target",  "FROM busybox AS builder\n",                                        &["--target", "bulder"][..], "did you mean `builder`?"),
        ("a stage on itself", "FROM a AS a\nCOPY --from=a /x /\n",                                &[][..],                  "a"),
        ("a later stage",     "FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nCOPY --from=a /x /\n", &["--target", "b"][..], "b"),
    ];
    for (name, text, options, want) in cases {
        let dir = context(&[("Dockerfile", text)]);
        let failed = build(dir.path(), options);
        assert_ne!(failed.code, Some(0), "{name}");
        assert!(failed.stderr.contains(want), "{name}: {}", failed.stderr);
    }
}
