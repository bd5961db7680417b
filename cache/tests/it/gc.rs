//! Reclaiming.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use cache::{Digest, ItemKind, PruneOptions, Sharing, Snapshot, Store};
use rustix::fs::{FlockOperation, flock};

use crate::fixture::{Done, Fixture, commit, diff_id, files, image, ingest, key, names, record};

const ALL: PruneOptions =
    PruneOptions { all: true, keep_bytes: None, older_than: None, only: None, dry_run: false };

/// A step with its record and its layer, on top of another.
fn step(store: &Store, parent: Option<&Snapshot>, name: &str) -> Snapshot {
    let snapshot = commit(store, parent.map(|parent| &parent.id), name);
    let record = record(name, &snapshot);
    let update = store.layers().update(&record.diff_id, |layer| {
        layer.snapshot = Some(snapshot.id.clone());
        layer.tar_size = Some(record.size);
    });
    update.expect("a healthy store takes it");
    // The record last: it promises the layer.
    store.index().put(&record).expect("a healthy store takes it");
    snapshot
}

/// Makes a record look unused since so many hours.
fn age(fixture: &Fixture, name: &str, hours: u64) {
    let hex = key(name).digest().hex();
    let path = fixture.root().join("index").join(&hex[..2]).join(hex);
    let time = SystemTime::now() - Duration::from_secs(hours * 3600);
    let file = File::open(path).expect("the record is there");
    file.set_modified(time).expect("its time can be set");
}

fn records(fixture: &Fixture) -> usize {
    files(&fixture.root().join("index")).len()
}

fn snapshots(fixture: &Fixture) -> usize {
    names(&fixture.root().join("snapshots")).len()
}

fn blobs(fixture: &Fixture) -> usize {
    names(&fixture.root().join("content/blobs/sha256")).len()
}

#[test]
fn everything_goes_that_nobody_needs() -> Done {
    let fixture = Fixture::new();
    let base = step(&fixture.store, None, "base");
    step(&fixture.store, Some(&base), "top");
    commit(&fixture.store, None, "without a record");
    ingest(&fixture.store, b"a blob that nothing names");
    fixture.store.images().put(&image(&fixture.store, None, "nameless"))?;
    let fixture = fixture.reopen();
    let pruned = fixture.store.prune(&ALL)?;
    assert!(pruned.bytes > 0);
    // 2 records, 3 snapshots, 3 layers, 4 blobs, 1 image
    assert_eq!(pruned.items, 13);
    assert_eq!((records(&fixture), snapshots(&fixture), blobs(&fixture)), (0, 0, 0));
    assert_eq!(fixture.store.images().list()?, []);
    let usage = fixture.store.usage()?;
    assert_eq!((usage.bytes, usage.reclaimable), (usage.metadata, 0));
    assert_eq!((usage.blobs, usage.snapshots, usage.records), Default::default());
    assert_eq!(fixture.store.prune(&ALL)?, cache::Pruned::default(), "nothing is left to do");
    Ok(())
}

#[test]
fn a_dry_run_says_the_same_and_removes_nothing() -> Done {
    let fixture = Fixture::new();
    step(&fixture.store, None, "base");
    let fixture = fixture.reopen();
    let usage = fixture.store.usage()?;
    let dry = fixture.store.prune(&PruneOptions { dry_run: true, ..ALL })?;
    assert_eq!(usage.reclaimable, dry.bytes);
    assert_eq!((usage.records, usage.snapshots.count), (1, 1));
    assert_eq!((records(&fixture), snapshots(&fixture)), (1, 1));
    assert_eq!(fixture.store.prune(&ALL)?, dry);
    Ok(())
}

#[test]
fn a_tag_keeps_all_that_it_names() -> Done {
    let fixture = Fixture::new();
    let base = step(&fixture.store, None, "base");
    step(&fixture.store, Some(&base), "app");
    step(&fixture.store, None, "other");
    let app = image(&fixture.store, Some("app:1"), "app");
    fixture.store.images().put(&app)?;
    let fixture = fixture.reopen();

    fixture.store.prune(&PruneOptions::default())?;
    // The records of steps that are part of a tagged image stay, unless all is asked for; the one
    // under it is reached by its snapshot.
    assert_eq!((records(&fixture), snapshots(&fixture), blobs(&fixture)), (2, 2, 3));

    fixture.store.prune(&ALL)?;
    assert_eq!((records(&fixture), snapshots(&fixture), blobs(&fixture)), (0, 2, 3));
    assert!(fixture.store.layers().get(&diff_id("app"))?.is_some());
    assert_eq!(fixture.store.check(true, false)?.faults, []);

    fixture.store.images().remove("app:1")?;
    let fixture = fixture.reopen();
    fixture.store.prune(&PruneOptions::default())?;
    assert_eq!((snapshots(&fixture), blobs(&fixture)), (0, 0));
    Ok(())
}

