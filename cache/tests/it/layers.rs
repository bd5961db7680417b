//! What is known of layers.

use std::fs;

use cache::{Digest, LayerBlob};

use crate::fixture::{Done, Fixture, commit, diff_id};

#[test]
fn knowledge_grows() -> Done {
    let fixture = Fixture::new();
    let layers = fixture.store.layers();
    let id = diff_id("one");
    assert_eq!(layers.get(&id)?, None);
    let snapshot = commit(&fixture.store, None, "file").id;
    layers.update(&id, |layer| layer.snapshot = Some(snapshot.clone()))?;
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
    let blob = LayerBlob { digest: Digest::of(b"blob"), size: 4, media_type, checked: true };
    layers.update(&id, |layer| layer.blobs.push(blob.clone()))?;
    let known = fixture.other().layers().get(&id)?.expect("it is known");
    assert_eq!((known.diff_id, known.snapshot, known.blobs), (id, Some(snapshot), vec![blob]));
    assert!(layers.remove(&id)?);
    assert_eq!(layers.get(&id)?, None);
    Ok(())
}

#[test]
fn no_change_is_lost_between_processes() -> Done {
    let fixture = Fixture::new();
    let id = diff_id("one");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = fixture.other();
            scope.spawn(move || {
                for number in 0..25 {
                    let source = format!("registry.test/{writer}/{number}");
                    let change = store.layers().update(&id, |layer| layer.sources.push(source));
                    change.expect("a healthy store takes it");
                }
            });
        }
    });
    let known = fixture.store.layers().get(&id)?.expect("it is known");
    assert_eq!(known.sources.len(), 100);
    Ok(())
}

#[test]
fn a_damaged_one_is_unknown_and_can_be_learnt_again() -> Done {
    let fixture = Fixture::new();
    let id = diff_id("one");
    let layers = fixture.store.layers();
    layers.update(&id, |layer| layer.tar_size = Some(1))?;
    let path = fixture.root().join("layers").join(id.0.hex());
    let whole = fs::read(&path)?;
    fs::write(&path, &whole[..whole.len() - 1])?;
    assert_eq!(layers.get(&id)?, None);
    layers.update(&id, |layer| layer.tar_size = Some(2))?;
    assert_eq!(layers.get(&id)?.and_then(|layer| layer.tar_size), Some(2));
    Ok(())
}
