//! Compression: the same bytes whoever computes them, and readable by everybody.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::io::{Read, Write};
use std::num::NonZeroUsize;

use builder::{LimitedReader, decompress, gzip_writer, zstd_writer};
use proptest::prelude::*;

use super::layer_tree::run;

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// Bytes that compress somewhat, the same every time.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"the quick brown fox"[(state >> 16) as usize % 19]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn gzip(bytes: &[u8], workers: usize, chunk: usize) -> Vec<u8> {
    let mut writer = gzip_writer(Vec::new(), threads(workers));
    for chunk in bytes.chunks(chunk) {
        writer.write_all(chunk).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

fn zstd(bytes: &[u8], workers: usize, chunk: usize) -> Vec<u8> {
    let mut writer = zstd_writer(Vec::new(), threads(workers)).unwrap();
    for chunk in bytes.chunks(chunk) {
        writer.write_all(chunk).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

fn plain(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decompress(bytes, 64 << 20)?.read_to_end(&mut plain)?;
    Ok(plain)
}

#[test]
fn threads_and_writes_do_not_show() {
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 << 20] {
        let bytes = sample(length);
        let (by_gzip, by_zstd) = (gzip(&bytes, 1, 1 << 20), zstd(&bytes, 1, 1 << 20));
        for (workers, chunk) in [(2, 777_777), (3, 4096), (8, 3 << 20)] {
            assert_eq!(gzip(&bytes, workers, chunk), by_gzip, "gzip of {length} by {workers}");
            assert_eq!(zstd(&bytes, workers, chunk), by_zstd, "zstd of {length} by {workers}");
        }
        assert!(run("gzip", &["-dc"], &by_gzip) == bytes, "gzip reads {length}");
        assert!(run("zstd", &["-dc"], &by_zstd) == bytes, "zstd reads {length}");
        assert!(plain(&by_gzip).unwrap() == bytes, "we read {length} of gzip");
        assert!(plain(&by_zstd).unwrap() == bytes, "we read {length} of zstd");
    }
}

#[test]
fn formats_are_recognised_by_content() {
    let bytes = sample(300_000);
    #[rustfmt::skip]
    let cases = [
        ("gzip",  run("gzip", &["-c"], &bytes)),
        ("bzip2", run("bzip2", &["-c"], &bytes)),
        ("xz",    run("xz", &["-c"], &bytes)),
        ("zstd",  run("zstd", &["-c"], &bytes)),
        ("plain", bytes.clone()),
    ];
    for (name, compressed) in cases {
        assert!(plain(&compressed).unwrap() == bytes, "{name}");
        if name != "plain" {
            let twice = [compressed.clone(), compressed.clone()].concat();
            assert!(plain(&twice).unwrap().len() == 2 * bytes.len(), "{name} in two parts");
            let cut = &compressed[..compressed.len() / 2];
            assert!(plain(cut).is_err(), "{name} cut off");
        }
    }
    assert_eq!(plain(b"").unwrap(), b"");
    assert_eq!(plain(b"\x1f").unwrap(), b"\x1f");
}

#[test]
fn bombs_do_not_go_off() {
    let zeros = run("zstd", &["-c"], &vec![0; 100 << 20]);
    let mut reader = decompress(&zeros[..], 10 << 20).unwrap();
    let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "the data exceeds the limit of 10485760 bytes");

    // 64 KiB of zstd's run-length blocks a kilobyte: far beyond any real ratio.
    let bomb: Vec<u8> = zeros.repeat(60);
    let mut reader = decompress(&bomb[..], u64::MAX).unwrap();
    let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "the data expands to more than 4096 times its compressed size");

    let mut reader = LimitedReader::new(&b"12345"[..], 5);
    assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), 5);
    let mut reader = LimitedReader::new(&b"123456"[..], 5);
    assert!(std::io::copy(&mut reader, &mut std::io::sink()).is_err());
}

/// Takes some bytes and fails.
#[derive(Debug)]
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_ends_the_threads() {
    let mut writer = gzip_writer(Full(1000), threads(2));
    let bytes = sample(64 << 20);
    let error = writer.write_all(&bytes).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    drop(writer);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_bytes_panic_a_decompressor(kind in 0_usize..5, bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let magic: [&[u8]; 5] = [
            b"\x1f\x8b\x08\0\0\0\0\0\0\0", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b"",
        ];
        drop(plain(&[magic[kind], &bytes].concat()));
    }
}
