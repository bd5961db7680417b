//! What is mounted for the command, made ready before its root is.
//!
//! Directories of this machine are opened before anything is mounted, so that no mount of ours can
//! stand in their way; what lies beneath them is found by the kernel with links kept inside.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::beneath::open_followed;
use super::error::{At as _, Fault};
use super::mount::{
    DATA, KERNEL, READ_ONLY, attach, clone_of, clone_of_all, make_dir, make_file, open_dir,
    overlay, tmpfs,
};
use super::spec::{MountSource, SandboxMount};

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its root.
    pub mount: OwnedFd,
    /// Whether it needs a directory to stand on, or a file.
    pub is_dir: bool,
}

/// Opens the directories of this machine that `mount` is made of.
pub(super) fn open_roots(mount: &SandboxMount) -> Result<Vec<OwnedFd>, Fault> {
    match &mount.source {
        MountSource::Bind { root, .. } => Ok(vec![open_dir(root)?]),
        MountSource::Tree { lowers, .. } => lowers.iter().map(|dir| open_dir(dir)).collect(),
        MountSource::Tmpfs { .. } | MountSource::File { .. } => Ok(Vec::new()),
    }
}

/// Makes `mount` ready; `roots` came from [`open_roots`], `private` is an empty directory in
/// memory that it may use.
pub(super) fn prepare(
    mount: &SandboxMount,
    roots: &[OwnedFd],
    private: &OwnedFd,
) -> Result<Prepared, Fault> {
    match &mount.source {
        MountSource::Bind { path, writable, is_recursive, .. } => {
            let place = find(&roots[0], path, &mount.target)?;
            let attributes = if *writable { DATA } else { DATA | READ_ONLY };
            bind(&place, attributes, *is_recursive)
        }
        MountSource::Tree { path, writable, .. } => {
            let tree = merge(roots, *writable, private)?;
            let place = find(&tree, path, &mount.target)?;
            bind(&place, if *writable { DATA } else { DATA | READ_ONLY }, false)
        }
        MountSource::Tmpfs { size } => {
            Ok(Prepared { mount: tmpfs("1777", *size, DATA)?, is_dir: true })
        }
        MountSource::File { content, mode, uid, gid } => {
            let file = File::from(make_file(private, "content", *mode)?);
            (&file).write_all(content.bytes())?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))
                .at(format_args!("owner {uid}:{gid}"))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))?;
            let is_program = mode & 0o111 != 0;
            bind(&file, READ_ONLY | if is_program { DATA } else { KERNEL }, false)
        }
    }
}

fn bind(place: impl AsFd, attributes: MountAttrFlags, recursive: bool) -> Result<Prepared, Fault> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
    let clone = if recursive { clone_of_all } else { clone_of };
    Ok(Prepared { mount: clone(&place, attributes)?, is_dir: kind == FileType::Directory })
}

/// Finds `path` beneath `root`, links kept inside it.
fn find(root: &OwnedFd, path: &str, target: &str) -> Result<OwnedFd, Fault> {
    let relative = path.trim_start_matches('/');
    match open_followed(root, Path::new(relative), OFlags::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Fault::refused(format!(
            "the source `{path}` of the mount on `{target}` does not exist"
        ))),
        Err(Errno::LOOP) => Err(Fault::refused(format!(
            "the source `{path}` of the mount on `{target}` has too many symbolic links"
        ))),
        place => place.at(path),
    }
}

/// Merges `roots` and attaches the result in `private`: only attached trees can be copied in part
/// before Linux 6.15.
fn merge(roots: &[OwnedFd], writable: bool, private: &OwnedFd) -> Result<OwnedFd, Fault> {
    let mut lowers: Vec<BorrowedFd<'_>> = roots.iter().map(AsFd::as_fd).collect();
    let empty = make_dir(private, "empty", 0o755)?;
    if lowers.is_empty() {
        lowers.push(empty.as_fd());
    }
    let tree = if writable {
        let upper = make_dir(private, "upper", 0o755)?;
        let work = make_dir(private, "work", 0o700)?;
        overlay(&lowers, Some((upper.as_fd(), work.as_fd())))?
    } else if let [only] = lowers[..] {
        clone_of(only, DATA)?
    } else {
        overlay(&lowers, None)?
    };
    attach(&tree, make_dir(private, "tree", 0o700)?)?;
    Ok(tree)
}
