//! WORKDIR's directory.

use std::path::Path;

use frontend::MakeDirOp;

use crate::ErrorKind;
use crate::layer::WHITEOUT;
use crate::rootfs::{
    Attributes, Follow, LayeredRoot, RootError, Upper, UpperError, UserError, components,
    display_path, resolve_owner,
};

/// Why the directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeDirError {
    /// The path cannot be resolved.
    #[error("could not resolve the directory")]
    Root(#[from] RootError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] UpperError),
    /// The owner is nobody of the image's.
    #[error("invalid user")]
    Owner(#[from] UserError),
    /// BuildKit's words for a file in the way.
    #[error("mkdir {path}: not a directory")]
    NotADirectory {
        /// What is in the way.
        path: String,
    },
    /// A name that is reserved for deletions.
    #[error("`{path}` cannot be made: its name is reserved for deletions in layers")]
    Reserved {
        /// As asked for.
        path: String,
    },
}

impl MakeDirError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Root(RootError::Io { .. })
            | Self::Owner(UserError::File { source: RootError::Io { .. }, .. })
            | Self::Write(UpperError::Io { .. } | UpperError::Root(RootError::Io { .. })) => {
                ErrorKind::Host
            }
            _ => ErrorKind::User,
        }
    }
}

/// Makes the directory and its missing parents (0755, `op.owner`'s) in the snapshot `upper` on top of
/// `root`, through symlinks inside the root. Returns whether anything had to be made.
///
/// # Errors
///
/// [`MakeDirError`]; `upper` is then of no use.
pub fn make_dir(op: &MakeDirOp, root: &LayeredRoot, upper: &Path) -> Result<bool, MakeDirError> {
    if components(op.path.as_bytes()).any(|name| name.starts_with(WHITEOUT)) {
        return Err(MakeDirError::Reserved { path: op.path.clone() });
    }
    let mut upper = Upper::open(upper, root)?;
    let not_a_directory =
        |path: &Path| MakeDirError::NotADirectory { path: path.display().to_string() };
    let resolved = match upper.merged().resolve(&op.path, Follow::Last) {
        Err(RootError::NotADirectory { path }) => return Err(not_a_directory(&path)),
        other => other?,
    };
    match resolved.node {
        Some(node) if node.metadata.is_dir() => Ok(false),
        Some(_) => Err(not_a_directory(&display_path(&resolved.path))),
        None => {
            let owner = Some(resolve_owner(root, &op.owner)?);
            upper.dir(&resolved.path, &Attributes { owner, ..Attributes::implied_dir() })?;
            Ok(true)
        }
    }
}
