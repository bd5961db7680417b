//! Snapshots.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Barrier;

use cache::{ChainId, Digest, SnapshotId, StoreError};
use serde_json::Value;

use crate::fixture::{Done, Fixture, commit, names};

fn named(text: &str) -> SnapshotId {
    SnapshotId::for_chain(&ChainId(Digest::of(text.as_bytes())))
}

/// Writes `meta.json` as the store does, with a right checksum.
fn write_meta(dir: &Path, meta: &Value) -> std::io::Result<()> {
    let body = meta.to_string();
    let digest = Digest::of(body.as_bytes());
    fs::write(dir.join("meta.json"), format!("rbuild snapshot 1 {digest}\n{body}"))
}

fn read_meta(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("meta.json")).expect("the snapshot is committed");
    let (_, body) = text.split_once('\n').expect("it has a first line");
    serde_json::from_str(body).expect("the rest is JSON")
}

#[test]
fn a_stack_is_handed_out_top_first() -> Done {
    let fixture = Fixture::new();
    let snapshots = fixture.store.snapshots();
    let base = commit(&fixture.store, None, "base");
    let middle = commit(&fixture.store, Some(&base.id), "middle");
    let top = commit(&fixture.store, Some(&middle.id), "top");
    let want = [top.fs.clone(), middle.fs.clone(), base.fs.clone()];
    // Through the handle that made them, and through one that has to read.
    for store in [&fixture.store, &fixture.other()] {
        assert_eq!(store.snapshots().lowers(&top.id)?, want);
        assert_eq!(store.snapshots().get(&top.id)?, Some(top.clone()));
    }
    assert_eq!(snapshots.chain(&middle.id)?, [middle.id.clone(), base.id]);
    assert_eq!(fs::read_to_string(want[2].join("base"))?, "base");
    let active = snapshots.prepare(Some(&top.id))?;
    assert_eq!(active.lowers(), want);
    assert_eq!(active.parent(), Some(&top.id));
    Ok(())
}

#[test]
fn a_commit_keeps_the_upper_directory_as_it_is_and_nothing_else() -> Done {
    let fixture = Fixture::new();
    let active = fixture.store.snapshots().prepare(None)?;
    let upper = active.upper();
    fs::create_dir(upper.join("closed"))?;
    fs::write(upper.join("closed/file"), "bytes")?;
    fs::hard_link(upper.join("closed/file"), upper.join("link"))?;
    symlink("/etc/passwd", upper.join("symlink"))?;
    fs::set_permissions(upper.join("closed"), Permissions::from_mode(0o1751))?;
    // What the kernel leaves in overlay's work directory.
    let work = active.work()?.to_owned();
    fs::create_dir_all(work.join("work/#1"))?;
    fs::set_permissions(work.join("work"), Permissions::from_mode(0o0))?;
    let inode = fs::metadata(upper.join("link"))?.ino();
    let snapshot = active.commit(None)?;
    assert_eq!(names(&snapshot.fs), ["closed", "link", "symlink"]);
    assert_eq!(fs::metadata(snapshot.fs.join("closed"))?.mode() & 0o7777, 0o1751);
    assert_eq!(fs::metadata(snapshot.fs.join("closed/file"))?.ino(), inode);
    assert_eq!(fs::read_link(snapshot.fs.join("symlink"))?, Path::new("/etc/passwd"));
    let dir = snapshot.fs.parent().expect("it lies in the snapshot's directory");
    assert_eq!(names(dir), ["fs", "meta.json"]);
    drop(fixture.store);
    assert!(!work.exists());
    Ok(())
}

#[test]
fn the_root_directory_is_as_the_parent_has_it() -> Done {
    let fixture = Fixture::new();
    let snapshots = fixture.store.snapshots();
    let active = snapshots.prepare(None)?;
    assert_eq!(fs::metadata(active.upper())?.mode() & 0o7777, 0o755, "of scratch");
    fs::set_permissions(active.upper(), Permissions::from_mode(0o1555))?;
    let base = active.commit(None)?;
    let active = snapshots.prepare(Some(&base.id))?;
    assert_eq!(fs::metadata(active.upper())?.mode() & 0o7777, 0o1555);
    Ok(())
}

#[test]
fn what_is_not_committed_leaves_nothing() -> Done {
    let fixture = Fixture::new();
    let active = fixture.store.snapshots().prepare(None)?;
    fs::write(active.upper().join("file"), "bytes")?;
    drop(active);
    let root = fixture.root();
    drop(fixture.store);
    assert_eq!(names(&root.join("snapshots")), [""; 0]);
    assert_eq!(names(&root.join("tmp")), [""; 0]);
    Ok(())
}

