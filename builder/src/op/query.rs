//! One source looked up: wildcards, symlinks, ignore rules, and the walk below a directory.

use frontend::{IgnoreRules, match_pattern};

use super::nearest::nearest;
use super::select::{CopyInput, Entry, Match, SelectError};
use crate::context::Verdict;
use crate::layer::WHITEOUT;
use crate::rootfs::{
    DirEntry, Follow, Kind, MergedDir, Node, RootError, components, display_path, join, split_last,
};
use crate::side_by_side::Hands;

/// Directories nested deeper than this are refused; `PATH_MAX` allows no deeper path.
const MAX_DEPTH: usize = 2048;

/// Directories in one directory below which another thread costs more than it saves.
const WORTH_A_THREAD: usize = 8;

/// Makes rules that leave out all but what `pattern` matches.
pub(super) fn only(pattern: &str) -> Result<IgnoreRules, SelectError> {
    IgnoreRules::from_patterns(["**", &format!("!{pattern}")])
        .map_err(|_| SelectError::Pattern { pattern: pattern.to_owned() })
}

/// Whether a source names several files: one of `*?[`, not behind a backslash.
fn has_wildcard(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Takes the backslashes out of a source without wildcards, as a match would.
fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

/// One source being looked up.
pub(super) struct Query<'a> {
    pub(super) input: &'a CopyInput<'a>,
    pub(super) index: usize,
    pub(super) excludes: &'a IgnoreRules,
    /// `--parents`: leaves out what is not kept of the base.
    pub(super) include: Option<IgnoreRules>,
}

impl Query<'_> {
    /// Returns what the source names; `None` for a file that `--exclude` takes out. A wildcard may
    /// name nothing, a plain path may not.
    pub(super) fn matches(
        &self,
        path: &str,
        wildcard: bool,
    ) -> Result<Vec<Option<Match>>, SelectError> {
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
        for name in &names[literal..] {
            if match_pattern(name, "").is_err() {
                return Err(SelectError::Pattern { pattern: path.to_owned() });
            }
        }
        let start = unescape(&names[..literal].join("/"));
        let start = self.input.root().resolve(start, Follow::Last)?;
        let mut found = Vec::new();
        if self.is_reachable(&start.path)
            && let Some(dir) = self.input.root().dir(&start.path)?
        {
            self.expand(&dir, &start.path, &names[literal..], &mut found)?;
        }
        Ok(found)
    }

    fn expand(
        &self,
        dir: &MergedDir,
        path: &[u8],
        patterns: &[&str],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<(), SelectError> {
        let Some((first, rest)) = patterns.split_first() else { return Ok(()) };
        for DirEntry { name, node } in entries(dir, path)? {
            // The caller has seen that the patterns are well-formed.
            if !match_pattern(first, &name).unwrap_or(false) {
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
            if self.excludes.is_excluded(&name, false) {
                return Ok(None);
            }
        }
        let top = self.entry(0, &resolved.path, node)?;
        let mut entries = if is_dir { self.walk(&resolved.path, node)? } else { Vec::new() };
        if is_dir && entries.is_empty() && verdict == Verdict::Skip {
            return Err(self.not_found(path, true)?);
        }
        entries.insert(0, top);
        Ok(Some(Match { input: self.index, name, entries }))
    }

    /// Lists what is selected below the directory at `path`.
    fn walk(&self, path: &[u8], node: Node) -> Result<Vec<Entry>, SelectError> {
        if !node.metadata.is_dir() {
            return Ok(Vec::new());
        }
        let Some(dir) = self.input.root().dir(path)? else { return Ok(Vec::new()) };
        let top = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut entries = Vec::new();
        let walk = Walk { query: self, top, hands: Hands::new() };
        walk.content(&dir, path, 0, &mut entries)?;
        Ok(entries)
    }

    fn entry(&self, path_len: usize, source: &[u8], node: Node) -> Result<Entry, SelectError> {
        if split_last(source).1.starts_with(WHITEOUT) {
            return Err(SelectError::Reserved { path: display_path(source) });
        }
        let kind = node.metadata.kind;
        if self.input.is_context() && matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Err(SelectError::Device { path: display_path(source) });
        }
        Ok(Entry::new(source, path_len, node))
    }

    /// A plain path given to `--parents` must be there as any other.
    pub(super) fn check_include(
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
    /// Where in a path in the input the one relative to the match begins.
    top: usize,
    hands: Hands,
}

impl Walk<'_> {
    /// Adds what is selected of the content of the directory `dir`, which is at `source` in the
    /// input and `depth` below the match, to `entries`.
    fn content(
        &self,
        dir: &MergedDir,
        source: &[u8],
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), SelectError> {
        if depth > MAX_DEPTH {
            return Err(SelectError::TooDeep { path: display_path(source) });
        }
        let own = self.own(dir, source)?;
        let below = |source: &[u8], entries: &mut Vec<Entry>| match open_dir(
            dir,
            split_last(source).1,
            source,
        )? {
            Some(dir) => self.content(&dir, source, depth + 1, entries),
            None => Ok(()),
        };
        let dirs: Vec<&Entry> = own.iter().filter(|entry| entry.node.metadata.is_dir()).collect();
        let mut ahead = Vec::new();
        if dirs.len() >= WORTH_A_THREAD {
            ahead = self.hands.try_map(&dirs, |dir| {
                let mut entries = Vec::new();
                below(&dir.source, &mut entries).map(|()| entries)
            })?;
        }
        let mut ahead = ahead.into_iter();
        for entry in own {
            if !entry.node.metadata.is_dir() {
                entries.push(entry);
                continue;
            }
            let (at, source, is_implied) = (entries.len(), entry.source.clone(), entry.is_implied);
            entries.push(entry);
            match ahead.next() {
                Some(found) => entries.extend(found),
                None => below(&source, entries)?,
            }
            // A directory that is not selected itself counts where something in it is.
            if is_implied && entries.len() == at + 1 {
                entries.pop();
            }
        }
        Ok(())
    }

    /// Lists what is selected of a directory itself, and the directories in which something may be.
    fn own(&self, dir: &MergedDir, source: &[u8]) -> Result<Vec<Entry>, SelectError> {
        let listed = entries(dir, source)?;
        let mut own = Vec::with_capacity(listed.len());
        let mut source = source.to_vec();
        if !source.is_empty() {
            source.push(b'/');
        }
        let at = source.len();
        for DirEntry { name, node } in listed {
            source.truncate(at);
            source.extend(&name);
            let path = &source[self.top..];
            let choice = self.query.choose(path, &source, &node);
            if choice == Choice::Leave {
                continue;
            }
            let mut entry = self.query.entry(path.len(), &source, node)?;
            entry.is_implied = choice == Choice::PassThrough;
            if node.metadata.kind == Kind::Symlink {
                let link = dir.read_link(&name, &node);
                entry.link = link.map_err(|error| RootError::io(&source, error))?.into();
            }
            own.push(entry);
        }
        Ok(own)
    }
}

