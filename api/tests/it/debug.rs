//! `rbuild debug`: syntax trees, graphs, and the protocol.

use std::fs;
use std::process::Stdio;

use super::{command, rbuild, text};

const DOCKERFILE: &str = "ARG B=busybox\nFROM $B AS a\nCOPY x /\nFROM scratch\nCOPY --from=a / /\n";

#[test]
fn trees_and_graphs_are_dumped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), DOCKERFILE).unwrap();
    let run = |args: &[&str]| {
        let output = rbuild(dir.path(), &[&["debug"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let ast = json(run(&["dump-ast", "Dockerfile"]));
    assert_eq!(ast["dockerfile"]["stages"][0]["from"]["name"]["text"], "a");
    assert_eq!(
        run(&["dump-ast", "--format", "sexp", "Dockerfile"]).lines().nth(1),
        Some(r#"(from "$B" "AS" "a")"#)
    );
    let graph = json(run(&["dump-graph", "--build-arg", "B=debian:12", "Dockerfile"]));
    assert_eq!(graph["vertices"][0]["op"]["reference"], "docker.io/library/debian:12");
    assert_eq!(graph["output"]["history"][0]["created_by"], "COPY / / # buildkit");
    let dot = run(&["dump-graph", "--format", "dot", "Dockerfile"]);
    assert!(
        dot.starts_with("digraph build {") && dot.contains("v1 -> v2 [style=dashed];"),
        "{dot}"
    );
    assert!(dot.contains("peripheries=2"), "{dot}");
    let of_a = run(&["dump-graph", "--target", "a", "--format", "dot", "Dockerfile"]);
    assert!(!of_a.contains("scratch"), "{of_a}");
    assert!(!dir.path().join("store").exists(), "nothing here needs a store");
}

#[test]
fn faults_are_shown_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM a\nCOPPY a b\n").unwrap();
    let output = rbuild(dir.path(), &["debug", "dump-graph", "Dockerfile"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for part in ["unknown instruction `COPPY`", "Dockerfile:2:1", "^^^^^", "did you mean"] {
        assert!(said.contains(part), "{said}");
    }
    #[rustfmt::skip]
    let cases = [("missing", "No such file"), (".", "is not a regular file"), ("/dev/null", "is not a regular file")];
    for (file, want) in cases {
        let output = rbuild(dir.path(), &["debug", "dump-ast", file]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(text(&output.stderr).contains(want), "{file}: {}", text(&output.stderr));
    }
}

#[test]
fn the_protocol_answers_line_by_line() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &["debug", "protocol"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 0..3 {
        // Each answer comes before the next question: nothing waits for the end of input.
        writeln!(input, r#"{{"op":"word","text":"${{N:-{number}}}"}}"#).unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), format!(r#"{{"word":"{number}"}}"#));
    }
    drop(input);
    assert!(answers.next().is_none() && child.wait().unwrap().success());
}
