//! The same bytes on every machine, and a command that says where they are not.

use std::path::Path;
use std::process::Command;

use crate::support::{bases, command, context, rbuild, run};

const FILE: &str = "\
FROM busybox
WORKDIR /app
COPY . .
RUN echo made > made && mkdir -p deep/dir && touch deep/dir/file && ln -s made link
RUN cp made copied
";

/// Makes a checkout with one commit out of `dir`.
fn commit(dir: &Path) {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b.c"]).args(args).current_dir(dir);
        run(git.env("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z")).ok();
    };
    git(&["init", "-q", "."]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "all"]);
}

/// Builds on a machine of its own and returns the image's ID, and the digest of the OCI archive.
fn build(dir: &Path, jobs: &str, epoch: Option<&str>) -> (String, String) {
    let machine = tempfile::tempdir().expect("a temporary directory");
    let (store, base) = (machine.path().join("store"), machine.path().join("base.tar"));
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&base)).ok();
    run(rbuild(&store, &["load", "-i"]).arg(&base)).ok();
    let out = machine.path().join("out.tar");
    let mut build = rbuild(&store, &["build", "-q", "--jobs", jobs, "-o"]);
    build.arg(format!("type=oci,dest={}", out.display())).arg(dir);
    build.env_remove("SOURCE_DATE_EPOCH");
    if let Some(epoch) = epoch {
        build.env("SOURCE_DATE_EPOCH", epoch);
    }
    let id = run(&mut build).ok().stdout;
    let sum = run(command("sha256sum", &[]).arg(&out)).ok().stdout;
    (id, sum.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn two_machines_make_the_same_bytes() {
    let files = [("Dockerfile", FILE), ("file", "text\n")];
    let (one, two) = (context(&files), context(&files));
    let epoch = Some("1700000000");
    let first = build(one.path(), "1", epoch);
    // Files of another age, a clock that shows another second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    std::fs::write(two.path().join("file"), "text\n").unwrap();
    assert_eq!(build(two.path(), "8", epoch), first);
    assert_ne!(build(two.path(), "8", Some("1700000001")).0, first.0);

    // A commit gives the time where nothing else does.
    commit(one.path());
    commit(two.path());
    std::fs::write(one.path().join(".dockerignore"), ".git\n.dockerignore\n").unwrap();
    std::fs::write(two.path().join(".dockerignore"), ".git\n.dockerignore\n").unwrap();
    assert_eq!(build(one.path(), "8", None), build(two.path(), "1", None));
}

#[test]
fn a_tar_of_files_has_the_times_of_the_layers() {
    let dir = context(&[("Dockerfile", FILE), ("file", "text\n")]);
    let times = |epoch: &str| {
        let out = tempfile::tempdir().expect("a temporary directory");
        let tar = out.path().join("out.tar");
        let mut build = rbuild(bases(), &["build", "-q", "-o"]);
        build.arg(format!("type=tar,dest={}", tar.display()));
        build.args(["-o", "type=image,rewrite-timestamp=true"]).arg(dir.path());
        run(build.env("SOURCE_DATE_EPOCH", epoch)).ok();
        let list = ["--utc", "--full-time", "-tvf", tar.to_str().unwrap()];
        let listed = run(&mut command("tar", &list)).ok().stdout;
        let own = listed.lines().filter(|line| line.contains(" app"));
        let mut times: Vec<String> = own
            .map(|line| line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" "))
            .collect();
        times.dedup();
        times
    };
    assert_eq!(times("1600000000"), ["2020-09-13 12:26:40"]);
    assert_eq!(times("1500000000"), ["2017-07-14 02:40:00"]);
}

#[test]
fn an_epoch_counts_for_what_was_made_before() {
    let dir = context(&[("Dockerfile", FILE), ("file", "text\n")]);
    let store = bases();
    let id = |epoch: &str, more: &[&str]| {
        let mut build = rbuild(store, &["build", "-q"]);
        run(build.args(more).env("SOURCE_DATE_EPOCH", epoch).arg(dir.path())).ok().stdout
    };
    let fresh = id("1600000000", &["--no-cache"]);
    let other = id("1500000000", &[]);
    assert_ne!(fresh, other);
    assert_eq!(id("1600000000", &[]), fresh, "found in the cache, with the times asked for");
    assert_eq!(id("1500000000", &["--no-cache"]), other);
}

#[test]
fn verify_names_the_step_and_the_files() {
    let verify = |file: &str| {
        let dir = context(&[("Dockerfile", file), ("file", "text\n")]);
        let mut verify = rbuild(bases(), &["verify", "-q", "-t", "verified:1"]);
        run(verify.env("SOURCE_DATE_EPOCH", "1700000000").arg(dir.path()))
    };
    verify(FILE).ok().says("reproducible: sha256:");
    run(&mut rbuild(bases(), &["rmi", "verified:1"])).ok();
    let told = verify(&format!("{FILE}RUN date +%s%N > stamp; echo same > same\n"))
        .fails_with(1)
        .says("not reproducible")
        .says("RUN /bin/sh -c date +%s%N > stamp; echo same > same");
    assert!(told.stdout.contains("app/stamp: content"), "{}", told.stdout);
    assert!(!told.stdout.contains("app/same") && !told.stdout.contains("made"), "{}", told.stdout);
    verify("FROM busybox\nRUN false\n").fails_with(1);
}
