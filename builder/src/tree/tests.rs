//! Digests against the trees themselves: equal exactly if the trees are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cache::{ChainId, Digest, SnapshotId, Store};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::*;
use crate::random::Random;
use crate::rootfs::{Kind, LayeredRoot, join};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Commits a layer that `write` makes on `parent`, which is what it is given to look at.
fn layer(
    store: &Store,
    parent: Option<&SnapshotId>,
    name: Option<SnapshotId>,
    write: impl FnOnce(&Path),
) -> SnapshotId {
    let active = store.snapshots().prepare(parent).unwrap();
    write(active.upper());
    active.commit(name).unwrap().id
}

fn ground(store: &Store) -> SnapshotId {
    let name = SnapshotId::for_chain(&ChainId(Digest::of(b"ground")));
    layer(store, None, Some(name), |upper| {
        fs::create_dir_all(upper.join("d/e")).unwrap();
        for file in ["a", "d/a", "d/e/a"] {
            fs::write(upper.join(file), "ground").unwrap();
        }
        symlink("a", upper.join("l")).unwrap();
    })
}

/// All that a command could see in a root, times aside.
fn tree(store: &Store, root: &SnapshotId) -> BTreeMap<Vec<u8>, String> {
    fn walk(root: &LayeredRoot, path: &[u8], out: &mut BTreeMap<Vec<u8>, String>) {
        let dir = root.dir(path).unwrap().unwrap();
        for entry in dir.entries().unwrap() {
            let path = join(path, &entry.name);
            let data = entry.node.metadata;
            let content = match data.kind {
                Kind::File => String::from_utf8(root.read_file(&path, 1000).unwrap()).unwrap(),
                Kind::Symlink => {
                    String::from_utf8(dir.read_link(&entry.name, &entry.node).unwrap()).unwrap()
                }
                _ => String::new(),
            };
            let kind = (data.kind, data.mode, data.uid, data.gid);
            out.insert(path.clone(), format!("{kind:?} {content}"));
            if data.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let root = LayeredRoot::open(&store.snapshots().lowers(root).unwrap()).unwrap();
    let mut out = BTreeMap::new();
    walk(&root, b"", &mut out);
    out
}

fn is_dir(store: &Store, root: &SnapshotId, path: &str) -> bool {
    let root = LayeredRoot::open(&store.snapshots().lowers(root).unwrap()).unwrap();
    root.lookup(path.as_bytes()).unwrap().is_some_and(|node| node.metadata.is_dir())
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Makes one change as overlayfs would record it in an upper directory.
fn change(random: &mut Random, store: &Store, parent: &SnapshotId, upper: &Path) {
    let path = random.pick(&["a", "d", "l", "n", "d/a", "d/e", "d/n", "d/e/a", "n/a", "n/d"]);
    let target = upper.join(path);
    let above = Path::new(path).parent().unwrap();
    if above != Path::new("") {
        let in_upper = fs::symlink_metadata(upper.join(above)).ok();
        let is_there = in_upper
            .map_or_else(|| is_dir(store, parent, above.to_str().unwrap()), |data| data.is_dir());
        // Nobody can write below what is no directory, and a copied-up parent keeps its mode.
        if !is_there || fs::create_dir_all(upper.join(above)).is_err() {
            return;
        }
    }
    let was_dir = is_dir(store, parent, path);
    match random.below(6) {
        0 | 1 => {
            clear(&target);
            fs::write(&target, random.pick(&["ground", "other"])).unwrap();
            let mode = random.pick(&[0o644, 0o600]);
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
        2 => {
            clear(&target);
            whiteout(&target);
        }
        3 => {
            clear(&target);
            symlink(random.pick(&["a", "b"]), &target).unwrap();
        }
        // A directory in the place of something else hides what was below it.
        4 => {
            clear(&target);
            fs::create_dir(&target).unwrap();
            setxattr(&target, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        _ => {
            if was_dir && fs::symlink_metadata(&target).is_err() {
                fs::create_dir(&target).unwrap();
            }
        }
    }
}

#[test]
fn digests_are_equal_exactly_if_the_trees_are() {
    let (_dir, store) = store();
    let ground = ground(&store);
    let mut random = Random(0x5eed);
    let mut by_tree: BTreeMap<BTreeMap<Vec<u8>, String>, Digest> = BTreeMap::new();
    let mut by_digest = BTreeMap::new();
    let mut twins = 0;
    for round in 0..150 {
        let trees = Trees::new(store.clone());
        let mut top = ground.clone();
        for _ in 0..=random.below(3) {
            let parent = top.clone();
            top = layer(&store, Some(&parent), None, |upper| {
                for _ in 0..=random.below(3) {
                    change(&mut random, &store, &parent, upper);
                }
            });
            // Half of them as a build does it, half when somebody asks.
            if round % 2 == 0 {
                trees.learn(&top, read(&store, &top).unwrap()).unwrap();
            }
            let (digest, tree) = (trees.digest(Some(&top)).unwrap(), tree(&store, &top));
            if let Some(known) = by_tree.get(&tree) {
                assert_eq!(*known, digest, "round {round}: {top} is a tree that was there before");
                twins += 1;
            }
            if let Some(known) = by_digest.get(&digest) {
                assert_eq!(*known, tree, "round {round}: {top} is another tree");
            }
            by_digest.insert(digest, tree.clone());
            by_tree.insert(tree, digest);
            let fresh = Trees::new(store.clone());
            assert_eq!(fresh.digest(Some(&top)).unwrap(), digest, "round {round}: kept and read");
        }
    }
    assert!(twins > 20, "only {twins} trees came up twice: the test shows nothing");
    assert!(by_tree.len() > 50, "only {} trees came up", by_tree.len());
}

#[test]
fn a_damaged_note_is_read_anew() {
    let (_dir, store) = store();
    let top = layer(&store, Some(&ground(&store)), None, |upper| {
        fs::write(upper.join("x"), "x").unwrap();
    });
    let digest = Trees::new(store.clone()).digest(Some(&top)).unwrap();
    let note = store.root().join("snapshots").join(top.as_str()).join("tree");
    let mut bytes = fs::read(&note).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&note, bytes).unwrap();
    assert_eq!(Trees::new(store).digest(Some(&top)).unwrap(), digest);
}

type Write<'a> = &'a dyn Fn(&Path);

#[test]
fn what_a_command_can_see_makes_another_tree() {
    let (_dir, store) = store();
    let ground = ground(&store);
    let digest = |write: &dyn Fn(&Path)| {
        let top = layer(&store, Some(&ground), None, |upper| {
            fs::write(upper.join("x"), "x").unwrap();
            fs::write(upper.join("y"), "x").unwrap();
            write(upper);
        });
        Trees::new(store.clone()).digest(Some(&top)).unwrap()
    };
    let plain = digest(&|_| ());
    let old = std::time::UNIX_EPOCH;
    let cases: [(&str, bool, Write<'_>); 9] = [
        ("nothing", true, &|_| ()),
        ("a time", true, &|upper| {
            fs::File::options()
                .write(true)
                .open(upper.join("x"))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }),
        ("a content", false, &|upper| fs::write(upper.join("x"), "y").unwrap()),
        ("a mode", false, &|upper| {
            fs::set_permissions(upper.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("an attribute", false, &|upper| {
            setxattr(upper.join("x"), "user.a", b"b", XattrFlags::empty()).unwrap();
        }),
        ("a hard link", false, &|upper| {
            fs::remove_file(upper.join("y")).unwrap();
            fs::hard_link(upper.join("x"), upper.join("y")).unwrap();
        }),
        ("an empty directory", false, &|upper| fs::create_dir(upper.join("z")).unwrap()),
        ("the mode of the root", false, &|upper| {
            fs::set_permissions(upper, fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("a deletion of nothing", true, &|upper| whiteout(&upper.join("nothing"))),
    ];
    for (name, is_same, write) in cases {
        assert_eq!(digest(write) == plain, is_same, "{name}");
    }
}