#[test]
fn a_pulled_stack_is_kept_by_its_chain() -> Done {
    use cache::{ChainId, SnapshotId};
    let fixture = Fixture::new();
    let id = SnapshotId::for_chain(&ChainId(diff_id("base").0));
    fixture.store.snapshots().prepare(None)?.commit(Some(id.clone()))?;
    fixture.store.images().put(&image(&fixture.store, Some("base:1"), "base"))?;
    let fixture = fixture.reopen();
    fixture.store.prune(&ALL)?;
    assert!(fixture.store.snapshots().get(&id)?.is_some());
    Ok(())
}

#[test]
fn what_a_living_handle_met_stays() -> Done {
    let fixture = Fixture::new();
    let base = step(&fixture.store, None, "base");
    step(&fixture.store, Some(&base), "used");
    step(&fixture.store, None, "unused");
    let blob = ingest(&fixture.store, b"used blob");
    ingest(&fixture.store, b"unused blob");
    let nameless = image(&fixture.store, None, "nameless");
    fixture.store.images().put(&nameless)?;
    let fixture = fixture.reopen();

    let build = fixture.other();
    let used = build.index().get(&key("used")).expect("it is a hit");
    assert!(build.content().contains(&blob));
    assert_eq!(build.images().find_by_id(&nameless.config.hex())?.len(), 1);
    fixture.store.prune(&ALL)?;
    assert_eq!((snapshots(&fixture), blobs(&fixture)), (2, 4), "held: 2 snapshots, 1 + 3 blobs");
    assert!(build.snapshots().lowers(&used.snapshot).is_ok());
    assert!(build.layers().get(&used.diff_id)?.is_some());

    let active = build.snapshots().prepare(Some(&used.snapshot))?;
    drop(build);
    fixture.store.prune(&ALL)?;
    assert_eq!(snapshots(&fixture), 2, "a step still stands on them");
    drop(active);
    fixture.store.prune(&ALL)?;
    assert_eq!((snapshots(&fixture), blobs(&fixture)), (0, 0));
    Ok(())
}

#[test]
fn a_lease_ends_with_its_last_clone() -> Done {
    let fixture = Fixture::new();
    let lease = fixture.store.lease()?;
    let clone = lease.clone();
    let digest = ingest(&lease, b"made by one build");
    drop(lease);
    fixture.store.prune(&ALL)?;
    assert_eq!(blobs(&fixture), 1);
    assert!(clone.content().contains(&digest));
    drop(clone);
    fixture.store.prune(&ALL)?;
    assert_eq!(blobs(&fixture), 0);
    Ok(())
}

#[test]
fn the_longest_unused_go_first_and_only_as_far_as_needed() -> Done {
    let fixture = Fixture::new();
    for name in ["old", "older", "young"] {
        let snapshot = {
            let active = fixture.store.snapshots().prepare(None)?;
            fs::write(active.upper().join("file"), vec![1; 1 << 20])?;
            active.commit(None)?
        };
        fixture.store.index().put(&record(name, &snapshot))?;
    }
    let fixture = fixture.reopen();
    for (name, hours) in [("older", 3), ("old", 2), ("young", 1)] {
        age(&fixture, name, hours);
    }
    let left = |fixture: &Fixture| -> Vec<bool> {
        let paths = ["older", "old", "young"].map(|name| key(name).digest().hex());
        paths.map(|hex| fixture.root().join("index").join(&hex[..2]).join(hex).exists()).to_vec()
    };
    assert_eq!(fixture.store.gc(4 << 20)?.items, 0, "it fits");
    assert_eq!(left(&fixture), [true, true, true]);
    let bytes = fixture.store.usage()?.bytes;
    fixture.store.gc(bytes - (100 << 10))?;
    assert_eq!(left(&fixture), [false, true, true]);
    let older_than = Some(Duration::from_secs(90 * 60));
    fixture.store.prune(&PruneOptions { older_than, ..ALL })?;
    assert_eq!(left(&fixture), [false, false, true]);
    fixture.store.gc(0)?;
    assert_eq!(left(&fixture), [false, false, false]);
    Ok(())
}

