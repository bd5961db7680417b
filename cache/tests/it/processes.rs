//! Other processes on the same store: at once, killed, and out of room.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cache::{PruneOptions, Store};

use crate::fixture::{Done, Fixture, commit, image, ingest, key, names, record};

/// Starts this test binary once more, to run one of the ignored tests below.
fn start(test: &str, root: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("STORE", root)
        .stdout(Stdio::piped())
        .spawn()
}

fn store_of_parent() -> Store {
    let root = std::env::var_os("STORE").expect("only the tests of this file run this one");
    Store::open(Path::new(&root)).expect("the parent's store opens")
}

/// Waits until the other process has said `word`.
fn wait_for(child: &mut Child, word: &str) {
    let output = child.stdout.take().expect("it is piped");
    let said = BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains(word));
    assert!(said, "the other process ended early");
}

#[test]
#[ignore = "the other process of the tests of this file"]
fn builds_for_ever() {
    let store = store_of_parent();
    println!("started");
    for round in 0.. {
        let name = format!("{} {round}", std::process::id());
        let base = commit(&store, None, &name);
        let snapshot = commit(&store, Some(&base.id), &name);
        store.index().put(&record(&name, &snapshot)).expect("a healthy store takes it");
        let image = image(&store, Some("app:1"), &name);
        store.images().put(&image).expect("its content is there");
        drop(store.snapshots().prepare(Some(&snapshot.id)).expect("it was just made"));
    }
}

#[test]
fn a_kill_at_any_instant_needs_no_repair() -> Done {
    let fixture = Fixture::new();
    for round in 0..12 {
        let mut children = vec![];
        for _ in 0..2 {
            children.push(start("processes::builds_for_ever", &fixture.root())?);
        }
        for child in &mut children {
            wait_for(child, "started");
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        for mut child in children {
            child.kill()?;
            child.wait()?;
        }
        let store = fixture.other();
        assert_eq!(store.check(true, false)?.faults, [], "round {round}");
        for record in store.index().iter()? {
            assert!(store.index().get(&record.key).is_some(), "round {round}: {record:?}");
        }
    }
    let fixture = fixture.reopen();
    let root = fixture.root();
    fixture.store.images().remove("app:1")?;
    fixture.store.prune(&PruneOptions { all: true, ..PruneOptions::default() })?;
    drop(fixture.store);
    for dir in ["tmp", "snapshots", "content/blobs/sha256", "layers"] {
        let left: Vec<String> =
            names(&root.join(dir)).into_iter().filter(|name| name != ".lock").collect();
        assert_eq!(left, [""; 0], "{dir}");
    }
    Ok(())
}

#[test]
#[ignore = "the other process of the tests of this file"]
fn holds_a_record() {
    let store = store_of_parent();
    store.index().get(&key("held")).expect("it is a hit");
    println!("started");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_lease_lasts_as_long_as_its_process() -> Done {
    let fixture = Fixture::new();
    fixture.store.index().put(&record("held", &commit(&fixture.store, None, "file")))?;
    let fixture = fixture.reopen();
    let mut child = start("processes::holds_a_record", &fixture.root())?;
    wait_for(&mut child, "started");
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    fixture.store.prune(&all)?;
    assert_eq!(names(&fixture.root().join("snapshots")).len(), 1);
    child.kill()?;
    child.wait()?;
    fixture.store.prune(&all)?;
    assert_eq!(names(&fixture.root().join("snapshots")).len(), 0);
    Ok(())
}

#[test]
fn a_full_disk_is_named_and_damages_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let script = r#"mount -t tmpfs -o size=2m,mode=700 tmpfs "$1" && exec "$2" --exact \
        processes::fills_the_disk --ignored --nocapture"#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe()?)
        .env("STORE", dir.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !said.contains("running 1 test") {
        let why = String::from_utf8_lossy(&output.stderr);
        println!("Skipped(\"needs a user or mount namespace\"): {why}");
        return Ok(());
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "the other process of a_full_disk_is_named_and_damages_nothing"]
fn fills_the_disk() -> Done {
    use std::error::Error as _;
    let store = store_of_parent();
    let kept = commit(&store, None, "kept");
    store.index().put(&record("kept", &kept))?;
    let before = image(&store, Some("app:1"), "before");
    store.images().put(&before)?;
    let error = store
        .content()
        .ingest(std::io::repeat(7), 8 << 20, None)
        .expect_err("8 MiB do not fit into 2");
    let cause = error.source().expect("it tells its cause").to_string();
    assert!(cause.contains("No space left"), "{error}: {cause}");

    // What was written of it is gone by the end of the session, and not later: it would leave room.
    drop(store);
    let store = store_of_parent();
    assert_eq!(
        store.images().get("app:1")?,
        Some(before.clone()),
        "and what is in use has a place"
    );
    // Fill the rest, then try everything that writes.
    let hog = store.temp_dir()?;
    let full = std::fs::File::create(hog.path().join("hog"))
        .and_then(|mut file| std::io::copy(&mut std::io::repeat(7), &mut file));
    full.expect_err("the disk is full now");
    let after = cache::ImageRecord { reference: Some("app:2".to_owned()), ..before.clone() };
    store.images().put(&after).expect_err("no room");
    store.index().put(&record("more", &kept)).expect_err("no room");
    assert_eq!(store.images().get("app:1")?, Some(before), "the old tag stands");
    drop(hog);
    drop(store);

    let store = store_of_parent();
    assert_eq!(store.check(true, false)?.faults, []);
    assert!(store.index().get(&key("kept")).is_some());
    ingest(&store, b"it works again");
    Ok(())
}
