//! What a COPY or ADD selects: one walk, settled before anything is hashed or copied.
//!
//! Sources follow BuildKit: the part of a path before the first wildcard is resolved with symlinks
//! inside the source's root; wildcards are Go's `filepath.Match` a component; what is named may be
//! a symlink and is followed (its own name is kept), what lies below a directory is not.

use std::path::PathBuf;

use frontend::{CopyOp, CopySource, IgnoreError, IgnoreRules};

use super::query::{Query, only};
use crate::context::{Rules, Verdict};
use crate::rootfs::{LayeredRoot, Node, RootError};

/// Where an op finds its sources; one for each of its vertex's inputs, in their order.
#[derive(Clone, Copy, Debug)]
pub enum CopyInput<'a> {
    /// A directory of the user's: what the rules leave of it, owned by root.
    Context {
        /// Opened with [`LayeredRoot::open_plain`].
        root: &'a LayeredRoot,
        /// `.dockerignore`.
        rules: &'a Rules,
    },
    /// A stage's or an image's root, as it is.
    Root(&'a LayeredRoot),
}

impl<'a> CopyInput<'a> {
    pub(crate) fn root(&self) -> &'a LayeredRoot {
        match *self {
            Self::Context { root, .. } | Self::Root(root) => root,
        }
    }

    pub(crate) fn is_context(&self) -> bool {
        matches!(self, Self::Context { .. })
    }

    pub(super) fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
        match self {
            Self::Context { rules, .. } => rules.verdict(path, is_dir),
            Self::Root(_) => Verdict::Keep,
        }
    }
}

/// Why nothing can be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source that is not there.
    #[error("\"/{path}\": not found{}", hint(*is_ignored, nearest.as_deref()))]
    NotFound {
        /// As written, cleaned.
        path: String,
        /// It is there, but `.dockerignore` leaves it out.
        is_ignored: bool,
        /// The name in the same directory that is most like it.
        nearest: Option<String>,
    },
    /// A source whose wildcards cannot be read, such as `a[`.
    #[error("syntax error in pattern `{pattern}`")]
    Pattern {
        /// As written, cleaned.
        pattern: String,
    },
    /// An `--exclude` that cannot be read.
    #[error("syntax error in pattern `{}`", .0.pattern)]
    Exclude(IgnoreError),
    /// A source's root cannot be read.
    #[error("could not read the source")]
    Root(#[from] RootError),
    /// A name that is reserved for deletions.
    #[error("`{}` cannot be copied: its name is reserved for deletions in layers", path.display())]
    Reserved {
        /// Path in the source.
        path: PathBuf,
    },
    /// A device in a build context.
    #[error("`{}` is a device, which a build context may not hold", path.display())]
    Device {
        /// Path in the context.
        path: PathBuf,
    },
    /// Directories nested without end.
    #[error("`{}` is nested too deeply", path.display())]
    TooDeep {
        /// Path in the source.
        path: PathBuf,
    },
    /// A file that was written to while it was read.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// Path in the source.
        path: PathBuf,
    },
    /// The op names an input that it was not given.
    #[error("the operation has no input {input}")]
    Input {
        /// The index.
        input: usize,
    },
}

fn hint(is_ignored: bool, nearest: Option<&str>) -> String {
    match (is_ignored, nearest) {
        (true, _) => " (excluded by the ignore file)".to_owned(),
        (false, Some(nearest)) => format!(" (did you mean \"/{nearest}\"?)"),
        (false, None) => String::new(),
    }
}

/// What an op selects, in the order in which it is copied.
#[derive(Debug)]
pub struct Selection {
    pub(crate) items: Vec<Item>,
}

#[derive(Debug)]
pub(crate) enum Item {
    /// A file or directory of an input.
    Match(Match),
    /// A heredoc's file.
    Inline { name: String, content: String },
}

/// One file or directory named by a source.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) input: usize,
    /// Its name as written, which a followed symlink keeps.
    pub(crate) name: Vec<u8>,
    /// Itself with an empty path, then all below it, parents first.
    pub(crate) entries: Vec<Entry>,
}

impl Match {
    /// Returns the file or directory itself.
    pub(crate) fn top(&self) -> &Entry {
        &self.entries[0]
    }
}

/// One object to be copied. Kept small: there may be very many.
#[derive(Debug)]
pub(crate) struct Entry {
    /// In the input's root, without symlinks.
    pub(crate) source: Box<[u8]>,
    /// Where in `source` the path relative to the match begins.
    path_at: usize,
    pub(crate) node: Node,
    /// Where a symlink points to.
    pub(crate) link: Box<[u8]>,
    /// A directory that is not selected itself but holds something that is.
    pub(crate) is_implied: bool,
}

impl Entry {
    /// Describes what lies at `source`, whose path from the match on is `path_len` bytes long.
    pub(super) fn new(source: &[u8], path_len: usize, node: Node) -> Self {
        let path_at = source.len() - path_len;
        Self { source: source.into(), path_at, node, link: Box::default(), is_implied: false }
    }

    /// Returns its path relative to the match.
    pub(crate) fn path(&self) -> &[u8] {
        &self.source[self.path_at..]
    }
}

/// Settles what `op` copies from `inputs`, one for each input of its vertex.
///
/// # Errors
///
/// [`SelectError`].
pub fn select(op: &CopyOp, inputs: &[CopyInput<'_>]) -> Result<Selection, SelectError> {
    let excludes = IgnoreRules::from_patterns(&op.exclude).map_err(SelectError::Exclude)?;
    let mut items = Vec::new();
    for source in &op.sources {
        match source {
            CopySource::Inline { name, content } => {
                items.push(Item::Inline { name: name.clone(), content: content.clone() });
            }
            CopySource::Path { input, path, wildcard } => {
                let index = *input;
                let input = inputs.get(index).ok_or(SelectError::Input { input: index })?;
                let (base, include) = if op.parents { pivot(path) } else { (path.clone(), None) };
                let query = Query {
                    input,
                    index,
                    excludes: &excludes,
                    include: include.as_deref().map(only).transpose()?,
                };
                let matches = query.matches(&base, *wildcard)?;
                let found: Vec<Match> = matches.into_iter().flatten().collect();
                query.check_include(include.as_deref(), &base, &found)?;
                items.extend(found.into_iter().map(Item::Match));
            }
        }
    }
    Ok(Selection { items })
}

/// Splits the source of `--parents` at the first `/./` into where to start and what to keep; `None`
/// keeps everything.
fn pivot(path: &str) -> (String, Option<String>) {
    let clean = |path: &str| {
        path.split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .collect::<Vec<_>>()
            .join("/")
    };
    let absolute = format!("/{path}");
    let (base, rest) = match absolute.split_once("/./") {
        Some((base, rest)) => (clean(base), clean(rest)),
        None => (String::new(), clean(path)),
    };
    // Nothing to keep to is everything: no pattern matches that.
    (base, Some(rest).filter(|rest| !rest.is_empty()))
}
