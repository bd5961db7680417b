//! Directories of `RUN --mount=type=cache`.

use std::fs;

use cache::Sharing::{Locked, Private, Shared};

use crate::fixture::{Done, Fixture, names};

#[test]
fn sharing_decides_who_waits() -> Done {
    #[rustfmt::skip]
    let cases = [
        // first, second, whether the second gets a directory, whether it is the same
        (Shared,  Shared,  true,  true),
        (Shared,  Locked,  false, false),
        (Shared,  Private, true,  false),
        (Locked,  Shared,  false, false),
        (Locked,  Locked,  false, false),
        (Locked,  Private, true,  false),
        (Private, Shared,  false, false),
        (Private, Private, true,  false),
    ];
    for (first, second, want, same) in cases {
        let fixture = Fixture::new();
        let one = fixture.store.cache_mount("npm", first)?.expect("nobody has it");
        let other = fixture.other();
        let two = other.cache_mount("npm", second)?;
        assert_eq!(two.is_some(), want, "{first:?}, {second:?}");
        let is_same = two.as_ref().is_some_and(|two| two.path() == one.path());
        assert_eq!(is_same, same, "{first:?}, {second:?}");
        drop((one, two));
        let again = other.cache_mount("npm", second)?;
        assert!(again.is_some(), "{first:?}, {second:?}: free again");
    }
    Ok(())
}

#[test]
fn what_a_step_left_is_there_for_the_next() -> Done {
    let fixture = Fixture::new();
    let mount = fixture.store.cache_mount("npm", Locked)?.expect("nobody has it");
    assert!(mount.is_new());
    fs::write(mount.path().join("file"), "bytes")?;
    drop(mount);
    let mount = fixture.store.cache_mount("npm", Shared)?.expect("nobody has it");
    assert!(!mount.is_new());
    assert_eq!(names(mount.path()), ["file"]);
    let other = fixture.store.cache_mount("npm2", Shared)?.expect("nobody has it");
    assert!(other.is_new());
    Ok(())
}

#[test]
fn an_id_is_no_path() -> Done {
    let fixture = Fixture::new();
    let inside = fixture.root().join("cache-mounts");
    for id in ["../../escape", "/etc", "", ".", "a/b", &"long".repeat(1000)] {
        let mount = fixture.store.cache_mount(id, Shared)?.expect("nobody has it");
        let path = mount.path().canonicalize()?;
        assert!(path.starts_with(&inside), "{id}: {}", path.display());
    }
    assert_eq!(names(&inside).len(), 6);
    assert_eq!(names(fixture.dir.path()), ["store"]);
    Ok(())
}