#[test]
fn an_existing_name_wins() {
    let fixture = Fixture::new();
    let id = named("base");
    let threads = 8;
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for number in 0..threads {
            let (store, id, start) = (fixture.other(), id.clone(), &start);
            scope.spawn(move || {
                let active = store.snapshots().prepare(None).expect("there is room");
                fs::write(active.upper().join("file"), number.to_string()).expect("writable");
                start.wait();
                let snapshot = active.commit(Some(id.clone())).expect("one wins, all have it");
                assert_eq!(snapshot.id, id);
                assert!(snapshot.fs.join("file").exists());
            });
        }
    });
    assert_eq!(names(&fixture.root().join("snapshots")), [id.as_str()]);
}

#[test]
fn a_damaged_one_counts_as_absent_and_gives_way() -> Done {
    type Damage = fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Damage); 5] = [
        ("torn", |dir| fs::write(dir.join("meta.json"), "rbuild snap")),
        ("emptied", |dir| fs::write(dir.join("meta.json"), "")),
        ("without meta", |dir| fs::remove_file(dir.join("meta.json"))),
        ("of another boot", |dir| {
            let mut meta = read_meta(dir);
            meta["boot"] = "f0a1fa52-0000-4000-8000-000000000000".into();
            write_meta(dir, &meta)
        }),
        ("another's meta", |dir| {
            let mut meta = read_meta(dir);
            meta["id"] = "built-other".into();
            write_meta(dir, &meta)
        }),
    ];
    for (name, damage) in cases {
        let fixture = Fixture::new();
        let id = named(name);
        let make = |text: &str| -> Result<_, Box<dyn std::error::Error>> {
            // A handle of its own: one that has met a snapshot does not look at it again.
            let active = fixture.other().snapshots().prepare(None)?;
            fs::write(active.upper().join("file"), text)?;
            Ok(active.commit(Some(id.clone()))?)
        };
        let first = make("first")?;
        damage(first.fs.parent().expect("it lies in the snapshot's directory"))?;
        let second = make("second")?;
        assert_eq!(fs::read_to_string(second.fs.join("file"))?, "second", "{name}");
        damage(second.fs.parent().expect("it lies in the snapshot's directory"))?;
        let other = fixture.other();
        assert_eq!(other.snapshots().get(&id)?, None, "{name}");
        assert_eq!(names(&fixture.root().join("snapshots")), [""; 0], "{name}");
    }
    Ok(())
}

#[test]
fn a_sync_seals_and_a_seal_outlives_the_boot() -> Done {
    let fixture = Fixture::new();
    let snapshot = commit(&fixture.store, None, "file");
    let dir = snapshot.fs.parent().expect("it lies in the snapshot's directory");
    assert!(read_meta(dir)["boot"].is_string(), "believed within this boot only");
    fixture.store.sync()?;
    assert!(read_meta(dir)["boot"].is_null());
    // One made by a process that died before its sync is sealed by the next that uses it.
    let orphan = commit(&fixture.store, Some(&snapshot.id), "orphan");
    let other = fixture.other();
    assert!(other.snapshots().get(&orphan.id)?.is_some());
    other.sync()?;
    assert!(read_meta(orphan.fs.parent().expect("as above"))["boot"].is_null());
    Ok(())
}

#[test]
fn a_missing_parent_breaks_all_above_it() -> Done {
    let fixture = Fixture::new();
    let base = commit(&fixture.store, None, "base");
    let top = commit(&fixture.store, Some(&base.id), "top");
    let snapshots = fixture.store.snapshots();
    assert!(snapshots.remove(&base.id)?);
    assert!(!snapshots.remove(&base.id)?, "only once");
    assert_eq!(snapshots.get(&top.id)?, None);
    for error in [
        snapshots.lowers(&top.id).expect_err("a stack without its base is none"),
        snapshots.prepare(Some(&top.id)).expect_err("nor can one build on it"),
    ] {
        assert!(matches!(&error, StoreError::NoSnapshot { id } if *id == top.id), "{error:?}");
    }
    Ok(())
}

#[test]
fn a_circle_of_parents_ends() -> Done {
    let fixture = Fixture::new();
    let base = commit(&fixture.store, None, "base");
    let top = commit(&fixture.store, Some(&base.id), "top");
    let dir = base.fs.parent().expect("it lies in the snapshot's directory");
    let mut meta = read_meta(dir);
    meta["parent"] = top.id.as_str().into();
    write_meta(dir, &meta)?;
    assert_eq!(fixture.other().snapshots().get(&top.id)?, None);
    Ok(())
}
