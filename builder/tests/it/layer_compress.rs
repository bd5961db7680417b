//! Compression: the same bytes whoever computes them, and readable by everybody.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::io::{Read, Write};
use std::num::NonZeroUsize;

use builder::{LimitedReader, decompress, gzip_writer, write_estargz, zstd_writer};
use cache::{DiffId, Digest};
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

/// Bytes that nothing compresses, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn noise_is_stored_and_nothing_else() {
    let length = 3 << 20;
    let repeated: Vec<u8> = noise(10_000).into_iter().cycle().take(length).collect();
    let counting: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
    let mixed = [sample(1 << 20), noise(1 << 20), sample(1 << 20)].concat();
    let packed = run("zstd", &["-c"], &sample(16 << 20))[..length].to_vec();
    // The least and the most that is left of a thousand bytes.
    #[rustfmt::skip]
    let cases = [
        ("noise",                   noise(length),  1000, 1001),
        ("packed by others",        packed,          980, 1001),
        ("noise over and over",     repeated,          0,   20),
        ("all bytes over and over", counting,          0,   20),
        ("noise amid text",         mixed,           500,  750),
        ("text",                    sample(length),  300,  600),
    ];
    for (name, bytes, least, most) in cases {
        let made = gzip(&bytes, 2, 1 << 20);
        let left = made.len() * 1000 / bytes.len();
        assert!((least..=most).contains(&left), "{name}: {left}");
        assert!(plain(&made).unwrap() == bytes, "{name}");
        assert!(gzip(&bytes, 8, 1 << 20) == made, "{name}: threads show");
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

/// A tar with a directory, files around the size of a piece, links and an empty file.
fn sample_tar() -> (Vec<u8>, Vec<u8>) {
    let big = sample((4 << 20) + 123);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, link: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    };
    add("dir/", tar::EntryType::Directory, "", b"");
    add("dir/big", tar::EntryType::Regular, "", &big);
    add("dir/empty", tar::EntryType::Regular, "", b"");
    add("dir/link", tar::EntryType::Symlink, "big", b"");
    add("dir/same", tar::EntryType::Link, "dir/big", b"");
    add("small", tar::EntryType::Regular, "", b"small\n");
    (tar.into_inner().unwrap(), big)
}

/// Reads one gzip member and returns what it holds.
fn member(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn the_files_of_an_estargz_can_be_had_one_by_one() {
    let (tar, big) = sample_tar();
    let write = |workers| write_estargz(&tar[..], Vec::new(), 4, threads(workers)).unwrap();
    let (blob, written) = write(1);
    for workers in [2, 8] {
        assert!(write(workers).0 == blob, "{workers} threads show");
    }
    let whole = plain(&blob).unwrap();
    assert_eq!(DiffId(Digest::of(&whole)), written.diff_id);
    assert_eq!(whole.len() as u64, written.tar_size);

    // By the specification: the footer's extra field names the place of the table of contents.
    let footer = &blob[blob.len() - 51..];
    assert_eq!(member(footer), b"");
    assert_eq!((&footer[12..14], &footer[32..38]), (&b"SG"[..], &b"STARGZ"[..]));
    let place = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let toc = &member(&blob[place..])[512..];
    let end = toc.iter().rposition(|&byte| byte == b'}').unwrap();
    assert_eq!(Digest::of(&toc[..=end]), written.toc_digest);
    let toc: serde_json::Value = serde_json::from_slice(&toc[..=end]).unwrap();
    assert_eq!(toc["version"], 1);
    let rows = toc["entries"].as_array().unwrap();
    let shown: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row["type"].as_str().unwrap(), row["name"]))
        .collect();
    let want = [
        r#"reg ".no.prefetch.landmark""#,
        r#"dir "dir/""#,
        r#"reg "dir/big""#,
        r#"chunk "dir/big""#,
        r#"reg "dir/empty""#,
        r#"symlink "dir/link""#,
        r#"hardlink "dir/same""#,
        r#"reg "small""#,
    ];
    assert_eq!(shown, want);
    let content = |at: usize| {
        let row = &rows[at];
        let bytes = member(&blob[usize::try_from(row["offset"].as_u64().unwrap()).unwrap()..]);
        assert_eq!(row["chunkDigest"], Digest::of(&bytes).to_string());
        bytes
    };
    assert_eq!(rows[3]["chunkOffset"], 4 << 20);
    assert!([content(2), content(3)].concat() == big);
    assert_eq!(content(7), b"small\n");
    assert_eq!(rows[2]["digest"], Digest::of(&big).to_string());
    assert_eq!(rows[2]["modtime"], "2023-11-14T22:13:20Z");
    // A layer that is one already becomes the same again.
    let again = write_estargz(&whole[..], Vec::new(), 4, threads(2)).unwrap();
    assert_eq!(again.1, written);
}
