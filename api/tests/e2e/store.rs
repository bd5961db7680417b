//! The store under attack: damage, kills, full and read-only disks, gc beside builds.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::explain::busybox_store;
use crate::support::{Ran, command, context, rbuild, run};

const DOCKERFILE: &str =
    "FROM busybox\nARG SEED\nCOPY a /a\nRUN echo $SEED > /seed\nRUN cat /a /seed > /all\n";

fn build(store: &Path, dir: &Path, seed: &str, extra: &[&str]) -> Ran {
    let seed = format!("SEED={seed}");
    run(rbuild(store, &["-q", "-t", "x:1", "--build-arg", &seed]).args(extra).arg(dir))
}

/// Panics unless the image holds what its Dockerfile says.
#[track_caller]
fn expect_image(store: &Path, dir: &Path, seed: &str) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let dest = format!("type=local,dest={}", out.path().join("tree").display());
    build(store, dir, seed, &["-o", &dest]).ok();
    let all = fs::read_to_string(out.path().join("tree/all")).expect("the image has the file");
    assert_eq!(all, format!("content of a\n{seed}\n"));
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&path)),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    files.sort();
    files
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Truncate,
    Delete,
}

impl Damage {
    fn strike(self, path: &Path) {
        let size = fs::metadata(path).expect("the file is there").len();
        let mut file = fs::OpenOptions::new().write(true).open(path).expect("ours to write");
        match self {
            Self::Flip => {
                let bytes = fs::read(path).expect("ours to read");
                let at = bytes.len() / 2;
                file.seek(SeekFrom::Start(at as u64)).expect("within the file");
                file.write_all(&[bytes[at] ^ 1]).expect("ours to write");
            }
            Self::Truncate => file.set_len(size / 2).expect("ours to write"),
            Self::Delete => fs::remove_file(path).expect("ours to remove"),
        }
    }
}

/// What is damaged: its name, where it lies, which files there, and whether a check must find it.
type Choice<'a> = (&'a str, &'a str, &'a dyn Fn(&Path) -> bool, bool);

