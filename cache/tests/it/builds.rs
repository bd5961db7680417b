//! Records of builds, read while they are written.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use cache::{BuildHeader, BuildResult, BuildSummary, EventLines};

use super::fixture::{Done, Fixture, commit};

fn text(lines: &EventLines) -> &str {
    std::str::from_utf8(&lines.bytes).expect("it was written as text")
}

#[test]
fn a_reader_follows_the_writer_by_whole_lines() -> Done {
    let fixture = Fixture::new();
    let builds = fixture.store.builds();
    let id = builds.new_id()?;
    let mut log = builds.begin(&id, &BuildHeader::default())?;
    let mut tail = builds.follow(&id, None)?.ok_or("it is there")?;
    let header = log.length();
    assert_eq!(tail.read(100)?, EventLines { bytes: Vec::new(), offset: header, is_over: false });
    log.append(b"one\ntwo\nthr")?;
    let lines = tail.read(100)?;
    assert_eq!((text(&lines), lines.offset, lines.is_over), ("one\ntwo\n", header, false));
    log.append(b"ee\nfour is long\n")?;
    let lines = tail.read(10)?;
    assert_eq!((text(&lines), lines.offset), ("three\n", header + 8));
    // A line that is longer than what was asked for comes all the same.
    assert_eq!(text(&tail.read(3)?), "four is long\n");
    assert!(!tail.read(3)?.is_over);
    drop(log);
    assert_eq!(tail.read(3)?, EventLines { bytes: Vec::new(), offset: header + 27, is_over: true });

    let mut again = builds.follow(&id, Some(header + 8))?.ok_or("a line ends there")?;
    assert_eq!(text(&again.read(100)?), "three\nfour is long\n");
    for wrong in [0, 1, header - 1, header + 1, header + 28, u64::MAX] {
        assert!(builds.follow(&id, Some(wrong))?.is_none(), "{wrong}");
    }
    assert!(builds.follow("ffffffff", None)?.is_none());
    Ok(())
}

#[test]
fn a_record_that_is_forgotten_ends_its_readers() -> Done {
    let fixture = Fixture::new();
    let builds = fixture.store.builds();
    drop(builds.begin("0a1b2c3d", &BuildHeader::default())?);
    let mut tail = builds.follow("0a1b2c3d", None)?.ok_or("it is there")?;
    assert!(builds.remove("0a1b2c3d")?);
    assert!(tail.read(100)?.is_over);
    Ok(())
}

#[test]
fn a_build_that_ends_is_never_seen_as_interrupted() -> Done {
    const BUILDS: u32 = 3000;
    let fixture = Fixture::new();
    let builds = fixture.store.builds();
    let is_over = AtomicBool::new(false);
    let summary = BuildSummary {
        result: BuildResult::Cancelled,
        millis: 0,
        dockerfile: None,
        steps: 0,
        cached: 0,
        warnings: 0,
        log_bytes: 0,
    };
    std::thread::scope(|scope| -> Done {
        let writer = scope.spawn(|| {
            let all = (0..BUILDS).try_for_each(|number| {
                let id = format!("{number:08x}");
                builds.begin(&id, &BuildHeader::default())?.finish(&summary)?;
                // The reader holds the lock while it looks.
                while !builds.remove(&id)? {}
                Ok::<_, cache::StoreError>(())
            });
            is_over.store(true, Ordering::Release);
            all
        });
        while !is_over.load(Ordering::Acquire) {
            for record in builds.list()? {
                assert_ne!(record.summary.result, BuildResult::Interrupted);
            }
        }
        writer.join().map_err(|_| "the writer panicked")??;
        Ok(())
    })
}

#[test]
fn what_a_failed_step_left_outlives_a_crash_of_the_machine() -> Done {
    let fixture = Fixture::new();
    let builds = fixture.store.builds();
    let log = builds.begin("0a1b2c3d", &BuildHeader::default())?;
    let below = commit(&fixture.store, None, "below");
    let left = commit(&fixture.store, Some(&below.id), "left");
    log.steps().note(&["RUN false"])?;
    log.steps().keep_failed(&left.id, 1)?;
    // What a snapshot says that is not on the disk is the boot that it is believed in.
    for snapshot in [&below, &left] {
        let meta = fs::read_to_string(snapshot.fs.with_file_name("meta.json"))?;
        assert!(meta.contains(r#""boot":null"#), "{meta}");
    }
    assert_eq!(builds.failed("0a1b2c3d")?, Some(left.id));
    Ok(())
}
