//! Roots read without a mount, held against the kernel's own overlayfs and path resolution.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use builder::{Follow, Kind, LayeredRoot, RootError};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tempfile::{TempDir, tempdir};

use super::layer_squash::squashed;
use super::layer_tree::{make, run};

/// Lists a root as `find` is asked to list the mount below.
fn listing(root: &LayeredRoot) -> Vec<String> {
    let mut lines = Vec::new();
    list_dir(root, "", &mut lines);
    lines.sort();
    lines
}

fn list_dir(root: &LayeredRoot, dir: &str, lines: &mut Vec<String>) {
    for entry in root.read_dir(dir).unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let metadata = entry.node.metadata;
        let kind = match metadata.kind {
            Kind::Dir => "d",
            Kind::Symlink => "l",
            _ => "f",
        };
        let content = match metadata.kind {
            Kind::File => String::from_utf8(root.read_file(&path, 100).unwrap()).unwrap(),
            _ => String::new(),
        };
        lines.push(format!("{kind} {:o} {path} {content}", metadata.mode));
        if metadata.is_dir() {
            list_dir(root, &path, lines);
        }
    }
}

/// Has the kernel merge the layers, topmost first, in a mount namespace of its own.
fn mounted(layers: &[PathBuf]) -> Vec<String> {
    let lowers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let script = "mount -t overlay -o ro,userxattr,lowerdir=$0 overlay /mnt && cd /mnt && \
                  find . -ignore_readdir_race -mindepth 1 -printf '%y %m %P ' \\( -type f -exec cat {} \\; -o -true \\) -printf '\\n'";
    let output = run("unshare", &["-m", "sh", "-c", script, &lowers.join(":")], b"");
    let mut lines: Vec<String> =
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

pub(crate) fn stack(layers: &[&[&str]]) -> (TempDir, Vec<PathBuf>) {
    let dir = tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..=layers.len()).map(|n| dir.path().join(n.to_string())).collect();
    // One more, empty: the kernel wants at least two.
    for path in &paths {
        fs::create_dir(path).unwrap();
    }
    for (path, lines) in paths.iter().zip(layers) {
        make(path, lines);
    }
    (dir, paths)
}

