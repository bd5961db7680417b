//! Where results go: registries, archives, directories, a docker engine; read back by others.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::docker::{docker, dockerd};
use crate::support::{Server, command, context, docker_registry, rbuild, run};

const FILE: &str = "\
FROM scratch AS app
ARG TARGETARCH
COPY common.txt /
COPY $TARGETARCH.txt /own.txt
FROM app AS debug
COPY symbols.txt /
";

fn app() -> tempfile::TempDir {
    context(&[
        ("Dockerfile", FILE),
        ("common.txt", &"the same everywhere\n".repeat(100_000)),
        ("amd64.txt", "amd\n"),
        ("arm64.txt", "arm\n"),
        ("symbols.txt", "main\n"),
    ])
}

/// Parses what skopeo says of an image.
fn skopeo(args: &[&str]) -> Value {
    let ran = run(&mut command("skopeo", &[&["--insecure-policy"], args].concat())).ok();
    serde_json::from_str(&ran.stdout).unwrap_or(Value::Null)
}

fn raw(image: &str) -> Value {
    skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{image}")])
}

/// Copies an image out of a registry, which reads every layer, and returns its manifest.
fn copy(image: &str, dir: &std::path::Path) -> Value {
    let to = format!("dir:{}", dir.display());
    skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{image}"), &to]);
    let manifest = std::fs::read(dir.join("manifest.json")).expect("skopeo writes a manifest");
    serde_json::from_slice(&manifest).expect("it is JSON")
}

