//! Layers digested while they are made, against those that the finished snapshot gives.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, UNIX_EPOCH};

use frontend::{CopyMode, IgnoreRules};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::*;
use crate::context::Rules;
use crate::random::Random;

/// A store with a base in it.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    base: Root,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let active = store.snapshots().prepare(None).unwrap();
        let upper = active.upper();
        fs::create_dir_all(upper.join("app/a/b")).unwrap();
        fs::create_dir_all(upper.join("app/implied")).unwrap();
        fs::write(upper.join("app/a/x"), "old").unwrap();
        fs::write(upper.join("app/b"), "old").unwrap();
        fs::set_permissions(upper.join("app"), fs::Permissions::from_mode(0o2751)).unwrap();
        symlink("app", upper.join("l")).unwrap();
        let base = Root::Snapshot(active.commit(None).unwrap().id);
        Self { dir, store, base }
    }

    /// Copies `context` with `op`; returns whether the layer was digested on the way, and is sure
    /// that it is the one that the snapshot gives.
    fn check(&self, context: &Path, rules: &str, op: &CopyOp, latest: Option<i64>) -> bool {
        let rules = Rules::from(IgnoreRules::parse(rules).unwrap());
        let files = FileRoot::open(context).unwrap().with_rules(Some(rules));
        let inputs = [self.base.clone(), Root::Files(Arc::new(files))];
        let copied = copy_onto(&self.store, op, &inputs, None, latest).unwrap();
        let (Root::Snapshot(id), digested) = copied else { panic!("a copy makes a snapshot") };
        let Some(digested) = digested else { return false };
        let read = tree::digest_layer(&self.store, &id, latest).unwrap();
        assert_eq!(digested, read, "{op:?}");
        true
    }
}

fn copy_of(path: &str, destination: &str) -> CopyOp {
    CopyOp {
        sources: vec![CopySource::Path { input: 1, path: path.to_owned(), wildcard: true }],
        destination: destination.to_owned(),
        destination_is_dir: true,
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        unpack: Unpack::Never,
    }
}

/// Fills `dir` with what a directory can hold.
fn fill(random: &mut Random, dir: &Path, depth: usize) {
    let long = "long".repeat(40);
    for _ in 0..random.below(9) {
        let names = ["a", "a.b", "a-b", "a b", "b", "b.", "x", "Ä", "implied", &long];
        let path = dir.join(random.pick(&names));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(10) {
            0..4 if depth > 0 => {
                fs::create_dir(&path).unwrap();
                fill(random, &path, depth - 1);
            }
            0..7 => {
                let size = random.pick(&[0, 1, 511, 512, 513, 16 << 10, (16 << 10) + 1, 70_000]);
                fs::write(&path, "x".repeat(size)).unwrap();
            }
            7 => {
                symlink(random.pick(&["a", "nowhere/at/all", &long]), &path).unwrap();
                continue;
            }
            8 => {
                mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
                continue;
            }
            _ => {
                mknodat(CWD, &path, FileType::Socket, Mode::RUSR, 0).unwrap();
                continue;
            }
        }
        let mode = random.pick(&[0o644, 0o600, 0o666, 0o4755, 0o2700, 0o1777, 0]);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if random.below(8) == 0 {
            setxattr(&path, "user.note", b"kept", XattrFlags::empty()).unwrap();
        }
        let seconds = random.pick(&[0, 999, 1_000, 1_700_000_000, 20_000_000_000]);
        let time = UNIX_EPOCH + Duration::new(seconds, 999_999_999);
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn a_layer_digested_while_it_is_made_is_the_one_of_the_snapshot() {
    let bench = Bench::new();
    let mut digested = 0;
    for seed in 1..=120 {
        let mut random = Random(seed);
        let context = bench.dir.path().join(format!("context-{seed}"));
        fs::create_dir(&context).unwrap();
        fill(&mut random, &context, 3);
        // What cannot be put onto the base is no matter here.
        let destination = random.pick(&["/", "/new", "/app/new/deep", "/l/new", "/n"]);
        if destination == "/" && context.join("app").exists() {
            continue;
        }
        let mut op = copy_of("/", destination);
        op.owner = random.pick(&[None, Some("1000:5")]).map(str::to_owned);
        op.mode = random.pick(&[None, Some(0o640)]).map(CopyMode::Octal);
        op.exclude = random.pick(&[&[][..], &["**/b"]]).iter().map(|it| (*it).to_owned()).collect();
        let rules = random.pick(&["", "x\n", "**/a\n!**/a/b\n"]);
        let latest = random.pick(&[None, Some(1_000)]);
        digested += usize::from(bench.check(&context, rules, &op, latest));
    }
    assert!(digested > 80, "{digested} layers were digested while they were made");
}

#[test]
fn many_files_in_many_directories_stay_in_order() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    for number in 0..3_000 {
        let dir = context.join(format!("{}", number / 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), number.to_string().repeat(number % 5_000)).unwrap();
    }
    symlink("0", context.join("0.link")).unwrap();
    for destination in ["/", "/new", "/app"] {
        assert!(bench.check(&context, "", &copy_of("/", destination), None), "{destination}");
    }
}

#[test]
fn what_has_no_such_order_is_read_from_the_snapshot() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    fs::create_dir_all(context.join("links")).unwrap();
    fs::create_dir_all(context.join("onto/implied")).unwrap();
    fs::write(context.join("links/one"), "one").unwrap();
    fs::hard_link(context.join("links/one"), context.join("links/two")).unwrap();
    fs::write(context.join("onto/b"), "new").unwrap();
    fs::write(context.join("onto/implied/in"), "new").unwrap();
    #[rustfmt::skip]
    let cases = [
        ("links",           "",                            false),
        ("links/one",       "",                            false),
        ("o*",              "",                            true),
        ("[lo]*",           "",                            false),
        ("onto",            "onto/b",                      true),
        ("onto",            "onto/*\n!onto/implied/in\n",  false),
    ];
    for (path, rules, want) in cases {
        let got = bench.check(&context, rules, &copy_of(path, "/app"), None);
        assert_eq!(got, want, "{path} with {rules:?}");
    }
}
