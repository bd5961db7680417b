//! Archives and trees that mean harm.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use builder::{ArchiveLimits as Limits, TarReader, apply_layer, unpack_context};
use proptest::prelude::*;
use tempfile::tempdir;

use super::layer::archive;
use super::layer_tree::{list, make};

/// What is wrong, the archive's entries, and a part of the words that say so.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// What the error and its causes say.
fn words(error: &dyn std::error::Error) -> String {
    builder::causes(error).join(": ")
}

#[test]
fn layers_that_mean_harm() {
    #[rustfmt::skip]
    let cases: [Case; 14] = [
        ("dots",                 &[("../x", "y")],                         "`../x` leads outside"),
        ("dots inside",          &[("a/../../x", "y")],                    "`a/../../x` leads outside"),
        ("a hard link out",      &[("l", "links ../../etc/passwd")],       "`l` leads outside"),
        ("a hard link to nothing", &[("l", "links etc/passwd")],           "has no file to link to at `etc/passwd`"),
        ("a hard link to itself", &[("l", "x"), ("l", "links l")],         "has no file to link to at `l`"),
        ("a hard link to a directory", &[("d", "dir"), ("l", "links d")],  "has no file to link to at `d`"),
        ("a hard link through a link", &[("s", "-> /host"), ("l", "links s/file")], "has no file to link to"),
        ("the root is a link",   &[(".", "-> /")],                         "`.` leads outside"),
        ("the root is a file",   &[("/", "x")],                            "`/` leads outside"),
        ("a deletion of ..",     &[(".wh...", "")],                        "`/.wh...` leads outside"),
        ("a deletion of .",      &[(".wh..", "")],                         "`/.wh..` leads outside"),
        ("a deletion of nothing", &[(".wh.", "")],                         "`/.wh.` leads outside"),
        ("a device as deletion", &[("bin", "char 0:0")],                   "`/bin` is a device"),
        ("a file as parent",     &[("f", "x"), ("f/x", "y")],              "`/f` is not a directory"),
    ];
    for (name, entries, want) in cases {
        let [dir, host] = [tempdir().unwrap(), tempdir().unwrap()];
        make(host.path(), &["file = untouched"]);
        let upper = dir.path().join("a/b/upper");
        fs::create_dir_all(&upper).unwrap();
        let error = apply_layer(&archive(entries)[..], &upper, &[], &Limits::LAYER).unwrap_err();
        let got = words(&error);
        assert!(got.contains(want), "{name}: {got}");
        assert_eq!(
            list(dir.path()).iter().filter(|line| !line.contains("upper")).count(),
            2,
            "{name}"
        );
        assert_eq!(list(host.path()), ["0644 0:0 file = untouched"], "{name}");
    }
}

#[test]
fn links_of_the_archive_lead_nowhere_outside() {
    let host = tempdir().unwrap();
    make(host.path(), &["0600 file = untouched", "0700 dir/"]);
    let target = host.path().to_str().unwrap();
    let (to_dir, to_file) = (format!("-> {target}/dir"), format!("-> {target}/file"));
    #[rustfmt::skip]
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("through a link",            &[("s", &to_dir), ("s/x", "new")]),
        ("a directory over a link",   &[("s", &to_dir), ("s", "dir")]),
        ("a file over a link",        &[("s", &to_file), ("s", "new")]),
        ("a relative link up",        &[("s", "-> ../../../../../../../../tmp"), ("s/rbuild-escaped", "new")]),
        ("links in a chain",          &[("a", &to_dir), ("b", "-> a"), ("b/x", "new")]),
        ("a deletion through a link", &[("s", &to_dir), ("s/.wh.x", "")]),
    ];
    for (name, entries) in cases {
        let upper = tempdir().unwrap();
        // Some succeed inside of the root, others fail; none may reach the host.
        drop(apply_layer(&archive(entries)[..], upper.path(), &[], &Limits::LAYER));
        assert_eq!(list(host.path()), ["0700 0:0 dir/", "0600 0:0 file = untouched"], "{name}");
        assert!(!Path::new("/tmp/rbuild-escaped").exists(), "{name}");
        let context = tempdir().unwrap();
        drop(unpack_context(&archive(entries)[..], context.path(), &Limits::CONTEXT));
        assert_eq!(list(host.path()), ["0700 0:0 dir/", "0600 0:0 file = untouched"], "{name}");
        assert!(!Path::new("/tmp/rbuild-escaped").exists(), "{name}");
    }
}

