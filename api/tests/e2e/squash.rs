//! `--squash`: one layer that gives the same files, without what was deleted on the way.

use std::fs;
use std::path::Path;

use crate::docker::{docker, dockerd};
use crate::engine::engine;
use crate::support::{bases, command, context, rbuild, run};

const BASE: &str = "\
FROM busybox
RUN mkdir -p /old/dir /gone && touch /old/one /old/two /old/dir/file /gone/file
";

const FILE: &str = "\
FROM squash-base
COPY secret more /
RUN mkdir -p /d/sub /late && echo a > /d/a && ln /d/a /d/b && echo x > /d/sub/x && ln -s a /d/link
RUN chown 12:34 /d/a && chmod 4711 /d/a && touch -d '2001-02-03 04:05:06' /d/sub/x && mkfifo /d/pipe
RUN cat /secret > /dev/null; rm /secret /old/one && rm -r /gone /old/dir && mkdir /old/dir
RUN rm -r /late && touch /late && rm -r /d/sub && mkdir /d/sub && echo y > /d/sub/y && echo new > /d/b
COPY --link more /d/more
";

const SECRET: &str = "the-word-that-was-deleted";

/// Everything that the files below `dir` hold, unpacked once.
fn all_bytes(dir: &Path) -> String {
    let script = "find \"$0\" -type f -exec zcat -f {} +";
    run(&mut command("sh", &["-c", script, &dir.display().to_string()])).ok().stdout
}

/// The config of the image in docker's engine or in our store.
fn field(inspected: &str, pointer: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(inspected).expect("JSON");
    value.pointer(pointer).cloned().unwrap_or_default()
}

