//! Images.

use std::fs;

use cache::{Digest, FindError, ImageRecord};
use oci_spec::image::ImageIndex;

use crate::fixture::{Done, Fixture, image, names};

const APP: &str = "docker.io/library/app-node:1";

fn shown(images: &[ImageRecord]) -> Vec<Option<&str>> {
    images.iter().map(|image| image.reference.as_deref()).collect()
}

#[test]
fn tags_are_put_found_listed_and_removed() -> Done {
    let fixture = Fixture::new();
    let images = fixture.store.images();
    let app = image(&fixture.store, Some(APP), "app");
    let long = format!("registry.test/{}:{}", "a/".repeat(120), "t".repeat(128));
    let other = image(&fixture.store, Some(&long), "other");
    assert_eq!(images.get(APP)?, None);
    images.put(&app)?;
    images.put(&other)?;
    assert_eq!(fixture.other().images().get(APP)?, Some(app));
    assert_eq!(shown(&images.list()?), [Some(APP), Some(long.as_str())]);
    assert!(images.remove(APP)?);
    assert!(!images.remove(APP)?, "only once");
    assert_eq!(shown(&images.list()?), [Some(long.as_str())]);
    Ok(())
}

#[test]
fn an_image_that_loses_its_last_tag_stays_without_one() -> Done {
    let fixture = Fixture::new();
    let images = fixture.store.images();
    let old = image(&fixture.store, Some(APP), "old");
    let new = image(&fixture.store, Some(APP), "new");
    let second_name = ImageRecord { reference: Some("other:1".into()), ..old.clone() };
    images.put(&old)?;
    images.put(&second_name)?;
    images.put(&new)?;
    assert_eq!(shown(&images.list()?), [Some(APP), Some("other:1")], "it has another tag");
    images.put(&ImageRecord { reference: Some("other:1".into()), ..new.clone() })?;
    assert_eq!(shown(&images.list()?), [Some(APP), Some("other:1"), None]);
    assert_eq!(images.get(APP)?.map(|image| image.config), Some(new.config));
    images.put(&ImageRecord { reference: Some("back:1".into()), ..old.clone() })?;
    assert_eq!(shown(&images.list()?), [Some("back:1"), Some(APP), Some("other:1")]);
    Ok(())
}

#[test]
fn ids_may_be_short_but_not_ambiguous() -> Done {
    let fixture = Fixture::new();
    let images = fixture.store.images();
    // Seventeen images share a first digit by necessity.
    let many: Vec<ImageRecord> =
        (0..17).map(|number| image(&fixture.store, None, &format!("layer {number}"))).collect();
    many.iter().try_for_each(|image| images.put(image))?;
    let id = many[0].config.hex();
    for prefix in [&id[..12], &id, &format!("sha256:{id}"), &format!("sha256:{}", &id[..20])] {
        assert_eq!(images.find_by_id(prefix)?, [many[0].clone()], "{prefix}");
    }
    images.put(&ImageRecord { reference: Some("tag:1".into()), ..many[0].clone() })?;
    images.put(&ImageRecord { reference: Some("tag:2".into()), ..many[0].clone() })?;
    assert_eq!(shown(&images.find_by_id(&id[..12])?), [Some("tag:1"), Some("tag:2")]);
    assert_eq!(images.find_by_id(&Digest::of(b"nobody's").hex())?, []);
    let first_digits: Vec<String> = many.iter().map(|one| one.config.hex()[..1].into()).collect();
    let shared = first_digits
        .iter()
        .find(|digit| first_digits.iter().filter(|other| other == digit).count() > 1);
    let shared = shared.expect("by the pigeonhole principle");
    let result = images.find_by_id(shared);
    assert!(matches!(result, Err(FindError::Ambiguous { count: 2.., .. })), "{result:?}");
    for text in ["", "sha256:", "app", "ABCDEF", &"0".repeat(65)] {
        let result = images.find_by_id(text);
        assert!(matches!(result, Err(FindError::NotAnId { .. })), "{text}: {result:?}");
    }
    Ok(())
}

#[test]
fn a_name_appears_after_its_content() -> Done {
    let fixture = Fixture::new();
    let app = image(&fixture.store, Some(APP), "app");
    fixture.store.content().remove(&app.manifest.digest)?;
    fixture.store.images().put(&app).expect_err("the manifest is not there");
    assert_eq!(fixture.store.images().get(APP)?, None);
    Ok(())
}

#[test]
fn a_tag_seals_what_it_names() -> Done {
    let fixture = Fixture::new();
    let snapshot = crate::fixture::commit(&fixture.store, None, "file");
    fixture.store.images().put(&image(&fixture.store, Some(APP), "app"))?;
    let meta = snapshot.fs.parent().expect("it lies in the snapshot's directory").join("meta.json");
    assert!(fs::read_to_string(meta)?.contains(r#""boot":null"#));
    Ok(())
}

#[test]
fn other_tools_find_the_images_by_name() -> Done {
    let fixture = Fixture::new();
    let images = fixture.store.images();
    let app = image(&fixture.store, Some(APP), "app");
    images.put(&app)?;
    images.put(&image(&fixture.store, None, "nameless"))?;
    let index = || ImageIndex::from_file(fixture.root().join("content/index.json"));
    let manifests = index()?.manifests().clone();
    assert_eq!(manifests.len(), 1);
    assert_eq!(manifests[0].digest().to_string(), app.manifest.digest.to_string());
    let annotations = manifests[0].annotations().as_ref().expect("it has a name");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], APP);
    images.remove(APP)?;
    assert_eq!(index()?.manifests().len(), 0);
    Ok(())
}

#[test]
fn a_torn_record_is_no_image() -> Done {
    let fixture = Fixture::new();
    let images = fixture.store.images();
    images.put(&image(&fixture.store, Some(APP), "app"))?;
    let dir = fixture.root().join("images");
    let name = names(&dir).into_iter().find(|name| name != ".lock").expect("the record is there");
    let whole = fs::read(dir.join(&name))?;
    for end in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(dir.join(&name), &whole[..end])?;
        assert_eq!(images.get(APP)?, None, "cut at byte {end}");
        assert_eq!(images.list()?, [], "cut at byte {end}");
    }
    Ok(())
}
