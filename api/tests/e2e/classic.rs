//! The classic builder's stream against a recording of what Docker's daemon sent for the same
//! requests (Debian's docker.io 20.10).
//!
//! `testdata/classic/NAME.dockerd` is the recording, which `RECORD=1` makes anew. Where rbuild's
//! stream differs, the case says why and `NAME.rbuild` has it, which `UPDATE=1` writes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::docker::start_dockerd;
use crate::engine::{docker, engine};
use crate::support::{bases, docker_registry, rbuild, run, testdata};
use crate::wire::{self, Answer};

/// One request.
struct Case {
    name: &'static str,
    /// Beside `version=1`. `REG` is a registry with `base:1`, which is busybox.
    query: &'static str,
    dockerfile: &'static str,
    /// Why rbuild's stream is another one, where it is.
    differs: Option<&'static str>,
}

const fn same(name: &'static str, query: &'static str, dockerfile: &'static str) -> Case {
    Case { name, query, dockerfile, differs: None }
}

const fn other(
    name: &'static str,
    query: &'static str,
    dockerfile: &'static str,
    why: &'static str,
) -> Case {
    Case { name, query, dockerfile, differs: Some(why) }
}

const APP: &str = "FROM busybox\nWORKDIR /app\nCOPY a .\nRUN echo hello\nENV A=b\nUSER 1000\n\
                   EXPOSE 80\nCMD [\"sh\"]\n";
const STAGES: &str = "FROM busybox AS one\nRUN echo one > /one\nFROM busybox AS two\n\
                      COPY --from=one /one /\nFROM two\nLABEL last=1\n";
const FAILS: &str = "FROM busybox\nENV A=b\nRUN echo told; exit 3\nRUN echo never\n";
const TOLD_AT_ONCE: &str = "what a file names and is not there is found before anything runs, and \
                            told by a status";
const OWN_WORDS: &str = "faults are told in rbuild's words, with their place";
const OF_LAYERS: &str = "a pull within a build is told by its layers alone";

/// In this order on a new engine. Every context holds the files `a` and `b`.
#[rustfmt::skip]
const CASES: &[Case] = &[
    same("cold", "t=case:1", APP),
    same("cached", "t=case:1", APP),
    same("no-cache", "nocache=1", APP),
    same("tags", "t=case:2&t=reg.example/case:3", APP),
    same("stages", "t=stages", STAGES),
    same("stages-cached", "", STAGES),
    same("target", "target=two", STAGES),
    same("scratch", "", "FROM scratch\nCOPY a b /\n"),
    same("stderr", "", "FROM busybox\nRUN echo told >&2\n"),
    other("exec-form", "", "FROM busybox\nRUN [\"echo\", \"a  b\"]\n", "blanks within an instruction are shown as one"),
    same("shell", "", "FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $0\n"),
    same("argument", "buildargs=%7B%22WHO%22%3A%22me%22%7D", "FROM busybox\nARG WHO\nRUN echo $WHO\n"),
    other("unused-argument", "buildargs=%7B%22WHO%22%3A%22me%22%7D", "FROM busybox\nRUN echo on\n", "an unused argument is told first, with its place"),
    same("trigger", "t=trigger", "FROM busybox\nONBUILD RUN echo triggered\n"),
    other("triggered", "", "FROM trigger\nCMD [\"x\"]\n", "triggers are steps of their own"),
    same("quiet", "q=1", "FROM busybox\nRUN echo quiet\n"),
    other("label", "labels=%7B%22a%22%3A%22b%22%7D", "FROM busybox\nRUN echo labelled\n", "a label of the request is no step of the file"),
    same("no-network", "networkmode=none", "FROM busybox\nRUN echo alone\n"),
    same("keep-containers", "rm=0", "FROM busybox\nRUN echo kept\n"),
    other("squash", "squash=1", "FROM busybox\nRUN echo squashed > /s\n", "what is squashed is told as any other image"),
    same("fails", "t=case:9", FAILS),
    same("fails-exec", "", "FROM busybox\nRUN [\"sh\", \"-c\", \"exit 4\"]\n"),
    same("fails-forcerm", "forcerm=1", "FROM busybox\nRUN exit 5\n"),
    other("fails-quiet", "q=1", "FROM busybox\nRUN echo told; exit 6\n", "a quiet build that fails tells its last lines alone"),
    other("no-program", "", "FROM busybox\nRUN [\"/none\"]\n", "a program that is not there is told as shells do"),
    other("pull", "pull=1", "FROM REG/base:1\nRUN echo pulled\n", OF_LAYERS),
    other("pull-again", "pull=1", "FROM REG/base:1\nRUN echo pulled\n", OF_LAYERS),
    other("no-base", "", "FROM REG/none:1\n", TOLD_AT_ONCE),
    other("no-source", "", "FROM busybox\nCOPY none /\n", TOLD_AT_ONCE),
    other("no-file", "dockerfile=none", APP, OWN_WORDS),
    other("no-target", "target=none", APP, OWN_WORDS),
    other("empty", "", "", OWN_WORDS),
    other("bad-instruction", "", "FROM busybox\nRUM true\n", OWN_WORDS),
    other("bad-flag", "", "FROM busybox\nCOPY --none=1 a b\n", OWN_WORDS),
    other("bad-option", "memory=much", APP, "Docker takes a number that is none for no limit"),
];