#[test]
fn whatever_is_damaged_the_next_build_is_right() {
    let stores = busybox_store();
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let sound = stores.path().join("store");
    build(&sound, dir.path(), "1", &[]).ok();
    run(&mut rbuild(&sound, &["store", "check"])).ok().says("sound");
    let built = |path: &Path| path.to_string_lossy().contains("/built-");
    let any = |_: &Path| true;
    let named = |name: &'static str| move |path: &Path| path.ends_with(name);
    let (meta, oci) = (named("meta.json"), named("oci-layout"));
    let built_files = |path: &Path| built(path) && path.to_string_lossy().contains("/fs/");
    let built_meta = |path: &Path| built(path) && meta(path);
    #[rustfmt::skip]
    let choices: [Choice<'_>; 7] = [
        ("cache records",     "index",      &any,         true),
        ("snapshots",         "snapshots",  &built_meta,  true),
        ("files of layers",   "snapshots",  &built_files, true),
        ("layer records",     "layers",     &|path| !path.ends_with(".lock"), true),
        ("blobs",             "content/blobs", &any,      true),
        ("image records",     "images",     &|path| !path.ends_with(".lock"), true),
        ("the layout's file", "content",    &oci,         false),
    ];
    for (what, place, choose, is_found) in choices {
        for damage in [Damage::Flip, Damage::Truncate, Damage::Delete] {
            let copy = stores.path().join("copy");
            run(&mut command("cp", &["-a", sound.to_str().unwrap(), copy.to_str().unwrap()])).ok();
            let mut struck = 0;
            for path in files_below(&copy.join(place)).iter().filter(|path| choose(path)) {
                damage.strike(path);
                struck += 1;
            }
            assert!(struck > 0, "{what}: nothing to damage");
            let context = format!("{what} {damage:?}");
            // What is gone altogether is made or fetched again; what is gone from a layer is damage.
            let is_gone = matches!(damage, Damage::Delete) && place != "snapshots";
            if is_found && !is_gone {
                let checked = run(&mut rbuild(&copy, &["store", "check"]));
                assert_eq!(checked.code, Some(4), "{context}: {checked:?}");
                run(&mut rbuild(&copy, &["store", "check", "--repair"])).ok();
            }
            // The base has to come from somewhere, as it would from its registry.
            let archive = stores.path().join("busybox.tar");
            run(rbuild(&copy, &["load", "-q", "-i"]).arg(&archive)).ok();
            eprintln!("{context}");
            expect_image(&copy, dir.path(), "1");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn damaged_files_never_go_out() {
    let stores = busybox_store();
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let sound = stores.path().join("store");
    build(&sound, dir.path(), "1", &[]).ok();
    for kind in ["local", "tar", "docker", "oci"] {
        for damage in [Damage::Flip, Damage::Truncate, Damage::Delete] {
            let copy = stores.path().join("copy");
            run(&mut command("cp", &["-a", sound.to_str().unwrap(), copy.to_str().unwrap()])).ok();
            let files = files_below(&copy.join("snapshots"));
            let all = files.iter().find(|path| path.ends_with("fs/all")).unwrap();
            damage.strike(all);
            let dest = stores.path().join("out");
            let output = format!("type={kind},dest={}", dest.display());
            let ran = build(&copy, dir.path(), "1", &["-o", &output]);
            ran.ok().says("a damaged layer was removed");
            if kind == "local" {
                let all = fs::read_to_string(dest.join("all")).unwrap();
                assert_eq!(all, "content of a\n1\n", "{damage:?}: it went out");
            }
            // What was made anew is there for the next.
            expect_image(&copy, dir.path(), "1");
            let ran = build(&copy, dir.path(), "1", &["-o", &output]).ok();
            assert!(!ran.stderr.contains("damaged"), "{kind} {damage:?}: {ran:?}");
            fs::remove_dir_all(&copy).unwrap();
            drop(fs::remove_dir_all(&dest));
            drop(fs::remove_file(&dest));
        }
    }
}

/// What a stream was given cannot be taken back.
#[test]
fn damage_found_on_the_way_into_a_stream_fails_the_build() {
    let stores = busybox_store();
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let store = stores.path().join("store");
    build(&store, dir.path(), "1", &[]).ok();
    let files = files_below(&store.join("snapshots"));
    Damage::Flip.strike(files.iter().find(|path| path.ends_with("fs/all")).unwrap());
    let into_stream = || {
        let mut child = rbuild(&store, &["build", "--progress", "plain", "-o", "type=oci,dest=-"]);
        let out = child.args(["--build-arg", "SEED=1"]).arg(dir.path()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = into_stream();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("were changed") && said.contains("build again"), "{said}");
    let (code, said) = into_stream();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn damage_met_by_a_build_is_a_miss() {
    let stores = busybox_store();
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let sound = stores.path().join("store");
    build(&sound, dir.path(), "1", &[]).ok();
    for (place, name) in [("index", ""), ("snapshots", "meta.json"), ("layers", "")] {
        for damage in [Damage::Flip, Damage::Truncate, Damage::Delete] {
            let copy = stores.path().join("copy");
            run(&mut command("cp", &["-a", sound.to_str().unwrap(), copy.to_str().unwrap()])).ok();
            let files = files_below(&copy.join(place));
            let wanted = |path: &&PathBuf| {
                !path.ends_with(".lock")
                    && (name.is_empty()
                        || (path.ends_with(name) && path.to_string_lossy().contains("built-")))
            };
            files.iter().filter(wanted).for_each(|path| damage.strike(path));
            eprintln!("{place} {damage:?}");
            if place == "layers" {
                // What is known of the base's layer is lost too: it comes again, as by a pull.
                let archive = stores.path().join("busybox.tar");
                run(rbuild(&copy, &["load", "-q", "-i"]).arg(&archive)).ok();
            }
            // Without a check between: the build itself must see it.
            expect_image(&copy, dir.path(), "1");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let before = files_below(&store);
    #[rustfmt::skip]
    let cases = [
        (Some("rbuild store 99\n"), "has format 99"),
        (Some("rbuild store\n"),    "is damaged"),
        (Some(""),                  "is damaged"),
        (None,                      "is not a store of rbuild"),
    ];
    for (text, want) in cases {
        match text {
            Some(text) => fs::write(store.join("version"), text).unwrap(),
            None => fs::remove_file(store.join("version")).unwrap(),
        }
        run(&mut rbuild(&store, &["images"])).fails_with(4).says(want);
    }
    fs::write(store.join("version"), "rbuild store 1\n").unwrap();
    assert_eq!(files_below(&store), before, "nothing else was touched");
    run(&mut rbuild(&store, &["images"])).ok().says("busybox");
}

/// A small generator of numbers that a seed repeats (Marsaglia, "Xorshift RNGs", 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn killed_at_any_moment_the_store_is_sound() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let since = Instant::now();
    build(&store, dir.path(), "warm", &[]).ok();
    let whole = u64::try_from(since.elapsed().as_millis()).unwrap().max(20);
    let mut chance = Chance(0x5eed);
    let mut killed = 0;
    for round in 0..50 {
        let seed = format!("SEED={round}");
        let mut child = rbuild(&store, &["-q", "-t", "x:1", "--build-arg", &seed])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(chance.below(whole + whole / 4)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 10 == 9 {
            run(&mut rbuild(&store, &["store", "check"])).ok().says("sound");
            expect_image(&store, dir.path(), &round.to_string());
        }
    }
    assert!(killed >= 10, "only {killed} of 50 were killed at work");
    let listed = run(&mut rbuild(&store, &["builds", "ls", "--format", "json"])).ok().stdout;
    assert!(listed.contains("interrupted"), "{listed}");
    assert!(!listed.contains("running"), "{listed}");
}

#[test]
fn builds_and_gc_at_once_do_not_disturb_each_other() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    let end = Instant::now() + Duration::from_secs(6);
    std::thread::scope(|scope| {
        for builder in 0..2 {
            let (store, dir) = (&store, dir.path());
            scope.spawn(move || {
                let mut round = 0;
                while Instant::now() < end {
                    let seed = format!("{builder}-{}", round % 3);
                    let tag = format!("x{builder}:1");
                    let seed = format!("SEED={seed}");
                    let args = ["-q", "-t", &tag, "--build-arg", &seed];
                    run(rbuild(store, &args).arg(dir)).ok();
                    round += 1;
                }
                assert!(round > 3, "only {round} builds");
            });
        }
        scope.spawn(|| {
            while Instant::now() < end {
                run(&mut rbuild(&store, &["prune", "--all"])).ok();
            }
        });
    });
    run(&mut rbuild(&store, &["store", "check"])).ok().says("sound");
    expect_image(&store, dir.path(), "1");
}

/// A file system of its own in a file; unmounted when dropped.
struct Disk {
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn new(megabytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        let file = fs::File::create(&image).expect("writable");
        file.set_len(megabytes << 20).expect("writable");
        fs::create_dir(&mount).expect("writable");
        let image = image.to_str().expect("UTF-8 path");
        run(&mut command("mkfs.ext4", &["-q", image])).ok();
        run(&mut command("mount", &["-o", "loop", image, mount.to_str().expect("UTF-8 path")]))
            .ok();
        Self { mount, _dir: dir }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run(command("mount", &["-o", &options]).arg(&self.mount)).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(command("umount", &["-l"]).arg(&self.mount));
    }
}

#[test]
fn a_full_or_read_only_disk_is_named_and_nothing_is_lost() {
    let stores = busybox_store();
    let disk = Disk::new(40);
    let store = disk.mount.join("store");
    run(rbuild(&store, &["load", "-q", "-i"]).arg(stores.path().join("busybox.tar"))).ok();
    let small = context(&[("Dockerfile", DOCKERFILE), ("a", "content of a\n")]);
    build(&store, small.path(), "1", &[]).ok();

    let big = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=60 2>&1\n",
    )]);
    let failed = run(rbuild(&store, &["--progress", "plain"]).arg(big.path())).fails_with(1);
    failed.says("No space left");
    let blob = vec![7_u8; 50 << 20];
    let copied = context(&[("Dockerfile", "FROM busybox\nCOPY big /big\n")]);
    fs::write(copied.path().join("big"), blob).unwrap();
    let failed = run(rbuild(&store, &["--progress", "plain"]).arg(copied.path())).fails_with(4);
    failed.says("No space left");
    run(&mut rbuild(&store, &["store", "check"])).ok().says("sound");
    expect_image(&store, small.path(), "1");
    expect_image(&store, small.path(), "2");

    // Layers of 6 MiB each: more of them than fit, so old ones must go, and every build works.
    for round in 0..10 {
        let text = format!(
            "FROM busybox\nRUN dd if=/dev/urandom of=/r bs=1M count=6 2>/dev/null; echo {round}\n"
        );
        let dir = context(&[("Dockerfile", &text)]);
        let mut one =
            rbuild(&store, &["-q", "--gc-reserved", "0", "--gc-min-free", "12m", "-t", "r:1"]);
        run(one.arg(dir.path())).ok();
    }
    run(&mut rbuild(&store, &["store", "check"])).ok().says("sound");
    run(&mut rbuild(&store, &["du"])).ok();

    disk.remount("ro");
    run(&mut rbuild(&store, &["images"])).fails_with(4).says("Read-only file system");
    build(&store, small.path(), "3", &[]).fails_with(4).says("Read-only file system");
    disk.remount("rw");
    run(&mut rbuild(&store, &["store", "check"])).ok().says("sound");
    expect_image(&store, small.path(), "3");
}

/// Otherwise ext4 looks for a place of each new file among those that were deleted lately.
#[test]
fn what_each_build_makes_lies_apart_from_what_others_deleted() {
    let disk = Disk::new(40);
    let store = disk.mount.join("store");
    let dir = context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "content of a\n")]);
    build(&store, dir.path(), "1", &[]).ok();
    let flags = run(command("lsattr", &["-d"]).arg(store.join("tmp"))).ok().stdout;
    assert!(flags.split(' ').next().unwrap().contains('T'), "{flags}");
}

