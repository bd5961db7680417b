//! The root of a step: what its changes leave in the layer, where mounts go, what they hide.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use builder::{MountSource, SandboxSpec};

use crate::sandbox::{Image, mount, run, run_with};

fn bind(root: &std::path::Path, path: &str, writable: bool) -> MountSource {
    MountSource::Bind {
        root: root.to_owned(),
        path: path.to_owned(),
        writable,
        is_recursive: false,
    }
}

fn file(content: &str, mode: u32) -> MountSource {
    MountSource::File { content: content.into(), mode, uid: 0, gid: 0 }
}

#[test]
fn mount_points_that_the_image_lacks_leave_nothing() {
    let image = Image::busybox();
    let mut spec = image.script("ls -d /proc/self /dev/null /sys/kernel /etc/hosts /a/b/c /s/key");
    spec.mounts =
        vec![mount("/a/b/c", MountSource::Tmpfs { size: None }), mount("/s/key", file("k", 0o400))];
    assert_eq!(run(&spec).code, Some(0));
    assert_eq!(image.changes(), [""; 0]);
}

#[test]
fn a_step_sees_what_was_mounted_while_its_helper_waited() {
    let (image, place) = (Image::busybox(), tempfile::tempdir().unwrap());
    fs::write(place.path().join("file"), "below").unwrap();
    let mut spec = image.script("cat /m/file");
    spec.scratch = None;
    spec.mounts = vec![mount("/m", bind(place.path(), "", false))];
    let outcome = run_with(&spec, &["mount", place.path().to_str().unwrap()]);
    assert_eq!(outcome.stdout, "below above above below");
}

#[test]
fn no_more_is_made_ahead_than_steps_will_take() {
    let image = Image::busybox();
    let mut spec = image.spec(&["true"]);
    spec.scratch = None;
    let waiting = |count: &str| run_with(&spec, &["expect", count]).stdout;
    // The process that others would be forked from.
    assert_eq!(waiting("1"), "1");
    assert_eq!(waiting("2"), "3", "a process that watches, and one that becomes the command");
    assert_eq!(waiting("9"), "5");
}

#[test]
fn a_bare_root_has_mount_points_too() {
    let image = Image::busybox();
    // All that the command needs comes by a mount; the image has no layer at all.
    let mut spec = image.spec(&["/b/busybox", "touch", "/new"]);
    spec.lowers = Vec::new();
    spec.mounts = vec![mount("/b", bind(&image.lower("bin"), "", false))];
    assert_eq!(run(&spec).code, Some(0));
    assert_eq!(image.changes(), ["new"]);
}