#[test]
fn what_is_dear_for_its_size_outlasts_what_is_cheap() -> Done {
    let fixture = Fixture::new();
    // Name, bytes, milliseconds, hours unused: the first to go first.
    #[rustfmt::skip]
    let steps = [
        ("large and quick",  4 << 20, 10,      1),
        ("small and quick",  64 << 10, 10,     10),
        ("large and slow",   4 << 20, 60_000,  10),
        ("small and slow",   64 << 10, 60_000, 10),
    ];
    for (name, bytes, duration_ms, _) in steps {
        let active = fixture.store.snapshots().prepare(None)?;
        fs::write(active.upper().join("file"), vec![1; bytes])?;
        let snapshot = active.commit(None)?;
        fixture.store.index().put(&cache::Record { duration_ms, ..record(name, &snapshot) })?;
    }
    let mut fixture = fixture.reopen();
    for (name, _, _, hours) in steps {
        age(&fixture, name, hours);
    }
    for gone in 1..=steps.len() {
        let bytes = fixture.store.usage()?.bytes;
        fixture.store.gc(bytes - 1)?;
        // Or the bytes on their way out would count in the next measurement.
        fixture = fixture.reopen();
        for (index, (name, ..)) in steps.iter().enumerate() {
            let hex = key(name).digest().hex();
            let path = fixture.root().join("index").join(&hex[..2]).join(hex);
            assert_eq!(path.exists(), index >= gone, "{name} after {gone}");
        }
    }
    Ok(())
}

#[test]
fn the_listing_adds_up_to_what_du_says() -> Done {
    let fixture = Fixture::new();
    let base = step(&fixture.store, None, "base");
    step(&fixture.store, Some(&base), "top");
    fixture.store.images().put(&image(&fixture.store, Some("app:1"), "top"))?;
    ingest(&fixture.store, &vec![7; 300_000]);
    let mount = fixture.store.cache_mount("npm", Sharing::Shared)?.ok_or("nobody has it")?;
    fs::write(mount.path().join("file"), vec![1; 200_000])?;
    drop(mount);
    fixture
        .store
        .builds()
        .begin("0a1b2c3d", &cache::BuildHeader::default())?
        .append("x".repeat(50_000).as_bytes())?;
    fixture.store.trails().put(&Digest::of(b"scope"), &cache::Trail::default())?;
    let fixture = fixture.reopen();
    // The first measurement is itself written down.
    fixture.store.usage()?;
    let usage = fixture.store.usage()?;
    let items = fixture.store.items()?;
    assert_eq!(items.iter().map(|item| item.bytes).sum::<u64>(), usage.bytes);
    let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(fixture.root()).output()?;
    let said = String::from_utf8(du.stdout)?;
    let said: u64 = said.split_whitespace().next().ok_or("du says a number")?.parse()?;
    assert!(usage.bytes.abs_diff(said) * 50 <= said, "{} of {said}", usage.bytes);
    let of = |kind| items.iter().filter(|item| item.kind == kind).count();
    let kinds = [ItemKind::Step, ItemKind::Mount, ItemKind::Build, ItemKind::Note, ItemKind::Blob];
    assert_eq!(kinds.map(of), [2, 1, 1, 1, 4]);
    Ok(())
}

#[test]
fn kinds_are_pruned_alone() -> Done {
    let fixture = Fixture::new();
    step(&fixture.store, None, "base");
    drop(fixture.store.cache_mount("npm", Sharing::Shared)?);
    drop(fixture.store.builds().begin("0a1b2c3d", &cache::BuildHeader::default())?);
    let running = fixture.store.builds().begin("0a1b2c3e", &cache::BuildHeader::default())?;
    let fixture = Fixture { store: fixture.other(), dir: fixture.dir };
    let only = |kind| PruneOptions { only: Some(kind), ..PruneOptions::default() };
    assert_eq!(fixture.store.prune(&only(ItemKind::Mount))?.items, 1);
    assert_eq!(fixture.store.prune(&only(ItemKind::Build))?.items, 1, "one is running");
    assert_eq!(fixture.store.builds().list()?[0].id, running.id());
    assert_eq!(records(&fixture), 1);
    Ok(())
}

