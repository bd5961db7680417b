//! Making and opening stores.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use cache::{ErrorKind, OpenError, STORE_VERSION, Store};

use crate::fixture::{Done, Fixture, names, open};

#[test]
fn a_new_store_is_private_and_an_oci_layout() -> Done {
    let fixture = Fixture::new();
    let root = fixture.root();
    assert_eq!(fs::metadata(&root)?.permissions().mode() & 0o7777, 0o700);
    #[rustfmt::skip]
    assert_eq!(names(&root), [
        "builds", "cache-mounts", "content", "images", "index", "layers", "lock", "snapshots",
        "tmp", "trails", "version",
    ]);
    let layout = fs::read(root.join("content/oci-layout"))?;
    let layout: oci_spec::image::OciLayout = serde_json::from_slice(&layout)?;
    assert_eq!(layout.image_layout_version(), "1.0.0");
    oci_spec::image::ImageIndex::from_file(root.join("content/index.json"))?;
    Ok(())
}

#[test]
fn wide_permissions_are_taken_back() -> Done {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    open(dir.path());
    assert_eq!(fs::metadata(dir.path())?.permissions().mode() & 0o7777, 0o700);
    Ok(())
}

#[test]
fn what_is_found_decides() -> Done {
    type Check = fn(&Result<Store, OpenError>) -> bool;
    let opens: Check = |result| result.is_ok();
    let foreign: Check = |result| matches!(result, Err(OpenError::NotAStore { .. }));
    let damaged: Check = |result| matches!(result, Err(OpenError::Version { .. }));
    let newer: Check = |result| {
        matches!(result, Err(error @ OpenError::Newer { found, .. })
            if *found == STORE_VERSION + 1
                && error.kind() == ErrorKind::User
                && error.to_string().contains("use a newer rbuild"))
    };
    let next = format!("rbuild store {}\n", STORE_VERSION + 1);
    #[rustfmt::skip]
    let cases = [
        ("this version",       "version",     "rbuild store 1\n",  opens),
        ("killed while made",  "version.new", "rbuil",             opens),
        ("only the lock",      "lock",        "",                  opens),
        ("newer",              "version",     &next,               newer),
        ("empty version",      "version",     "",                  damaged),
        ("other words",        "version",     "rbuild store one",  damaged),
        ("another program's",  "notes.txt",   "buy milk",          foreign),
    ];
    for (name, file, text, is_right) in cases {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join(file), text)?;
        let result = Store::open(dir.path());
        assert!(is_right(&result), "{name}: {result:?}");
        if result.is_err() {
            assert_eq!(names(dir.path()), [file], "{name}: left as it was");
        }
    }
    Ok(())
}

#[test]
fn a_file_is_no_store() -> Done {
    let file = tempfile::NamedTempFile::new()?;
    let result = Store::open(file.path());
    assert!(matches!(result, Err(OpenError::Io { .. })), "{result:?}");
    Ok(())
}

#[test]
fn many_may_make_one_store_at_once() -> Done {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("deep/er/store");
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..16).map(|_| scope.spawn(|| Store::open(&root))).collect();
        for opener in openers {
            opener.join().expect("opening does not panic").expect("and works");
        }
    });
    assert_eq!(names(&root.join("tmp")), [""; 0], "the last one out leaves nothing");
    Ok(())
}

#[test]
fn temporary_things_last_as_long_as_their_handle() -> Done {
    let fixture = Fixture::new();
    let kept = fixture.store.temp_dir()?;
    fs::write(kept.path().join("file"), "bytes")?;
    let dropped = fixture.store.temp_dir()?.path().to_owned();
    drop(fixture.other());
    assert_eq!(fs::read(kept.path().join("file"))?, b"bytes", "another opener sweeps around it");
    let root = fixture.root();
    drop((kept, fixture.store));
    assert!(!dropped.exists());
    assert_eq!(names(&root.join("tmp")), [""; 0]);
    Ok(())
}

#[test]
fn abandoned_things_go_when_the_store_is_opened() -> Done {
    let fixture = Fixture::new();
    let tmp = fixture.root().join("tmp");
    fs::create_dir_all(tmp.join("dead-session/snapshot-0/fs/usr"))?;
    fs::write(tmp.join("dead-session/lease-0"), "blob x")?;
    fs::write(tmp.join("stray"), "")?;
    let session = names(&tmp).into_iter().find(|name| name.len() == 32);
    drop(fixture.other());
    assert_eq!(names(&tmp), session.into_iter().collect::<Vec<_>>(), "only the living one stays");
    Ok(())
}
