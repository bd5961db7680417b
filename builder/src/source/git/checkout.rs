//! A commit as a directory.
//!
//! Files get the commit's time, so that the same commit is the same layer on every machine.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use cache::{Store, TempDir};
use frontend::GitOp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::command::Git;
use super::error::GitError;
use super::mirror::Mirror;
use super::refs::Found;
use crate::blocking;

/// How long submodules may take.
const SUBMODULES_LIMIT: Duration = Duration::from_secs(3600);

/// The checkout's name in the directory that holds it.
const TREE: &str = "tree";

/// Where git keeps what is no content.
const DOT_GIT: &str = ".git";

/// What is checked out.
#[derive(Debug)]
pub(super) struct Checkout<'a> {
    pub(super) op: &'a GitOp,
    pub(super) found: &'a Found,
    pub(super) mirror: &'a Mirror<'a>,
    pub(super) config: &'a [(String, String)],
}

impl Checkout<'_> {
    /// Makes the directory; returns what holds it, and where in it the root is.
    pub(super) async fn make(&self, store: &Store) -> Result<(TempDir, PathBuf), GitError> {
        let keep = |source: Box<dyn std::error::Error + Send + Sync>| GitError::Keep {
            url: self.op.url.clone(),
            source,
        };
        let subdir = subdir(self.op.subdir.as_deref())?;
        let held = {
            let store = store.clone();
            let made = blocking::run(move || {
                let held = store.temp_dir()?;
                fs::create_dir(held.path().join(TREE))?;
                Ok(held)
            });
            made.await.map_err(keep)?
        };
        let tree = held.path().join(TREE);
        let commit = &self.found.commit;
        // Of a part of a repository there is no repository.
        let keeps_git_dir = self.op.keep_git_dir && subdir.as_os_str().is_empty();
        let has_submodules =
            self.op.submodules && self.mirror.has_path(commit, ".gitmodules").await;
        if keeps_git_dir || has_submodules {
            self.repository(&tree, has_submodules).await?;
        } else {
            let index = held.path().join("index");
            let read = ["read-tree", "-u", "--reset", commit];
            let git = self.mirror.git("check out").work_tree(&tree);
            git.env("GIT_INDEX_FILE", index).args(read).run().await?;
        }
        let mut time = None;
        if !self.op.checkout_time {
            time = Some(self.mirror.commit_time(commit).await?);
        }
        let root = tree.join(&subdir);
        let (at, finished) = (tree.clone(), root.clone());
        let done = blocking::run(move || {
            if !is_real_dir(&at, &subdir) {
                return Ok(false);
            }
            finish(&finished, keeps_git_dir, time).map(|()| true)
        });
        if done.await.map_err(|error| keep(error.into()))? {
            return Ok((held, root));
        }
        Err(GitError::NoSubdir {
            url: self.op.url.clone(),
            subdir: self.op.subdir.clone().unwrap_or_default(),
            commit: commit.clone(),
        })
    }

    /// Checks out as a repository of its own, of this one commit.
    async fn repository(&self, tree: &Path, has_submodules: bool) -> Result<(), GitError> {
        let (url, commit) = (self.op.url.as_str(), self.found.commit.as_str());
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let format = format!("--object-format={format}");
        let limit = SUBMODULES_LIMIT;
        let run = || Git::new("check out", url, limit).dir(tree).local();
        run().args(["init", "--quiet", "--template=", &format, "."]).run().await?;
        let name = self.found.name.as_deref().filter(|name| name.starts_with("refs/tags/"));
        let name = name.unwrap_or("refs/rbuild/commit");
        let refspec = format!("+{commit}:{name}");
        let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--"];
        run().args(fetch).args([self.mirror.dir()]).args([&refspec]).run().await?;
        run().args(["checkout", "--quiet", "--detach", commit, "--"]).run().await?;
        run().args(["config", "remote.origin.url", url]).run().await?;
        if has_submodules {
            let update = |depth: &[&str]| {
                let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
                let git = Git::new("fetch the submodules of", url, limit).dir(tree);
                git.config(self.config).args(update).args(depth).run()
            };
            // Not every server gives a commit by its id, and not every one can be shallow.
            if let Err(GitError::Failed { .. }) = update(&["--depth=1"]).await {
                update(&[]).await?;
            }
        }
        // Without what it noted of files (times, inodes) the index is the same each time.
        run().args(["read-tree", commit]).run().await.map(drop)
    }
}

/// Cleans a sub-directory; one that leads outside is refused.
fn subdir(given: Option<&str>) -> Result<PathBuf, GitError> {
    let given = given.unwrap_or_default();
    let refuse = || GitError::Subdir { subdir: given.chars().take(200).collect() };
    if given.contains('\0') {
        return Err(refuse());
    }
    let mut clean = PathBuf::new();
    for part in Path::new(given).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) if name.eq_ignore_ascii_case(DOT_GIT) => return Err(refuse()),
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(refuse()),
        }
    }
    Ok(clean)
}

/// Whether each part of `path` below `root` is a directory and none is a link, which could lead
/// anywhere.
fn is_real_dir(root: &Path, path: &Path) -> bool {
    let mut at = root.to_owned();
    path.components().all(|part| {
        at.push(part);
        fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Takes away what is no content, unless it is to stay, and sets all times.
fn finish(root: &Path, keeps_git_dir: bool, time: Option<i64>) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if !keeps_git_dir && entry.file_name() == OsStr::new(DOT_GIT) {
            // A link of that name is a file here.
            if kind.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        } else if kind.is_dir() {
            finish(&path, keeps_git_dir, time)?;
        } else if let Some(time) = time {
            set_time(&path, time)?;
        }
    }
    // After what lies in it, whose removal and times change it.
    time.map_or(Ok(()), |time| set_time(root, time))
}

fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdirs() {
        #[rustfmt::skip]
        let cases = [
            (None,            Some("")),
            (Some("."),       Some("")),
            (Some("/"),       Some("")),
            (Some("a//b/."),  Some("a/b")),
            (Some("/a"),      Some("a")),
            (Some("-x"),      Some("-x")),
            (Some("a/../b"),  None),
            (Some(".."),      None),
            (Some(".git"),    None),
            (Some("a/.GIT"),  None),
            (Some("a\0b"),    None),
        ];
        for (given, want) in cases {
            assert_eq!(subdir(given).ok(), want.map(PathBuf::from), "{given:?}");
        }
    }
}
