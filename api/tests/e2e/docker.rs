//! The result in a real docker engine: loaded, started, answering.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::embedded::build_example;
use crate::support::{Server, bases, command, expect_page, free_port, rbuild, run};

/// A dockerd of our own, which all tests share.
pub(crate) fn dockerd() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| start_dockerd(&[]))
}

/// Starts a dockerd in a PID namespace that ends with this process, and returns its URL.
pub(crate) fn start_dockerd(options: &[&'static str]) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory").keep();
    let socket = dir.join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let log = std::fs::File::create(dir.join("log")).expect("writable");
    let arguments: Vec<PathBuf> = ["data", "exec", "pid"].map(|name| dir.join(name)).into();
    let (ready, wait) = std::sync::mpsc::channel();
    let (host_of_thread, socket_of_thread) = (host.clone(), socket);
    let options = options.to_vec();
    // The daemon is tied to the thread that starts it: this one lives as long as the process.
    std::thread::spawn(move || {
        let mut daemon = command("setpriv", &["--pdeathsig", "KILL", "unshare", "--pid"]);
        daemon.args(["--fork", "--kill-child", "--mount-proc", "dockerd", "--host"]);
        daemon.arg(&host_of_thread).arg("--data-root").arg(&arguments[0]);
        daemon.arg("--exec-root").arg(&arguments[1]).arg("--pidfile").arg(&arguments[2]);
        daemon.args(options).stdout(Stdio::null()).stderr(log);
        let _daemon = Server::start(&mut daemon, || {
            socket_of_thread.exists()
                && docker(&host_of_thread, &["version"]).output().is_ok_and(|o| o.status.success())
        });
        ready.send(()).expect("the starter waits");
        loop {
            std::thread::park();
        }
    });
    wait.recv().expect("dockerd starts; its log lies beside its socket");
    host
}

pub(crate) fn docker(host: &str, args: &[&str]) -> Command {
    let mut command = command("docker", args);
    command.env("DOCKER_HOST", host).env_remove("DOCKER_CONTEXT");
    command
}

#[test]
fn docker_loads_and_runs_the_example() {
    let host = dockerd();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("app.tar");
    let output = format!("type=docker,dest={}", archive.display());
    build_example(bases(), "app-node:1", &["-o", &output]).ok();
    run(docker(host, &["load", "-i"]).arg(&archive)).ok().says("Loaded image: app-node:1");

    let port = free_port();
    let publish = format!("{port}:3000");
    let id = run(&mut docker(host, &["run", "-d", "-p", &publish, "app-node:1"])).ok().stdout;
    expect_page(port);
    run(&mut docker(host, &["rm", "-f", id.trim()])).ok();

    let ours = run(&mut rbuild(bases(), &["history", "app-node:1"])).ok().stdout;
    let theirs = run(&mut docker(host, &["history", "--no-trunc", "app-node:1"])).ok().stdout;
    for instruction in ["npm install", "COPY . .", "WORKDIR /app-node"] {
        assert!(ours.contains(instruction) && theirs.contains(instruction), "{ours}\n{theirs}");
    }
}

#[test]
fn skopeo_reads_the_oci_archive() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("app.oci.tar");
    let output = format!("type=oci,dest={}", archive.display());
    build_example(bases(), "app-node:1", &["-o", &output]).ok();
    let source = format!("oci-archive:{}", archive.display());
    run(&mut command("skopeo", &["inspect", &source])).ok().says("Layers");
    // A copy reads every layer and checks every digest.
    let copy = format!("dir:{}", dir.path().join("copy").display());
    run(&mut command("skopeo", &["--insecure-policy", "copy", &source, &copy])).ok();
}

#[test]
fn the_sandbox_runs_the_example_too() {
    build_example(bases(), "app-node:1", &[]).ok();
    let port = free_port();
    let publish = format!("{port}:3000");
    let mut command = rbuild(bases(), &["run", "--rm", "-p", &publish, "app-node:1"]);
    let _running = Server::start(command.stdout(Stdio::null()), || true);
    expect_page(port);
}
