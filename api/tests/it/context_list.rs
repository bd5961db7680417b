//! `rbuild context ls`: what of a directory reaches a build, and why.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::path::Path;

use super::{rbuild, text};

fn lines(dir: &Path, args: &[&str]) -> Vec<String> {
    let mut all = vec!["context", "ls"];
    all.extend(args);
    let output = rbuild(dir, &all);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

/// A context of which some is left out, and some of that is brought back.
fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("c/Dockerfile", "FROM scratch\nCOPY . /\n");
    write("c/.dockerignore", "# logs\n*.log\n!keep.log\nnode_modules\nDocker*\n.docker*\n");
    write("c/a", "12345");
    write("c/b.log", "x");
    write("c/keep.log", "123");
    write("c/node_modules/m/index.js", "x");
    dir
}

#[test]
fn files_are_listed_with_the_rule_that_decided() {
    let dir = context();
    let total = "2 files, 8B; 4 files and directories left out";
    let kept = ["5  a", "3  keep.log  (c/.dockerignore:3: !keep.log)", total];
    assert_eq!(lines(dir.path(), &["c"]), kept);
    let all = [
        "-  .dockerignore  (c/.dockerignore:6: .docker*)",
        "-  Dockerfile  (c/.dockerignore:5: Docker*)",
        "5  a",
        "-  b.log  (c/.dockerignore:2: *.log)",
        "3  keep.log  (c/.dockerignore:3: !keep.log)",
        "-  node_modules/  (c/.dockerignore:4: node_modules)",
        total,
    ];
    assert_eq!(lines(dir.path(), &["--all", "c"]), all);
    let built = rbuild(dir.path(), &["build", "-o", "type=local,dest=out", "c"]);
    assert_eq!(built.status.code(), Some(0), "{}", text(&built.stderr));
    let mut names: Vec<_> = fs::read_dir(dir.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "keep.log"], "what is listed is what COPY sees");
}

#[test]
fn one_path_is_explained() {
    let dir = context();
    #[rustfmt::skip]
    let cases = [
        ("a",                   "a: included: no rule matches"),
        ("b.log",               "b.log: left out by c/.dockerignore:2: *.log"),
        ("keep.log",            "keep.log: included by c/.dockerignore:3: !keep.log"),
        ("node_modules/m/x",    "node_modules/m/x: left out by c/.dockerignore:4: node_modules (nothing is there)"),
        ("c/a",                 "a: included: no rule matches"),
    ];
    for (path, want) in cases {
        assert_eq!(lines(dir.path(), &["--why", path, "c"]), [want]);
    }
    let output = rbuild(dir.path(), &["context", "ls", "--why", "../x", "c"]);
    assert!(text(&output.stderr).contains("`../x` is not in the context"), "{output:?}");
    fs::write(dir.path().join("c/Dockerfile.dockerignore"), "a\n").unwrap();
    let want = "a: left out by c/Dockerfile.dockerignore:1: a";
    assert_eq!(lines(dir.path(), &["--why", "a", "c"]), [want]);
    let json = lines(dir.path(), &["--why", "a", "--format", "json", "c"]);
    let json: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(json["included"], false);
    assert_eq!(json["rule"]["line"], 1);
}
