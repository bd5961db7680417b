//! Goldens: `testdata/dockerfile/ok/NAME.Dockerfile` with what it means in `NAME.ast`, and
//! `err/NAME.Dockerfile` with what is said about it in `NAME.diag`. `UPDATE=1` rewrites them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{diagnostic_text, graph_text, lower, options};

fn cases(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile").join(kind);
    let entries = fs::read_dir(&dir).expect("the goldens are there");
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .collect();
    cases.sort();
    cases
}

/// Compares with the golden file, or rewrites it.
fn compare(path: &Path, got: &str, failures: &mut Vec<String>) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, got).expect("a writable golden");
        return;
    }
    let want = fs::read_to_string(path).unwrap_or_default();
    if got != want {
        failures.push(format!("{}\n--- got\n{got}--- want\n{want}", path.display()));
    }
}

fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} goldens differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn good_files() {
    let cases = cases("ok");
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut failures = Vec::new();
    for path in cases {
        let source = fs::read_to_string(&path).expect("UTF-8");
        let parsed = frontend::parse(&source);
        let mut said: String =
            parsed.diagnostics.iter().map(|d| diagnostic_text(&source, d)).collect();
        let mut got = frontend::dump_ast(&source).unwrap_or_default();
        if said.is_empty() {
            match lower(&parsed.dockerfile, &options(&source)) {
                Ok(graph) => {
                    said.extend(graph.warnings.iter().map(|d| diagnostic_text(&source, d)));
                    got.push_str(&graph_text(&graph));
                }
                Err(faults) => said.extend(faults.iter().map(|d| diagnostic_text(&source, d))),
            }
        }
        if !said.is_empty() {
            failures.push(format!("{} should be silent:\n{said}", path.display()));
            continue;
        }
        compare(&path.with_extension("ast"), &got, &mut failures);
    }
    report(&failures);
}

#[test]
fn files_with_something_to_say() {
    let cases = cases("err");
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut failures = Vec::new();
    for path in cases {
        let source = fs::read_to_string(&path).expect("UTF-8");
        let parsed = frontend::parse(&source);
        let mut diagnostics = parsed.diagnostics.clone();
        if !parsed.has_errors() {
            match lower(&parsed.dockerfile, &options(&source)) {
                Ok(graph) => diagnostics.extend(graph.warnings),
                Err(faults) => diagnostics.extend(faults),
            }
        }
        let got: String = diagnostics.iter().map(|d| diagnostic_text(&source, d)).collect();
        if got.is_empty() {
            failures.push(format!("{} should not be silent", path.display()));
        }
        compare(&path.with_extension("diag"), &got, &mut failures);
    }
    report(&failures);
}
