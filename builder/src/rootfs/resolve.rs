//! Paths inside a root: symlinks lead to places in that root and nowhere else.

use std::fs::File;
use std::io::Read;

use super::merged::{DirEntry, LayeredRoot, MergedDir, Node};
use super::metadata::{Kind, Metadata};
use super::{RootError, components, display_path, join};

/// Symlinks followed in one resolution before it is called a loop (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What becomes of a symlink in the last component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It is followed as the others are.
    Last,
    /// It is the result.
    NoLast,
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Path inside the root without symlinks, `.` and `..`: no leading slash, empty for the root.
    /// Components that do not exist stand as written.
    pub path: Vec<u8>,
    /// What is there; `None` when it or one of its parents is missing.
    pub node: Option<Node>,
}

impl LayeredRoot {
    /// Resolves `path` inside this root: every symlink is read as a path of this root, `..` stops
    /// at it.
    ///
    /// # Errors
    ///
    /// [`RootError::TooManyLinks`] after 40 symlinks, [`RootError::NotADirectory`] where a file
    /// stands in the way, [`RootError::Io`].
    pub fn resolve(&self, path: impl AsRef<[u8]>, follow: Follow) -> Result<Resolved, RootError> {
        Walk::new(self, path.as_ref())?.run(follow)
    }

    /// Lists the directory that `path` leads to, sorted by the bytes of the names.
    ///
    /// # Errors
    ///
    /// [`RootError::NotADirectory`] and [`RootError::NotFound`] beside those of
    /// [`Self::resolve`].
    pub fn read_dir(&self, path: impl AsRef<[u8]>) -> Result<Vec<DirEntry>, RootError> {
        let path = self.resolve(path, Follow::Last)?;
        match path.node {
            None => Err(RootError::NotFound { path: display_path(&path.path) }),
            Some(node) if !node.metadata.is_dir() => {
                Err(RootError::NotADirectory { path: display_path(&path.path) })
            }
            Some(_) => {
                let dir = self.dir(&path.path)?;
                let entries = dir.map_or(Ok(Vec::new()), |dir| dir.entries());
                entries.map_err(|error| RootError::io(&path.path, error))
            }
        }
    }

    /// Describes what `path` leads to; `None` where there is nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Self::resolve`].
    pub fn metadata(&self, path: impl AsRef<[u8]>) -> Result<Option<Metadata>, RootError> {
        Ok(self.resolve(path, Follow::Last)?.node.map(|node| node.metadata))
    }

    /// Opens the regular file that `path` leads to. A FIFO or a device is refused, not opened.
    ///
    /// # Errors
    ///
    /// [`RootError::NotFound`] and [`RootError::NotAFile`] beside those of [`Self::resolve`].
    pub fn open_file(&self, path: impl AsRef<[u8]>) -> Result<File, RootError> {
        let found = self.resolve(path, Follow::Last)?;
        let display = || display_path(&found.path);
        let node = found.node.ok_or_else(|| RootError::NotFound { path: display() })?;
        if node.metadata.kind != Kind::File {
            return Err(RootError::NotAFile { path: display() });
        }
        let opened = self.open_node(&found.path, &node);
        Ok(opened.map_err(|error| RootError::io(&found.path, error))?.0)
    }

    /// Reads the regular file that `path` leads to, if it has at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`RootError::TooLarge`] beside those of [`Self::open_file`].
    pub fn read_file(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Vec<u8>, RootError> {
        let path = path.as_ref();
        let mut content = Vec::new();
        let mut file = self.open_file(path)?.take(limit.saturating_add(1));
        file.read_to_end(&mut content).map_err(|error| RootError::io(path, error))?;
        if content.len() as u64 > limit {
            return Err(RootError::TooLarge { path: display_path(path), limit });
        }
        Ok(content)
    }

    /// Reads where the symlink at `path`, a path without symlinks before it, points to.
    pub(crate) fn read_link(&self, path: &[u8], node: &Node) -> Result<Vec<u8>, RootError> {
        let (parent, name) = super::split_last(path);
        let dir = self.dir(parent)?;
        let dir = dir.ok_or_else(|| RootError::NotFound { path: display_path(path) })?;
        dir.read_link(name, node).map_err(|error| RootError::io(path, error))
    }
}

/// The state of one resolution.
struct Walk {
    /// Components still to go, the next one last.
    pending: Vec<Vec<u8>>,
    /// Directories passed, the root first.
    dirs: Vec<(MergedDir, Node)>,
    /// Names passed: those of `dirs` after the root, then `leaf` or the missing ones.
    names: Vec<Vec<u8>>,
    leaf: Option<Node>,
    missing: usize,
    links: usize,
}

impl Walk {
    fn new(root: &LayeredRoot, path: &[u8]) -> Result<Self, RootError> {
        let top = root.top().clone();
        let node = top.node().map_err(|error| RootError::io(b"", error))?;
        let mut walk = Self {
            pending: Vec::new(),
            dirs: vec![(top, node)],
            names: Vec::new(),
            leaf: None,
            missing: 0,
            links: 0,
        };
        walk.push(path);
        Ok(walk)
    }

    fn push(&mut self, path: &[u8]) {
        self.pending.extend(components(path).rev().map(<[u8]>::to_vec));
    }

    fn path(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }

    fn run(mut self, follow: Follow) -> Result<Resolved, RootError> {
        while let Some(name) = self.pending.pop() {
            if self.leaf.is_some() {
                return Err(RootError::NotADirectory { path: display_path(&self.path()) });
            }
            match name.as_slice() {
                b".." => self.ascend(),
                _ if self.missing > 0 => {
                    self.missing += 1;
                    self.names.push(name);
                }
                _ => self.descend(name, follow)?,
            }
        }
        let (_, dir) = &self.dirs[self.dirs.len() - 1];
        let node = if self.missing > 0 { None } else { self.leaf.or(Some(*dir)) };
        Ok(Resolved { path: self.path(), node })
    }

    fn ascend(&mut self) {
        if self.names.pop().is_none() {
            return;
        }
        if self.missing > 0 {
            self.missing -= 1;
        } else {
            self.dirs.pop();
        }
    }

    fn descend(&mut self, name: Vec<u8>, follow: Follow) -> Result<(), RootError> {
        let (dir, _) = &self.dirs[self.dirs.len() - 1];
        let path = join(&self.path(), &name);
        let failed = |error| RootError::io(&path, error);
        let Some(node) = dir.lookup(&name).map_err(failed)? else {
            self.missing = 1;
            self.names.push(name);
            return Ok(());
        };
        let follows = !self.pending.is_empty() || follow == Follow::Last;
        if node.metadata.kind == Kind::Symlink && follows {
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(RootError::TooManyLinks { path: display_path(&path) });
            }
            let target = dir.read_link(&name, &node).map_err(failed)?;
            if target.starts_with(b"/") {
                self.dirs.truncate(1);
                self.names.clear();
            }
            self.push(&target);
            return Ok(());
        }
        if node.metadata.is_dir() {
            // The look-up has just seen it: one that is gone by now changed under our hands.
            let next = dir.open_dir(&name).map_err(failed)?;
            let next = next.ok_or_else(|| RootError::NotFound { path: display_path(&path) })?;
            self.dirs.push((next, node));
        } else {
            self.leaf = Some(node);
        }
        self.names.push(name);
        Ok(())
    }
}
