//! Clients that others wrote, and one that only means trouble.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::support::{
    Server, command, docker_registry, free_port, http_get, rbuild, run, testdata,
};

/// The directory that the clients are installed in.
fn clients() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        run(&mut command(testdata().join("clients/install.sh").to_str().expect("UTF-8"), &[])).ok();
        testdata().join("../target/clients").canonicalize().expect("it was just made")
    })
}

/// A service at a port and its store.
fn service() -> (Server, u16, tempfile::TempDir) {
    let (port, dir) = (free_port(), tempfile::tempdir().expect("a temporary directory"));
    let listen = format!("tcp://127.0.0.1:{port}");
    let mut serve = rbuild(&dir.path().join("store"), &["serve", "--listen", &listen]);
    let answers = || http_get(port, "/_ping").is_some_and(|answer| answer.contains(" 200 "));
    (Server::start(&mut serve, answers), port, dir)
}

fn python(args: &[&str]) -> std::process::Command {
    let program = clients().join("bin/python");
    command(program.to_str().expect("UTF-8"), args)
}

#[test]
fn docker_py_builds_lists_pulls_and_pushes() {
    let (_registry, registry, _data) = docker_registry();
    let (_service, port, _store) = service();
    let script = testdata().join("clients/docker_py.py");
    let host = format!("tcp://127.0.0.1:{port}");
    let registry = format!("127.0.0.1:{registry}");
    run(&mut python(&[script.to_str().expect("UTF-8"), &host, &registry]))
        .ok()
        .says("docker-py is content");
}

#[test]
fn dockerode_builds_lists_pulls_and_pushes() {
    let (_registry, registry, _data) = docker_registry();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listen = format!("unix://{}", socket.display());
    let mut serve = rbuild(&dir.path().join("store"), &["serve", "--listen", &listen]);
    let _service = Server::start(&mut serve, || socket.exists());
    let script = testdata().join("clients/dockerode.js");
    let mut node = command("node", &[script.to_str().expect("UTF-8")]);
    node.arg(&socket).arg(format!("127.0.0.1:{registry}"));
    node.env("NODE_PATH", clients().join("node_modules"));
    run(&mut node).ok().says("dockerode is content");
}

#[test]
fn schemathesis_finds_no_request_that_the_document_does_not_tell_of() {
    let (_service, port, dir) = service();
    // Something to look at.
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let host = format!("tcp://127.0.0.1:{port}");
    run(rbuild(dir.path(), &["--host", &host, "build", "-q"]).arg(dir.path())).ok();
    let document = format!("http://127.0.0.1:{port}/v1/openapi.json");
    let program = clients().join("bin/schemathesis");
    let mut schemathesis = command(program.to_str().expect("UTF-8"), &["run", &document]);
    schemathesis.args(["--seed", "1", "--max-examples", "15", "--request-timeout", "20"]);
    schemathesis.args(["--phases", "examples,coverage,fuzzing", "--generation-database", "none"]);
    // Texts are read by rules that no schema tells: names, platforms, URLs.
    schemathesis.args(["--exclude-checks", "positive_data_acceptance", "--no-color"]);
    run(schemathesis.current_dir(dir.path())).ok();
}
