//! `rbuild serve`: by curl, by our client, by the unmodified docker CLI.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::embedded::image_id;
use crate::support::{
    RBUILD, Server, bases, ca_arguments, command, free_port, http_get, rbuild, run, testdata,
};

/// A service on loopback TCP with its store.
fn serve_tcp() -> (Server, u16) {
    let port = free_port();
    let mut serve = rbuild(bases(), &["serve", "--listen", &format!("tcp://127.0.0.1:{port}")]);
    serve.args(ca_arguments()).stdout(Stdio::null());
    let server = Server::start(&mut serve, || http_get(port, "/_ping").is_some());
    (server, port)
}

/// A service on a unix socket in `dir`, and its URL.
pub(crate) fn serve_unix(dir: &Path) -> (Server, String) {
    let socket = dir.join("rbuild.sock");
    let url = format!("unix://{}", socket.display());
    let mut serve = rbuild(bases(), &["serve", "--listen", &url]);
    serve.args(ca_arguments()).stdout(Stdio::null());
    let server = Server::start(&mut serve, || socket.exists());
    (server, url)
}

fn example_tar(dir: &Path, compress: bool) -> std::path::PathBuf {
    let file = dir.join("context.tar");
    let flag = if compress { "-czf" } else { "-cf" };
    run(command("tar", &[flag]).arg(&file).arg("-C").arg(testdata().join("app-node")).arg("."))
        .ok();
    file
}

#[test]
fn curl_posts_a_context() {
    let (_server, port) = serve_tcp();
    let dir = tempfile::tempdir().unwrap();
    for compress in [false, true] {
        let tar = example_tar(dir.path(), compress);
        let url = format!("http://127.0.0.1:{port}/build?t=curled:1");
        let data = format!("@{}", tar.display());
        let answer = run(&mut command(
            "curl",
            &["-sSN", "--data-binary", &data, "-H", "Content-Type: application/x-tar", &url],
        ))
        .ok()
        .stdout;
        for line in
            ["Step 1/5 : FROM node:14", "Successfully built", "Successfully tagged curled:1"]
        {
            assert!(answer.contains(line), "{line} in {answer}");
        }
    }
    image_id(bases(), "curled:1");
}

#[test]
fn our_client_builds_through_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = serve_unix(dir.path());
    let mut build = Command::new(RBUILD);
    build.args(["--host", &url, "--progress", "plain", "-t", "remote:1"]);
    run(build.arg(testdata().join("app-node"))).ok().says("[4/5] RUN npm install");
    image_id(bases(), "remote:1");
}

#[test]
fn the_docker_command_line_builds_through_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = serve_unix(dir.path());
    let docker = |args: &[&str]| {
        let mut docker = command("docker", args);
        docker.env("DOCKER_HOST", &url).env("DOCKER_BUILDKIT", "0").env_remove("DOCKER_CONTEXT");
        docker
    };
    run(docker(&["build", "-t", "dockered:1"]).arg(testdata().join("app-node")))
        .ok()
        .says("Successfully tagged dockered:1");
    run(&mut docker(&["images"])).ok().says("dockered");
    run(&mut docker(&["history", "dockered:1"])).ok().says("npm install");
    run(&mut docker(&["inspect", "dockered:1"])).ok().says("sha256:");
}
