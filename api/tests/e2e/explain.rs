//! Why a step was not found in the cache: every kind of change is named.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{bases, context, rbuild, run};

/// A store with busybox alone.
pub(crate) fn busybox_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let archive = dir.path().join("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&archive)).ok();
    let store = dir.path().join("store");
    run(rbuild(&store, &["load", "-q", "-i"]).arg(&archive)).ok();
    dir
}

/// One thing done to a build, and what is said of it.
struct Mutation {
    name: &'static str,
    act: fn(&Path, &mut Command),
    step: &'static str,
    want: &'static str,
}

fn edit(dir: &Path, from: &str, to: &str) {
    let path = dir.join("Dockerfile");
    let text = fs::read_to_string(&path).expect("own files");
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).expect("own files");
}

const DOCKERFILE: &str = "\
FROM base
ARG V=1
ENV E=1
COPY src /src
RUN echo $V $E
COPY . /all
RUN echo end
";

#[rustfmt::skip]
const MUTATIONS: &[Mutation] = &[
    Mutation { name: "nothing", act: |_, _| {}, step: "", want: "" },
    Mutation {
        name: "file content",
        act: |dir, _| { fs::write(dir.join("src/a.js"), "other").expect("own files"); fs::write(dir.join("src/b.js"), "other").expect("own files"); },
        step: "COPY src /src", want: "COPY src: 2 files changed (a.js, b.js)",
    },
    Mutation {
        name: "mode",
        act: |dir, _| fs::set_permissions(dir.join("src/a.js"), fs::Permissions::from_mode(0o755)).expect("own files"),
        step: "COPY src /src", want: "COPY src: 1 mode change (a.js)",
    },
    Mutation {
        name: "symlink",
        act: |dir, _| { fs::remove_file(dir.join("src/l")).expect("own files"); symlink("b.js", dir.join("src/l")).expect("own files"); },
        step: "COPY src /src", want: "COPY src: 1 file changed (l)",
    },
    Mutation {
        name: "ARG",
        act: |_, build| { build.args(["--build-arg", "V=2"]); },
        step: "RUN echo $V $E", want: r#"RUN: build arg V: "1" -> "2""#,
    },
    Mutation {
        name: "parent step",
        act: |_, build| { build.args(["--build-arg", "V=3"]); },
        step: "COPY . /all", want: "follows RUN echo $V $E",
    },
    Mutation {
        name: "ENV",
        act: |dir, build| { edit(dir, "E=1", "E=2"); build.args(["--build-arg", "V=3"]); },
        step: "RUN echo $V $E", want: r#"RUN: ENV E: "1" -> "2""#,
    },
    Mutation {
        name: "SHELL",
        act: |dir, build| { edit(dir, "COPY src", "SHELL [\"/bin/sh\", \"-ec\"]\nCOPY src"); build.args(["--build-arg", "V=3"]); },
        step: "RUN echo $V $E", want: r#"RUN: SHELL "-c" -> "-ec""#,
    },
    Mutation {
        name: "command",
        act: |dir, _| edit(dir, "echo end", "echo the end"),
        step: "RUN echo the end", want: r#"RUN: command "echo end" -> "echo the end""#,
    },
    Mutation {
        name: ".dockerignore",
        act: |dir, _| fs::write(dir.join(".dockerignore"), "other\nDockerfile\n.dockerignore\n").expect("own files"),
        step: "COPY . /all", want: "COPY .: 1 file removed (other), the ignore file changed",
    },
    Mutation {
        name: "base digest",
        act: |_, _| make_base(&store_of_thread(), "2"),
        step: "COPY src /src", want: "FROM base: digest sha256:",
    },
    Mutation {
        name: "evicted record",
        act: |_, _| { run(&mut rbuild(&store_of_thread(), &["prune", "--all"])).ok(); },
        step: "COPY src /src", want: "record evicted ",
    },
];

thread_local! {
    static STORE: std::cell::RefCell<std::path::PathBuf> = std::cell::RefCell::default();
}

fn store_of_thread() -> std::path::PathBuf {
    STORE.with_borrow(Clone::clone)
}

