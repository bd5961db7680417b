//! What a COPY or ADD selects: one walk, settled before anything is hashed or copied.
//!
//! Sources follow BuildKit: the part of a path before the first wildcard is resolved with symlinks
//! inside the source's root; wildcards are Go's `filepath.Match` a component; what is named may be
//! a symlink and is followed (its own name is kept), what lies below a directory is not.

use std::path::PathBuf;

use frontend::{CopyOp, CopySource};

use super::nearest::nearest;
use super::pattern::{Pattern, PatternError, RuleList, has_wildcard, unescape};
use crate::context::{Rules, Verdict};
use crate::layer::WHITEOUT;
use crate::rootfs::{
    DirEntry, Follow, Kind, LayeredRoot, MergedDir, Node, RootError, components, display_path,
    join, split_last,
};

/// Directories nested deeper than this are refused; `PATH_MAX` allows no deeper path.
const MAX_DEPTH: usize = 2048;

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

    fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
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
    /// A pattern that cannot be read.
    #[error(transparent)]
    Pattern(#[from] PatternError),
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

/// One object to be copied.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Relative to the match.
    pub(crate) path: Vec<u8>,
    /// In the input's root, without symlinks.
    pub(crate) source: Vec<u8>,
    pub(crate) node: Node,
    /// Where a symlink points to.
    pub(crate) link: Vec<u8>,
    /// A directory that is not selected itself but holds something that is.
    pub(crate) is_implied: bool,
}

