//! Directories of `RUN --mount=type=cache`.

use std::fs;
use std::path::Path;

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
fn a_new_one_appears_with_its_content() -> Done {
    let fixture = Fixture::new();
    let other = fixture.other();
    let write = |dir: &Path, text: &str| -> Done { Ok(fs::write(dir.join("file"), text)?) };
    // The second comes while the first still fills, and is done before it.
    let first = fixture.store.cache_mount_with("npm", Shared, |new| -> Done {
        write(new, "half")?;
        let second = other.cache_mount_with("npm", Shared, |new| write(new, "second"))?;
        let second = second.expect("it is shared");
        assert!(second.is_new());
        assert_eq!(fs::read_to_string(second.path().join("file"))?, "second");
        write(new, "first")
    })?;
    let first = first.expect("nobody has it alone");
    assert!(!first.is_new());
    assert_eq!(fs::read_to_string(first.path().join("file"))?, "second", "both have one");
    // What could not be filled is not there.
    let failed = other.cache_mount_with("none", Shared, |new| -> Done {
        write(new, "half")?;
        Err("failed".into())
    });
    assert_eq!(failed.unwrap_err().to_string(), "failed");
    let mount = other.cache_mount("none", Shared)?.expect("nobody has it");
    assert!(mount.is_new() && names(mount.path()).is_empty());
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
