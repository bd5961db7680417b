//! Blobs.

use std::fs;
use std::io::{self, Read, Write};

use cache::{Digest, ErrorKind, IngestError, StoreError};

use crate::fixture::{Done, Fixture, ingest, names};

/// Gives some bytes, then fails.
struct Broken(&'static [u8]);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer went away"));
        }
        self.0.read(buffer)
    }
}

type Check = fn(&IngestError) -> bool;

#[test]
fn ingest_takes_what_was_promised() -> Done {
    let hello = Digest::of(b"hello");
    let other = Digest::of(b"other");
    let too_large: Check = |error| matches!(error, IngestError::TooLarge { limit: 4 });
    let mismatch: Check = |error| matches!(error, IngestError::Mismatch { .. });
    #[rustfmt::skip]
    let cases: [(_, &[u8], _, _, Option<Check>); 6] = [
        ("nothing promised", b"hello", 100, None,        None),
        ("as promised",      b"hello", 100, Some(hello), None),
        ("at the limit",     b"hello", 5,   Some(hello), None),
        ("empty",            b"",      0,   None,        None),
        ("above the limit",  b"hello", 4,   Some(hello), Some(too_large)),
        ("another's bytes",  b"hello", 100, Some(other), Some(mismatch)),
    ];
    for (name, bytes, limit, expected, want) in cases {
        let fixture = Fixture::new();
        let content = fixture.store.content();
        let result = content.ingest(bytes, limit, expected);
        match (result, want) {
            (Ok(blob), None) => {
                assert_eq!((blob.digest, blob.size), (Digest::of(bytes), bytes.len() as u64));
                assert_eq!(content.read(&blob.digest, 100)?.as_deref(), Some(bytes), "{name}");
                assert_eq!(content.size(&blob.digest)?, Some(blob.size), "{name}");
            }
            (Err(error), Some(is_right)) if is_right(&error) => {
                assert_eq!(error.kind(), ErrorKind::Remote, "{name}");
                assert!(!content.contains(&hello) && !content.contains(&other), "{name}");
            }
            (result, _) => panic!("{name}: {result:?}"),
        }
        let root = fixture.root();
        drop(fixture.store);
        assert_eq!(names(&root.join("tmp")), [""; 0], "{name}");
    }
    Ok(())
}

#[test]
fn a_failing_source_leaves_nothing() {
    let fixture = Fixture::new();
    let result = fixture.store.content().ingest(Broken(b"half"), 100, None);
    assert!(matches!(&result, Err(IngestError::Read { .. })), "{result:?}");
    let root = fixture.root();
    drop(fixture.store);
    assert_eq!(names(&root.join("content/blobs/sha256")), [""; 0]);
    assert_eq!(names(&root.join("tmp")), [""; 0]);
}

#[test]
fn a_writer_is_checked_for_both_promises() -> Done {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let good = (Digest::of(b"chunked"), 7);
    let write = || -> io::Result<_> {
        let mut writer = content.writer().map_err(io::Error::other)?;
        writer.write_all(b"chun")?;
        writer.write_all(b"ked")?;
        assert_eq!(writer.written(), 7);
        Ok(writer)
    };
    let short = write()?.commit(Some((good.0, 8)));
    assert!(matches!(short, Err(IngestError::Size { expected: 8, found: 7 })), "{short:?}");
    let wrong = write()?.commit(Some((Digest::of(b""), 7)));
    assert!(matches!(wrong, Err(IngestError::Mismatch { .. })), "{wrong:?}");
    drop(write()?);
    assert!(!content.contains(&good.0));
    write()?.commit(Some(good))?;
    assert!(content.contains(&good.0));
    Ok(())
}

#[test]
fn damage_is_absence() -> Done {
    let bytes = b"some bytes that matter";
    #[rustfmt::skip]
    let cases: [(_, &[u8]); 4] = [
        ("a bit flipped", b"some bytes that mattes"),
        ("cut",           b"some bytes"),
        ("longer",        b"some bytes that matter not"),
        ("emptied",       b""),
    ];
    for (name, damaged) in cases {
        let fixture = Fixture::new();
        let content = fixture.store.content();
        let digest = ingest(&fixture.store, bytes);
        fs::write(content.path(&digest), damaged)?;
        assert_eq!(content.read(&digest, 100)?, None, "{name}");
        assert!(!content.contains(&digest), "{name}");
        ingest(&fixture.store, bytes);
        assert_eq!(content.read(&digest, 100)?.as_deref(), Some(&bytes[..]), "{name}: mended");
    }
    Ok(())
}

#[test]
fn a_damaged_stream_ends_in_an_error_and_is_removed() -> Done {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let digest = ingest(&fixture.store, b"streamed");
    let read = || -> io::Result<Option<String>> {
        let reader = content.reader(&digest).map_err(io::Error::other)?;
        reader.map(io::read_to_string).transpose()
    };
    assert_eq!(read()?.as_deref(), Some("streamed"));
    fs::write(content.path(&digest), b"streamEd")?;
    let error = read().expect_err("the bytes differ");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(read()?, None, "a second try does not meet the damaged blob again");
    Ok(())
}

#[test]
fn a_document_above_the_limit_is_not_read() {
    let fixture = Fixture::new();
    let digest = ingest(&fixture.store, b"0123456789");
    let result = fixture.store.content().read(&digest, 9);
    assert!(matches!(result, Err(StoreError::TooLarge { size: 10, limit: 9, .. })), "{result:?}");
}

#[test]
fn an_open_blob_can_be_read_after_its_removal() -> Done {
    let fixture = Fixture::new();
    let content = fixture.store.content();
    let digest = ingest(&fixture.store, b"bytes");
    let file = content.open(&digest)?.expect("it is there");
    assert!(content.remove(&digest)?);
    assert!(!content.remove(&digest)?, "only once");
    assert_eq!(io::read_to_string(file)?, "bytes");
    assert!(content.open(&digest)?.is_none());
    Ok(())
}

#[test]
fn equal_bytes_from_many_threads_are_one_blob() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    ingest(&fixture.store, b"the same");
                }
            });
        }
    });
    let blobs = names(&fixture.root().join("content/blobs/sha256"));
    assert_eq!(blobs, [Digest::of(b"the same").hex()]);
}