/// An engine that listens at a socket, and the registry of its own.
struct Engine {
    socket: PathBuf,
    registry: String,
}

impl Engine {
    /// Sends a case; returns the status and the stream, a line a line.
    fn build(&self, case: &Case) -> String {
        let dockerfile = case.dockerfile.replace("REG", &self.registry);
        let tar = wire::tar(&[("Dockerfile", &dockerfile), ("a", "a\n"), ("b", "b\n")]);
        let request = format!("POST /v1.41/build?version=1&{}", case.query);
        let Answer { status, body } = wire::ask(&self.socket, &request, &[wire::TAR], &tar);
        format!("{status}\n{}", self.normal(&body))
    }

    /// Takes out what differs from build to build: ids, and the rows of layers, which depend on
    /// what each engine has.
    fn normal(&self, body: &str) -> String {
        let long = regex::Regex::new(r"\b[0-9a-f]{64}\b").expect("it is one");
        let short = regex::Regex::new(r"\b[0-9a-f]{12}\b").expect("it is one");
        let mut lines = String::new();
        for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let value: Value = serde_json::from_str(line).expect("a line is JSON");
            if value.get("progressDetail").is_some() {
                continue;
            }
            let line = value.to_string().replace(&self.registry, "REG");
            let line = long.replace_all(&line, "LONG");
            writeln!(lines, "{}", short.replace_all(&line, "SHORT")).expect("memory takes it");
        }
        lines
    }
}

/// What every stream of Docker's has and none of ours: the daemon makes a container for each
/// instruction, where only RUN needs one, and an image for each stage, where one is asked for.
fn without_needless_work(stream: &str) -> String {
    let is_aux = |line: &str| line.starts_with("{\"aux\":");
    let last = stream.lines().filter(|line| is_aux(line)).count();
    let (mut is_run, mut seen) = (false, 0);
    let mut kept = String::new();
    for line in stream.lines() {
        if line.contains("\"Step ") {
            is_run = line.contains(" : RUN ");
        }
        let is_containers = line.contains("\" ---> Running in SHORT\\n\"")
            || line.contains("\"Removing intermediate container SHORT\\n\"");
        seen += usize::from(is_aux(line));
        if is_containers && !is_run || is_aux(line) && seen < last {
            continue;
        }
        kept += line;
        kept.push('\n');
    }
    kept
}

fn push_base(url: &str, dir: &Path, registry: &str) {
    let name = format!("{registry}/base:1");
    run(&mut docker(url, dir, &["tag", "busybox", &name])).ok();
    run(&mut docker(url, dir, &["push", &name])).ok();
    run(&mut docker(url, dir, &["rmi", &name])).ok();
}

fn file(case: &Case, whose: &str) -> PathBuf {
    testdata().join("classic").join(format!("{}.{whose}", case.name))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "1")
}

/// Builds all cases by Docker's daemon, and keeps what it said.
fn record(dir: &Path) {
    // Without a bridge: the firewall belongs to other daemons. Squashing is an experiment there.
    let url = start_dockerd(&[
        "--bridge",
        "none",
        "--iptables=false",
        "--ip6tables=false",
        "--experimental",
    ]);
    let busybox = dir.join("busybox.tar");
    run(docker(&url, dir, &["load", "-i"]).arg(&busybox)).ok();
    let (_registry, port, _data) = docker_registry();
    let registry = format!("127.0.0.1:{port}");
    push_base(&url, dir, &registry);
    let socket = PathBuf::from(url.strip_prefix("unix://").expect("it is a socket"));
    let theirs = Engine { socket, registry };
    for case in CASES {
        std::fs::write(file(case, "dockerd"), theirs.build(case)).expect("writable");
    }
}

#[test]
fn the_stream_is_as_recorded_from_docker() {
    let dir = tempfile::tempdir().unwrap();
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(dir.path().join("busybox.tar"))).ok();
    if is_set("RECORD") {
        record(dir.path());
    }
    let (_server, url) = engine(dir.path());
    let (_registry, port, _data) = docker_registry();
    let registry = format!("127.0.0.1:{port}");
    push_base(&url, dir.path(), &registry);
    let ours = Engine { socket: dir.path().join("rbuild.sock"), registry };

    let (mut faults, mut expected) = (String::new(), BTreeSet::new());
    for case in CASES {
        let got = ours.build(case);
        let recorded = std::fs::read_to_string(file(case, "dockerd")).unwrap_or_default();
        let theirs = without_needless_work(&recorded);
        expected.insert(file(case, "dockerd"));
        let want = match case.differs {
            None => theirs,
            Some(why) => {
                expected.insert(file(case, "rbuild"));
                if is_set("UPDATE") {
                    std::fs::write(file(case, "rbuild"), &got).unwrap();
                }
                if got == theirs {
                    writeln!(faults, "{}: this should differ, as {why}", case.name).unwrap();
                }
                std::fs::read_to_string(file(case, "rbuild")).unwrap_or_default()
            }
        };
        if got != want {
            writeln!(faults, "== {}\n-- wanted\n{want}-- got\n{got}", case.name).unwrap();
        }
    }
    let there = std::fs::read_dir(testdata().join("classic")).unwrap();
    let there: BTreeSet<PathBuf> = there.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(there, expected, "files of no case, or cases without a file");
    assert!(faults.is_empty(), "{faults}");
}
