//! Cache records.

use std::fs;
use std::path::PathBuf;

use cache::{CacheKey, Component, StoreError};

use crate::fixture::{Done, Fixture, commit, files, key, record};

fn path(fixture: &Fixture, key: &CacheKey) -> PathBuf {
    let hex = key.digest().hex();
    fixture.root().join("index").join(&hex[..2]).join(hex)
}

#[test]
fn a_record_comes_back_as_it_was() -> Done {
    let fixture = Fixture::new();
    let snapshot = commit(&fixture.store, None, "file");
    let one = record("one", &snapshot);
    let index = fixture.store.index();
    assert_eq!(index.get(&one.key), None);
    index.put(&one)?;
    index.put(&record("two", &snapshot))?;
    for store in [&fixture.store, &fixture.other()] {
        assert_eq!(store.index().get(&one.key), Some(one.clone()));
        assert_eq!(store.index().iter()?.count(), 2);
    }
    let mut later = one.clone();
    later.step = "RUN later".into();
    index.put(&later)?;
    assert_eq!(index.get(&one.key), Some(later), "the later one replaces");
    assert!(index.remove(&one.key)?);
    assert!(!index.remove(&one.key)?);
    assert_eq!(index.get(&one.key), None);
    Ok(())
}

#[test]
fn a_record_torn_at_any_byte_is_a_miss() -> Done {
    let fixture = Fixture::new();
    let record = record("one", &commit(&fixture.store, None, "file"));
    fixture.store.index().put(&record)?;
    let path = path(&fixture, &record.key);
    let whole = fs::read(&path)?;
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end])?;
        assert_eq!(fixture.store.index().get(&record.key), None, "cut at byte {end}");
    }
    fs::write(&path, &whole)?;
    assert_eq!(fixture.store.index().get(&record.key), Some(record));
    Ok(())
}

#[test]
fn a_record_under_a_foreign_name_is_a_miss() -> Done {
    let fixture = Fixture::new();
    let record = record("one", &commit(&fixture.store, None, "file"));
    fixture.store.index().put(&record)?;
    let foreign = path(&fixture, &key("two"));
    fs::create_dir_all(foreign.parent().expect("it has a shard"))?;
    fs::rename(path(&fixture, &record.key), foreign)?;
    assert_eq!(fixture.store.index().get(&key("two")), None);
    Ok(())
}

#[test]
fn a_record_without_its_snapshot_is_a_miss_and_cannot_be_made() -> Done {
    let fixture = Fixture::new();
    let base = commit(&fixture.store, None, "base");
    let record = record("one", &commit(&fixture.store, Some(&base.id), "file"));
    fixture.store.index().put(&record)?;
    fixture.store.snapshots().remove(&base.id)?;
    assert_eq!(fixture.store.index().get(&record.key), None);
    let refused = fixture.store.index().put(&record);
    assert!(matches!(refused, Err(StoreError::NoSnapshot { .. })), "{refused:?}");
    Ok(())
}

#[test]
fn very_many_components_do_not_break_a_record() -> Done {
    let fixture = Fixture::new();
    let mut record = record("one", &commit(&fixture.store, None, "file"));
    let file = |number| Component { name: format!("files[{number}]"), value: "x".repeat(200) };
    record.components = (0..100_000).map(file).collect();
    fixture.store.index().put(&record)?;
    let found = fixture.store.index().get(&record.key).expect("it is a hit");
    assert!((1000..100_000).contains(&found.components.len()), "{}", found.components.len());
    assert_eq!(found.components[..1000], record.components[..1000]);
    Ok(())
}

#[test]
fn readers_see_one_of_the_writers_records_whole() -> Done {
    let fixture = Fixture::new();
    let mut record = record("one", &commit(&fixture.store, None, "file"));
    fixture.store.index().put(&record)?;
    let key = record.key;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = fixture.other();
            record.step = format!("RUN {}", writer.to_string().repeat(500 + writer));
            let record = record.clone();
            scope.spawn(move || (0..50).for_each(|_| store.index().put(&record).expect("room")));
        }
        let store = fixture.other();
        scope.spawn(move || {
            for _ in 0..400 {
                assert!(store.index().get(&key).is_some(), "there is one at every moment");
            }
        });
    });
    assert_eq!(files(&fixture.root().join("index")).len(), 1);
    Ok(())
}