#[test]
fn roots_are_merged_as_the_kernel_does() {
    #[rustfmt::skip]
    let cases: [(&str, &[&[&str]]); 8] = [
        ("merged",              &[&["a/x = 1"], &["a/y = 2", "b = 3"]]),
        ("whiteout",            &[&["a/x whiteout"], &["a/x = 1", "a/y = 2"]]),
        ("opaque",              &[&["a opaque", "a/z = 3"], &["a/x = 1", "a/y = 2"]]),
        ("file hides",          &[&["a = file"], &["a/x = 1"]]),
        ("directory hides",     &[&["a/x = 1"], &["a = file"], &["a/y = 2"]]),
        ("deleted in between",  &[&["a/x = 1"], &["a whiteout"], &["a/y = 2"]]),
        ("opaque in between",   &[&["a/x = 1"], &["a opaque", "a/z = 3"], &["a/y = 2"]]),
        ("mode of the top",     &[&["0700 a/"], &["0755 a/", "a/x = 1"]]),
    ];
    for (name, layers) in cases {
        let (_dir, paths) = stack(layers);
        assert_eq!(listing(&LayeredRoot::open(&paths).unwrap()), mounted(&paths), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn any_stack_is_merged_as_the_kernel_does(
        layers in prop::collection::vec(prop::collection::vec(("[ab](/[ab]){0,2}", 0_u8..5), 0..8), 1..5),
    ) {
        let (_dir, paths) = stack(&vec![&[][..]; layers.len()]);
        for (path, objects) in paths.iter().zip(&layers) {
            for (name, kind) in objects {
                let what = match kind {
                    0 => format!("{name} = {}", path.display()),
                    1 => format!("{name}/"),
                    2 => format!("{name} whiteout"),
                    3 => format!("{name} opaque"),
                    _ => format!("{name} -> b"),
                };
                let is_free = fs::symlink_metadata(path.join(name)).is_err();
                let blocked = Path::new(name).ancestors().skip(1).any(|above| {
                    fs::symlink_metadata(path.join(above)).is_ok_and(|above| !above.is_dir())
                });
                if is_free && !blocked {
                    make(path, &[&what]);
                }
            }
        }
        let want = mounted(&paths);
        prop_assert_eq!(listing(&LayeredRoot::open(&paths).unwrap()), &want[..]);
        let (_one, squashed) = squashed(&paths[..layers.len()]);
        prop_assert_eq!(listing(&LayeredRoot::open(&squashed).unwrap()), want);
    }

    #[test]
    fn paths_resolve_as_the_kernel_does(
        objects in prop::collection::vec(("[ab](/[ab]){0,2}", 0_u8..4, "(/|\\.\\./)?[ab](/[ab.]|/\\.\\.){0,2}"), 0..12),
        paths in prop::collection::vec("(/|\\.\\./)?[ab](/[ab.]|/\\.\\.){0,3}", 1..12),
    ) {
        let dir = tempdir().unwrap();
        for (name, kind, target) in &objects {
            let path = dir.path().join(name);
            drop(fs::create_dir_all(path.parent().unwrap()));
            match kind {
                0 => drop(fs::write(&path, "x")),
                1 => drop(fs::create_dir(&path)),
                _ => drop(std::os::unix::fs::symlink(target, &path)),
            }
        }
        let root = LayeredRoot::open_plain(dir.path()).unwrap();
        let top = fs::File::open(dir.path()).unwrap();
        for path in &paths {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let want = openat2(&top, path.as_str(), flags, Mode::empty(), ResolveFlags::IN_ROOT);
            let want = want.ok().map(|fd| {
                let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
                name.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned()
            });
            let got = root.resolve(path, Follow::Last).ok().filter(|found| found.node.is_some());
            let got = got.map(|found| String::from_utf8(found.path).unwrap());
            // The kernel looks at each component; a missing one before `..`, or a file before `.`,
            // is no error to us, as it is none to Docker, which cleans paths first.
            if want.is_some() || !path.contains('.') && objects.iter().all(|(_, _, target)| !target.contains('.')) {
                prop_assert_eq!(&got, &want, "{}", path);
            }
        }
    }
}

#[test]
fn where_paths_lead() {
    let (_dir, paths) = stack(&[
        &["etc/new = 1", "bin -> usr/bin", "loop -> loop", "up -> ../../../etc", "abs -> /etc/new"],
        &["usr/bin/sh = 2", "etc/old = 3", "gone -> /no/where", "far -> usr/../bin/sh"],
    ]);
    let root = LayeredRoot::open(&paths).unwrap();
    #[rustfmt::skip]
    let cases = [
        ("/",                 Follow::Last,   Some(("", true))),
        ("../../..",          Follow::Last,   Some(("", true))),
        ("etc/old",           Follow::Last,   Some(("etc/old", true))),
        ("/bin/sh",           Follow::Last,   Some(("usr/bin/sh", true))),
        ("bin",               Follow::NoLast, Some(("bin", true))),
        ("bin",               Follow::Last,   Some(("usr/bin", true))),
        ("up/old",            Follow::Last,   Some(("etc/old", true))),
        ("abs",               Follow::Last,   Some(("etc/new", true))),
        ("far",               Follow::Last,   Some(("usr/bin/sh", true))),
        ("gone",              Follow::Last,   Some(("no/where", false))),
        ("gone",              Follow::NoLast, Some(("gone", true))),
        ("a/b/../c",          Follow::Last,   Some(("a/c", false))),
        ("a/../etc/new",      Follow::Last,   Some(("etc/new", true))),
        ("loop",              Follow::Last,   None),
        ("etc/new/x",         Follow::Last,   None),
    ];
    for (path, follow, want) in cases {
        let got = root.resolve(path, follow);
        let got = got
            .as_ref()
            .ok()
            .map(|found| (std::str::from_utf8(&found.path).unwrap(), found.node.is_some()));
        assert_eq!(got, want, "{path}");
    }
    assert!(matches!(root.resolve("loop", Follow::Last), Err(RootError::TooManyLinks { .. })));
    assert!(matches!(
        root.resolve("etc/new/x", Follow::Last),
        Err(RootError::NotADirectory { .. })
    ));
}

#[test]
fn files_are_read_with_a_limit_and_nothing_else_is() {
    let (_dir, paths) = stack(&[&["f = 12345", "p fifo", "d/"]]);
    let root = LayeredRoot::open(&paths).unwrap();
    assert_eq!(root.read_file("/f", 5).unwrap(), b"12345");
    assert!(matches!(root.read_file("f", 4), Err(RootError::TooLarge { limit: 4, .. })));
    assert!(matches!(root.read_file("p", 4), Err(RootError::NotAFile { .. })));
    assert!(matches!(root.read_file("d", 4), Err(RootError::NotAFile { .. })));
    assert!(matches!(root.read_file("no", 4), Err(RootError::NotFound { .. })));
    assert!(matches!(root.read_dir("f"), Err(RootError::NotADirectory { .. })));
    assert_eq!(LayeredRoot::open(&[]).unwrap().read_dir("/").unwrap().len(), 0);
}
