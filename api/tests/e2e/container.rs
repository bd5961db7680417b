//! rbuild in a container of Docker's without a privilege: what works, and the setting that is named
//! where something does not.

use std::process::Command;

use crate::docker::{docker, dockerd};
use crate::support::{RBUILD, Ran, bases, context, rbuild, run};

/// In the container: a base of its own, a build without RUN, one with, and another as another user.
const SCRIPT: &str = r#"
    export RBUILD_STORE=/store/$(id -u) HOME=/tmp; cd /tmp
    rbuild doctor > /tmp/doctor 2>&1; echo "doctor $?"
    grep -A1 -E '^(MISSING|limited)' /tmp/doctor
    rbuild load -q -i /busybox.tar > /tmp/out 2>&1 && rbuild -q /copy > /tmp/out 2>&1
    echo "copy $?"; cat /tmp/out
    rbuild --network none -q /run > /tmp/out 2>&1; echo "run $?"; cat /tmp/out
    rbuild --network none -q /user > /tmp/out 2>&1; echo "user $?"; cat /tmp/out
"#;

const OPEN: [&str; 2] = ["--security-opt", "seccomp=unconfined"];
const SHOWN: [&str; 2] = ["--security-opt", "systempaths=unconfined"];

/// Options, the ends of doctor and the three builds, and what is to be read.
type Case<'a> = (&'a [&'a [&'a str]], [&'a str; 4], &'a [&'a str]);

/// Runs the script in a container with these options.
fn look(host: &str, options: &[&str]) -> Ran {
    let mut started: Command = docker(host, &["run", "--rm", "--network", "none", "-v", "/store"]);
    run(started.args(options).args(["rbuild-inside", "bash", "-c", SCRIPT])).ok()
}

/// Makes the image: Debian with rbuild in it.
fn load_image(host: &str) {
    let dir = context(&[
        (
            "Dockerfile",
            "FROM debian:bookworm-slim\nCOPY rbuild /usr/local/bin/\nCOPY busybox.tar /\n\
             COPY copy /copy\nCOPY run /run\nCOPY user /user\nRUN mkdir -m 1777 /store\n",
        ),
        ("copy/Dockerfile", "FROM busybox\nCOPY --chown=33:33 Dockerfile /d\n"),
        ("run/Dockerfile", "FROM busybox\nRUN test $(id -u) = 0 && echo made > /made\n"),
        ("user/Dockerfile", "FROM busybox\nRUN chown 33:33 /home\nUSER 33:33\nRUN touch /home/x\n"),
    ]);
    let busybox = dir.path().join("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&busybox)).ok();
    std::fs::copy(RBUILD, dir.path().join("rbuild")).expect("the context is writable");
    let archive = dir.path().join("image.tar");
    let output = format!("type=docker,dest={}", archive.display());
    let mut build = rbuild(bases(), &["-t", "rbuild-inside", "--network", "none", "-o", &output]);
    run(build.arg(dir.path())).ok();
    run(docker(host, &["load", "-q", "-i"]).arg(&archive)).ok();
}

#[test]
fn what_works_works_and_the_rest_names_its_setting() {
    let host = dockerd();
    load_image(host);
    let user = ["--user", "1000:1000"];
    let (filtered, hidden) = ("seccomp=unconfined", "systempaths=unconfined");
    #[rustfmt::skip]
    let cases: [Case<'_>; 6] = [
        (&[],                     ["doctor 4", "copy 0", "run 4", "user 4"], &[filtered, "`rbuild doctor` names"]),
        (&[&user],                ["doctor 4", "copy 4", "run 4", "user 4"], &[filtered]),
        (&[&OPEN],                ["doctor 4", "copy 0", "run 4", "user 4"], &[hidden, "step `mount /proc`"]),
        (&[&OPEN, &SHOWN],        ["doctor 0", "copy 0", "run 0", "user 0"], &[]),
        (&[&OPEN, &SHOWN, &user], ["doctor 0", "copy 0", "run 0", "user 1"], &["one id"]),
        (&[&OPEN, &SHOWN, &["--cap-drop", "ALL"]],
                                  ["doctor 4", "copy 4", "run 4", "user 4"], &["CAP_SETUID", "owner of `/d`"]),
    ];
    for (options, ends, texts) in cases {
        let options = options.concat();
        let ran = look(host, &options);
        for end in ends {
            assert!(ran.stdout.lines().any(|line| line == end), "{options:?}: `{end}` in {ran:?}");
        }
        for text in texts {
            assert!(ran.stdout.contains(text), "{options:?}: `{text}` in {ran:?}");
        }
    }
}