#[test]
fn a_loop_of_links_ends() {
    let upper = tempdir().unwrap();
    let tar = archive(&[("a", "-> b"), ("b", "-> a"), ("a/x", "y")]);
    let error = apply_layer(&tar[..], upper.path(), &[], &Limits::LAYER).unwrap_err();
    assert!(words(&error).contains("too many levels of symbolic links"));
}

#[test]
fn contexts_that_mean_harm() {
    #[rustfmt::skip]
    let cases: [Case; 4] = [
        ("a device",      &[("d", "char 1:3")],                "`/d` is a device"),
        ("a disk",        &[("d", "block 8:0")],               "`/d` is a device"),
        ("dots",          &[("a/../../x", "y")],               "leads outside"),
        ("a link out",    &[("l", "links /../etc/passwd")],    "leads outside"),
    ];
    for (name, entries, want) in cases {
        let dir = tempdir().unwrap();
        let error =
            unpack_context(&archive(entries)[..], dir.path(), &Limits::CONTEXT).unwrap_err();
        assert!(words(&error).contains(want), "{name}: {}", words(&error));
        assert_eq!(error.kind(), builder::ErrorKind::User, "{name}");
    }
    let dir = tempdir().unwrap();
    let tar = archive(&[(".wh.kept", "x"), ("./a/b", "y"), ("/c", "links a/b")]);
    unpack_context(&tar[..], dir.path(), &Limits::CONTEXT).unwrap();
    assert_eq!(
        list(dir.path()),
        ["0644 0:0 .wh.kept = x", "0755 0:0 a/", "0644 0:0 a/b = y", "0644 0:0 c = y (a/b)"]
    );
}

/// Raw header blocks, for what no writer would write.
struct Raw(Vec<u8>);