#[test]
fn room_is_made_before_it_is_needed() -> Done {
    let fixture = Fixture::new();
    for name in ["one", "two", "three"] {
        let active = fixture.store.snapshots().prepare(None)?;
        fs::write(active.upper().join("file"), vec![1; 1 << 20])?;
        let snapshot = active.commit(None)?;
        fixture.store.index().put(&record(name, &snapshot))?;
    }
    let fixture = fixture.reopen();
    let bytes = fixture.store.usage()?.bytes;
    fixture.store.govern(cache::GcPolicy {
        max_used: Some(cache::Amount::Bytes(bytes + (1 << 20))),
        reserved: Some(cache::Amount::Bytes(0)),
        min_free: Some(cache::Amount::Bytes(0)),
        keep_duration: Duration::ZERO,
    });
    fixture.store.make_room(1 << 19)?;
    assert_eq!(records(&fixture), 3, "there was room");
    fixture.store.make_room(2 << 20)?;
    assert_eq!(records(&fixture), 2, "one had to go, and its bytes are gone");
    let tree = fixture.root().join("tmp");
    assert!(!files(&tree).iter().any(|path| path.ends_with("file")), "{:?}", files(&tree));
    // What was added since is counted without being measured.
    for byte in [1, 2, 3] {
        ingest(&fixture.store, &vec![byte; 1 << 20]);
    }
    fixture.store.settle()?;
    assert!(records(&fixture) < 2);
    let error = fixture.store.make_room(u64::MAX / 4).expect_err("no disk has that");
    assert!(error.to_string().contains("there is no room in the store"), "{error}");
    Ok(())
}

#[test]
fn of_a_stack_the_top_goes_first() -> Done {
    let fixture = Fixture::new();
    let base = step(&fixture.store, None, "base");
    step(&fixture.store, Some(&base), "top");
    let fixture = fixture.reopen();
    // The base was looked up first, so its record is the older one.
    for (name, hours) in [("base", 2), ("top", 1)] {
        age(&fixture, name, hours);
    }
    let bytes = fixture.store.usage()?.bytes;
    fixture.store.gc(bytes - 1)?;
    assert!(fixture.store.index().get(&key("base")).is_some());
    assert!(fixture.store.index().get(&key("top")).is_none());
    Ok(())
}

#[test]
fn a_budget_does_not_cost_the_records_of_tagged_images() -> Done {
    let fixture = Fixture::new();
    step(&fixture.store, None, "app");
    fixture.store.images().put(&image(&fixture.store, Some("app:1"), "app"))?;
    let fixture = fixture.reopen();
    fixture.store.gc(0)?;
    assert_eq!((records(&fixture), snapshots(&fixture)), (1, 1), "it would free nothing");
    Ok(())
}

#[test]
fn dead_records_go_whatever_is_asked() -> Done {
    let fixture = Fixture::new();
    let snapshot = step(&fixture.store, None, "dead");
    fixture.store.snapshots().remove(&snapshot.id)?;
    step(&fixture.store, None, "torn");
    let hex = key("torn").digest().hex();
    fs::write(fixture.root().join("index").join(&hex[..2]).join(&hex), "torn")?;
    let keep_bytes = Some(u64::MAX);
    fixture.store.prune(&PruneOptions { keep_bytes, ..PruneOptions::default() })?;
    assert_eq!(records(&fixture), 0);
    Ok(())
}

#[test]
fn idle_cache_mounts_go_only_with_all() -> Done {
    let fixture = Fixture::new();
    let idle = fixture.store.cache_mount("idle", Sharing::Shared)?.expect("nobody has it");
    fs::write(idle.path().join("file"), "bytes")?;
    drop(idle);
    let busy = fixture.store.cache_mount("busy", Sharing::Shared)?.expect("nobody has it");
    let mounts = fixture.root().join("cache-mounts");
    fixture.store.prune(&PruneOptions::default())?;
    assert_eq!(names(&mounts).len(), 2);
    fixture.store.prune(&ALL)?;
    assert_eq!(names(&mounts).len(), 1);
    assert!(busy.path().is_dir());
    Ok(())
}

type Operation = fn(&Store) -> Result<(), Box<dyn std::error::Error>>;

