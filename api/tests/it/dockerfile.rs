//! Which Dockerfile is built, and what is said of one that cannot be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{rbuild, text};

fn history(dir: &Path) -> Vec<String> {
    let output = rbuild(dir, &["history", "--format", "json", "--no-trunc", "x:1"]);
    let lines = text(&output.stdout);
    lines
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
            entry["CreatedBy"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
        })
        .collect()
}

#[test]
fn several_files_are_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("context")).unwrap();
    fs::write(dir.path().join("one"), "FROM scratch\nENV A=1").unwrap();
    fs::write(dir.path().join("context/two"), "\u{feff}ENV B=$A\n").unwrap();
    let output = rbuild(dir.path(), &["-t", "x:1", "-f", "one", "-f", "two", "context"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(history(dir.path()), ["ENV B=1", "ENV A=1"]);
    let output = rbuild(dir.path(), &["-f", "one", "-f", "-", "context"]);
    assert!(text(&output.stderr).contains("with several Dockerfiles"), "{output:?}");
}

#[test]
fn files_that_are_no_dockerfile_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs::create_dir_all(context.join("dir")).unwrap();
    fs::write(dir.path().join("secret"), "FROM scratch\nLABEL stolen=1\n").unwrap();
    fs::write(context.join("empty"), "").unwrap();
    fs::write(context.join("comments"), "# nothing\n\n").unwrap();
    fs::write(context.join("binary"), b"FROM scratch\n\xff\n").unwrap();
    fs::write(context.join("large"), "# x\n".repeat(1 << 19)).unwrap();
    symlink("../secret", context.join("outside")).unwrap();
    symlink("loop", context.join("loop")).unwrap();
    let made = Command::new("mkfifo").arg(context.join("fifo")).status().unwrap();
    assert!(made.success());
    #[rustfmt::skip]
    let cases = [
        ("dir",      "is not a regular file"),
        ("fifo",     "is not a regular file"),
        ("outside",  "out of it: -> ../secret"),
        ("loop",     "loop"),
        ("empty",    "the file has no instructions"),
        ("comments", "the file has no instructions"),
        ("binary",   "is not valid UTF-8 at byte 13"),
        ("large",    "larger than"),
        ("missing",  "does not exist"),
    ];
    for (name, want) in cases {
        let file = format!("context/{name}");
        // A FIFO that is opened waits for a writer that never comes.
        let output = Command::new("timeout")
            .args(["20", assert_cmd::cargo::cargo_bin!("rbuild").to_str().unwrap()])
            .args(["--store", "store", "-f", &file, "context"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(want), "{name}: {said}");
    }
}

#[test]
fn arguments_come_from_files_and_times_from_one_number() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("context")).unwrap();
    let dockerfile = "FROM scratch\nARG A\nARG B=default\nENV A=$A B=$B\nCOPY Dockerfile /\n";
    fs::write(dir.path().join("context/Dockerfile"), dockerfile).unwrap();
    fs::write(dir.path().join("args"), "# those of the file\nA=file\nB=file\n").unwrap();
    let args = ["--build-arg-file", "args", "--build-arg", "B=line", "--timestamp", "1000000000"];
    let output = rbuild(dir.path(), &[&args[..], &["-t", "x:1", "context"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = rbuild(dir.path(), &["inspect", "x:1"]);
    let image: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let env = image[0]["Config"]["Env"].to_string();
    assert!(env.contains("A=file") && env.contains("B=line"), "{env}");
    assert_eq!(image[0]["Created"], "2001-09-09T01:46:40Z");
    let both = ["--timestamp", "1", "--build-arg", "SOURCE_DATE_EPOCH=2", "context"];
    let output = rbuild(dir.path(), &both);
    assert!(text(&output.stderr).contains("--timestamp 1, but SOURCE_DATE_EPOCH is `2`"));
    let output = rbuild(dir.path(), &["build", "--builder", "x", "context"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert_eq!(
        said,
        "error: rbuild build has no option --builder\n\n  tip: name a service with --host\n"
    );
}
