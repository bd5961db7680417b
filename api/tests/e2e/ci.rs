//! The recipes for CI: the shell parts of each, run by an ordinary user against a registry.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{RBUILD, command, docker_registry, run, testdata};

const DOCKERFILE: &str = "\
FROM scratch AS tools
COPY busybox /bin/sh
FROM tools
RUN echo made > /made
";

/// A checkout as a runner has it, readable by everybody.
fn checkout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("Dockerfile"), DOCKERFILE).expect("writable");
    std::fs::copy("/bin/busybox", dir.path().join("busybox")).expect("busybox is installed");
    std::fs::copy(testdata().join("ci/build.sh"), dir.path().join("build.sh")).expect("writable");
    std::fs::create_dir(dir.path().join("bin")).expect("writable");
    std::fs::copy(RBUILD, dir.path().join("bin/rbuild")).expect("writable");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("ours");
    dir
}

/// Takes the block of shell that follows the line `key` of a recipe.
fn block(recipe: &str, key: &str) -> String {
    let text = std::fs::read_to_string(testdata().join("ci").join(recipe)).expect("it is there");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().skip_while(|line| line.trim() != key);
    let start = lines.next().map(indent).expect("the recipe has the line");
    let block = lines.take_while(|line| line.trim().is_empty() || indent(line) > start);
    block.map(|line| line.trim_start().to_owned() + "\n").collect()
}

fn run_as_user(script: &str, dir: &Path, port: u16, tag: &str) -> String {
    let path = format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", dir.display());
    let output: PathBuf = dir.join("output");
    let mut shell = command("setpriv", &["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    shell.args(["sh", "-euc", script]).current_dir(dir).env_clear();
    shell.env("PATH", path).env("HOME", dir).env("GITHUB_OUTPUT", &output);
    shell.env("IMAGE", format!("127.0.0.1:{port}/team/app")).env("TAG", tag);
    let ran = run(&mut shell).ok();
    ran.stdout + &ran.stderr
}

#[test]
fn the_recipes_push_and_find_what_was_made_before() {
    let (_server, port, _data) = docker_registry();
    let recipes = [
        ("plain", "./build.sh".to_owned(), None),
        ("github", block("github.yml", "run: |"), Some("output")),
        ("gitlab", block("gitlab.yml", "- |"), Some("image.env")),
    ];
    let mut digests = Vec::new();
    for (at, (name, script, told)) in recipes.into_iter().enumerate() {
        // Each runs on a machine that has built nothing.
        let machine = checkout();
        let said = run_as_user(&script, machine.path(), port, name);
        let executed = said.lines().filter(|it| it.contains("] RUN") && !it.contains("CACHED"));
        assert_eq!(executed.count() == 0, at > 0, "{name}: {said}");
        let raw = format!("docker://127.0.0.1:{port}/team/app:{name}");
        let shown =
            run(&mut command("skopeo", &["inspect", "--tls-verify=false", "--raw", &raw])).ok();
        let metadata = std::fs::read_to_string(machine.path().join("metadata.json"));
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata.expect("it was written")).expect("it is JSON");
        let digest = metadata["containerimage.digest"].as_str().expect("it is told").to_owned();
        assert!(said.contains(&digest) && shown.stdout.contains("layers"), "{name}: {said}");
        if let Some(told) = told {
            let told = std::fs::read_to_string(machine.path().join(told)).expect("it was written");
            assert!(told.trim_end().ends_with(&digest), "{name}: {told}");
        }
        digests.push(digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "what is found in the cache is what was made");
}
