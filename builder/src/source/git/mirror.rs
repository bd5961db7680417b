//! The store's own bare copy of a repository: what was fetched once is not fetched again.
//!
//! ```text
//! cache-mounts/<hash of the URL>/0/
//!   sha1.git  sha256.git       bare, one for each format that the server was seen with
//!     refs/rbuild/<commit>     keeps what was fetched, shallow where the server can do that
//! ```
//!
//! Invariant: nothing of the URL's credentials is written; whoever has the directory has it alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::CacheMount;

use super::command::Git;
use super::error::GitError;
use super::refs::Found;
use crate::blocking;

/// How long a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(3600);

/// How long what needs no network may take.
const LOCAL_LIMIT: Duration = Duration::from_secs(600);

/// A bare repository in the store.
#[derive(Debug)]
pub(super) struct Mirror<'a> {
    url: &'a str,
    /// How the server is spoken to: see [`super::Access`].
    config: &'a [(String, String)],
    dir: PathBuf,
    _kept: CacheMount,
}

impl<'a> Mirror<'a> {
    /// Opens or makes the mirror for commits like `commit`, or for SHA-1 where none is known yet.
    pub(super) async fn open(
        kept: CacheMount,
        url: &'a str,
        config: &'a [(String, String)],
        commit: Option<&str>,
    ) -> Result<Self, GitError> {
        let format = if commit.is_some_and(|id| id.len() == 64) { "sha256" } else { "sha1" };
        let dir = kept.path().join(format!("{format}.git"));
        let head = dir.join("HEAD");
        let mirror = Self { url, config, dir, _kept: kept };
        if !blocking::run(move || head.is_file()).await {
            mirror.clear().await?;
            let format = format!("--object-format={format}");
            let init = ["init", "--quiet", "--bare", "--template=", &format, "--"];
            mirror.local("keep").args(init).args([&mirror.dir]).run().await?;
        }
        Ok(mirror)
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn local(&self, action: &'static str) -> Git<'a> {
        Git::new(action, self.url, LOCAL_LIMIT).local()
    }

    /// A run within the mirror, without the network.
    pub(super) fn git(&self, action: &'static str) -> Git<'a> {
        self.local(action).git_dir(&self.dir)
    }

    /// Throws everything away: it is damaged, or was never whole.
    pub(super) async fn clear(&self) -> Result<(), GitError> {
        let dir = self.dir.clone();
        let removed = blocking::run(move || match dir.try_exists() {
            Ok(true) => std::fs::remove_dir_all(&dir),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        });
        let url = self.url.to_owned();
        removed.await.map_err(|error| GitError::Keep { url, source: error.into() })
    }

    async fn has(&self, object: &str) -> bool {
        self.git("look into").args(["cat-file", "-e", object]).run().await.is_ok()
    }

    /// Whether the commit has this file or directory.
    pub(super) async fn has_path(&self, commit: &str, path: &str) -> bool {
        self.has(&format!("{commit}:{path}")).await
    }

    /// Brings a commit here: alone where the server gives it by its id or by its name, else with
    /// all that the server has.
    pub(super) async fn ensure(&self, found: &Found) -> Result<(), GitError> {
        let object = format!("{}^{{commit}}", found.commit);
        if self.has(&object).await {
            return Ok(());
        }
        let kept = format!("refs/rbuild/{}", found.commit);
        let mut failed = None;
        for source in std::iter::once(&found.commit).chain(&found.name) {
            let refspec = format!("+{source}:{kept}");
            match self.fetch(&["--depth=1", "--no-tags"], &[&refspec]).await {
                Ok(()) if self.has(&object).await => return Ok(()),
                Ok(()) => {}
                Err(error @ GitError::Failed { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        match self.fetch_all().await {
            Ok(()) if self.has(&object).await => Ok(()),
            Ok(()) => Err(failed.unwrap_or_else(|| GitError::NoReference {
                url: self.url.to_owned(),
                reference: found.commit.clone(),
                nearest: None,
            })),
            // Why everything could not be had says more than why a part could not.
            Err(error) => Err(error),
        }
    }

    /// Finds the commit that `abbreviation` begins, which only a whole copy can tell.
    pub(super) async fn expand(&self, abbreviation: &str) -> Result<Option<String>, GitError> {
        self.fetch_all().await?;
        let object = format!("{abbreviation}^{{commit}}");
        let parse = ["rev-parse", "--verify", "--quiet", "--end-of-options", &object];
        let output = self.git("look into").args(parse).run().await.ok();
        let commit = output.map(|output| String::from_utf8_lossy(&output).trim().to_owned());
        Ok(commit.filter(|commit| super::refs::is_commit(commit)))
    }

    async fn fetch_all(&self) -> Result<(), GitError> {
        let shallow = self.dir.join("shallow");
        let is_shallow = blocking::run(move || shallow.is_file()).await;
        let options: &[&str] = if is_shallow { &["--unshallow", "--tags"] } else { &["--tags"] };
        self.fetch(options, &["+refs/heads/*:refs/remotes/origin/*"]).await
    }

    async fn fetch(&self, options: &[&str], refspecs: &[&str]) -> Result<(), GitError> {
        // A lock of a fetch that was killed: we have the directory alone.
        let lock = self.dir.join("shallow.lock");
        drop(blocking::run(move || std::fs::remove_file(lock)).await);
        let fixed = ["fetch", "--quiet", "--force", "--no-write-fetch-head"];
        Git::new("fetch from", self.url, FETCH_LIMIT)
            .git_dir(&self.dir)
            .config(self.config)
            .args(fixed)
            .args(["--no-recurse-submodules"])
            .args(options)
            .args(["--", self.url])
            .args(refspecs)
            .run()
            .await
            .map(drop)
    }

    /// Returns the committer's time, seconds since 1970.
    pub(super) async fn commit_time(&self, commit: &str) -> Result<i64, GitError> {
        let output = self.git("look into").args(["cat-file", "commit", commit]).run().await?;
        Ok(commit_time(&output).unwrap_or(0))
    }
}

/// Reads the committer's time out of a commit (gitformat: `committer NAME <MAIL> SECONDS ZONE`).
pub(super) fn commit_time(commit: &[u8]) -> Option<i64> {
    let head = commit.split(|&byte| byte == b'\n').take_while(|line| !line.is_empty());
    let mut lines = head.filter_map(|line| line.strip_prefix(b"committer "));
    let line = String::from_utf8_lossy(lines.next()?);
    line.rsplit(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::commit_time;

    #[test]
    fn times_of_commits() {
        #[rustfmt::skip]
        let cases: [(&[u8], Option<i64>); 4] = [
            (b"tree x\nauthor a <a> 1 +0000\ncommitter b c <d> 1700000000 +0200\n\ntext", Some(1_700_000_000)),
            (b"tree x\ncommitter \xff <d> 5 -0100\n\n", Some(5)),
            (b"tree x\n\ncommitter b <d> 5 +0000\n", None),
            (b"", None),
        ];
        for (commit, want) in cases {
            assert_eq!(commit_time(commit), want);
        }
    }
}
