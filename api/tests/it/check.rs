//! `rbuild check`, `--check` and `--call`.

#![expect(clippy::unwrap_used, reason = "the helpers of the tests fail as the tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::{command, rbuild, text};

const DOCKERFILE: &str = "\
# syntax of old
FROM debian:12 as Base
ENV MODE fast
RUN apt-get install curl=1
CMD httpd -f
";

fn dir(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    dir
}

/// Runs `rbuild` and returns its exit code and standard output.
fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = rbuild(dir, args);
    let errors = text(&output.stderr);
    assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    (output.status.code(), text(&output.stdout))
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let (_, out) = run(dir, args);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
}

fn with_input(dir: &Path, args: &[&str], input: &str) -> (Option<i32>, String) {
    use std::io::Write as _;

    let mut child = command(dir, args);
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout))
}

#[test]
fn findings_are_told_with_place_help_and_reason() {
    let dir = dir("FROM alpine:3.20\nRUN sudo true\nRUN x | sudo y\n");
    let want = "\
warning[NoSudo]: sudo has no use in a build, which is root unless USER says otherwise
 --> Dockerfile:2:5
  |
2 | RUN sudo true
  |     ^^^^
  |
  = why: RUN is root unless USER says otherwise, so sudo changes nothing, or hides a USER
         that stands in the wrong place. In the image it is one more way to become root.

warning[NoSudo]: sudo has no use in a build, which is root unless USER says otherwise
 --> Dockerfile:3:9
  |
3 | RUN x | sudo y
  |         ^^^^

Check complete: 2 warnings.
";
    let (code, out) = run(dir.path(), &["check", "--rules", "DL3004"]);
    assert_eq!(out, want);
    assert_eq!(code, Some(1));
}

#[test]
fn exit_codes() {
    let clean = dir("FROM alpine:3.20\nCMD [\"a\"]\n");
    let other = dir(DOCKERFILE);
    let broken = dir("FROM alpine:3.20\nCPOY a b\n");
    let practice = dir("FROM alpine\n");
    #[rustfmt::skip]
    let cases: [(&tempfile::TempDir, &[&str], i32); 17] = [
        (&clean,    &["check"],                                    0),
        (&clean,    &["check", "Dockerfile"],                      0),
        (&clean,    &["check", "-f", "Dockerfile", "."],           0),
        (&clean,    &["build", "--check", "."],                    0),
        (&clean,    &["--call=check", "."],                        0),
        (&other,    &["check", "--format", "sarif"],               1),
        (&other,    &["build", "--call", "check,format=json", "."], 1),
        (&practice, &["check"],                                    1),
        (&practice, &["check", "--rules", "buildkit"],             0),
        (&practice, &["build", "--check", "."],                    0),
        (&broken,   &["check"],                                    1),
        (&clean,    &["check", "nowhere"],                         1),
        (&clean,    &["check", "--rules", "NoSuchRule"],           2),
        (&clean,    &["check", "--explain", "NoSuchRule"],         1),
        (&clean,    &["build", "--call=lint2", "."],               2),
        (&clean,    &["build", "--check", "--call=targets", "."],  2),
        (&clean,    &["check", "https://example.org/x"],           1),
    ];
    for (dir, args, want) in cases {
        let output = rbuild(dir.path(), args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(want), "{args:?}: {said}");
    }
    assert!(!clean.path().join("store").exists(), "a check makes no store");
    let (code, out) = with_input(clean.path(), &["check", "-"], "FROM alpine\n");
    assert_eq!(code, Some(1));
    assert!(out.contains("--> <stdin>:1:6"), "{out}");
}

