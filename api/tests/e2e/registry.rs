//! Debian's docker-registry as source, mirror and destination.

use crate::embedded::{build_example, image_id};
use crate::support::{bases, command, docker_registry, rbuild, run};

#[test]
fn bases_come_from_a_mirror_and_results_go_back() {
    let (_registry, port, _dir) = docker_registry();
    let node = format!("127.0.0.1:{port}/library/node:14");
    run(&mut rbuild(bases(), &["push", "node:14", &node])).ok();

    let store = tempfile::tempdir().unwrap();
    let mirror = format!("docker.io=http://127.0.0.1:{port}");
    build_example(store.path(), "app-node:1", &["--registry-mirror", &mirror]).ok();

    let pushed = format!("127.0.0.1:{port}/team/app-node:1");
    run(&mut rbuild(store.path(), &["push", "app-node:1", &pushed])).ok();
    let reference = format!("docker://{pushed}");
    run(&mut command("skopeo", &["inspect", "--tls-verify=false", &reference])).ok().says("amd64");

    let other = tempfile::tempdir().unwrap();
    run(&mut rbuild(other.path(), &["pull", &pushed])).ok();
    assert_eq!(image_id(other.path(), &pushed), image_id(store.path(), "app-node:1"));
}

#[test]
fn an_unknown_base_is_told_in_dockers_words() {
    let (_registry, port, _dir) = docker_registry();
    let dir = crate::support::context(&[("Dockerfile", "FROM nobody/nothing\n")]);
    let mirror = format!("docker.io=http://127.0.0.1:{port}");
    let store = tempfile::tempdir().unwrap();
    run(rbuild(store.path(), &["--registry-mirror", &mirror, "-t", "x"]).arg(dir.path()))
        .says("nobody/nothing");
}
