//! Layers written and applied: round trips, other programs, deletions.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use builder::{
    ArchiveLimits as Limits, LayerStats, apply_layer, diff_id, export_dir, export_tar, write_layer,
};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::layer_tree::{self, Kind, list, make, raw, read, run, set_times, set_xattr};

pub(crate) fn layer_of(dir: &Path) -> Vec<u8> {
    let mut tar = Vec::new();
    write_layer(dir, &mut tar).unwrap();
    tar
}

fn apply(tar: &[u8], parents: &[PathBuf]) -> (TempDir, LayerStats) {
    let dir = tempdir().unwrap();
    let stats = apply_layer(tar, dir.path(), parents, &Limits::LAYER).unwrap();
    (dir, stats)
}

/// A tree with one of everything that a layer can hold.
fn everything() -> TempDir {
    let dir = tempdir().unwrap();
    make(
        dir.path(),
        &[
            "0700 bin/",
            "4755 bin/su = setuid",
            "0600 1000:1001 etc/shadow = secret",
            "etc/link -> ../bin/su",
            "etc/dangling -> /nowhere/at-all",
            "lib/a = one",
            "lib/b links lib/a",
            "run/pipe fifo",
            "dev/null device",
            "3777 70000:70000 tmp/",
            "empty =",
        ],
    );
    let long = format!("deep/{}/{}", "d".repeat(120), "f".repeat(200));
    make(dir.path(), &[&format!("{long} = long")]);
    make(dir.path(), &[&format!("deep/link -> {}", "t".repeat(300))]);
    fs::write(dir.path().join(raw(b"not\xfftext")), "raw").unwrap();
    fs::write(dir.path().join(raw(&[b"\xff\xfe".repeat(80), b"end".to_vec()].concat())), "")
        .unwrap();
    set_xattr(&dir.path().join("empty"), "user.test", b"with\nnewline=\0");
    set_xattr(&dir.path().join("tmp"), "user.test", b"on a directory");
    std::os::unix::fs::lchown(dir.path().join("bin/su"), Some(3_000_000_000), Some(2_500_000))
        .unwrap();
    fs::set_permissions(dir.path().join("bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    set_times(dir.path(), 1_600_000_000);
    set_one_time(&dir.path().join("empty"), -5);
    dir
}

fn set_one_time(path: &Path, seconds: i64) {
    let time = nix::sys::time::TimeSpec::new(seconds, 999);
    let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, follow).unwrap();
}

#[test]
fn a_layer_comes_back_as_it_was() {
    let dir = everything();
    let tar = layer_of(dir.path());
    let (applied, stats) = apply(&tar, &[]);
    similar(&read(dir.path(), true), &read(applied.path(), true));
    assert_eq!(stats.entries, read(dir.path(), false).len() as u64);
    assert_eq!(layer_of(applied.path()), tar, "written again, it is the same");
}

fn similar(want: &layer_tree::Tree, got: &layer_tree::Tree) {
    for (path, object) in want {
        assert_eq!(got.get(path), Some(object), "{}", path.display());
    }
    assert_eq!(want.len(), got.len(), "nothing is added");
}

#[test]
fn the_same_tree_makes_the_same_layer() {
    let [a, b] = [tempdir().unwrap(), tempdir().unwrap()];
    let lines = ["a/b/c = 1", "a-b = 2", "a/z = 3", "Z = 4", "a.d/x = 5", "a/b/links/l links a/z"];
    make(a.path(), &lines[..5]);
    make(a.path(), &lines[5..]);
    let mut reversed = lines[..5].to_vec();
    reversed.reverse();
    make(b.path(), &reversed);
    make(b.path(), &lines[5..]);
    set_times(a.path(), 1);
    set_times(b.path(), 1);
    assert_eq!(layer_of(a.path()), layer_of(b.path()));
    let names = run("tar", &["-tf", "-"], &layer_of(a.path()));
    let names = String::from_utf8(names).unwrap();
    let want = "Z\na/\na/b/\na/b/c\na/b/links/\na/b/links/l\na/z\na-b\na.d/\na.d/x\n";
    assert_eq!(names, want, "sorted, a directory before its content");
    let (id, size) = diff_id(a.path()).unwrap();
    let sum = run("sha256sum", &[], &layer_of(a.path()));
    assert_eq!(id.0.hex().as_bytes(), &sum[..64]);
    assert_eq!(size, layer_of(a.path()).len() as u64);
}

#[test]
fn gnu_tar_reads_our_layers_and_we_its_archives() {
    let dir = everything();
    let extracted = tempdir().unwrap();
    let to = extracted.path().to_str().unwrap();
    let extract = ["-C", to, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"];
    run("tar", &extract, &layer_of(dir.path()));
    similar(&read(dir.path(), true), &read(extracted.path(), true));

    let from = dir.path().to_str().unwrap();
    for (format, xattrs) in [("pax", true), ("gnu", false), ("oldgnu", false)] {
        let mut args = vec!["-C", from, "--numeric-owner", "--format", format];
        if xattrs {
            args.extend(["--xattrs", "--xattrs-include=*"]);
        }
        args.extend(["-cf", "-", "."]);
        let (applied, _) = apply(&run("tar", &args, b""), &[]);
        let (mut want, mut got) = (read(dir.path(), true), read(applied.path(), true));
        // The order of the archive decides which name of a file is the first, for neither reader.
        for tree in [&mut want, &mut got] {
            for object in tree.values_mut().filter(|_| !xattrs) {
                object.xattr = None;
            }
        }
        similar(&want, &got);
    }
}

#[test]
fn umoci_reads_our_layers() {
    let dir = tempdir().unwrap();
    make(dir.path(), &["0750 5:6 d/f = x", "d/l -> f", "d/h links d/f"]);
    let image = tempdir().unwrap();
    let layout = image.path().join("layout");
    let tagged = format!("{}:a", layout.display());
    let tar = image.path().join("layer.tar");
    fs::write(&tar, layer_of(dir.path())).unwrap();
    run("umoci", &["init", "--layout", layout.to_str().unwrap()], b"");
    run("umoci", &["new", "--image", &tagged], b"");
    run("umoci", &["raw", "add-layer", "--image", &tagged, tar.to_str().unwrap()], b"");
    let bundle = image.path().join("bundle");
    run("umoci", &["raw", "unpack", "--image", &tagged, bundle.to_str().unwrap()], b"");
    assert_eq!(list(&bundle), list(dir.path()));
}

#[test]
fn deletions_are_kept_both_ways() {
    let [lower, upper] = [tempdir().unwrap(), tempdir().unwrap()];
    make(lower.path(), &["d/gone = 1", "d/stays = 2", "o/old = 3", "f = 4"]);
    make(upper.path(), &["d/gone whiteout", "o opaque", "o/new = 5", "f whiteout"]);
    let tar = layer_of(upper.path());
    let names = String::from_utf8(run("tar", &["-tf", "-"], &tar)).unwrap();
    assert_eq!(names, "d/\nd/.wh.gone\n.wh.f\no/\no/.wh..wh..opq\no/new\n");
    let parents = [lower.path().to_path_buf()];
    let (applied, _) = apply(&tar, &parents);
    assert_eq!(layer_of(applied.path()).len(), tar.len());
    let out = tempdir().unwrap();
    export_dir(&[applied.path().to_path_buf(), parents[0].clone()], out.path()).unwrap();
    assert_eq!(
        list(out.path()),
        ["0755 0:0 d/", "0644 0:0 d/stays = 2", "0755 0:0 o/", "0644 0:0 o/new = 5",]
    );
}

/// Entries of a hand-made archive: path, and content or what else it is.
pub(crate) fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, what) in entries {
        let mut header = tar::Header::new_ustar();
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(0);
        let (kind, target) = what.split_once(' ').unwrap_or((what, ""));
        let mut content = "";
        let entry_type = match kind {
            "->" => tar::EntryType::Symlink,
            "links" => tar::EntryType::Link,
            "char" => tar::EntryType::Char,
            "block" => tar::EntryType::Block,
            "fifo" => tar::EntryType::Fifo,
            "dir" => tar::EntryType::Directory,
            _ => {
                content = what;
                header.set_size(content.len() as u64);
                tar::EntryType::Regular
            }
        };
        header.set_entry_type(entry_type);
        if matches!(kind, "char" | "block") {
            let (major, minor) = target.split_once(':').unwrap();
            header.set_device_major(major.parse().unwrap()).unwrap();
            header.set_device_minor(minor.parse().unwrap()).unwrap();
        } else {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// What it shows, the layer's entries, and what is then in the snapshot.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn layers_onto_parents() {
    #[rustfmt::skip]
    let cases: [Case; 11] = [
        ("an implied directory is like the lower's", &[("private/x", "new")],
         &["0700 9:9 private/", "0644 0:0 private/x = new"]),
        ("an implied directory of nobody's", &[("fresh/x", "new")],
         &["0755 0:0 fresh/", "0644 0:0 fresh/x = new"]),
        ("a parent may be a link", &[("lib/x", "new")],
         &["0755 0:0 usr/", "0755 0:0 usr/lib/", "0644 0:0 usr/lib/x = new"]),
        ("a link leads nowhere outside", &[("outside/x", "new")],
         &["0755 0:0 etc/", "0644 0:0 etc/x = new"]),
        ("a hard link into a lower", &[("again", "links usr/lib/so")],
         &["0644 0:0 again = so", "0755 0:0 usr/", "0755 0:0 usr/lib/", "0644 0:0 usr/lib/so = so (again)"]),
        ("later entries win", &[("f", "one"), ("f", "two")], &["0644 0:0 f = two"]),
        ("a file replaces a directory", &[("d/x", "one"), ("d", "two")], &["0644 0:0 d = two"]),
        ("a link replaces and is not followed", &[("d", "dir"), ("d", "-> etc"), ("d", "file")], &["0644 0:0 d = file"]),
        ("leading slashes and dots", &[("/./a//b", "one")], &["0755 0:0 a/", "0644 0:0 a/b = one"]),
        ("deletion before, content after", &[(".wh.usr", ""), ("usr/new", "n")],
         &["0755 0:0 usr/", "0644 0:0 usr/new = n"]),
        ("marks of aufs", &[(".wh..wh.plnk", ""), ("a", "b")], &["0644 0:0 a = b"]),
    ];
    for (name, entries, want) in cases {
        let lower = tempdir().unwrap();
        make(
            lower.path(),
            &[
                "0700 9:9 private/",
                "usr/lib/so = so",
                "lib -> usr/lib",
                "outside -> ../../../../etc",
            ],
        );
        let (applied, _) = apply(&archive(entries), &[lower.path().to_path_buf()]);
        assert_eq!(list(applied.path()), want, "{name}");
    }
}

#[test]
fn a_deleted_and_made_again_directory_hides_the_lower() {
    for order in [[0, 1], [1, 0]] {
        let lower = tempdir().unwrap();
        make(lower.path(), &["usr/old = 1"]);
        let entries = [(".wh.usr", ""), ("usr/new", "2")];
        let tar = archive(&order.map(|index| entries[index]));
        let (applied, _) = apply(&tar, &[lower.path().to_path_buf()]);
        let out = tempdir().unwrap();
        let stack = [applied.path().to_path_buf(), lower.path().to_path_buf()];
        export_dir(&stack, out.path()).unwrap();
        assert_eq!(list(out.path()), ["0755 0:0 usr/", "0644 0:0 usr/new = 2"]);
    }
}

#[test]
fn implied_directories_keep_the_lower_time_and_attributes() {
    let lower = tempdir().unwrap();
    make(lower.path(), &["d/"]);
    set_xattr(&lower.path().join("d"), "user.test", b"kept");
    set_one_time(&lower.path().join("d"), 77);
    let (applied, _) = apply(&archive(&[("d/x", "y")]), &[lower.path().to_path_buf()]);
    let got = &read(applied.path(), true)[Path::new("d")];
    assert_eq!((got.mtime, got.xattr.as_deref()), (Some(77), Some(&b"kept"[..])));
}

#[test]
fn both_exports_agree() {
    let dir = everything();
    let upper = tempdir().unwrap();
    make(upper.path(), &["etc/shadow whiteout", "lib/new = n", "lib/same links lib/new"]);
    let stack = [upper.path().to_path_buf(), dir.path().to_path_buf()];
    let [copied, untarred] = [tempdir().unwrap(), tempdir().unwrap()];
    export_dir(&stack, copied.path()).unwrap();
    let mut tar = Vec::new();
    export_tar(&stack, &mut tar).unwrap();
    let to = untarred.path().to_str().unwrap();
    let args = ["-C", to, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"];
    run("tar", &args, &tar);
    let (copied, untarred) = (read(copied.path(), true), read(untarred.path(), true));
    similar(&copied, &untarred);
    assert!(!copied.contains_key(Path::new("etc/shadow")));
    assert_eq!(copied[Path::new("lib/same")].same_as, Some("lib/new".into()));
    assert_eq!(copied[Path::new("lib/b")].same_as, Some("lib/a".into()));
}

#[test]
fn a_socket_is_left_out_and_a_reserved_name_refused() {
    let dir = tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let mut tar = Vec::new();
    let stats = write_layer(dir.path(), &mut tar).unwrap();
    assert_eq!((tar.len(), stats.skipped_sockets), (1024, 1));
    fs::write(dir.path().join(".wh.bin"), "").unwrap();
    let error = write_layer(dir.path(), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "`/.wh.bin` has a name that is reserved for deletions in layers");
}

#[test]
fn holes_survive_an_export() {
    let [dir, out] = [tempdir().unwrap(), tempdir().unwrap()];
    let file = fs::File::create(dir.path().join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 32 << 20).unwrap();
    export_dir(&[dir.path().to_path_buf()], out.path()).unwrap();
    let copy = out.path().join("sparse");
    let metadata = fs::metadata(&copy).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(fs::read(&copy).unwrap(), fs::read(dir.path().join("sparse")).unwrap());
}

/// What a layer becomes where only one user is mapped; run by the test after it.
#[test]
#[ignore = "runs inside of the user namespace that `one_mapped_user_unpacks_what_it_can` makes"]
fn inside_of_a_user_namespace() {
    let dir = tempdir().unwrap();
    let lower = dir.path().join("lower");
    let upper = dir.path().join("upper");
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&upper).unwrap();
    make(&lower, &["old = 1"]);
    let entries = [("d", "char 1:3"), ("f", "file"), (".wh.old", ""), ("l", "links f")];
    let mut tar = archive(&entries);
    // The file's owner becomes 1000, as in most images.
    tar[512 + 108..512 + 116].copy_from_slice(b"0001750\0");
    let sum: u32 = tar[512..1024]
        .iter()
        .enumerate()
        .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
        .sum();
    tar[512 + 148..512 + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let parents = [lower.clone()];
    let stats = apply_layer(&tar[..], &upper, &parents, &Limits::LAYER).unwrap();
    assert_eq!((stats.skipped_devices, stats.unmapped_owners), (1, 1));
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    export_dir(&[upper, lower], &out).unwrap();
    assert_eq!(list(&out), ["0644 0:0 f = file", "0644 0:0 l = file (f)"]);
}

#[test]
fn one_mapped_user_unpacks_what_it_can() {
    let program = std::env::current_exe().unwrap();
    let test = "layer::inside_of_a_user_namespace";
    let args = ["-r", program.to_str().unwrap(), "--exact", test, "--ignored"];
    let output = String::from_utf8(run("unshare", &args, b"")).unwrap();
    assert!(output.contains("1 passed"), "{output}");
}

/// A random object below a directory of the tree.
fn object() -> impl Strategy<Value = (Vec<String>, Kind, u32, u32)> {
    let name = prop_oneof!["[a-c]", "[a-z.\u{e4}-]{1,30}", "[xyz]{90,130}"];
    let name = name.prop_filter("names of their own", |name| name != "." && name != "..");
    let path = prop::collection::vec(name, 1..4);
    let kind = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Kind::File),
        2 => Just(Kind::Dir),
        1 => "[a-z/.]{1,150}".prop_map(|target| Kind::Symlink(target.into())),
        1 => Just(Kind::Fifo),
    ];
    (path, kind, 0_u32..0o10000, 0_u32..5_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_tree_comes_back(objects in prop::collection::vec(object(), 0..25)) {
        let dir = tempdir().unwrap();
        for (index, (names, kind, mode, owner)) in objects.iter().enumerate() {
            let path = dir.path().join(names.join("/"));
            let is_free = fs::symlink_metadata(&path).is_err();
            let made = fs::create_dir_all(path.parent().unwrap()).is_ok() && is_free;
            let made = made && match kind {
                Kind::File(content) => fs::write(&path, content).is_ok(),
                Kind::Dir => fs::create_dir(&path).is_ok(),
                Kind::Symlink(target) => std::os::unix::fs::symlink(target, &path).is_ok(),
                Kind::Fifo | Kind::Device(_) => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::empty()).is_ok(),
            };
            if made {
                std::os::unix::fs::lchown(&path, Some(*owner), Some(owner / 2)).unwrap();
                if !path.is_symlink() {
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                let other = dir.path().join(format!("link-{index}"));
                if index % 3 == 0 && !path.is_dir() {
                    fs::hard_link(&path, other).unwrap();
                }
            }
        }
        set_times(dir.path(), 1_234_567);
        let tar = layer_of(dir.path());
        let (applied, _) = apply(&tar, &[]);
        similar(&read(dir.path(), true), &read(applied.path(), true));
        prop_assert_eq!(layer_of(applied.path()), tar);
    }
}