/// Settles what `op` copies from `inputs`, one for each input of its vertex.
///
/// # Errors
///
/// [`SelectError`].
pub fn select(op: &CopyOp, inputs: &[CopyInput<'_>]) -> Result<Selection, SelectError> {
    let excludes = RuleList::new(&op.exclude)?;
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
                    include: include.as_deref().map(Pattern::rule).transpose()?,
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

/// Splits the source of `--parents` at the first `/./` into where to start and what to keep.
fn pivot(path: &str) -> (String, Option<String>) {
    let clean = |path: &str| {
        path.split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .collect::<Vec<_>>()
            .join("/")
    };
    let absolute = format!("/{path}");
    match absolute.split_once("/./") {
        Some((base, rest)) => (clean(base), Some(clean(rest))),
        None => (String::new(), Some(clean(path))),
    }
}

/// One source being looked up.
struct Query<'a> {
    input: &'a CopyInput<'a>,
    index: usize,
    excludes: &'a RuleList,
    /// `--parents`: what is kept below the base.
    include: Option<Pattern>,
}

impl Query<'_> {
    /// Returns what the source names; `None` for a file that `--exclude` takes out. A wildcard may
    /// name nothing, a plain path may not.
    fn matches(&self, path: &str, wildcard: bool) -> Result<Vec<Option<Match>>, SelectError> {
        if wildcard && has_wildcard(path) {
            let found = self.glob(path)?;
            return found.iter().map(|path| self.select(path)).collect();
        }
        let path = if wildcard { unescape(path) } else { path.to_owned() };
        Ok(vec![self.select(path.as_bytes())?])
    }

    /// Expands wildcards, in the order of the names' bytes.
    fn glob(&self, path: &str) -> Result<Vec<Vec<u8>>, SelectError> {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let literal = names.iter().take_while(|name| !has_wildcard(name)).count();
        let patterns: Result<Vec<_>, _> =
            names[literal..].iter().map(|name| Pattern::glob(name)).collect();
        let start = unescape(&names[..literal].join("/"));
        let start = self.input.root().resolve(start, Follow::Last)?;
        let mut found = Vec::new();
        if self.is_reachable(&start.path)
            && let Some(dir) = self.input.root().dir(&start.path)?
        {
            self.expand(&dir, &start.path, &patterns?, &mut found)?;
        }
        Ok(found)
    }

    fn expand(
        &self,
        dir: &MergedDir,
        path: &[u8],
        patterns: &[Pattern],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<(), SelectError> {
        let Some((first, rest)) = patterns.split_first() else { return Ok(()) };
        for DirEntry { name, node } in entries(dir, path)? {
            if !first.matches(&name) {
                continue;
            }
            let path = join(path, &name);
            let is_dir = node.metadata.is_dir();
            let verdict = self.input.verdict(&path, is_dir);
            if verdict == Verdict::Prune || (verdict == Verdict::Skip && !is_dir) {
                continue;
            }
            if rest.is_empty() {
                if verdict == Verdict::Keep || !self.walk(&path, node)?.is_empty() {
                    found.push(path);
                }
            } else if let Some(dir) = open_dir(dir, &name, &path)? {
                self.expand(&dir, &path, rest, found)?;
            }
        }
        Ok(())
    }

    /// Whether no rule cuts off the path or a directory above it.
    fn is_reachable(&self, path: &[u8]) -> bool {
        let mut above = Vec::new();
        components(path).all(|name| {
            above = join(&above, name);
            self.input.verdict(&above, true) != Verdict::Prune
        })
    }

    /// Selects the file or directory that `path` leads to.
    fn select(&self, path: &[u8]) -> Result<Option<Match>, SelectError> {
        let resolved = self.input.root().resolve(path, Follow::Last)?;
        let Some(node) = resolved.node else { return Err(self.not_found(path, false)?) };
        let (parent, _) = split_last(&resolved.path);
        let is_dir = node.metadata.is_dir();
        let verdict = self.input.verdict(&resolved.path, is_dir);
        if !self.is_reachable(parent) || verdict == Verdict::Prune {
            return Err(self.not_found(path, true)?);
        }
        let name = split_last(path).1.to_vec();
        if !is_dir {
            if verdict != Verdict::Keep {
                return Err(self.not_found(path, true)?);
            }
            if self.excludes.matches(&name, &[]).0 {
                return Ok(None);
            }
        }
        let top = self.entry(Vec::new(), resolved.path.clone(), node)?;
        let mut entries = vec![top];
        if is_dir {
            let below = self.walk(&resolved.path, node)?;
            if below.is_empty() && verdict == Verdict::Skip {
                return Err(self.not_found(path, true)?);
            }
            entries.extend(below);
        }
        Ok(Some(Match { input: self.index, name, entries }))
    }

    /// Lists what is selected below the directory at `path`.
    fn walk(&self, path: &[u8], node: Node) -> Result<Vec<Entry>, SelectError> {
        if !node.metadata.is_dir() {
            return Ok(Vec::new());
        }
        let dir = self.input.root().dir(path)?;
        let mut walk = Walk { query: self, pending: Vec::new(), entries: Vec::new() };
        if let Some(dir) = dir {
            walk.content(&dir, Place { path: b"", source: path, inside: false, excluded: &[] }, 0)?;
        }
        Ok(walk.entries)
    }

    fn entry(&self, path: Vec<u8>, source: Vec<u8>, node: Node) -> Result<Entry, SelectError> {
        if split_last(&source).1.starts_with(WHITEOUT) {
            return Err(SelectError::Reserved { path: display_path(&source) });
        }
        let kind = node.metadata.kind;
        if self.input.is_context() && matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Err(SelectError::Device { path: display_path(&source) });
        }
        let link = match kind {
            Kind::Symlink => self.input.root().read_link(&source, &node)?,
            _ => Vec::new(),
        };
        Ok(Entry { path, source, node, link, is_implied: false })
    }

    /// A plain path given to `--parents` must be there as any other.
    fn check_include(
        &self,
        include: Option<&str>,
        base: &str,
        found: &[Match],
    ) -> Result<(), SelectError> {
        let Some(include) = include.filter(|include| !has_wildcard(include)) else {
            return Ok(());
        };
        let is_there = include.is_empty() || found.iter().any(|found| found.entries.len() > 1);
        if is_there || has_wildcard(base) || !self.excludes.is_empty() {
            return Ok(());
        }
        Err(self.not_found(&join(base.as_bytes(), unescape(include).as_bytes()), false)?)
    }

    /// Finds the words for a missing source: the most similar name where it should be.
    fn not_found(&self, path: &[u8], is_ignored: bool) -> Result<SelectError, SelectError> {
        let names: Vec<&[u8]> = components(path).collect();
        let mut candidate = None;
        for (index, name) in names.iter().enumerate() {
            let parent = names[..index].join(&b'/');
            let here = join(&parent, name);
            if self.input.root().resolve(&here, Follow::Last)?.node.is_some() {
                continue;
            }
            let Some(dir) = self.input.root().dir(&parent)? else { break };
            let visible = |entry: &DirEntry| {
                let path = join(&parent, &entry.name);
                self.input.verdict(&path, entry.node.metadata.is_dir()) == Verdict::Keep
            };
            let known = entries(&dir, &parent)?.into_iter().filter(visible).map(|entry| entry.name);
            candidate = nearest(name, known).map(|name| join(&parent, &name));
            break;
        }
        Ok(SelectError::NotFound {
            path: String::from_utf8_lossy(path).into_owned(),
            is_ignored,
            nearest: candidate.map(|path| String::from_utf8_lossy(&path).into_owned()),
        })
    }
}

