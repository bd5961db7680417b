//! Files that ADD, contexts and `COPY --from` name by URL: what they are, then the files.
//!
//! Invariant: a build that finds all its layers in the cache asks servers what is new, and fetches
//! nothing.

use std::sync::Arc;

use cache::Digest;
use frontend::{GitSource, GitUrlError, HttpOp, Op, parse_git_source};
use tokio::sync::OnceCell;

use super::Sources;
use super::git::{GitError, GitTree};
use super::http::{HttpError, HttpFile};
use super::secrets::SourceSecrets;
use crate::context::FileRoot;
use crate::error::ErrorKind;
use crate::progress::Events;

/// Why files from elsewhere could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A download failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A repository could not be had.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl RemoteError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Http(error) => error.kind(),
            Self::Git(error) => error.kind(),
        }
    }

    /// Returns what to do about it, where something can be said.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::Git(GitError::NoReference { nearest: Some(nearest), .. }) => {
                Some(format!("did you mean `{nearest}`?"))
            }
            Self::Git(GitError::NotInstalled) => Some("install the package `git`".to_owned()),
            Self::Git(_) | Self::Http(_) => None,
        }
    }
}

/// Files whose content is settled, whether they are here or not.
#[derive(Debug)]
pub(crate) struct RemoteFiles {
    what: What,
    files: OnceCell<Arc<FileRoot>>,
}

#[derive(Debug)]
enum What {
    Http(HttpFile),
    Git(GitTree),
}

impl RemoteFiles {
    /// Settles what `op` stands for; `None` for an op that names no files by URL.
    ///
    /// # Errors
    ///
    /// [`RemoteError`].
    pub(crate) async fn settle(
        op: &Op,
        sources: &Sources,
        secrets: &SourceSecrets,
        events: &Events,
    ) -> Result<Option<Self>, RemoteError> {
        let what = match op {
            Op::Http(op) => What::Http(sources.http_file(op, secrets, events).await?),
            Op::Git(op) => What::Git(sources.git_tree(op, secrets).await?),
            Op::Scratch
            | Op::Image(_)
            | Op::Context(_)
            | Op::Copy(_)
            | Op::MakeDir(_)
            | Op::Run(_)
            | Op::Merge => return Ok(None),
        };
        Ok(Some(Self { what, files: OnceCell::new() }))
    }

    /// Returns the digest that stands for the files in a key: of a download's bytes, or of all
    /// that decides a checkout.
    pub(crate) fn identity(&self) -> Digest {
        match &self.what {
            What::Http(file) => file.digest,
            What::Git(tree) => tree.identity(),
        }
    }

    /// Returns the files and the time that they have as a whole (of the commit, `Last-Modified`), in
    /// seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`RemoteError`].
    pub(crate) async fn into_files(
        self,
        sources: &Sources,
        events: &Events,
    ) -> Result<(FileRoot, Option<i64>), RemoteError> {
        self.what.fetch(sources, events).await
    }

    /// Returns the files, fetched when they are asked for the first time.
    ///
    /// # Errors
    ///
    /// [`RemoteError`].
    pub(crate) async fn files(
        &self,
        sources: &Sources,
        events: &Events,
    ) -> Result<Arc<FileRoot>, RemoteError> {
        let fetch = async || self.what.fetch(sources, events).await.map(|(root, _)| Arc::new(root));
        self.files.get_or_try_init(fetch).await.cloned()
    }
}

impl What {
    async fn fetch(
        &self,
        sources: &Sources,
        events: &Events,
    ) -> Result<(FileRoot, Option<i64>), RemoteError> {
        match self {
            Self::Http(file) => Ok((file.files(sources, events).await?, file.modified)),
            Self::Git(tree) => {
                let (root, time) = tree.files(sources).await?;
                Ok((root, Some(time)))
            }
        }
    }
}

/// What a URL given as a context names.
#[derive(Clone, Debug)]
pub(crate) enum RemoteContext {
    /// A repository.
    Git(GitSource),
    /// A file: an archive of the context, or a Dockerfile.
    Http(HttpOp),
}

/// Reads `text` as the URL of a context; `None` for anything else. `github.com/...` is a
/// repository there, as it is for Docker.
///
/// # Errors
///
/// [`GitUrlError`].
pub(crate) fn parse_remote(text: &str) -> Result<Option<RemoteContext>, GitUrlError> {
    let full;
    let text = if text.starts_with("github.com/") {
        let (path, rest) = text.split_at(text.find(['#', '?']).unwrap_or(text.len()));
        full = format!("https://{}.git{rest}", path.trim_end_matches(".git"));
        full.as_str()
    } else {
        text
    };
    if let Some(git) = parse_git_source(text)? {
        return Ok(Some(RemoteContext::Git(git)));
    }
    Ok(HttpOp::context(text).map(RemoteContext::Http))
}