#[test]
fn documents_have_dockers_form() {
    let dir = dir(DOCKERFILE);
    let document = json(dir.path(), &["build", "--call=check,format=json", "."]);
    let first = &document["warnings"][0];
    assert_eq!(first["ruleName"], "FromAsCasing");
    assert_eq!(first["detail"], "'as' and 'FROM' keywords' casing do not match");
    assert_eq!(
        first["description"],
        "The 'as' keyword should match the case of the 'from' keyword"
    );
    assert_eq!(first["url"], "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
    assert_eq!(first["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(document["sources"][0]["fileName"], "Dockerfile");
    assert_eq!(document["sources"][0]["language"], "Dockerfile");
    assert!(document.get("buildError").is_none());
    fs::write(dir.path().join("Dockerfile"), "FROM a as B\nCPOY\n").unwrap();
    let document = json(dir.path(), &["check", "--format", "json"]);
    assert_eq!(document["buildError"]["message"], "unknown instruction `CPOY`");
    assert_eq!(document["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}

/// The parts that SARIF 2.1.0 requires (sections 3.13, 3.14, 3.18, 3.19, 3.27, 3.28, 3.30, 3.49,
/// 3.55, 3.57).
#[test]
fn sarif_has_what_the_standard_requires() {
    let dir = dir(&format!("{DOCKERFILE}COPY ä b\nRUN sudo x\n"));
    let document = json(dir.path(), &["check", "--format", "sarif"]);
    assert_eq!(document["version"], "2.1.0");
    assert!(document["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
    let [run] = document["runs"].as_array().unwrap().as_slice() else { panic!("one run") };
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "rbuild");
    let rules = driver["rules"].as_array().unwrap();
    let ids: Vec<&str> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "ids are unique");
    for rule in rules {
        assert!(rule["shortDescription"]["text"].is_string());
        assert!(rule["fullDescription"]["text"].is_string());
    }
    let results = run["results"].as_array().unwrap();
    assert!(results.len() >= 8, "{results:#?}");
    for result in results {
        assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(result["ruleId"], ids[index]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "Dockerfile");
        check_region(&place["region"]);
        for fix in result["fixes"].as_array().into_iter().flatten() {
            let change = &fix["artifactChanges"][0];
            assert_eq!(change["artifactLocation"]["uri"], "Dockerfile");
            for replacement in change["replacements"].as_array().unwrap() {
                check_region(&replacement["deletedRegion"]);
                assert!(replacement["insertedContent"]["text"].is_string());
            }
        }
    }
    assert!(results.iter().any(|result| result.get("fixes").is_some()));
}

fn check_region(region: &Value) {
    let number = |name: &str| region[name].as_u64().unwrap();
    let start = (number("startLine"), number("startColumn"));
    let end = (number("endLine"), number("endColumn"));
    assert!(start.0 >= 1 && start.1 >= 1 && end >= start, "{region}");
}

#[test]
fn mending_rewrites_and_shows() {
    let dir = dir(DOCKERFILE);
    let (code, shown) = run(dir.path(), &["check", "--diff"]);
    assert_eq!(code, Some(1));
    let want = "\
--- a/Dockerfile
+++ b/Dockerfile
@@ -1,5 +1,5 @@
 # syntax of old
-FROM debian:12 as Base
-ENV MODE fast
-RUN apt-get install curl=1
-CMD httpd -f
+FROM debian:12 AS base
+ENV MODE=fast
+RUN apt-get install -y --no-install-recommends curl=1
+CMD [\"httpd\", \"-f\"]
";
    assert_eq!(shown, want);
    assert_eq!(fs::read_to_string(dir.path().join("Dockerfile")).unwrap(), DOCKERFILE);
    let output = rbuild(dir.path(), &["check", "--fix"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(
        text(&output.stderr),
        "mended Dockerfile: AptAssumeYes, AptNoRecommends, FromAsCasing, JSONArgsRecommended, \
         LegacyKeyValueFormat, StageNameCasing\n"
    );
    let mended = fs::read_to_string(dir.path().join("Dockerfile")).unwrap();
    assert!(mended.starts_with("# syntax of old\nFROM debian:12 AS base\nENV MODE=fast\n"));
    let (code, shown) = run(dir.path(), &["check", "--diff"]);
    assert_eq!((code, shown.as_str()), (Some(0), ""));
    let (code, _) = with_input(dir.path(), &["check", "--fix", "-"], DOCKERFILE);
    assert_eq!(code, Some(1), "standard input cannot be rewritten");
}

#[test]
fn rules_explain_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out) = run(dir.path(), &["check", "--explain", "DL3008"]);
    assert_eq!(code, Some(0));
    let want = "\
PinAptPackages (DL3008)

Packages of apt have a version

Without one the build takes what the archive has that day, and the cache keeps
what it had some other day. A version makes both say the same, and an update a
change of the file.

Before:
    FROM debian:12
    RUN apt-get install -y --no-install-recommends curl

After:
    FROM debian:12
    RUN apt-get install -y --no-install-recommends curl=7.88.1-10

A practice: it speaks in `rbuild check` only.
";
    assert_eq!(out, want);
    let list = json(dir.path(), &["check", "--list", "--format", "json"]);
    for rule in list.as_array().unwrap() {
        let name = rule["name"].as_str().unwrap();
        let (code, out) = run(dir.path(), &["check", "--explain", name]);
        assert_eq!(code, Some(0), "{name}");
        assert!(out.contains("Before:\n    FROM") || out.contains("Before:\n    "), "{name}");
    }
    assert!(list.as_array().unwrap().len() >= 60);
    let (_, lines) = run(dir.path(), &["check", "--list"]);
    assert_eq!(lines.lines().count(), list.as_array().unwrap().len());
    let (_, out) = run(dir.path(), &["check", "--explain", "DL3011"]);
    assert!(out.contains("cannot be built"), "{out}");
}

#[test]
fn outlines_and_targets() {
    let dir = dir("\
# VERSION which release
ARG VERSION=3.20
FROM alpine:$VERSION AS build
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
# app the program
FROM build AS app
ARG MODE
");
    let (code, out) = run(dir.path(), &["build", "--call=outline", "--build-arg", "MODE=x", "."]);
    let want = "\
TARGET:      app
DESCRIPTION: the program

BUILD ARG   VALUE   DESCRIPTION
VERSION     3.20    which release
MODE        x

SECRET   REQUIRED
token    true

SSH       REQUIRED
default

";
    assert_eq!((code, out.as_str()), (Some(0), want));
    let document =
        json(dir.path(), &["build", "--call=outline,format=json", "--target=build", "."]);
    assert_eq!(document["name"], "build");
    assert_eq!(document["args"][0]["name"], "VERSION");
    assert_eq!(document["args"][0]["value"], "3.20");
    assert_eq!(document["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(document["args"].as_array().unwrap().len(), 1);
    assert_eq!(document["secrets"][0]["required"], true);
    let (code, out) = run(dir.path(), &["build", "--call=targets", "."]);
    let want = "TARGET          DESCRIPTION\nbuild\napp (default)   the program\n";
    assert_eq!((code, out.as_str()), (Some(0), want));
    let document = json(dir.path(), &["build", "--call=targets,format=json", "."]);
    assert_eq!(document["targets"][1]["name"], "app");
    assert_eq!(document["targets"][1]["default"], true);
    assert_eq!(document["targets"][0]["base"], "alpine:$VERSION");
}

#[test]
fn the_ignore_file_counts() {
    let dir = dir("FROM alpine:3.20\nCOPY a.log /\n");
    fs::write(dir.path().join(".dockerignore"), "*.log\n").unwrap();
    let args = ["check", "--rules", "CopyIgnoredFile"];
    let (code, out) = run(dir.path(), &args);
    assert_eq!(code, Some(1));
    assert!(out.contains("Attempting to Copy file \"a.log\""), "{out}");
    fs::write(dir.path().join("Dockerfile.dockerignore"), "# nothing\n").unwrap();
    assert_eq!(run(dir.path(), &args).0, Some(0), "the Dockerfile's own ignore file wins");
}

#[test]
fn builds_say_it_too_and_leave_bases_to_look_at() {
    let dir = dir("FROM scratch as base\nENV HOME_DIR=/srv\nCOPY Dockerfile $hoem/\n");
    let output = rbuild(dir.path(), &["--progress", "plain", "-t", "base:1", "."]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning[FromAsCasing]") && said.contains("warning[UndefinedVar]"),
        "{said}"
    );
    // With `error=true` every rule is heard before the build ends.
    let argument = "BUILDKIT_DOCKERFILE_CHECK=error=true";
    let output = rbuild(dir.path(), &["--progress", "plain", "--build-arg", argument, "."]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[FromAsCasing]") && said.contains("error[UndefinedVar]"), "{said}");
    // What a base in the store sets is known to a check.
    for (image, code) in [("base:1", 0), ("nobody/knows:1", 1)] {
        let dockerfile = format!("FROM {image}\nCOPY Dockerfile $HOME_DIR/\n");
        fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
        let (got, out) = run(dir.path(), &["build", "--check", "."]);
        assert_eq!(got, Some(code), "{out}");
        let is_told = out.contains("unless `docker.io/nobody/knows:1` sets it");
        assert_eq!(is_told, code == 1, "{out}");
    }
}