impl Raw {
    fn block(mut self, name: &str, flag: u8, size: &[u8; 12], content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_old_mut().size = *size;
        header.as_old_mut().linkflag = [flag];
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, name: &str, flag: u8, content: &[u8]) -> Self {
        let size = format!("{:011o}\0", content.len());
        self.block(name, flag, size.as_bytes().try_into().unwrap(), content)
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // One more digit may make the length itself longer.
            let length = rest + (rest + 1).to_string().len();
            let length = rest + length.to_string().len();
            content.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
        }
        self.entry("pax", b'x', &content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn names(tar: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let mut reader = TarReader::new(tar, Limits { entries: 50, bytes: 1 << 20, ..Limits::LAYER });
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        names.push((String::from_utf8_lossy(&entry.path).into_owned(), entry.size));
    }
    Ok(names)
}

/// What is special, the archive, and the entries with their sizes.
type Read<'a> = (&'a str, Vec<u8>, Result<Vec<(&'a str, u64)>, &'a str>);

#[test]
fn archives_that_parsers_disagree_about() {
    let raw = || Raw(Vec::new());
    let inner = raw().entry("smuggled", b'0', b"x").0;
    let hex = *b"\x80\0\0\0\0\0\0\0\0\0\0\x03";
    let negative = [0xff; 12];
    let huge = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    let mut broken = raw().entry("a", b'0', b"x").end();
    broken[3] ^= 1;
    let mut half = raw().entry("a", b'0', b"x").end();
    half.truncate(512);
    #[rustfmt::skip]
    let cases: Vec<Read> = vec![
        ("the record's size wins", raw().pax(&[("size", "1024")]).block("a", b'0', b"00000000000\0", &inner).entry("b", b'0', b"").end(),
         Ok(vec![("a", 1024), ("b", 0)])),
        ("a size belongs to the file, not to its long name", raw().pax(&[("size", "3")]).entry("L", b'L', b"long-name\0").entry("a", b'0', b"abc").end(),
         Ok(vec![("long-name", 3)])),
        ("a record's path",     raw().pax(&[("path", "other")]).entry("a", b'0', b"").end(),      Ok(vec![("other", 0)])),
        ("base 256",            raw().block("a", b'0', &hex, b"abc").end(),                       Ok(vec![("a", 3)])),
        ("git's comment",       raw().entry("g", b'g', b"15 comment=abc\n").entry("a", b'0', b"").end(), Ok(vec![("a", 0)])),
        ("no end marker",       raw().entry("a", b'0', b"x").0,                                   Ok(vec![("a", 1)])),
        ("nothing at all",      Vec::new(),                                                       Ok(vec![])),
        ("two records for one", raw().pax(&[("size", "1")]).pax(&[("size", "2")]).entry("a", b'0', b"").end(), Err("the archive is ambiguous: two extension headers for one entry")),
        ("global paths",        raw().entry("g", b'g', b"12 path=abc\n").entry("a", b'0', b"").end(), Err("the archive is ambiguous: a global header that names files")),
        ("content of a link",   raw().entry("l", b'2', b"x").end(),                               Err("the archive is ambiguous: content behind an entry that has none")),
        ("content of a directory", raw().entry("d", b'5', b"x").end(),                            Err("the archive is ambiguous: content behind an entry that has none")),
        ("negative size",       raw().block("a", b'0', &negative, b"").end(),                     Err("the archive holds an invalid size")),
        ("huge size",           raw().block("a", b'0', &huge, b"").end(),                         Err("the archive exceeds the limit of 1048576 bytes")),
        ("not octal",           raw().block("a", b'0', b"0000000009x\0", b"").end(),              Err("the archive holds an invalid size")),
        ("digits after blanks", raw().block("a", b'0', b"1 1        \0", b"x").end(),             Err("the archive holds an invalid size")),
        ("bad checksum",        broken,                                                           Err("the archive holds an invalid header")),
        ("cut off",             half,                                                             Err("the archive is cut off")),
        ("a record's length lies", raw().entry("x", b'x', b"99 path=a\n").entry("a", b'0', b"").end(), Err("the archive holds malformed PAX records")),
        ("a record without newline", raw().entry("x", b'x', b"9 path=ab").entry("a", b'0', b"").end(), Err("the archive holds malformed PAX records")),
        ("a signed size",       raw().pax(&[("size", "+1")]).entry("a", b'0', b"x").end(),        Err("the archive holds an invalid size")),
        ("a negative record",   raw().pax(&[("size", "-1")]).entry("a", b'0', b"x").end(),        Err("the archive holds an invalid size")),
        ("a wrapping uid",      raw().pax(&[("uid", "4294967295")]).entry("a", b'0', b"x").end(), Err("the archive holds an invalid user id")),
        ("a NUL in a path",     raw().pax(&[("path", "a\0b")]).entry("a", b'0', b"").end(),       Err("the archive holds an invalid path")),
        ("a sparse file of another format", raw().entry("s", b'S', b"").end(),                    Err("the archive holds an invalid header")),
        ("a sparse file without size", raw().pax(&[("GNU.sparse.map", "0,1")]).entry("s", b'0', b"x").end(), Err("the archive holds an invalid map of a sparse file")),
        ("a sparse file that lies", raw().pax(&[("GNU.sparse.map", "0,2"), ("GNU.sparse.size", "9")]).entry("s", b'0', b"x").end(), Err("the archive holds an invalid map of a sparse file")),
        ("a huge sparse file",  raw().pax(&[("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "99999999999")]).entry("s", b'0', b"x").end(), Err("the archive exceeds the limit of 1048576 bytes")),
        ("a newer sparse file", raw().pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]).entry("s", b'0', b"x").end(), Err("the archive holds an invalid version of a sparse file")),
        ("a sparse file by pairs", raw().pax(&[("GNU.sparse.size", "9"), ("GNU.sparse.offset", "4"), ("GNU.sparse.numbytes", "1")]).entry("s", b'0', b"x").end(), Ok(vec![("s", 9)])),
        ("an endless map",      raw().pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]).entry("s", b'0', &[b'1'; 512]).end(), Err("the archive holds an invalid map of a sparse file")),
        ("extensions at the end", raw().pax(&[("path", "a")]).end(),                              Err("the archive is cut off")),
        ("one zero block",      [vec![0; 512], raw().entry("a", b'0', b"").end()].concat(),       Err("the archive holds an invalid header")),
        ("too many entries",    (0..51).fold(raw(), |raw, _| raw.entry("a", b'0', b"")).end(),    Err("the archive exceeds the limit of 50 entries")),
        ("a long path",         raw().pax(&[("path", &"p/".repeat(2500))]).entry("a", b'0', b"").end(), Err("the archive exceeds the limit of 4095 bytes in a path")),
    ];
    for (name, tar, want) in cases {
        let want = want.map_err(str::to_owned);
        let want = want
            .map(|names| names.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect());
        assert_eq!(names(&tar), want, "{name}");
    }
}

/// GNU tar writes four forms of sparse files; what is read back must be the file, holes included.
#[test]
fn sparse_files_are_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    // Enough pieces for blocks behind the header, and a hole at the end.
    for piece in 0..40_u64 {
        file.write_all_at(format!("piece {piece}").as_bytes(), (2 * piece + 1) << 16).unwrap();
    }
    file.set_len(100 << 16).unwrap();
    let formats: [&[&str]; 5] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
        &["--format=posix"],
    ];
    for format in formats {
        let tar = Command::new("tar")
            .args(format)
            .args(["--sparse", "-c", "-C"])
            .arg(dir.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(tar.status.success() && tar.stdout.len() < 1 << 20, "{format:?}");
        let out = tempdir().unwrap();
        apply_layer(&tar.stdout[..], out.path(), &[], &Limits::LAYER).unwrap();
        let copy = out.path().join("sparse");
        assert!(fs::read(&copy).unwrap() == fs::read(&path).unwrap(), "{format:?}");
        let (copy, original) = (copy.metadata().unwrap(), path.metadata().unwrap());
        assert!(copy.blocks() <= original.blocks() + 8, "{format:?}: {} blocks", copy.blocks());
        let mut reader = TarReader::new(&tar.stdout[..], Limits::LAYER);
        let entry = reader.next_entry().unwrap().expect("the file");
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!((entry.path.as_slice(), entry.size), (&b"sparse"[..], 100 << 16));
        assert!(content == fs::read(&path).unwrap(), "{format:?}");
    }
}

