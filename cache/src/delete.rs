//! Deleting trees that hostile steps made: links are never followed, depth is no stack.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, unlinkat};
use rustix::io::Errno;

/// Deletes `path` and everything below it. A path that is not there is no error.
pub(crate) fn delete_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_dir() => return fs::remove_file(path),
        Ok(_) => {}
    }
    let root = open_dir(CWD, path)?;
    empty(root)?;
    fs::remove_dir(path)
}

/// Empties the directory behind `root`, keeping the way down in memory rather than on the stack.
fn empty(root: OwnedFd) -> io::Result<()> {
    let mut stack: Vec<(OwnedFd, Option<CString>)> = vec![(root, None)];
    while let Some((dir, _)) = stack.last() {
        let mut below = None;
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                below = Some(name.to_owned());
                break;
            }
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(name) = below {
            let child = open_child(dir, &name)?;
            stack.push((child, Some(name)));
            continue;
        }
        let (_, name) = stack.pop().expect("the loop looked at the last entry");
        if let (Some((parent, _)), Some(name)) = (stack.last(), name) {
            match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn open_child(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    match open_dir(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // A directory of mode 000 stops all but root.
            chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            open_dir(dir, name)
        }
        other => other,
    }
}

fn open_dir(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_trees_and_links_to_the_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let mut at = top.clone();
        for _ in 0..300 {
            at.push("deep");
        }
        fs::create_dir_all(&at).unwrap();
        std::os::unix::fs::symlink(outside.path(), top.join("link")).unwrap();
        delete_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(outside.path().join("kept").exists());
        delete_tree(&top).unwrap();
    }
}