#[test]
fn squashed_images_hold_the_same_files_in_one_layer() {
    let store = bases();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = context(&[("Dockerfile", BASE)]);
    run(rbuild(store, &["build", "-q", "-t", "squash-base"]).arg(base.path())).ok();
    // Another file each time: what an earlier run left in the cache has the epoch's times.
    let more = dir.path().display().to_string();
    let app = context(&[("Dockerfile", FILE), ("secret", SECRET), ("more", &more)]);
    let build = |name: &str, arguments: &[&str]| {
        let mut build = rbuild(store, &["build", "-q", "-t", &format!("{name}:1")]);
        for kind in ["tar", "oci"] {
            let dest = path(&format!("{name}.{kind}"));
            build.args(["-o", &format!("type={kind},dest={}", dest.display())]);
        }
        build.env_remove("SOURCE_DATE_EPOCH").args(arguments).arg(app.path());
        run(&mut build).ok().stdout.trim().to_owned()
    };
    let plain = build("plain", &[]);
    let squashed = build("squashed", &["--squash"]);
    assert_ne!(plain, squashed);
    let tree = |name: &str| fs::read(path(name)).unwrap();
    assert!(tree("plain.tar") == tree("squashed.tar"), "the trees differ");
    assert_eq!(build("squashed", &["--squash"]), squashed, "from the cache");
    let fixed = ["--squash", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let made = build("fixed", &fixed);
    assert_eq!(build("fixed", &[&fixed[..], &["--no-cache"]].concat()), made, "made anew");

    // What was deleted is in no layer.
    for (name, is_there) in [("plain", true), ("squashed", false)] {
        let (archive, unpacked) = (path(&format!("{name}.oci")), path(name));
        fs::create_dir(&unpacked).unwrap();
        run(command("tar", &["-C"]).arg(&unpacked).arg("-xf").arg(&archive)).ok();
        assert_eq!(all_bytes(&unpacked).contains(SECRET), is_there, "{name}");
    }

    // Others read it, and the history is as docker's.
    let source = format!("oci-archive:{}", path("squashed.oci").display());
    let config = run(&mut command("skopeo", &["inspect", "--config", &source])).ok().stdout;
    let base = run(&mut rbuild(store, &["inspect", "squash-base"])).ok().stdout;
    let layers = field(&base, "/0/RootFS/Layers").as_array().unwrap().clone();
    let diff_ids = field(&config, "/rootfs/diff_ids").as_array().unwrap().clone();
    assert_eq!(diff_ids.split_last().unwrap().1, layers, "the base's, and one more");
    let history = field(&config, "/history").as_array().unwrap().clone();
    let (merged, steps) = history.split_last().unwrap();
    let base_id = field(&base, "/0/Id");
    let comment = format!("merge {plain} to {}", base_id.as_str().unwrap());
    assert_eq!(merged["comment"], comment.as_str());
    let own: Vec<_> = steps.iter().rev().take(6).map(|step| &step["empty_layer"]).collect();
    assert!(own.iter().all(|is_empty| **is_empty == true), "{history:?}");

    let host = dockerd();
    let saved = path("saved.tar");
    run(rbuild(store, &["save", "squashed:1", "-o"]).arg(&saved)).ok();
    run(docker(host, &["load", "-i"]).arg(&saved)).ok().says("Loaded image: squashed:1");
    run(&mut docker(host, &["history", "--no-trunc", "squashed:1"])).ok().says(&comment);
    let script = "cat /d/b /d/sub/y; ls /old /old/dir /gone /secret 2>&1; stat -c '%a %u:%g' /d/a";
    let ran = run(&mut docker(
        host,
        &["run", "--rm", "--network", "none", "squashed:1", "sh", "-c", script],
    ))
    .ok();
    assert!(ran.stdout.contains("new\ny\n") && ran.stdout.contains("4711 12:34"), "{}", ran.stdout);
    assert!(
        !ran.stdout.contains("one\n") && ran.stdout.contains("/gone: No such"),
        "{}",
        ran.stdout
    );
    run(&mut docker(host, &["rmi", "squashed:1"])).ok();
}

#[test]
fn layers_of_a_shared_cache_are_squashed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let archive = path("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&archive)).ok();
    let app = context(&[("Dockerfile", "FROM busybox\nRUN date +%s%N > /a\nRUN mv /a /b\n")]);
    let cache = path("cache");
    let build = |store: &str, arguments: &[&str]| {
        let store = path(store);
        run(rbuild(&store, &["load", "-q", "-i"]).arg(&archive)).ok();
        run(rbuild(&store, &["build", "-q", "--squash"]).args(arguments).arg(app.path()))
    };
    let to = format!("type=local,dest={}", cache.display());
    let from = format!("type=local,src={}", cache.display());
    let made = build("one", &["--cache-to", &to]).ok().stdout;
    assert_eq!(build("two", &["--cache-from", &from]).ok().stdout, made);
    build("two", &["--cache-to", "type=inline"])
        .fails_with(1)
        .says("--squash leaves no layer in the image that an inline cache could name");
}

#[test]
fn services_squash() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let app = context(&[
        ("Dockerfile", "FROM busybox\nCOPY a /a\nRUN rm /a && touch /b\nRUN touch /c\n"),
        ("a", "a"),
    ]);
    let layers = |name: &str| {
        let format = "{{len .RootFS.Layers}}";
        let mut inspect = docker(&url, &["image", "inspect", name, "--format", format]);
        run(&mut inspect).ok().stdout.trim().parse::<usize>().unwrap()
    };
    let base = layers("busybox");
    run(rbuild(dir.path(), &["--host", &url, "build", "-q", "--squash", "-t", "client:1"])
        .arg(app.path()))
    .ok();
    assert_eq!(layers("client:1"), base + 1);

    let archive = dir.path().join("context.tar");
    run(command("tar", &["-C"]).arg(app.path()).arg("-cf").arg(&archive).arg(".")).ok();
    let socket = url.trim_start_matches("unix://");
    let data = format!("@{}", archive.display());
    let post = [
        "-sS",
        "--fail-with-body",
        "--unix-socket",
        socket,
        "-H",
        "Content-Type: application/x-tar",
    ];
    let to = ["--data-binary", &data, "http://d/build?squash=1&t=api:1"];
    run(&mut command("curl", &[&post[..], &to].concat())).ok().says("Successfully");
    assert_eq!(layers("api:1"), base + 1);
    assert_eq!(layers("api:1"), layers("client:1"));
}