/// A walk below one directory.
struct Walk<'a> {
    query: &'a Query<'a>,
    /// Directories passed that are not selected themselves, in case something in them is.
    pending: Vec<Entry>,
    entries: Vec<Entry>,
}

/// A directory on the way.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a [u8],
    source: &'a [u8],
    /// A pattern of `--parents` matched it or a directory above.
    inside: bool,
    /// What each `--exclude` said to it.
    excluded: &'a [bool],
}

impl Walk<'_> {
    fn content(
        &mut self,
        dir: &MergedDir,
        place: Place<'_>,
        depth: usize,
    ) -> Result<(), SelectError> {
        if depth > MAX_DEPTH {
            return Err(SelectError::TooDeep { path: display_path(place.source) });
        }
        for DirEntry { name, node } in entries(dir, place.source)? {
            let path = join(place.path, &name);
            let source = join(place.source, &name);
            let is_dir = node.metadata.is_dir();
            let verdict = self.query.input.verdict(&source, is_dir);
            // No layer can hold a socket.
            if verdict == Verdict::Prune || node.metadata.kind == Kind::Socket {
                continue;
            }
            let include = self.query.include.as_ref();
            let inside = place.inside || include.is_none_or(|include| include.matches(&path));
            let (is_excluded, excluded) = self.query.excludes.matches(&path, place.excluded);
            let is_selected = verdict == Verdict::Keep && inside && !is_excluded;
            let pending = self.pending.len();
            if is_selected {
                let entry = self.query.entry(path.clone(), source.clone(), node)?;
                self.entries.append(&mut self.pending);
                self.entries.push(entry);
            }
            if !is_dir {
                continue;
            }
            if !is_selected {
                let hopeless = is_excluded && !self.query.excludes.has_exceptions();
                let may_match =
                    inside || include.is_none_or(|include| include.may_match_below(&path));
                if hopeless || !may_match {
                    continue;
                }
                let mut entry = self.query.entry(path.clone(), source.clone(), node)?;
                entry.is_implied = true;
                self.pending.push(entry);
            }
            if let Some(dir) = open_dir(dir, &name, &source)? {
                let below = Place { path: &path, source: &source, inside, excluded: &excluded };
                self.content(&dir, below, depth + 1)?;
            }
            self.pending.truncate(pending);
        }
        Ok(())
    }
}

fn entries(dir: &MergedDir, path: &[u8]) -> Result<Vec<DirEntry>, RootError> {
    dir.entries().map_err(|error| RootError::io(path, error))
}

fn open_dir(dir: &MergedDir, name: &[u8], path: &[u8]) -> Result<Option<MergedDir>, RootError> {
    dir.open_dir(name).map_err(|error| RootError::io(path, error))
}
