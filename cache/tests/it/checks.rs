//! Looking for damage.

use std::fs;
use std::path::PathBuf;

use cache::{Fault, Store};

use crate::fixture::{Done, Fixture, commit, files, image, key, record};

/// A store with one of everything.
fn filled() -> Fixture {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let base = commit(store, None, "base");
    let top = commit(store, Some(&base.id), "top");
    store.index().put(&record("base", &base)).expect("a healthy store takes it");
    store.index().put(&record("top", &top)).expect("a healthy store takes it");
    let app = image(store, Some("app:1"), "top");
    store.images().put(&app).expect("its content is there");
    fixture.reopen()
}

fn record_path(store: &Store, name: &str) -> PathBuf {
    let hex = key(name).digest().hex();
    store.root().join("index").join(&hex[..2]).join(hex)
}

#[test]
fn a_healthy_store_has_no_faults() -> Done {
    let fixture = filled();
    let report = fixture.store.check(true, false)?;
    assert_eq!(report.faults, []);
    let counts = (report.blobs, report.snapshots, report.layers, report.records, report.images);
    assert_eq!(counts, (3, 2, 1, 2, 1));
    Ok(())
}

type Damage = fn(&Store) -> Result<PathBuf, Box<dyn std::error::Error>>;

#[test]
fn damage_is_named_and_repaired() -> Done {
    let cases: [(&str, Damage, &str, &[&str]); 8] = [
        ("flipped layer", flip_layer, "its bytes have digest", &["app:1"]),
        ("emptied manifest", empty_manifest, "it is empty", &["app:1"]),
        ("missing config", remove_config, "that it needs is gone", &["app:1"]),
        ("stray blob", |store| write(store, "content/blobs/sha256/notes", ""), "no digest", &[]),
        ("stray snapshot", |store| write(store, "snapshots/Notes", ""), "no snapshot id", &[]),
        ("torn record", |store| tear(record_path(store, "base")), "its checksum differs", &[]),
        ("moved record", move_record, "it is the record of something else", &[]),
        ("torn layer", tear_layer, "its checksum differs", &[]),
    ];
    for (name, damage, problem, images) in cases {
        let fixture = filled();
        let path = damage(&fixture.store)?;
        let report = fixture.store.check(true, false)?;
        let fault: &Fault = report.faults.first().ok_or(name)?;
        assert_eq!(fault.path, path, "{name}");
        assert!(fault.problem.contains(problem), "{name}: {fault:?}");
        assert_eq!(fault.images, images, "{name}");
        assert!(!fault.is_repaired, "{name}");

        let repaired = fixture.store.check(true, true)?;
        assert!(repaired.faults.iter().all(|fault| fault.is_repaired), "{name}");
        // Removing one thing shows what stood on it.
        fixture.store.check(true, true)?;
        assert_eq!(fixture.store.check(true, false)?.faults, [], "{name}");
    }
    Ok(())
}

#[test]
fn a_missing_base_is_found_in_all_that_need_it() -> Done {
    let fixture = filled();
    let base = fixture.store.index().get(&key("base")).expect("it is a hit");
    fixture.store.snapshots().remove(&base.snapshot)?;
    let report = fixture.store.check(false, false)?;
    let problems: Vec<&str> = report.faults.iter().map(|fault| fault.problem.as_str()).collect();
    let want = [
        format!("snapshot {} under it is gone", base.snapshot),
        format!("snapshot {} that it names is gone", base.snapshot),
    ];
    assert_eq!(problems, want);
    // Removing one thing shows what stood on it.
    fixture.store.check(false, true)?;
    fixture.store.check(false, true)?;
    assert_eq!(fixture.store.check(false, false)?.faults, []);
    assert_eq!(fixture.store.index().get(&key("top")), None);
    Ok(())
}

fn flip_layer(store: &Store) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = find(store, "content/blobs", "blob of top").ok_or("the layer is there")?;
    fs::write(&path, "blob of tOp")?;
    Ok(path)
}

fn empty_manifest(store: &Store) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = find(store, "content/blobs", "schemaVersion").ok_or("the manifest is there")?;
    fs::write(&path, "")?;
    Ok(path)
}

fn remove_config(store: &Store) -> Result<PathBuf, Box<dyn std::error::Error>> {
    fs::remove_file(find(store, "content/blobs", "rootfs").ok_or("the config is there")?)?;
    Ok(find(store, "images", "app:1").ok_or("the record is there")?)
}

fn move_record(store: &Store) -> Result<PathBuf, Box<dyn std::error::Error>> {
    fs::rename(record_path(store, "base"), record_path(store, "top"))?;
    Ok(record_path(store, "top"))
}

fn tear_layer(store: &Store) -> Result<PathBuf, Box<dyn std::error::Error>> {
    tear(find(store, "layers", "diff_id").ok_or("the layer is known")?)
}

fn write(store: &Store, path: &str, text: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = store.root().join(path);
    fs::write(&path, text)?;
    Ok(path)
}

fn tear(path: PathBuf) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let bytes = fs::read(&path)?;
    fs::write(&path, &bytes[..bytes.len() - 1])?;
    Ok(path)
}

/// Finds a file by what it holds.
fn find(store: &Store, dir: &str, text: &str) -> Option<PathBuf> {
    files(&store.root().join(dir))
        .into_iter()
        .find(|path| fs::read_to_string(path).is_ok_and(|content| content.contains(text)))
}
