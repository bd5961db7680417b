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

#[test]
fn what_refers_to_an_image_is_listed() {
    let (_registry, port, _dir) = docker_registry();
    let dir = crate::support::context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let store = tempfile::tempdir().unwrap();
    let name = format!("127.0.0.1:{port}/team/app:1");
    run(rbuild(store.path(), &["-t", &name]).arg(dir.path())).ok();
    run(&mut rbuild(store.path(), &["push", &name])).ok();
    let referrers = |more: &[&str]| {
        let arguments = [&["image", "referrers", &name], more].concat();
        run(&mut rbuild(store.path(), &arguments)).ok().stdout
    };
    assert_eq!(referrers(&["--format", "json"]).trim(), "[]");

    let reference = format!("docker://{name}");
    let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &reference];
    let digest = run(&mut command("skopeo", &inspect)).ok().stdout.trim().to_owned();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 9,
        "artifactType": "application/spdx+json",
    }]});
    let tag = digest.replace(':', "-");
    let url = format!("http://127.0.0.1:{port}/v2/team/app/manifests/{tag}");
    let (header, body) = (format!("Content-Type: {media_type}"), index.to_string());
    run(&mut command("curl", &["-sSf", "-XPUT", "-H", &header, "-d", &body, &url])).ok();
    let line = format!("{digest}   application/spdx+json   9B");
    assert!(referrers(&[]).contains(&line), "{}", referrers(&[]));
    let of_type = |kind: &str| referrers(&["--artifact-type", kind, "--format", "json"]);
    assert!(of_type("application/spdx+json").contains(&digest));
    assert_eq!(of_type("application/other").trim(), "[]");
}

#[test]
fn pushes_that_race_leave_whole_images() {
    let (_registry, port, _dir) = docker_registry();
    // Two machines, whose images share a layer and differ in another.
    let stores = ["a", "b"].map(|content| {
        let text = "FROM scratch\nCOPY shared /\nCOPY own /\n";
        let shared = "s".repeat(3_000_000);
        let files = [("Dockerfile", text), ("shared", shared.as_str()), ("own", content)];
        let dir = crate::support::context(&files);
        let store = tempfile::tempdir().unwrap();
        run(rbuild(store.path(), &["-q", "-t", "x"]).arg(dir.path())).ok();
        store
    });
    let name = |tag: &str| format!("127.0.0.1:{port}/team/raced:{tag}");
    let all: Vec<_> = stores
        .iter()
        .zip(["a", "b"])
        .flat_map(|(store, own)| [(store, "same"), (store, own), (store, "same"), (store, own)])
        .collect();
    let pushed: Vec<(&str, String)> = std::thread::scope(|scope| {
        let threads = all.into_iter().map(|(store, tag)| {
            let to = name(tag);
            let work =
                move || run(&mut rbuild(store.path(), &["push", "-q", "x", &to])).ok().stdout;
            (tag, scope.spawn(work))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|(tag, it)| (tag, it.join().unwrap().trim().to_owned())).collect()
    });
    let digest_of = |tag: &str| &pushed.iter().find(|(it, _)| *it == tag).unwrap().1;
    assert_ne!(digest_of("a"), digest_of("b"));
    for tag in ["a", "b", "same"] {
        let reference = format!("docker://{}", name(tag));
        let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &reference];
        let there = run(&mut command("skopeo", &inspect)).ok().stdout.trim().to_owned();
        let want: Vec<_> = pushed.iter().filter(|(it, _)| *it == tag).map(|(_, it)| it).collect();
        assert!(want.contains(&&there), "{tag}: {there} is none of {want:?}");
        // Every byte of it is there.
        let copy = tempfile::tempdir().unwrap();
        let dir = format!("dir:{}", copy.path().display());
        let copy = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &reference, &dir];
        run(&mut command("skopeo", &copy)).ok();
    }
}
