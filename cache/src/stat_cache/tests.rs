use super::*;
use crate::layout::Layout;

fn stat(inode: u64, ctime: (i64, u32), mtime: (i64, u32)) -> FileStat {
    FileStat { device: (8, 1), inode, size: 10, ctime, mtime }
}

fn at(seconds: u64, millis: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)
}

#[test]
fn only_settled_files_are_kept() {
    let (old, ms) = ((90, 1), 1_000_000);
    #[rustfmt::skip]
    let cases = [
        ("long ago",                  old,           old,           at(100, 0),  true),
        ("just written",              (100, 1),      (100, 1),      at(100, 0),  false),
        ("within the slack",          (100, 10 * ms), old,          at(100, 40), false),
        ("after the slack",           (100, 10 * ms), old,          at(100, 61), true),
        ("mtime in the future",       old,           (200, 1),      at(100, 0),  false),
        ("clock set back since",      (200, 1),      old,           at(100, 0),  false),
        ("whole seconds, close",      (99, 0),       (99, 0),       at(101, 0),  false),
        ("whole seconds, far",        (90, 0),       (90, 0),       at(101, 0),  true),
        ("before 1970",               old,           (-5, 1),       at(100, 0),  true),
        ("no clock at all",           old,           old,           UNIX_EPOCH,  false),
    ];
    for (name, ctime, mtime, since, want) in cases {
        let mut cache = StatCache::default();
        let stat = stat(1, ctime, mtime);
        cache.put(stat, Digest::of(b"x"), since);
        assert_eq!(cache.get(&stat).is_some(), want, "{name}");
    }
}

#[test]
fn any_other_stat_is_a_miss() {
    let mut cache = StatCache::default();
    let known = stat(1, (5, 1), (4, 1));
    cache.put(known, Digest::of(b"x"), at(100, 0));
    #[rustfmt::skip]
    let others = [
        ("device", FileStat { device: (8, 2), ..known }),
        ("inode",  FileStat { inode: 2, ..known }),
        ("size",   FileStat { size: 11, ..known }),
        ("ctime",  FileStat { ctime: (5, 2), ..known }),
        ("mtime",  FileStat { mtime: (4, 2), ..known }),
    ];
    for (name, other) in others {
        assert_eq!(cache.get(&other), None, "{name}");
    }
    assert_eq!(cache.get(&known), Some(Digest::of(b"x")));
}

/// Writes a file with one block for each of `blocks`.
fn write(path: &Path, blocks: &[Vec<(FileStat, Digest)>]) -> Vec<u8> {
    let blocks: Vec<Vec<u8>> = blocks.iter().map(|block| encode(block.clone())).collect();
    let file = [MAGIC, &blocks.concat()].concat();
    fs::write(path, &file).unwrap();
    file
}

fn of(inode: u64, size: u64) -> FileStat {
    FileStat { size, ..stat(inode, (5, 1), (4, 1)) }
}

#[test]
fn what_was_saved_is_found_and_the_newer_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stat");
    let (x, y, z) = (Digest::of(b"x"), Digest::of(b"y"), Digest::of(b"z"));
    let first = (0..200).rev().map(|inode| (of(2 * inode, 1), x)).collect();
    let later = [vec![(of(20, 2), x), (of(30, 2), x)], vec![(of(20, 3), y), (of(7, 1), y)]];
    let [second, third] = later;
    write(&path, &[first, second, third]);
    let mut cache = StatCache::load(&path);
    // There and back, and from anywhere to anywhere.
    let order = (0..200).chain((0..200).rev()).chain((0..200).map(|at| at * 73 % 200));
    for inode in order {
        let want = ![10, 15].contains(&inode);
        assert_eq!(cache.get(&of(2 * inode, 1)).is_some(), want, "inode {}", 2 * inode);
        assert_eq!(cache.get(&of(2 * inode + 401, 1)), None);
    }
    assert_eq!(cache.get(&of(20, 2)), None);
    assert_eq!(cache.get(&of(20, 3)), Some(y));
    assert_eq!(cache.get(&of(30, 2)), Some(x));
    assert_eq!(cache.get(&of(7, 1)), Some(y));
    cache.put(of(8, 2), z, at(100, 0));
    assert_eq!(cache.get(&of(8, 1)), None);
    assert_eq!(cache.get(&of(8, 2)), Some(z));
}

#[test]
fn little_is_appended_and_much_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::establish(&dir.path().join("store")).unwrap();
    let session = Session::start(&layout).unwrap();
    let path = dir.path().join("stat");
    let digest = |text: &str| Digest::of(text.as_bytes());
    // (what is learnt, blocks in the file then)
    let inodes = |from: u64, count: usize| (from..).take(count);
    let rounds = [
        (inodes(1000, 5000), 1),
        (inodes(1000, 1), 2),
        (inodes(1000, 2), 3),
        (inodes(500, 100), 4),
        (inodes(9000, MAX_APPENDED), 1),
        (inodes(1, 1), 2),
    ];
    let mut want = HashMap::new();
    for (round, (inodes, blocks_then)) in rounds.into_iter().enumerate() {
        let mut cache = StatCache::load(&path);
        for inode in inodes {
            let (stat, digest) = (of(inode, round as u64), digest(&format!("{inode} {round}")));
            cache.put(stat, digest, at(100, 0));
            want.insert(inode, (stat, digest));
        }
        cache.save(&session, &path).unwrap();
        assert_eq!(blocks(&fs::read(&path).unwrap()).0.len(), blocks_then, "round {round}");
        let mut cache = StatCache::load(&path);
        for (stat, digest) in want.values() {
            assert_eq!(cache.get(stat), Some(*digest), "round {round}: {stat:?}");
        }
    }
    // Behind a block that is torn none would be found.
    let mut torn = fs::read(&path).unwrap();
    torn.pop();
    fs::write(&path, torn).unwrap();
    let mut cache = StatCache::load(&path);
    assert_eq!(cache.get(&want[&1].0), None);
    cache.put(want[&1].0, want[&1].1, at(100, 0));
    cache.save(&session, &path).unwrap();
    let mut cache = StatCache::load(&path);
    for (stat, digest) in want.values() {
        assert_eq!(cache.get(stat), Some(*digest), "{stat:?}");
    }
}

#[test]
fn from_a_damaged_byte_on_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stat");
    let stats = [
        (stat(1, (5, 1), (4, 1)), Digest::of(b"x")),
        (stat(2, (-5, 7), (i64::MAX, 999_999_999)), Digest::of(b"y")),
        (of(3, 7), Digest::of(b"z")),
    ];
    let whole = write(&path, &[stats[..2].to_vec(), stats[2..].to_vec()]);
    assert_eq!(whole.len(), MAGIC.len() + 2 * BLOCK_HEADER + 3 * ENTRY);
    let (read, is_whole) = blocks(&whole);
    let read: Vec<_> = read.into_iter().flatten().filter_map(decode).collect();
    assert!(is_whole, "what is written is read");
    assert_eq!(read, stats);
    let second = whole.len() - BLOCK_HEADER - ENTRY;
    let known = |file: &[u8]| {
        fs::write(&path, file).unwrap();
        let mut cache = StatCache::load(&path);
        let known = stats.iter().filter(|(stat, digest)| cache.get(stat) == Some(*digest));
        (known.count(), cache.is_whole)
    };
    for at in 0..whole.len() {
        let left = if at < second { 0 } else { 2 };
        // A file that ends with a block was never longer as far as anybody can tell.
        assert_eq!(known(&whole[..at]), (left, at == second), "cut at byte {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        assert_eq!(known(&flipped), (left, false), "flipped at byte {at}");
    }
}
