//! `rbuild fmt`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::{rbuild, text};

const UGLY: &str = "from   scratch\nCOPY  a   b  \n";
const TIDY: &str = "FROM scratch\nCOPY a b\n";

#[test]
fn files_are_printed_checked_and_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Dockerfile");
    fs::write(&path, UGLY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let printed = rbuild(dir.path(), &["fmt"]);
    assert_eq!((printed.status.code(), text(&printed.stdout).as_str()), (Some(0), TIDY));
    let checked = rbuild(dir.path(), &["fmt", "--check", "Dockerfile"]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(text(&checked.stderr), "Dockerfile:1: would be laid out anew\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), UGLY, "only --write writes");
    symlink("Dockerfile", dir.path().join("link")).unwrap();
    let written = rbuild(dir.path(), &["fmt", "--write", "link"]);
    assert_eq!((written.status.code(), text(&written.stdout).as_str()), (Some(0), ""));
    assert_eq!(fs::read_to_string(&path).unwrap(), TIDY);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary stays");
    assert_eq!(rbuild(dir.path(), &["fmt", "--check"]).status.code(), Some(0));
}

#[test]
fn what_cannot_be_laid_out_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad"), "FROM a\nCPOY a b\n").unwrap();
    #[rustfmt::skip]
    let cases: [(&[&str], i32, &str); 5] = [
        (&["fmt"],                       1, "there is no Dockerfile here"),
        (&["fmt", "bad"],                1, "bad:2:1"),
        (&["fmt", "bad", "bad"],         1, "several files"),
        (&["fmt", "--check", "--write"], 2, "cannot be used with"),
        (&["fmt", "missing"],            1, "No such file"),
    ];
    for (args, code, want) in cases {
        let output = rbuild(dir.path(), args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {said}");
    }
}
