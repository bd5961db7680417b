//! Trees for the tests of layers: made from a description, read back as one.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, makedev, mknodat};

/// What lies at one path, in a form that `assert_eq` shows well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Seconds; those of directories are left out unless asked for.
    pub(crate) mtime: Option<i64>,
    /// The value of `user.test`.
    pub(crate) xattr: Option<Vec<u8>>,
    /// The first path, in order, of the same inode.
    pub(crate) same_as: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File(Vec<u8>),
    Symlink(PathBuf),
    Fifo,
    Device(u64),
}

pub(crate) type Tree = BTreeMap<PathBuf, Object>;

/// Reads the tree below `root`, which itself is left out.
pub(crate) fn read(root: &Path, dir_times: bool) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = HashMap::new();
    read_dir(root, root, dir_times, &mut tree);
    let inode = |path: &Path| fs::symlink_metadata(root.join(path)).unwrap().ino();
    let paths: Vec<PathBuf> = tree.keys().cloned().collect();
    for path in paths {
        let object = tree.get_mut(&path).unwrap();
        if object.kind != Kind::Dir {
            let first = inodes.entry(inode(&path)).or_insert_with(|| path.clone());
            object.same_as = (*first != path).then(|| first.clone());
        }
    }
    tree
}

fn read_dir(root: &Path, dir: &Path, dir_times: bool, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let file_type = metadata.file_type();
        let kind = if file_type.is_dir() {
            read_dir(root, &path, dir_times, tree);
            Kind::Dir
        } else if file_type.is_symlink() {
            Kind::Symlink(fs::read_link(&path).unwrap())
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_char_device() || file_type.is_block_device() {
            Kind::Device(metadata.rdev())
        } else {
            Kind::File(fs::read(&path).unwrap())
        };
        let timed = dir_times || kind != Kind::Dir;
        let mut value = [0; 256];
        let xattr = lgetxattr(&path, "user.test", &mut value).ok();
        let object = Object {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: timed.then(|| metadata.mtime()),
            xattr: xattr.map(|length| value[..length].to_vec()),
            same_as: None,
        };
        tree.insert(path.strip_prefix(root).unwrap().to_path_buf(), object);
    }
}

/// Lists a tree a line an object, as `MODE UID:GID PATH[ -> TARGET]`.
pub(crate) fn list(root: &Path) -> Vec<String> {
    read(root, false).iter().map(|(path, object)| line(path, object)).collect()
}

pub(crate) fn line(path: &Path, object: &Object) -> String {
    let (uid, gid) = object.owner;
    let tail = match &object.kind {
        Kind::Dir => "/".to_owned(),
        Kind::File(content) => format!(" = {}", String::from_utf8_lossy(content)),
        Kind::Symlink(target) => format!(" -> {}", target.display()),
        Kind::Fifo => " fifo".to_owned(),
        Kind::Device(device) => format!(" device {device}"),
    };
    let same =
        object.same_as.as_ref().map_or(String::new(), |same| format!(" ({})", same.display()));
    format!("{:04o} {uid}:{gid} {}{tail}{same}", object.mode, path.display())
}

/// Makes the objects that `lines` describe below `root`, which must exist:
/// `PATH/`, `PATH = CONTENT`, `PATH -> TARGET`, `PATH fifo`, `PATH whiteout`, `PATH opaque` (a
/// directory), `PATH links OTHER`, each with `MODE` and `UID:GID` before the path where they are
/// not 0755/0644 and root's.
pub(crate) fn make(root: &Path, lines: &[&str]) {
    for line in lines {
        let mut words: Vec<&str> = line.split(' ').collect();
        let is_mode =
            |word: &str| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit());
        let mode = is_mode(words[0]).then(|| u32::from_str_radix(words.remove(0), 8).unwrap());
        let owner = words[0]
            .split_once(':')
            .and_then(|(uid, gid)| Some((uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?)));
        if owner.is_some() {
            words.remove(0);
        }
        let path = root.join(words[0].trim_end_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        make_object(root, &path, &words);
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
        }
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

fn make_object(root: &Path, path: &Path, words: &[&str]) {
    match words {
        [name] if name.ends_with('/') => fs::create_dir_all(path).unwrap(),
        [_, "="] => fs::write(path, "").unwrap(),
        [_, "=", content @ ..] => fs::write(path, content.join(" ")).unwrap(),
        [_, "->", target] => std::os::unix::fs::symlink(target, path).unwrap(),
        [_, "links", other] => fs::hard_link(root.join(other), path).unwrap(),
        [_, "fifo"] => mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
        [_, "device"] => {
            mknodat(CWD, path, FileType::CharacterDevice, Mode::RWXU, makedev(1, 3)).unwrap();
        }
        [_, "whiteout"] => {
            mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        [_, "opaque"] => {
            fs::create_dir_all(path).unwrap();
            set_xattr(path, "user.overlay.opaque", b"y");
        }
        other => panic!("{other:?} describes nothing"),
    }
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Sets the modification time of everything below `root`.
pub(crate) fn set_times(root: &Path, seconds: i64) {
    let paths: Vec<PathBuf> = read(root, false).into_keys().collect();
    for path in paths.iter().rev() {
        let time = nix::sys::time::TimeSpec::new(seconds, 0);
        let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        let path = root.join(path);
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, follow).unwrap();
    }
}

/// Runs a program, which must succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    output.stdout
}

/// Names a file by bytes that are no text.
pub(crate) fn raw(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