/// What becomes of something below a directory that is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// It is not selected, nor is anything in it.
    Leave,
    Take,
    /// A directory that is not selected itself; something in it may be.
    PassThrough,
}

impl Query<'_> {
    /// Decides about `node`, which is at `path` below the match and at `source` in the input.
    fn choose(&self, path: &[u8], source: &[u8], node: &Node) -> Choice {
        let is_dir = node.metadata.is_dir();
        let verdict = self.input.verdict(source, is_dir);
        // No layer can hold a socket: a stage has none, whatever its snapshot holds.
        let is_socket = node.metadata.kind == Kind::Socket;
        if verdict == Verdict::Prune || (is_socket && !self.input.is_context()) {
            return Choice::Leave;
        }
        let include = self.include.as_ref();
        let is_inside = include.is_none_or(|include| !include.is_excluded(path, is_dir));
        let is_excluded = self.excludes.is_excluded(path, is_dir);
        if verdict == Verdict::Keep && is_inside && !is_excluded {
            return Choice::Take;
        }
        let is_hopeless = is_excluded && !self.excludes.may_descend(path);
        let may_match = include.is_none_or(|include| include.may_descend(path));
        if is_dir && !is_hopeless && may_match { Choice::PassThrough } else { Choice::Leave }
    }
}

fn entries(dir: &MergedDir, path: &[u8]) -> Result<Vec<DirEntry>, RootError> {
    dir.entries().map_err(|error| RootError::io(path, error))
}

fn open_dir(dir: &MergedDir, name: &[u8], path: &[u8]) -> Result<Option<MergedDir>, RootError> {
    dir.open_dir(name).map_err(|error| RootError::io(path, error))
}
