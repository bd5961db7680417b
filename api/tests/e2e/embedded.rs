//! The example built in process, as root.

use crate::support::{bases, ca_arguments, command, context, rbuild, run, testdata};

/// Builds `testdata/app-node` as `tag` into `store` and returns what was said.
#[track_caller]
pub(crate) fn build_example(
    store: &std::path::Path,
    tag: &str,
    extra: &[&str],
) -> crate::support::Ran {
    let mut build = rbuild(store, &["--progress", "plain", "-t", tag]);
    build.args(ca_arguments()).args(extra).arg(testdata().join("app-node"));
    run(&mut build)
}

#[test]
fn the_example_builds_and_rebuilds_from_cache() {
    let store = bases();
    let first = build_example(store, "app-node:1", &["--no-cache"]).ok();
    for step in [
        "[1/5] FROM node:14",
        "[2/5] WORKDIR /app-node",
        "[3/5] COPY . .",
        "[4/5] RUN npm install",
        "[5/5] ENTRYPOINT npm start",
    ] {
        assert!(first.stdout.contains(step) || first.stderr.contains(step), "{step}: {first:?}");
    }
    let id = image_id(store, "app-node:1");

    let second = build_example(store, "app-node:1", &[]).ok();
    let said = format!("{}{}", second.stdout, second.stderr);
    assert_eq!(said.matches("CACHED").count(), 4, "every step with work is cached: {said}");
    assert_eq!(image_id(store, "app-node:1"), id, "a cached rebuild is the same image");
}

#[test]
fn the_image_can_be_looked_at() {
    let store = bases();
    build_example(store, "look:1", &[]).ok();
    run(&mut rbuild(store, &["images"])).ok().says("look");
    run(&mut rbuild(store, &["history", "look:1"])).ok().says("npm install");
    let id = image_id(store, "look:1");
    let short = &id["sha256:".len()..][..12];
    run(&mut rbuild(store, &["inspect", short])).ok().says(&id);
}

#[test]
fn nothing_of_the_host_reaches_the_layers() {
    let store = bases();
    let secret_ca = ca_arguments();
    let dir =
        context(&[("Dockerfile", "FROM node:14\nRUN touch /made && ls /etc/ssl/certs | wc -l\n")]);
    let mut build = rbuild(store, &["-t", "clean:1", "--no-cache"]);
    run(build.args(&secret_ca).arg(dir.path())).ok();
    let out = tempfile::tempdir().unwrap();
    let tree = out.path().join("tree");
    run(rbuild(store, &["-t", "clean:1", "-o"])
        .arg(format!("type=local,dest={}", tree.display()))
        .args(&secret_ca)
        .arg(dir.path()))
    .ok();
    let base = out.path().join("base");
    let from = context(&[("Dockerfile", "FROM node:14\n")]);
    run(rbuild(store, &["-o"]).arg(format!("type=local,dest={}", base.display())).arg(from.path()))
        .ok();
    let diff = run(&mut command(
        "diff",
        &["-rq", "--no-dereference", base.to_str().unwrap(), tree.to_str().unwrap()],
    ));
    assert_eq!(diff.stdout.trim(), format!("Only in {}: made", tree.display()), "{diff:?}");
}

#[test]
fn run_sees_its_own_world() {
    let store = bases();
    let dir = context(&[(
        "Dockerfile",
        "FROM busybox\n\
         ENV GREETING=hello\n\
         RUN test \"$GREETING\" = hello && test \"$HOME\" = /root && test \"$(id -u)\" = 0\n\
         RUN grep -q '^CapEff:.*00000000a80425fb$' /proc/self/status\n\
         RUN test \"$(ls /proc/self/fd | wc -l)\" -le 4\n\
         RUN ! cat /proc/kcore 2>/dev/null | head -c1 | grep -q . \n\
         RUN ! touch /proc/sys/kernel/hostname 2>/dev/null && test -c /dev/null && test -d /sys/class\n\
         RUN --network=none test \"$(ls /sys/class/net)\" = lo\n\
         RUN rm -r /home && mkdir /home\n\
         USER nobody\n\
         RUN test \"$(id -u)\" = 65534\n",
    )]);
    run(rbuild(store, &["-t", "world:1", "--no-cache"]).arg(dir.path())).ok();
}