/// Every operation that relies on a name, or makes one.
#[rustfmt::skip]
const OPERATIONS: [(&str, Operation); 9] = [
    ("size of a blob",     |store| Ok(store.content().size(&Digest::of(b"blob")).map(|_| ())?)),
    ("open a blob",        |store| Ok(store.content().open(&Digest::of(b"blob")).map(|_| ())?)),
    ("ingest",             |store| Ok(store.content().ingest(&b"new"[..], 9, None).map(|_| ())?)),
    ("look up a record",   |store| Ok(store.index().get(&key("step")).map(|_| ()).ok_or("a hit")?)),
    ("look up a layer",    |store| Ok(store.layers().get(&diff_id("step")).map(|_| ())?)),
    ("change a layer",     |store| Ok(store.layers().update(&diff_id("step"), |_| ()).map(|_| ())?)),
    ("look up an image",   |store| Ok(store.images().get("app:1").map(|_| ())?)),
    ("commit a snapshot",  |store| Ok(store.snapshots().prepare(None)?.commit(None).map(|_| ())?)),
    ("take a cache mount", |store| Ok(store.cache_mount("npm", Sharing::Shared).map(|_| ())?)),
];

#[test]
fn gc_and_whatever_relies_on_a_name_exclude_each_other() -> Done {
    let fixture = Fixture::new();
    step(&fixture.store, None, "step");
    ingest(&fixture.store, b"blob");
    let fixture = fixture.reopen();
    let prune: Operation = |store| store.prune(&ALL).map(drop).map_err(Into::into);
    // The lock as gc holds it while it decides, and as a look-up does.
    let (alone, shared) = (FlockOperation::LockExclusive, FlockOperation::LockShared);
    let operations = OPERATIONS.map(|(name, operation)| (name, operation, alone));
    for (name, operation, hostile) in operations.into_iter().chain([("gc", prune, shared)]) {
        let store = fixture.other();
        let lock = File::open(fixture.root().join("lock"))?;
        flock(&lock, hostile)?;
        let (sender, done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let result = operation(&store).map_err(|error| error.to_string());
            sender.send(result).expect("the test waits for it");
        });
        let early = done.recv_timeout(Duration::from_millis(30));
        assert!(early.is_err(), "{name} did not wait: {early:?}");
        flock(&lock, FlockOperation::Unlock)?;
        done.recv_timeout(Duration::from_secs(30)).map_err(|_| format!("{name} hangs"))??;
        thread.join().map_err(|_| name)?;
    }
    Ok(())
}

#[test]
fn builds_and_gc_run_together() -> Done {
    let fixture = Fixture::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let collector = fixture.other();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(relaxed) {
                collector.prune(&ALL).expect("gc does not fail beside builds");
            }
        });
        let builders: Vec<_> = (0..3)
            .map(|builder| {
                let store = fixture.other();
                scope.spawn(move || (0..20).for_each(|round| build(&store, builder, round)))
            })
            .collect();
        let results: Vec<_> =
            builders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, relaxed);
        for result in results {
            result.expect("no build lost anything");
        }
    });
    assert_eq!(fixture.store.check(true, false)?.faults, []);
    Ok(())
}

/// One build as the builder does it; everything it made or met must stay until it ends.
fn build(store: &Store, builder: usize, round: usize) {
    let store = store.lease().expect("there is room for a lease");
    // All builders share the first steps and race for them.
    let mut top: Option<Snapshot> = None;
    for level in 0..4 {
        let name = format!("step {level} of {}", if level < 2 { 0 } else { builder });
        let hit = store.index().get(&key(&name)).and_then(|record| {
            let layer = store.layers().get(&record.diff_id).expect("readable");
            assert!(layer.is_some(), "a hit keeps its layer too");
            store.snapshots().get(&record.snapshot).expect("readable")
        });
        top = Some(hit.unwrap_or_else(|| step(&store, top.as_ref(), &name)));
    }
    let top = top.expect("there were steps");
    for lower in store.snapshots().lowers(&top.id).expect("the stack is whole") {
        assert!(lower.is_dir(), "{}", lower.display());
    }
    let reference = format!("app:{builder}");
    let image = image(&store, Some(&reference), &format!("step 3 of {builder}"));
    store.images().put(&image).expect("its content is there");
    if round.is_multiple_of(3) {
        store.images().remove(&reference).expect("it was there");
    }
}