#[test]
fn deep_paths_are_refused() {
    let tar = Raw(Vec::new()).pax(&[("path", &"d/".repeat(600))]).entry("d", b'5', b"").end();
    let dir = tempdir().unwrap();
    let error = apply_layer(&tar[..], dir.path(), &[], &Limits::LAYER).unwrap_err();
    assert!(words(&error).ends_with("exceeds the limit of 512 directories"), "{}", words(&error));
}

#[test]
fn attributes_of_others_are_dropped() {
    let tar = Raw(Vec::new())
        .pax(&[
            ("SCHILY.xattr.user.test", "kept"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.security.selinux", "label"),
        ])
        .entry("d", b'5', b"")
        .end();
    let dir = tempdir().unwrap();
    apply_layer(&tar[..], dir.path(), &[], &Limits::LAYER).unwrap();
    let mut names = [0; 256];
    let length = rustix::fs::llistxattr(dir.path().join("d"), &mut names).unwrap();
    assert_eq!(&names[..length], b"user.test\0");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_bytes_panic_the_reader(
        at in 0_usize..2048, bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0_usize..4096,
    ) {
        let mut tar = Raw(Vec::new())
            .pax(&[("path", "other"), ("mtime", "1.5")])
            .entry("a", b'0', b"content")
            .end();
        let end = (at + bytes.len()).min(tar.len());
        let start = at.min(end);
        tar[start..end].copy_from_slice(&bytes[..end - start]);
        tar.truncate(cut);
        drop(names(&tar));
    }

    #[test]
    fn no_entries_leave_the_root(
        entries in prop::collection::vec(("[ab./]{1,8}", 0_u8..7, "[ab./]{0,8}"), 1..12),
    ) {
        let dir = tempdir().unwrap();
        let upper = dir.path().join("a/upper");
        fs::create_dir_all(&upper).unwrap();
        let raw = entries.iter().fold(Raw(Vec::new()), |raw, (name, flag, link)| {
            let content: &[u8] = if *flag == 0 { b"x" } else { b"" };
            raw.pax(&[("linkpath", link)]).entry(name, b'0' + flag, content)
        });
        drop(apply_layer(&raw.end()[..], &upper, &[], &Limits::LAYER));
        let outside = list(dir.path());
        let outside = outside.iter().filter(|line| !line.contains(" a/upper/"));
        prop_assert_eq!(outside.count(), 1, "only the directory above it");
    }
}
