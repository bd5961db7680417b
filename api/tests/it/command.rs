//! Help, exit codes and messages.

use std::fs;
use std::path::Path;

use super::{command, rbuild, text};

#[test]
fn help_is_as_agreed() {
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in [("help", &["--help"][..]), ("help-build", &["build", "--help"])] {
        let output = rbuild(dir.path(), args);
        assert_eq!(output.status.code(), Some(0), "{name}");
        let got = text(&output.stdout);
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(format!("{name}.txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &got).unwrap();
        }
        let want = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(got, want, "{} differs; UPDATE=1 rewrites it", golden.display());
    }
}

#[test]
fn exit_codes_and_messages_tell_who_must_act() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "no certificate").unwrap();
    #[rustfmt::skip]
    let cases: [(&[&str], i32, &str); 14] = [
        (&[],                                         2, "Usage"),
        (&["--squish", "."],                          2, "unexpected argument '--squish'"),
        (&["-t", "x"],                                2, "PATH"),
        (&["-t", "x", "nowhere"],                     1, "error: the context directory `nowhere` does not exist"),
        (&["build", "file"],                          1, "error: the context `file` is not a directory"),
        (&["-f", "nowhere", "."],                     1, "error: the Dockerfile `nowhere` does not exist"),
        (&["--ca-cert", "file", "."],                 1, "holds no certificate in PEM form"),
        (&["--ca-cert", "nowhere", "."],              1, "caused by: No such file"),
        (&["-"],                                      1, "standard input is empty"),
        (&["inspect", "nothing:here"],                1, "nothing:here"),
        (&["run", "--network", "no"],                 2, "possible values: default, none, host"),
        (&["--host", "unix:///nowhere.sock", "images"], 3, "is `rbuild serve` running there?"),
        (&["--host", "unix:///nowhere.sock", "verify", "."], 1, "works on this machine only"),
        (&["serve", "--listen", "tcp://0.0.0.0:0"],   1, "who reaches this port may build"),
    ];
    for (args, code, want) in cases {
        let output = rbuild(dir.path(), args);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(want), "{args:?}: {errors}");
    }
}

#[test]
fn a_bad_configuration_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rbuild.toml");
    fs::write(&file, "[build]\njobz = 1\n").unwrap();
    let output = command(dir.path(), &["images"]).env("RBUILD_CONFIG", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("rbuild.toml:2:1: unknown field `jobz`"), "{errors}");
}

#[test]
fn an_empty_store_has_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let output = rbuild(dir.path(), &["images"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n");
    assert_eq!(text(&rbuild(dir.path(), &["inspect", "x"]).stdout), "[]\n");
    let version = text(&rbuild(dir.path(), &["version"]).stdout);
    assert_eq!(version, format!("rbuild {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_terminal_gets_the_live_view() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("context")).unwrap();
    fs::write(dir.path().join("context/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    // Makes the terminal that a test has not.
    let rbuild = assert_cmd::cargo::cargo_bin!("rbuild").display().to_string();
    let run = |settings: &str| {
        let line = format!("{settings} {rbuild} --store store -t x:1 context");
        let output = std::process::Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(dir.path())
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("`script` of util-linux starts");
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("Built x:1"), "{said}");
        said
    };
    let said = run("");
    assert!(said.contains("COPY Dockerfile /") && said.contains("\x1b["), "{said}");
    let said = run("NO_COLOR=1");
    assert!(said.contains("CACHED") && !said.contains("\x1b[32m"), "{said}");
    let said = run("TERM=dumb");
    assert!(said.contains("[2/2] COPY Dockerfile /  CACHED") && !said.contains('\x1b'), "{said}");
}

#[test]
fn completions_and_manual_pages_tell_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&rbuild(dir.path(), &["completions", shell]).stdout);
        assert!(script.contains("prune") && script.contains("build-arg"), "{shell}: {script}");
    }
    let page = text(&rbuild(dir.path(), &["man"]).stdout);
    assert!(page.starts_with(".ie") && page.contains("rbuild\\-build(1)"), "{page}");
    let pages = dir.path().join("man1");
    let made = rbuild(dir.path(), &["man", pages.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let build = std::fs::read_to_string(pages.join("rbuild-build.1")).unwrap();
    assert!(build.contains("build\\-arg"), "{build}");
}