#[test]
fn images_are_pushed_in_every_compression() {
    let (_server, port, _data) = docker_registry();
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let build = |output: &str| {
        let mut build = rbuild(store.path(), &["build", "--progress", "plain", "-o", output]);
        run(build.arg(dir.path())).ok()
    };
    for (compression, media_type) in [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("estargz", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("uncompressed", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let name = format!("127.0.0.1:{port}/app:{compression}");
        let output = format!(
            "type=image,name={name},push=true,compression={compression},annotation.made.by=me"
        );
        build(&output).says("(pushed)");
        let copied = tempfile::tempdir().unwrap();
        let manifest = copy(&name, copied.path());
        let layers = manifest["layers"].as_array().unwrap();
        assert!(layers.iter().all(|layer| layer["mediaType"] == media_type), "{manifest}");
        assert_eq!(manifest["annotations"]["made.by"], "me");
        let toc = &layers[0]["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
        assert_eq!(toc.is_string(), compression == "estargz", "{manifest}");
        // Another machine takes the same files from it.
        let (other, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = context(&[("Dockerfile", &format!("FROM {name}\n"))]);
        let dest = out.path().to_str().unwrap();
        run(rbuild(other.path(), &["build", "-o", dest]).arg(from.path())).ok();
        assert_eq!(std::fs::read_to_string(out.path().join("own.txt")).unwrap(), "amd\n");
        // What is noted of a base's layers stays true of them, and what stands on them says so too.
        let over = format!("127.0.0.1:{port}/over:{compression}");
        let dockerfile = format!("FROM {name}\nCOPY Dockerfile /\n");
        let from = context(&[("Dockerfile", &dockerfile)]);
        run(rbuild(other.path(), &["build", "--push", "-t", &over]).arg(from.path())).ok();
        let over = raw(&over);
        let (under, added) = over["layers"].as_array().unwrap().split_at(layers.len());
        let noted = |layers: &[Value]| -> Vec<Value> {
            layers.iter().map(|layer| layer["annotations"].clone()).collect()
        };
        assert_eq!(noted(under), noted(layers), "{over}");
        assert_eq!(noted(added), [Value::Null], "{over}");
    }
    let docker_types = format!("type=registry,name=127.0.0.1:{port}/app:old,oci-mediatypes=false");
    build(&docker_types);
    let manifest = raw(&format!("127.0.0.1:{port}/app:old"));
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn a_push_by_digest_leaves_no_tag_and_tells_the_digest() {
    let (_server, port, _data) = docker_registry();
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let metadata = store.path().join("metadata.json");
    let output = format!("type=image,name=127.0.0.1:{port}/app,push=true,push-by-digest=true");
    let mut build = rbuild(store.path(), &["build", "-o", &output, "--metadata-file"]);
    run(build.arg(&metadata).arg(dir.path())).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest);
    assert!(raw(&format!("127.0.0.1:{port}/app@{digest}"))["layers"].is_array());
    let tags = ["list-tags", "--tls-verify=false", &format!("docker://127.0.0.1:{port}/app")];
    run(&mut command("skopeo", &tags)).fails_with(1);
}

#[test]
fn platforms_become_one_index_everywhere() {
    let (_server, port, _data) = docker_registry();
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let (tree, archive) = (store.path().join("tree"), store.path().join("app.tar"));
    let name = format!("127.0.0.1:{port}/app:1");
    let built = run(rbuild(store.path(), &["build", "--progress", "plain", "--push", "-t", &name])
        .args(["--platform", "linux/amd64,linux/arm64", "--annotation", "index:of=both"])
        .args(["--annotation", "manifest[linux/arm64]:of=arm"])
        .arg("-o")
        .arg(&tree)
        .arg("-o")
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(dir.path()))
    .ok();
    assert_eq!(built.stderr.matches("COPY common.txt").count(), 1, "{}", built.stderr);

    let index = raw(&name);
    assert_eq!(index["annotations"]["of"], "both");
    let platforms = index["manifests"].as_array().unwrap().iter();
    let platforms: Vec<_> = platforms.map(|it| &it["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    for (arch, text) in [("amd64", "amd\n"), ("arm64", "arm\n")] {
        let own = tree.join(format!("linux_{arch}/own.txt"));
        assert_eq!(std::fs::read_to_string(own).unwrap(), text);
        let shown = skopeo(&[
            "inspect",
            "--override-arch",
            arch,
            &format!("oci-archive:{}", archive.display()),
        ]);
        assert_eq!(shown["Architecture"], arch);
    }
    // The index is an image of the store like any other: a base, pushed again, saved, loaded.
    let again = format!("127.0.0.1:{port}/again:1");
    run(&mut rbuild(store.path(), &["push", &name, &again])).ok();
    assert_eq!(raw(&again), index);
    let saved = store.path().join("saved.tar");
    run(rbuild(store.path(), &["save", "--format", "oci", &name, "-o"]).arg(&saved)).ok();
    let other = tempfile::tempdir().unwrap();
    run(rbuild(other.path(), &["load", "-i"]).arg(&saved)).ok().says(&name);
    let from = context(&[("Dockerfile", &format!("FROM {name}\nLABEL a=b\n"))]);
    let out = other.path().join("out");
    run(rbuild(other.path(), &["build", "--platform", "linux/arm64,linux/amd64", "-o"])
        .arg(&out)
        .arg(from.path()))
    .ok();
    assert_eq!(std::fs::read_to_string(out.join("linux_arm64/own.txt")).unwrap(), "arm\n");

    for refused in ["type=docker,dest=x", "type=tar,dest=x"] {
        run(rbuild(store.path(), &["build", "--platform", "amd64,arm64", "-o", refused])
            .arg(dir.path()))
        .fails_with(1)
        .says("one platform");
    }
}

#[test]
fn targets_share_one_run() {
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let mut build = rbuild(store.path(), &["build", "--progress", "plain", "--no-cache"]);
    build.args(["--target", "app=app:1", "--target", "debug=debug:1"]).arg(dir.path());
    let ran = run(&mut build).ok().says("Built app:1, debug:1");
    assert_eq!(ran.stderr.matches("COPY common.txt").count(), 1, "{}", ran.stderr);
    let layers = |name: &str| {
        let shown = run(&mut rbuild(store.path(), &["inspect", name])).ok().stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["RootFS"]["Layers"].as_array().unwrap().clone()
    };
    assert_eq!(layers("app:1")[..], layers("debug:1")[..2]);
    run(rbuild(store.path(), &["build", "-t", "x", "--target", "app", "--target", "debug"])
        .arg(dir.path()))
    .fails_with(1)
    .says("--target STAGE=NAME");
}

#[test]
fn a_docker_engine_is_sent_what_it_lacks() {
    let host = dockerd();
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let load = |name: &str| {
        let mut build =
            rbuild(store.path(), &["build", "--progress", "plain", "--load", "-t", name]);
        run(build.env("DOCKER_HOST", host).arg(dir.path())).ok()
    };
    load("loaded:1").says("Loaded into docker");
    let id = |name: &str| {
        run(&mut docker(host, &["image", "inspect", "-f", "{{.Id}}", name])).ok().stdout
    };
    let first = id("loaded:1");
    load("loaded:2").says("it had the image");
    assert_eq!(id("loaded:2"), first);
    // One more layer: what is below is named and not sent.
    std::fs::write(dir.path().join("symbols.txt"), "changed\n").unwrap();
    load("loaded:3");
    assert_ne!(id("loaded:3"), first);
    let archive = store.path().join("back.tar");
    run(docker(host, &["save", "loaded:3", "-o"]).arg(&archive)).ok();
    run(rbuild(store.path(), &["load", "-i"]).arg(&archive)).ok().says("loaded:3");
    // From a service, through this machine, which keeps nothing of it.
    let socket = store.path().join("s");
    let url = format!("unix://{}", socket.display());
    let there = store.path().join("there");
    let mut serve = rbuild(&there, &["serve", "--listen", &url]);
    let _server = Server::start(serve.stdout(Stdio::null()), || socket.exists());
    let far = |args: &[&str]| {
        let mut build = rbuild(store.path(), &[&["--host", &url, "build"], args].concat());
        run(build.env("DOCKER_HOST", host).arg(dir.path()))
    };
    std::fs::write(dir.path().join("symbols.txt"), "changed again\n").unwrap();
    far(&["--load", "-t", "loaded:4"]).ok().says("Loaded into docker");
    far(&["--load", "-t", "loaded:5"]).ok().says("it had the image");
    assert_eq!(id("loaded:5"), id("loaded:4"));
    std::fs::write(dir.path().join("symbols.txt"), "and again\n").unwrap();
    far(&["-t", "kept:1", "-o", "type=docker,name=loaded:6"]).ok();
    assert_ne!(id("loaded:6"), id("loaded:4"));
    far(&["--detach", "--load"]).fails_with(1).says("--load cannot be used with --detach");
    let all: Vec<String> = (1..=6).map(|at| format!("loaded:{at}")).collect();
    run(docker(host, &["rmi", "-f"]).args(all)).ok();
}

#[test]
fn buildah_reads_what_was_pushed_and_archived() {
    let (_server, port, _data) = docker_registry();
    let (dir, store) = (app(), tempfile::tempdir().unwrap());
    let name = format!("127.0.0.1:{port}/app:1");
    let archive = store.path().join("app.tar");
    let output = format!("type=oci,compression=zstd,dest={}", archive.display());
    run(rbuild(store.path(), &["build", "--push", "-t", &name, "-o", &output]).arg(dir.path()))
        .ok();
    let root = tempfile::tempdir().unwrap();
    for image in [format!("docker://{name}"), format!("oci-archive:{}", archive.display())] {
        let mut pull = command("buildah", &["--storage-driver", "vfs", "--root"]);
        pull.arg(root.path().join("root")).arg("--runroot").arg(root.path().join("run"));
        run(pull.args(["pull", "-q", "--tls-verify=false", &image])).ok();
    }
}

/// It is written while its layers are compressed where that can be, and afterwards where not.
#[test]
fn an_archive_is_the_same_wherever_it_goes() {
    let dir = context(&[("Dockerfile", "FROM scratch\nCOPY large small /\n"), ("small", "text\n")]);
    let mut noise = Vec::new();
    File::open("/dev/urandom").unwrap().take(20 << 20).read_to_end(&mut noise).unwrap();
    std::fs::write(dir.path().join("large"), noise).unwrap();
    let machine = tempfile::tempdir().unwrap();
    let build = |store: &str, compression: &str, dest: &Path| {
        let output = format!("type=oci,compression={compression},dest={}", dest.display());
        let mut build =
            rbuild(&machine.path().join(store), &["build", "--progress", "plain", "-o", &output]);
        build.args(["--build-arg", "SOURCE_DATE_EPOCH=0"]).arg(dir.path());
        build
    };
    for compression in ["zstd", "gzip", "estargz", "uncompressed"] {
        let [made, kept, piped, streamed] = ["made", "kept", "piped", "streamed"]
            .map(|name| machine.path().join(format!("{compression}-{name}.tar")));
        let pipe = machine.path().join(format!("{compression}-pipe"));
        run(&mut build("store", compression, &made)).ok();
        run(&mut build("store", compression, &kept)).ok();
        run(command("mkfifo", &[]).arg(&pipe)).ok();
        let mut reader = command("cp", &[]).args([&pipe, &piped]).spawn().unwrap();
        run(&mut build("piping", compression, &pipe)).ok();
        assert!(reader.wait().unwrap().success());
        let mut stream = build("streaming", compression, Path::new("-"));
        assert!(stream.stdout(File::create(&streamed).unwrap()).status().unwrap().success());
        let wanted = std::fs::read(made).unwrap();
        for other in [kept, piped, streamed] {
            let is_same = std::fs::read(&other).unwrap() == wanted;
            assert!(is_same, "{} is another archive", other.display());
        }
    }
}