/// Gives the base image another content.
fn make_base(store: &Path, version: &str) {
    let text = format!("FROM busybox\nLABEL version={version}\n");
    let dir = context(&[("Dockerfile", &text)]);
    run(rbuild(store, &["-q", "-t", "base"]).arg(dir.path())).ok();
}

#[test]
fn every_kind_of_change_is_named() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    STORE.set(store.clone());
    make_base(&store, "1");
    let dir = context(&[
        ("Dockerfile", DOCKERFILE),
        (".dockerignore", "Dockerfile\n.dockerignore\n"),
        ("src/a.js", "a"),
        ("src/b.js", "b"),
        ("other", "x"),
    ]);
    symlink("a.js", dir.path().join("src/l")).unwrap();
    let build = |act: fn(&Path, &mut Command)| {
        let mut build = rbuild(&store, &["--progress", "json", "-t", "x"]);
        act(dir.path(), &mut build);
        let said = run(build.arg(dir.path())).ok().stdout;
        let events: Vec<serde_json::Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        reasons(&events)
    };
    let first = build(|_, _| {});
    assert_eq!(first.len(), 4, "{first:?}");
    assert!(first.iter().all(|(_, reason)| reason == "never built here"), "{first:?}");
    for Mutation { name, act, step, want } in MUTATIONS {
        let told = build(*act);
        if want.is_empty() {
            assert_eq!(told, [], "{name}");
            continue;
        }
        let reason = told.iter().find(|(text, _)| text == step);
        let reason = &reason.unwrap_or_else(|| panic!("{name}: no miss of {step} in {told:?}")).1;
        assert!(reason.starts_with(want), "{name}: {reason}");
    }
}

#[test]
fn platforms_and_secrets_are_named() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[("secret", "a secret of some length")]);
    fs::copy("/bin/busybox", dir.path().join("busybox")).unwrap();
    let explain = |text: &str, args: &[&str]| {
        fs::write(dir.path().join("Dockerfile"), text).unwrap();
        let secret = format!("src={}", dir.path().join("secret").display());
        let secrets = ["one", "two"].map(|id| format!("--secret=id={id},{secret}"));
        let mut command = rbuild(&store, args);
        run(command.args(secrets).args(["--network", "none"]).arg(dir.path())).ok().stdout
    };
    let dry_run = ["explain", "--dry-run"];

    // Only what runs on a platform depends on it.
    let native = "FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"true\"]\n";
    explain(native, &["build", "-q", "--platform", "linux/amd64"]);
    let told = explain(native, &[&dry_run[..], &["--platform", "linux/arm64"]].concat());
    assert!(told.contains(r#"RUN: platform "linux/amd64" -> "linux/arm64""#), "{told}");
    assert!(told.contains("1 of 2 steps would be found"), "{told}");

    let secret = |id: &str| format!("FROM busybox\nRUN --mount=type=secret,id={id} true\n");
    explain(&secret("one"), &["build", "-q"]);
    let told = explain(&secret("two"), &dry_run);
    assert!(told.contains(r#"RUN: secret id "one" -> "two""#), "{told}");
    assert!(!told.contains("a secret of some length"), "{told}");
}

/// Returns the text of each step that was a miss, with its reason.
fn reasons(events: &[serde_json::Value]) -> Vec<(String, String)> {
    let planned =
        events.iter().find(|event| event["event"] == "planned").expect("an event of a known form");
    let lookups = events.iter().filter(|event| event["event"] == "step-lookup");
    let misses = lookups.filter(|event| event["answer"] != "hit");
    let mut misses: Vec<(String, String)> = misses
        .map(|event| {
            let step = usize::try_from(event["step"].as_u64().expect("an event of a known form"))
                .expect("an event of a known form");
            let text = planned["steps"][step]["text"]
                .as_str()
                .expect("an event of a known form")
                .to_owned();
            (text, event["reason"].as_str().expect("an event of a known form").to_owned())
        })
        .collect();
    misses.retain(|(text, _)| !text.starts_with("FROM"));
    misses
}