#[test]
fn copy_from_a_stage_and_an_unused_stage() {
    let store = bases();
    let dir = context(&[
        (
            "Dockerfile",
            "FROM busybox AS made\nRUN mkdir /d && echo one > /d/one\n\
             FROM no-such-image-anywhere AS unused\nRUN false\n\
             FROM scratch\nCOPY --from=made /d /e/\nCOPY data/*.txt /t/\nADD a.tar /a/\n\
             ARG V=1\nLABEL v=$V\nEXPOSE 80\nUSER 7\nCMD [\"x\"]\n",
        ),
        ("data/1.txt", "1"),
        ("data/2.md", "2"),
        ("in/inner", "inner"),
    ]);
    let tar = dir.path().join("a.tar");
    run(&mut command(
        "tar",
        &["-cf", tar.to_str().unwrap(), "-C", dir.path().to_str().unwrap(), "in"],
    ))
    .ok();
    let out = tempfile::tempdir().unwrap();
    let tree = out.path().join("tree");
    run(rbuild(store, &["-t", "stages:1", "-o"])
        .arg(format!("type=local,dest={}", tree.display()))
        .arg(dir.path()))
    .ok();
    assert_eq!(std::fs::read_to_string(tree.join("e/one")).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(tree.join("t/1.txt")).unwrap(), "1");
    assert!(!tree.join("t/2.md").exists());
    assert_eq!(std::fs::read_to_string(tree.join("a/in/inner")).unwrap(), "inner");
    let inspect = run(&mut rbuild(store, &["inspect", "stages:1"])).ok().stdout;
    for part in ["\"80/tcp\"", "\"v\": \"1\"", "\"User\": \"7\""] {
        assert!(inspect.contains(part), "{part} in {inspect}");
    }
}

#[test]
fn mounts_serve_the_command_and_leave_nothing() {
    let store = bases();
    let dir = context(&[
        (
            "Dockerfile",
            "FROM busybox AS seed\nRUN mkdir /seed && echo seeded > /seed/file\n\
             FROM busybox\n\
             RUN --mount=type=cache,id=e2e-mounts,target=/cache,from=seed,source=/seed \\\n\
                 grep -q seeded /cache/file && echo kept > /cache/more\n\
             RUN --mount=type=cache,id=e2e-mounts,target=/cache grep -q kept /cache/more\n\
             RUN --mount=type=bind,target=/src,rw test -e /src/in -a ! -e /src/out && touch /src/new\n\
             RUN --mount=type=bind,from=seed,source=/seed,target=/s grep -q seeded /s/file\n\
             RUN --mount=type=tmpfs,target=/t touch /t/x\n\
             RUN test ! -e /cache/more -a ! -e /src/in -a ! -e /s/file -a ! -e /t/x\n",
        ),
        (".dockerignore", "out\n"),
        ("in", "1"),
        ("out", "1"),
    ]);
    run(rbuild(store, &["-t", "mounts:1", "--no-cache"]).arg(dir.path())).ok();
    assert!(!dir.path().join("new").exists(), "writes to a bound context are dropped");
}

/// The image ID behind `name`.
#[track_caller]
pub(crate) fn image_id(store: &std::path::Path, name: &str) -> String {
    let inspect = run(&mut rbuild(store, &["inspect", name])).ok().stdout;
    let value: serde_json::Value = serde_json::from_str(&inspect).expect("inspect prints JSON");
    value[0]["Id"].as_str().expect("an image has an Id").to_owned()
}

#[test]
fn a_context_named_by_a_relative_path_is_what_a_step_sees_of_it() {
    let text = "FROM busybox\nRUN --mount=target=/src test \"$(ls /src)\" = \"$(printf 'Dockerfile\\nours')\"\n";
    let dir = crate::support::context(&[("Dockerfile", text), ("ours", "x")]);
    run(rbuild(bases(), &["--no-cache", "-t", "relative:1", "."]).current_dir(dir.path())).ok();
}
