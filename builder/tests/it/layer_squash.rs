//! Several layers made one.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::path::{Path, PathBuf};

use builder::{ArchiveLimits as Limits, merge_layer};
use tempfile::{TempDir, tempdir};

use super::layer::layer_of;
use super::layer_root::stack;
use super::layer_tree::{list, make, read, set_times, set_xattr};

/// Makes one layer of all but the base, which is the last and may be hidden in part.
pub(crate) fn squashed(layers: &[PathBuf]) -> (TempDir, Vec<PathBuf>) {
    let (base, above) = layers.split_last().unwrap();
    let one = tempdir().unwrap();
    for layer in above.iter().rev() {
        let tar = layer_of(layer);
        merge_layer(&tar[..], one.path(), std::slice::from_ref(base), &Limits::LAYER).unwrap();
    }
    let paths = vec![one.path().to_owned(), base.clone()];
    (one, paths)
}

#[test]
fn several_layers_become_one() {
    type Case<'a> = (&'a str, &'a [&'a [&'a str]], &'a [&'a str]);
    #[rustfmt::skip]
    let cases: [Case<'_>; 10] = [
        ("merged",              &[&["b = 3"], &["a/y = 2"], &["a/x = 1"]],       &["0755 a/", "0644 a/y = 2", "0644 b = 3"]),
        ("deleted",             &[&["a whiteout"], &["a = 1"], &[]],             &[]),
        ("deleted of the base", &[&["a whiteout"], &["a = 1"], &["a = 0"]],      &["a whiteout"]),
        ("made again",          &[&["a = 2"], &["a whiteout"], &["a = 0"]],      &["0644 a = 2"]),
        ("a link in the way",   &[&["a opaque", "a/x = 2"], &["a -> b", "b/y = 1"], &[]],
                                                                                 &["0755 a opaque", "0644 a/x = 2", "0755 b/", "0644 b/y = 1"]),
        ("hidden",              &[&["a opaque", "a/z = 3"], &["a/y = 2"], &["a/x = 1"]],
                                                                                 &["0755 a opaque", "0644 a/z = 3"]),
        ("hides nothing",       &[&["a opaque", "a/z = 3"], &["a/y = 2"], &[]],  &["0755 a/", "0644 a/z = 3"]),
        ("a file in between",   &[&["a/z = 3"], &["a = file"], &["a/x = 1"]],    &["0755 a opaque", "0644 a/z = 3"]),
        ("a tree goes",         &[&["a whiteout"], &["a/b/c = 3"], &["a/x = 1"]], &["a whiteout"]),
        ("one of two names",    &[&["a = 2"], &["a = 1", "b links a"], &[]],     &["0644 a = 2", "0644 b = 1"]),
    ];
    for (name, layers, want) in cases {
        let (_dir, mut paths) = stack(layers);
        paths.pop();
        let (one, _) = squashed(&paths);
        let wanted = tempdir().unwrap();
        make(wanted.path(), want);
        let [got, want] = [one.path(), wanted.path()].map(|dir| {
            set_times(dir, 1);
            (list(dir), layer_of(dir))
        });
        assert_eq!(got.0, want.0, "{name}");
        assert!(got.1 == want.1, "{name}: the layers differ");
    }
}

#[test]
fn attributes_and_times_are_those_of_the_topmost() {
    let (_dir, paths) = stack(&[&["0700 d/"], &["d/", "f = 1", "g links f"], &["d/"]]);
    set_xattr(&paths[1].join("d"), "user.test", b"gone");
    set_xattr(&paths[1].join("f"), "user.test", b"kept");
    set_xattr(&paths[2].join("d"), "user.test", b"of the base");
    for (path, seconds) in paths.iter().zip([3_000, 2_000, 1_000]) {
        set_times(path, seconds);
    }
    let (one, _) = squashed(&paths[..3]);
    let tree = read(one.path(), true);
    let [dir, file, link] = ["d", "f", "g"].map(|name| &tree[Path::new(name)]);
    assert_eq!((dir.mode, dir.mtime, &dir.xattr), (0o700, Some(3_000), &None));
    assert_eq!((file.mtime, file.xattr.as_deref()), (Some(2_000), Some(&b"kept"[..])));
    assert_eq!(link.same_as.as_deref(), Some(Path::new("f")));
}
