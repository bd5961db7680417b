//! Ways out that are tried by system calls, and by changing names while they are looked up.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use builder::MountSource;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::sandbox::{Image, mount, run};

/// What Docker allows too, and what is no way out.
const ALLOWED: [&str; 1] = ["trace-own"];

/// How often names change places at least while sandboxes are made.
const TRIES: usize = 25;

#[test]
fn system_calls_lead_nowhere() {
    let image = Image::busybox();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/escapes.c");
    let program = image.lower("bin/escapes");
    let compile = Command::new("gcc")
        .args(["-static", "-O1", "-w", "-o"])
        .args([&program, Path::new(source)])
        .output()
        .expect("the tests need gcc");
    assert!(compile.status.success(), "{compile:?}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for user in [0, 1000] {
        image.renew();
        let mut spec = image.script("cd /tmp; escapes");
        (spec.uid, spec.gid) = (user, user);
        let outcome = run(&spec);
        assert!(outcome.text().lines().count() > 30, "{outcome:?}");
        for line in outcome.text().lines() {
            let (name, result) = line.split_once(' ').unwrap();
            let want = if ALLOWED.contains(&name) { "allowed" } else { "refused" };
            assert_eq!(result, want, "{name}, as user {user}");
        }
    }
}

/// Lets two names change places, again and again, while `work` is done.
fn while_swapping(one: &Path, two: &Path, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
            }
        });
        work();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// A directory of this machine that no step may see or change.
fn outside() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "outside").unwrap();
    dir
}

#[test]
fn a_source_that_changes_places_with_a_link_stays_inside() {
    let (image, outside) = (Image::busybox(), outside());
    let root = tempfile::tempdir().unwrap();
    let (path, link) = (root.path().join("dir"), root.path().join("link"));
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("sub/file"), "inside").unwrap();
    symlink(outside.path(), &link).unwrap();
    let mut seen = Vec::new();
    while_swapping(&path, &link, || {
        for _ in 0..TRIES {
            for writable in [false, true] {
                image.renew();
                let (root, path) = (root.path().to_owned(), "dir/sub".to_owned());
                let mut spec = image.script("cat /m/file; echo changed 2>&- > /m/file");
                spec.mounts = vec![mount(
                    "/m",
                    MountSource::Bind { root, path, writable, is_recursive: false },
                )];
                let outcome = run(&spec);
                seen.push(outcome.stdout);
            }
        }
    });
    // Half of the time the link was met, and led to nothing beneath the root.
    assert!(
        seen.iter().all(|text| ["", "inside", "changed\n"].contains(&text.as_str())),
        "{seen:?}"
    );
    assert_eq!(fs::read_to_string(outside.path().join("sub/file")).unwrap(), "outside");
}

#[test]
fn a_target_that_changes_places_with_a_link_stays_inside() {
    let (image, outside) = (Image::busybox(), outside());
    // Two steps share a directory; one swaps names in it while mounts of the other are made there.
    let shared = tempfile::tempdir().unwrap();
    let (path, link) = (shared.path().join("dir"), shared.path().join("link"));
    fs::create_dir(&path).unwrap();
    symlink(outside.path(), &link).unwrap();
    while_swapping(&path, &link, || {
        for _ in 0..TRIES {
            image.renew();
            let bind = |path: &Path| MountSource::Bind {
                root: path.to_owned(),
                path: String::new(),
                writable: true,
                is_recursive: false,
            };
            let mut spec = image.script("echo x 2>&- > /s/dir/sub/made; true");
            spec.mounts = vec![
                mount("/s", bind(shared.path())),
                mount("/s/dir/sub", MountSource::Tmpfs { size: None }),
                mount("/s/dir/sub/new/deep", MountSource::Tmpfs { size: None }),
            ];
            run(&spec);
        }
    });
    let left: Vec<_> = walkdir::WalkDir::new(outside.path())
        .into_iter()
        .map(|entry| entry.unwrap().path().strip_prefix(outside.path()).unwrap().to_owned())
        .collect();
    assert_eq!(left, ["", "sub", "sub/file"].map(std::path::PathBuf::from));
}
