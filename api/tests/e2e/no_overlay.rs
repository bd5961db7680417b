//! A store on a file system that cannot hold an overlay's upper: overlayfs itself, as in a
//! container.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{RBUILD, bases, command, context, rbuild, run};

/// Makes, replaces and deletes things of every kind; all times are set, so that layers are the
/// same however often they are made.
const STEPS: &str = "FROM busybox
RUN mkdir -p /d/e && echo one > /d/e/f && ln /d/e/f /d/g && ln -s e/f /d/l && mkfifo /d/p \
 && echo x > /top && chmod 2755 /d && chown -h 5:6 /d/l \
 && touch -h -d @1000 /top /d/e/f /d/l /d/p /d/e /d /
RUN rm /bin/true /top && rm -r /d/e && mkdir /d/e && echo two > /d/e/n \
 && touch -d @1000 /d/e/n /d/e /d /bin /
COPY new /top
RUN test ! -e /bin/true && test ! -e /d/e/f \
 && grep two /d/e/n && grep new /top && grep one /d/g
RUN rm -r /d && touch -d @1000 /
";

/// An overlay over nothing, mounted as long as this lives.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(path(name)).expect("writable");
        }
        let show = |name| path(name).display().to_string();
        let dirs = format!(
            "lowerdir={},upperdir={},workdir={}",
            show("lower"),
            show("upper"),
            show("work")
        );
        run(command("mount", &["-t", "overlay", "overlay", "-o", &dirs]).arg(path("merged"))).ok();
        Self(dir)
    }

    fn store(&self) -> std::path::PathBuf {
        self.0.path().join("merged/store")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        run(command("umount", &[]).arg(self.0.path().join("merged")));
    }
}

/// An rbuild command of `nobody`, who has no subordinate ids, on a store in `overlay`.
fn of_nobody(overlay: &Overlay, args: &[&str]) -> Command {
    let program = overlay.0.path().join("rbuild");
    let mut command = command("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(program).args(args);
    command.env("HOME", overlay.0.path()).env("RBUILD_STORE", overlay.store());
    command
}

#[test]
fn ordinary_users_run_steps_in_memory_too() {
    let overlay = Overlay::mount();
    let path = |name: &str| overlay.0.path().join(name);
    std::fs::copy(RBUILD, path("rbuild")).expect("writable");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(path("busybox.tar"))).ok();
    let text = "FROM busybox\nRUN rm /bin/true && mkdir /d && echo a > /d/a\n\
                RUN test ! -e /bin/true && grep a /d/a && rm -r /d\n";
    std::fs::create_dir(path("context")).expect("writable");
    std::fs::write(path("context/Dockerfile"), text).expect("writable");
    run(command("chmod", &["-R", "a+rX"]).arg(overlay.0.path())).ok();
    run(command("chmod", &["a+rwx"]).arg(path("merged"))).ok();
    run(of_nobody(&overlay, &["load", "-i"]).arg(path("busybox.tar"))).ok();
    let build = ["build", "--progress", "plain", "--network", "none"];
    let ran = run(of_nobody(&overlay, &build).arg(path("context"))).ok();
    ran.says("kept in memory and copied");
    run(&mut of_nobody(&overlay, &["store", "check"])).ok();
}

fn layers(store: &Path, name: &str) -> Value {
    let ran = run(&mut rbuild(store, &["inspect", name])).ok();
    let image: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let image = if image.is_array() { &image[0] } else { &image };
    let layers = image["RootFS"]["Layers"].clone();
    assert_eq!(layers.as_array().map(Vec::len), Some(6), "{image:#}");
    layers
}

#[test]
fn steps_run_in_memory_and_leave_the_same_layers() {
    let files = context(&[("Dockerfile", STEPS), ("new", "new\n")]);
    let build = |store: &Path, extra: &[&str]| {
        let mut build = rbuild(store, &["--progress", "plain", "--network", "none", "-t", "x"]);
        run(build.args(extra).arg(files.path()))
    };
    // Copied, since its time is in the layer.
    run(command("touch", &["-d", "@1000"]).arg(files.path().join("new"))).ok();
    build(bases(), &["--no-cache"]).ok();
    let want = layers(bases(), "x");

    let overlay = Overlay::mount();
    let store = overlay.store();
    let archive = files.path().join("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&archive)).ok();
    run(rbuild(&store, &["load", "-i"]).arg(&archive)).ok();
    let ran = build(&store, &[]).ok().says("kept in memory and copied");
    assert_eq!((ran.stdout + &ran.stderr).matches("kept in memory").count(), 1);
    assert_eq!(layers(&store, "x"), want);
    run(&mut rbuild(&store, &["store", "check"])).ok();
    let ran = build(&store, &[]).ok().says("CACHED");
    assert!(!(ran.stdout + &ran.stderr).contains("kept in memory"), "nothing ran");

    // What fails is kept as it was left, and a secret in it is found.
    std::fs::write(
        files.path().join("Dockerfile"),
        "FROM busybox\nRUN echo half > /half; exit 7\n",
    )
    .unwrap();
    build(&store, &[]).fails_with(1).says("rbuild shell ");
    let ran = run(&mut rbuild(&store, &["shell", "-c", "cat /half"])).ok();
    assert_eq!(ran.stdout, "half\n");
    let leak = "FROM busybox\nRUN --mount=type=secret,id=s cp /run/secrets/s /leaked\n";
    std::fs::write(files.path().join("Dockerfile"), leak).unwrap();
    let secret = files.path().join("secret");
    std::fs::write(&secret, "a canary of some length").unwrap();
    let secret = format!("id=s,src={}", secret.display());
    build(&store, &["--secret", &secret]).fails_with(1).says("secret");
}