#[test]
fn what_is_kept_can_be_seen_and_chosen() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let dir = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=mine dd if=/dev/zero of=/c/x bs=1M count=3\n",
    )]);
    run(rbuild(&store, &["-q", "-t", "x"]).arg(dir.path())).ok();
    let list = |filters: &[&str]| {
        let mut du = rbuild(&store, &["du", "--verbose", "--format", "json"]);
        for filter in filters {
            du.args(["--filter", filter]);
        }
        let text = run(&mut du).ok().stdout;
        let values = text.lines().map(|line| serde_json::from_str(line).unwrap());
        values.collect::<Vec<serde_json::Value>>()
    };
    let mounts = list(&["type=mount"]);
    assert_eq!((mounts.len(), mounts[0]["title"].as_str()), (1, Some("mine")));
    assert!(mounts[0]["bytes"].as_u64().unwrap() >= 3 << 20);
    assert_eq!(list(&["type=step"])[0]["title"].as_str().unwrap().split(' ').next(), Some("RUN"));
    assert_eq!(list(&["type=step", "until=1h"]).len(), 0);
    run(&mut rbuild(&store, &["du", "--verbose"])).ok().says("mine");

    let sum: u64 = list(&[]).iter().map(|item| item["bytes"].as_u64().unwrap()).sum();
    let du = run(command("du", &["-s", "-B1"]).arg(&store)).ok().stdout;
    let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert!(sum.abs_diff(du) * 50 <= du, "{sum} of {du}");

    run(&mut rbuild(&store, &["prune", "--filter", "until=24h", "--all"])).ok().says("Deleted 0");
    run(&mut rbuild(&store, &["prune", "--filter", "type=mount", "--dry-run"]))
        .ok()
        .says("1 items");
    run(&mut rbuild(&store, &["prune", "--filter", "type=mount"])).ok().says("1 items");
    assert_eq!(list(&["type=mount"]).len(), 0);
    run(&mut rbuild(&store, &["prune", "--all", "--keep-storage", "1k"])).ok();
    run(&mut rbuild(&store, &["prune", "--filter", "type=blob"])).fails_with(1);
    run(rbuild(&store, &["-q", "-t", "x"]).arg(dir.path())).ok();
}
