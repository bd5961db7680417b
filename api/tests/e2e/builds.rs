//! The history of builds, and what it tells of the cache.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::explain::busybox_store;
use crate::support::{Server, context, free_port, http_get, rbuild, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn builds_are_remembered_and_explained() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[
        ("Dockerfile", "FROM busybox\nARG V=1\nRUN echo one-$V; echo two >&2\nCOPY a /a\n"),
        ("a", "1"),
    ]);
    let build = |args: &[&str]| run(rbuild(&store, args).args(["-t", "x:1"]).arg(dir.path()));
    build(&[]).ok();
    build(&["--build-arg", "V=2"]).ok();
    std::fs::write(dir.path().join("Dockerfile"), "FROM busybox\nRUN echo no && false\n").unwrap();
    build(&[]).fails_with(1);

    let listed = run(&mut rbuild(&store, &["builds", "ls", "--format", "json"])).ok().stdout;
    let listed: Vec<Value> = listed.lines().map(json).collect();
    let states: Vec<&str> =
        listed.iter().map(|it| it["result"]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "done", "done"], "newest first");
    let second = listed[1]["id"].as_str().unwrap();
    run(&mut rbuild(&store, &["builds", "ls"])).ok().says(second);

    let shown = run(&mut rbuild(&store, &["builds", "show", second, "--format", "json"])).ok();
    let shown = json(&shown.stdout);
    assert_eq!(shown["build_args"], serde_json::json!(["V"]), "the name alone");
    assert_eq!(shown["plan"][2]["state"], "executed");
    assert_eq!(shown["plan"][2]["lookup"]["changes"][0]["before"], "1");
    assert!(shown["dockerfile_text"].as_str().unwrap().contains("one-$V"));
    run(&mut rbuild(&store, &["builds", "show", second])).ok().says("[3/4]").says("build arg V");

    let logs = run(&mut rbuild(&store, &["builds", "logs", second])).ok();
    assert_eq!(logs.stdout, "one-2\ntwo\n");
    run(&mut rbuild(&store, &["builds", "logs"])).ok().says("no\n");

    run(&mut rbuild(&store, &["explain", second]))
        .ok()
        .says(r#"RUN: build arg V: "1" -> "2""#)
        .says(r#"env[V]: "1" -> "2""#)
        .says("follows RUN");
    let of_line = run(&mut rbuild(&store, &["explain", &format!("{second}:4")])).ok();
    assert!(of_line.stdout.contains("COPY a /a"), "{of_line:?}");
    assert!(!of_line.stdout.contains("\n[3/4]"), "{of_line:?}");
    run(&mut rbuild(&store, &["explain", &format!("{second}:9")])).fails_with(1).says("line 9");
    run(&mut rbuild(&store, &["explain", "ffffffff"])).fails_with(1).says("no build");
    let told = json(&run(&mut rbuild(&store, &["explain", "--json", second])).ok().stdout);
    assert_eq!(told["plan"][3]["lookup"]["answer"], "follows");

    run(&mut rbuild(&store, &["builds", "rm", second])).ok();
    run(&mut rbuild(&store, &["builds", "rm", second])).fails_with(1);
    run(&mut rbuild(&store, &["builds", "rm", "--all"])).ok();
    assert_eq!(run(&mut rbuild(&store, &["builds", "ls", "-q"])).ok().stdout, "");
}

#[test]
fn a_preview_builds_nothing() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[("Dockerfile", "FROM busybox\nCOPY a /a\nRUN echo x\n"), ("a", "1")]);
    let path = dir.path().to_str().unwrap();
    let preview = || {
        run(&mut rbuild(&store, &["explain", "--json", "--dry-run", "-t", "x", path])).ok().stdout
    };
    let answers = || -> Vec<String> {
        let plan = json(&preview())["plan"].as_array().unwrap().clone();
        let lookups = plan.iter().filter_map(|step| step["lookup"]["answer"].as_str());
        lookups.map(str::to_owned).collect()
    };
    assert_eq!(answers(), ["never-built", "never-built"]);
    assert_eq!(answers(), ["never-built", "never-built"], "the first preview built nothing");
    run(rbuild(&store, &["-q", "-t", "x"]).arg(path)).ok();
    assert_eq!(answers(), ["hit", "hit"]);
    std::fs::write(dir.path().join("a"), "2").unwrap();
    assert_eq!(answers(), ["changed", "follows"]);
    run(&mut rbuild(&store, &["explain", "--dry-run", path]))
        .ok()
        .says("COPY a: 1 file changed (a)")
        .says("0 of 2 steps");
    run(&mut rbuild(&store, &["explain", "--dry-run", "--nonsense", path])).fails_with(1);
}

#[test]
fn a_killed_build_was_interrupted() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN echo begun; sleep 60\n")]);
    let mut child = rbuild(&store, &["-q"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = || {
        let text = run(&mut rbuild(&store, &["builds", "show", "--format", "json"])).stdout;
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    };
    let since = Instant::now();
    while run(&mut rbuild(&store, &["builds", "logs"])).stdout != "begun\n" {
        assert!(since.elapsed() < Duration::from_secs(60), "{}", state());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(state()["result"]["state"], "running");
    run(&mut rbuild(&store, &["builds", "rm", state()["id"].as_str().unwrap()]))
        .fails_with(1)
        .says("running");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(state()["result"]["state"], "interrupted");
    assert_eq!(state()["plan"][1]["state"], "not finished");
}

#[test]
fn a_service_remembers_its_builds() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let port = free_port();
    let url = format!("tcp://127.0.0.1:{port}");
    let mut serve: Command = rbuild(&store, &["serve", "--listen", &url]);
    let _server = Server::start(serve.stdout(Stdio::null()).stderr(Stdio::null()), || {
        http_get(port, "/_ping").is_some_and(|answer| answer.contains(" 200 "))
    });
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN echo served\n")]);
    run(rbuild(&store, &["--host", &url, "-t", "served:1"]).arg(dir.path())).ok();
    run(&mut rbuild(&store, &["builds", "show"])).ok().says("served:1").says("an archive");
    assert_eq!(run(&mut rbuild(&store, &["builds", "logs"])).ok().stdout, "served\n");
}