#[test]
fn changes_go_to_the_upper_directory_in_overlay_form() {
    let image = Image::busybox();
    image.add("etc/old", "old");
    image.add("dir/inner", "inner");
    let outcome = run(&image.script("rm /etc/old; echo new > /new; rm -r /dir; mkdir /dir"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(image.changes(), ["dir", "etc", "etc/old", "new"]);
    let whiteout = fs::metadata(image.upper("etc/old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0; 8];
    let length =
        rustix::fs::getxattr(image.upper("dir"), "user.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn a_directory_with_stubs_keeps_its_own_mode_and_attributes() {
    let image = Image::busybox();
    image.add("etc/other", "");
    let etc = image.lower("etc");
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o2751)).unwrap();
    let note = b"kept";
    rustix::fs::setxattr(&etc, "user.note", note, rustix::fs::XattrFlags::empty()).unwrap();
    let outcome = run(&image.script("stat -c %a /etc; echo new > /etc/new"));
    assert_eq!(outcome.text(), "2751");
    let made = fs::metadata(image.upper("etc")).unwrap();
    assert_eq!(made.mode() & 0o7777, 0o2751);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(image.upper("etc"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], note);
    assert_eq!(image.changes(), ["etc", "etc/new"]);
}

#[test]
fn targets_follow_links_beneath_the_root() {
    let image = Image::busybox();
    fs::create_dir_all(image.lower("etc")).unwrap();
    fs::create_dir_all(image.lower("var")).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", image.lower("etc/resolv.conf")).unwrap();
    symlink("/../../../run", image.lower("var/run")).unwrap();
    symlink("/proc/mounts", image.lower("etc/hosts")).unwrap();
    let mut spec = image
        .script("cat /run/secrets/key; readlink /etc/resolv.conf; readlink /etc/hosts; cat /etc/resolv.conf");
    spec.mounts = vec![mount("/var/run/secrets/key", file("secret\n", 0o400))];
    let want = "secret\n../run/systemd/resolve/stub-resolv.conf\n/proc/mounts";
    assert_eq!(run(&spec).text(), want);
    assert_eq!(image.changes(), [""; 0]);
}

#[test]
fn mounts_show_what_they_should() {
    let image = Image::busybox();
    image.add("app/own", "image");
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("sub")).unwrap();
    fs::write(host.path().join("sub/f"), "host").unwrap();
    symlink("../../../../sub", host.path().join("out")).unwrap();
    symlink("/etc/passwd", host.path().join("passwd")).unwrap();
    let other = Image::busybox();
    other.add("data/x", "lower");
    let upper = other.upper("data");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("y"), "upper").unwrap();
    let tree = |writable| MountSource::Tree {
        lowers: vec![other.upper(""), other.lower("")],
        path: "/data".to_owned(),
        writable,
    };
    #[rustfmt::skip]
    let cases = [
        ("bind",             "/app", bind(host.path(), "sub", false), "cat /app/f; ls /app",           "hostf"),
        ("bind is ro",       "/app", bind(host.path(), "sub", false), "(echo > /app/f) 2>&1 | grep -o Read-only", "Read-only"),
        ("bind rw",          "/app", bind(host.path(), "sub", true),  "echo more > /app/new; ls /app", "f\nnew"),
        ("link in source",   "/app", bind(host.path(), "out", false), "ls /app",                       "f\nnew"),
        ("bind of a file",   "/t/f", bind(host.path(), "sub/f", false), "cat /t/f",                    "host"),
        ("tree",             "/app", tree(false),                     "cat /app/x /app/y; ls /app",    "lowerupperx\ny"),
        ("tree is ro",       "/app", tree(false),                     "(echo > /app/x) 2>&1 | grep -o Read-only", "Read-only"),
        ("tree rw",          "/app", tree(true),                      "echo z > /app/x; cat /app/x",   "z"),
        ("tree unchanged",   "/app", tree(false),                     "cat /app/x",                    "lower"),
        ("tmpfs",            "/app", MountSource::Tmpfs { size: None }, "ls -A /app; stat -c %a /app", "1777"),
        ("tmpfs is bounded", "/app", MountSource::Tmpfs { size: Some(8192) }, "dd if=/dev/zero of=/app/x bs=1k count=99 2>/dev/null; stat -c %s /app/x", "8192"),
        ("file",             "/s/k", file("secret", 0o440),           "cat /s/k; stat -c ' %a %u' /s/k", "secret 440 0"),
        ("file is ro",       "/s/k", file("secret", 0o666),           "(echo > /s/k) 2>&1 | grep -o Read-only", "Read-only"),
        ("program in /dev",  "/dev/pipes/EOF", file("#!/bin/sh\necho ran $0", 0o755), "/dev/pipes/EOF", "ran /dev/pipes/EOF"),
    ];
    for (name, target, source, script, want) in cases {
        image.renew();
        let mut spec = image.script(script);
        spec.mounts = vec![mount(target, source)];
        assert_eq!(run(&spec).text(), want, "{name}");
        assert_eq!(image.changes(), [""; 0], "{name}");
    }
    assert_eq!(fs::read_to_string(host.path().join("sub/new")).unwrap(), "more\n");
}

#[test]
fn later_mounts_may_lie_inside_earlier_ones() {
    let image = Image::busybox();
    let mut spec = image.script("ls -R /a");
    spec.mounts = vec![
        mount("/a", MountSource::Tmpfs { size: None }),
        mount("/a/b/c", MountSource::Tmpfs { size: None }),
        mount("/a/b/f", file("x", 0o400)),
    ];
    assert_eq!(run(&spec).text(), "/a:\nb\n\n/a/b:\nc\nf\n\n/a/b/c:");
    assert_eq!(image.changes(), [""; 0]);
}

#[test]
fn mounts_that_cannot_be_are_refused_by_name() {
    let image = Image::busybox();
    image.add("file", "");
    symlink("/proc", image.lower("link")).unwrap();
    let host = tempfile::tempdir().unwrap();
    symlink("/etc", host.path().join("etc")).unwrap();
    symlink("/", host.path().join("root")).unwrap();
    let tmpfs = || MountSource::Tmpfs { size: None };
    #[rustfmt::skip]
    let cases = [
        ("the root",         vec![mount("/", tmpfs())],                                  "nothing can be mounted on the root"),
        ("the root, hidden", vec![mount("/bin/..", tmpfs())],                            "nothing can be mounted on the root"),
        ("procfs",           vec![mount("/proc/sys", tmpfs())],                          "nothing can be mounted on `/proc/sys`"),
        ("procfs by link",   vec![mount("/link/sys", tmpfs())],                          "nothing can be mounted on `/link/sys`"),
        ("sysfs",            vec![mount("/sys", tmpfs())],                               "nothing can be mounted on `/sys`"),
        ("relative",         vec![mount("app", tmpfs())],                                "`app` is not absolute"),
        ("dir on a file",    vec![mount("/file", tmpfs())],                              "`/file` is no directory"),
        ("file on a dir",    vec![mount("/bin", file("", 0o400))],                       "`/bin` is a directory"),
        ("below a file",     vec![mount("/file/x", tmpfs())],                            "`/file` is no directory"),
        ("no source",        vec![mount("/a", bind(host.path(), "none", false))],        "`none`"),
        ("source outside",   vec![mount("/a", bind(host.path(), "etc", false))],         "`etc`"),
        ("link in a mount",  vec![mount("/a", bind(host.path(), "", true)), mount("/a/root/x", tmpfs())], "symbolic link inside another mount"),
    ];
    for (name, mounts, want) in cases {
        image.renew();
        let spec = SandboxSpec { mounts, ..image.script("true") };
        let outcome = run(&spec);
        assert_eq!(outcome.kind, "user", "{name}: {outcome:?}");
        assert!(outcome.message().contains(want), "{name}: {outcome:?}");
        assert_eq!(image.changes(), [""; 0], "{name}");
    }
}

#[test]
fn the_working_directory_is_made_and_stays_inside() {
    let image = Image::busybox();
    fs::create_dir_all(image.lower("real/dir")).unwrap();
    symlink("/../../real", image.lower("link")).unwrap();
    symlink("nowhere", image.lower("dangling")).unwrap();
    image.add("file", "");
    #[rustfmt::skip]
    let cases = [
        ("root",        "/",              Ok("/")),
        ("made",        "/app/deep",      Ok("/app/deep")),
        ("through link", "/link/dir",     Ok("/real/dir")),
        ("dots",        "/real/../../..", Ok("/")),
        ("a file",      "/file/x",        Err("`/file` is no directory")),
        ("relative",    "app",            Err("`app` is not absolute")),
        ("descriptor",  "/proc/self/fd/3", Err("/proc/self/fd/3")),
        ("their root",  "/proc/self/root", Err("/proc/self/root")),
    ];
    for (name, cwd, want) in cases {
        image.renew();
        let outcome = run(&SandboxSpec { cwd: cwd.to_owned(), ..image.spec(&["pwd", "-P"]) });
        match want {
            Ok(path) => assert_eq!(outcome.text(), path, "{name}"),
            Err(message) => assert!(outcome.message().contains(message), "{name}: {outcome:?}"),
        }
    }
    assert_eq!(image.changes(), ["app", "app/deep"]);
    assert_eq!(fs::metadata(image.upper("app")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn without_scratch_directories_changes_are_dropped() {
    let image = Image::busybox();
    let mut spec = image.script("echo x > /new; rm /bin/cat; ls / | grep new");
    spec.scratch = None;
    assert_eq!(run(&spec).text(), "new");
    assert_eq!(run(&spec).text(), "new", "and it can be done again");
    assert_eq!(image.changes(), [""; 0]);
    assert!(image.lower("bin/cat").symlink_metadata().is_ok());
}

#[test]
fn many_layers_are_merged_topmost_first() {
    let image = Image::busybox();
    let layers: Vec<_> = (0..40).map(|_| tempfile::tempdir().unwrap()).collect();
    for (index, layer) in layers.iter().enumerate() {
        fs::write(layer.path().join(format!("f{index}")), "").unwrap();
        fs::write(layer.path().join("same"), index.to_string()).unwrap();
    }
    let mut spec = image.script("ls / | grep -c ^f; cat /same");
    let tops = layers.iter().map(|layer| layer.path().to_owned());
    spec.lowers = tops.chain(spec.lowers).collect();
    assert_eq!(run(&spec).text(), "40\n0");
}
