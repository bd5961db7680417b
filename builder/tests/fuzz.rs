//! Mutated archives against the tar reader and what unpacks with it, for as long as asked.
//!
//! `RBUILD_FUZZ_SECONDS` (default: 2) for each target, `RBUILD_FUZZ_SEED` to repeat a run. A target
//! that fails leaves its input in the temporary directory and names it.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]
#![expect(clippy::print_stderr, reason = "the input at fault, and how far a run came")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use builder::{ArchiveLimits as Limits, TarReader, apply_layer, unpack_context};
use tempfile::tempdir;

const BLOCK: usize = 512;

/// What an archive may hold here: a run must stay short.
const LIMITS: Limits = Limits { entries: 200, bytes: 1 << 20, ..Limits::LAYER };

/// Pieces that parsers stumble over.
const PIECES: [&[u8]; 16] = [
    b"../",
    b"/",
    b"\0",
    b".wh.",
    b".wh..wh..opq",
    b"\x80\0\0\0\0\0\0\0\0\0\0\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"77777777777\0",
    b"20 path=../../x/y/z\n",
    b"11 size=-1\n",
    b"GNU.sparse.map=0,1",
    b"30 SCHILY.xattr.user.a=xxxxxxx\n",
    b"xKLgSDV0123456",
    b"ustar\x0000",
    b"ustar  \0",
    b"a/b/c/",
];

/// Xorshift (Marsaglia): good enough to stumble about.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or_default()
    }

    /// Overwrites, cuts, doubles and moves blocks; mostly the checksums are made to fit again, so
    /// that what is behind them is reached.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut tar = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let blocks = tar.len() / BLOCK;
            if blocks < 2 {
                break;
            }
            let (from, to) = (self.below(blocks) * BLOCK, self.below(blocks) * BLOCK);
            match self.below(8) {
                0 => tar.truncate(self.below(tar.len()).max(BLOCK)),
                1 => drop(tar.drain(from..(from + BLOCK).min(tar.len()))),
                2 => {
                    let copy = tar[from..from + BLOCK].to_vec();
                    tar.splice(to..to, copy);
                }
                3 => {
                    let other = &corpus[self.below(corpus.len())];
                    let at = self.below(other.len() / BLOCK) * BLOCK;
                    tar.splice(to..to, other[at..at + BLOCK].iter().copied());
                }
                4 => {
                    let at = self.below(tar.len());
                    tar[at] = u8::try_from(self.below(256)).unwrap_or_default();
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    let at = from + self.below(BLOCK);
                    let end = (at + piece.len()).min(tar.len());
                    tar[at..end].copy_from_slice(&piece[..end - at]);
                }
            }
        }
        if self.below(8) > 0 {
            tar.chunks_exact_mut(BLOCK).for_each(fit_checksum);
        }
        tar
    }
}

/// Makes the checksum fit where a block looks like a header.
fn fit_checksum(block: &mut [u8]) {
    if &block[257..262] != b"ustar" {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Archives of GNU tar, of all its formats, with everything that a tree can hold.
fn corpus() -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("d/e")).unwrap();
    fs::write(path("d/file"), "content").unwrap();
    fs::write(path(&"long".repeat(40)), "").unwrap();
    fs::hard_link(path("d/file"), path("d/hard")).unwrap();
    symlink("../d/file", path("d/link")).unwrap();
    symlink("/etc", path("out")).unwrap();
    fs::write(path("d/.wh.gone"), "").unwrap();
    fs::write(path("d/e/.wh..wh..opq"), "").unwrap();
    let sparse = fs::File::create(path("sparse")).unwrap();
    for piece in 0..8 {
        sparse.write_all_at(b"x", (2 * piece + 1) << 13).unwrap();
    }
    sparse.set_len(1 << 18).unwrap();
    let formats: [&[&str]; 6] = [
        &["--format=gnu", "--sparse"],
        &["--format=ustar", "--exclude=long*"],
        &["--format=v7", "--exclude=long*"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse"],
    ];
    let pack = |format: &&[&str]| {
        let mut tar = Command::new("tar");
        tar.args(*format).args(["--blocking-factor=1", "-c", "-C"]);
        let tar = tar.arg(dir.path()).arg(".").output().unwrap();
        assert!(tar.status.success(), "{format:?}: {}", String::from_utf8_lossy(&tar.stderr));
        tar.stdout
    };
    formats.iter().map(pack).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs `target` on mutated archives until its time is up; each has a deadline, too.
fn fuzz(name: &str, target: impl Fn(&[u8])) {
    let corpus = corpus();
    for tar in &corpus {
        target(tar);
    }
    let time = Duration::from_secs(number("RBUILD_FUZZ_SECONDS", 2));
    let seed = number("RBUILD_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15).max(1);
    let mut random = Random(seed);
    let start = Instant::now();
    let mut runs = 0_u64;
    while start.elapsed() < time {
        let tar = random.mutate(&corpus);
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| target(&tar)));
        let took = begun.elapsed();
        if result.is_err() || took > Duration::from_secs(10) {
            let mut kept = tempfile::Builder::new().suffix(".tar").tempfile().unwrap();
            kept.write_all(&tar).unwrap();
            let (_, kept) = kept.keep().unwrap();
            eprintln!("{name}, seed {seed}, run {runs}, {took:?}: fails on {}", kept.display());
        }
        result.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(took < Duration::from_secs(10), "{name}: {took:?}");
        runs += 1;
    }
    assert!(runs > 10, "{name}: only {runs} runs");
    eprintln!("{name}: {runs} runs, seed {seed}");
}

#[test]
fn reader() {
    fuzz("reader", |tar| {
        let mut reader = TarReader::new(tar, LIMITS);
        let mut bytes = 0;
        while let Ok(Some(entry)) = reader.next_entry() {
            assert!(!entry.path.is_empty() && !entry.path.contains(&0));
            let mut content = Vec::new();
            if reader.read_to_end(&mut content).is_ok() {
                assert_eq!(content.len() as u64, entry.size);
            }
            bytes += content.len() as u64;
            assert!(bytes <= LIMITS.bytes);
        }
    });
}

/// Nothing may be made beside the directory that is unpacked to.
fn stays_inside(unpack: impl Fn(&Path)) {
    let dir = tempdir().unwrap();
    let root = dir.path().join("a/root");
    fs::create_dir_all(&root).unwrap();
    unpack(&root);
    for (dir, only) in [(dir.path().to_owned(), "a"), (dir.path().join("a"), "root")] {
        let names: Vec<_> = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, [only]);
    }
}

#[test]
fn layers() {
    fuzz("layers", |tar| stays_inside(|root| drop(apply_layer(tar, root, &[], &LIMITS))));
}

#[test]
fn contexts() {
    fuzz("contexts", |tar| stays_inside(|root| drop(unpack_context(tar, root, &LIMITS))));
}
