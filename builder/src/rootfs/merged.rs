//! A stack of layer directories seen as one tree, without a mount.
//!
//! Invariants: read-only; whiteouts, opaque directories and non-directories hide what lies below
//! them exactly as overlayfs mounted with `userxattr` does; everything is reached through
//! descriptors, so a symlink in a layer leads nowhere outside.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::dir::{Dir, Xattrs, fd_xattrs};
use super::metadata::{Kind, Metadata};
use super::{RootError, display_path};

/// Whether deletions are recorded in the directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Overlayfs's upper format: whiteouts and opaque directories count.
    Overlay,
    /// A directory of the user's: a device is a device.
    Plain,
}

/// An object found in a root.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// What it is.
    pub metadata: Metadata,
    /// Index of the layer that holds it, 0 on top.
    pub(crate) layer: usize,
}

/// A name in a directory with what it stands for.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Raw bytes, without a slash.
    pub name: Vec<u8>,
    /// What it stands for.
    pub node: Node,
}

/// One directory of the merged tree: the directories of its name that are in sight, top first.
#[derive(Clone, Debug)]
pub(crate) struct MergedDir {
    layers: Vec<(usize, Arc<Dir>)>,
    format: Format,
}

/// A read-only view of a stack of snapshots as one root.
#[derive(Clone, Debug)]
pub struct LayeredRoot {
    top: MergedDir,
}

impl LayeredRoot {
    /// Opens a stack of snapshot directories, the topmost first. No directory is an empty root.
    ///
    /// # Errors
    ///
    /// [`RootError::Io`] when one cannot be opened.
    pub fn open(lowers: &[PathBuf]) -> Result<Self, RootError> {
        Self::open_as(lowers, Format::Overlay)
    }

    /// Opens one directory that is no snapshot, such as a build context: devices and attributes
    /// in it mean nothing to us.
    ///
    /// # Errors
    ///
    /// [`RootError::Io`] when it cannot be opened.
    pub fn open_plain(dir: impl Into<PathBuf>) -> Result<Self, RootError> {
        Self::open_as(&[dir.into()], Format::Plain)
    }

    fn open_as(lowers: &[PathBuf], format: Format) -> Result<Self, RootError> {
        let open = |(index, path): (usize, &PathBuf)| match Dir::open(path) {
            Ok(dir) => Ok((index, Arc::new(dir))),
            Err(source) => Err(RootError::Io { path: path.clone(), source }),
        };
        let layers = lowers.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Self { top: MergedDir { layers, format } })
    }

    /// Returns this root with `upper` on top of it.
    pub(crate) fn with_upper(&self, upper: Arc<Dir>) -> Self {
        let below = self.top.layers.iter().map(|(index, dir)| (index + 1, Arc::clone(dir)));
        let layers = std::iter::once((0, upper)).chain(below).collect();
        Self { top: MergedDir { layers, format: self.top.format } }
    }

    /// Returns a root over one directory, in which whiteouts count for nothing.
    pub(crate) fn plain(dir: Arc<Dir>) -> Self {
        Self { top: MergedDir { layers: vec![(0, dir)], format: Format::Plain } }
    }

    /// Returns the directory at `dir` as a root of its own.
    pub(crate) fn below(dir: MergedDir) -> Self {
        let layers = dir.layers.into_iter().enumerate().map(|(new, (_, dir))| (new, dir));
        Self { top: MergedDir { layers: layers.collect(), format: dir.format } }
    }

    pub(crate) fn top(&self) -> &MergedDir {
        &self.top
    }

    /// Finds what lies at `path`, a path without symlinks as `resolve` returns it.
    pub(crate) fn lookup(&self, path: &[u8]) -> Result<Option<Node>, RootError> {
        let (parent, name) = super::split_last(path);
        if name.is_empty() {
            return self.top.node().map(Some).map_err(|error| RootError::io(path, error));
        }
        let Some(dir) = self.dir(parent)? else { return Ok(None) };
        dir.lookup(name).map_err(|error| RootError::io(path, error))
    }

    /// Opens the directory at `path`, a path without symlinks; `None` where there is none.
    pub(crate) fn dir(&self, path: &[u8]) -> Result<Option<MergedDir>, RootError> {
        let mut dir = self.top.clone();
        for name in super::components(path) {
            match dir.open_dir(name).map_err(|error| RootError::io(path, error))? {
                Some(next) => dir = next,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Opens the regular file `node` at `path`, which `resolve` has found there.
    pub(crate) fn open_node(&self, path: &[u8], node: &Node) -> io::Result<(File, Metadata)> {
        self.layer(node)?.open_file(path)
    }

    /// Reads the attributes of the directory `node` at `path`.
    pub(crate) fn dir_xattrs(&self, path: &[u8], node: &Node) -> io::Result<Xattrs> {
        fd_xattrs(self.layer(node)?.open_dir(path)?)
    }

    fn layer(&self, node: &Node) -> io::Result<&Dir> {
        let found = self.top.layers.iter().find(|(index, _)| *index == node.layer);
        found.map(|(_, dir)| &**dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl MergedDir {
    /// Whether what is in sight is that of one layer.
    pub(crate) fn is_one_layer(&self) -> bool {
        self.layers.len() == 1
    }

    /// Describes the directory itself; an empty stack is described as an empty root.
    pub(crate) fn node(&self) -> io::Result<Node> {
        let Some((layer, dir)) = self.layers.first() else { return Ok(empty_root()) };
        Ok(Node { metadata: dir.metadata()?, layer: *layer })
    }

    /// Finds `name`.
    pub(crate) fn lookup(&self, name: &[u8]) -> io::Result<Option<Node>> {
        for (layer, dir) in &self.layers {
            if let Some(node) = self.look(*layer, dir, name)? {
                return Ok((!self.is_hidden(&node.metadata)).then_some(node));
            }
        }
        Ok(None)
    }

    /// Opens the directory `name`, merged; `None` where there is none.
    pub(crate) fn open_dir(&self, name: &[u8]) -> io::Result<Option<Self>> {
        let mut layers = Vec::new();
        for (position, (layer, dir)) in self.layers.iter().enumerate() {
            match self.look(*layer, dir, name)? {
                None => continue,
                Some(node) if !node.metadata.is_dir() => break,
                Some(_) => {}
            }
            let dir = dir.open_dir(name)?;
            let is_last = position + 1 == self.layers.len();
            let hides = !is_last && self.format == Format::Overlay && dir.is_opaque()?;
            layers.push((*layer, Arc::new(dir)));
            if hides {
                break;
            }
        }
        Ok((!layers.is_empty()).then_some(Self { layers, format: self.format }))
    }

    /// Reads where the symlink `name` points to; `node` is what [`Self::lookup`] found.
    pub(crate) fn read_link(&self, name: &[u8], node: &Node) -> io::Result<Vec<u8>> {
        let found = self.layers.iter().find(|(layer, _)| *layer == node.layer);
        found.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |(_, dir)| dir.read_link(name))
    }

    /// Opens the regular file `name`; `node` is what [`Self::lookup`] found.
    pub(crate) fn open_file(&self, name: &[u8], node: &Node) -> io::Result<(File, Metadata)> {
        let found = self.layers.iter().find(|(layer, _)| *layer == node.layer);
        found.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |(_, dir)| dir.open_file(name))
    }

    /// Reads the attributes of `node`, found as `name` in this directory: none for what is neither
    /// file nor directory.
    pub(crate) fn xattrs_of(&self, name: &[u8], node: &Node) -> io::Result<Xattrs> {
        match node.metadata.kind {
            Kind::File => fd_xattrs(self.open_file(name, node)?.0),
            Kind::Dir => self.open_dir(name)?.map_or(Ok(Vec::new()), |dir| dir.xattrs()),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads the attributes of the directory itself: those of its topmost layer.
    pub(crate) fn xattrs(&self) -> io::Result<Xattrs> {
        self.layers.first().map_or(Ok(Vec::new()), |(_, dir)| fd_xattrs(dir))
    }

    /// Lists what is in sight, sorted by the bytes of the name.
    pub(crate) fn entries(&self) -> io::Result<Vec<DirEntry>> {
        if let [(layer, dir)] = &self.layers[..] {
            return self.entries_of(*layer, dir);
        }
        let mut seen: BTreeMap<Vec<u8>, Option<Node>> = BTreeMap::new();
        for (layer, dir) in &self.layers {
            for (name, _) in dir.entries()? {
                if let Entry::Vacant(place) = seen.entry(name) {
                    // A name that went away since it was listed is a change of the user's, not an
                    // error.
                    let node = self.look(*layer, dir, place.key())?;
                    place.insert(node.filter(|node| !self.is_hidden(&node.metadata)));
                }
            }
        }
        let in_sight = |(name, node): (_, Option<Node>)| Some(DirEntry { name, node: node? });
        Ok(seen.into_iter().filter_map(in_sight).collect())
    }

    /// Lists the only layer.
    fn entries_of(&self, layer: usize, dir: &Dir) -> io::Result<Vec<DirEntry>> {
        let mut names = dir.entries()?;
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut entries = Vec::with_capacity(names.len());
        for (name, _) in names {
            if let Some(node) = self.look(layer, dir, &name)?
                && !self.is_hidden(&node.metadata)
            {
                entries.push(DirEntry { name, node });
            }
        }
        Ok(entries)
    }

    /// Finds what one layer has under `name`.
    fn look(&self, layer: usize, dir: &Dir, name: &[u8]) -> io::Result<Option<Node>> {
        let metadata = match self.format {
            Format::Overlay => dir.layer_metadata_of(name)?,
            Format::Plain => dir.metadata_of(name)?,
        };
        Ok(metadata.map(|metadata| Node { metadata, layer }))
    }

    /// Whether what was found says that there is nothing.
    fn is_hidden(&self, metadata: &Metadata) -> bool {
        self.format == Format::Overlay && metadata.is_whiteout()
    }
}

/// What a root without any layer looks like.
fn empty_root() -> Node {
    Node { metadata: Metadata::empty_dir(), layer: 0 }
}

impl RootError {
    pub(crate) fn io(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { path: display_path(path), source: source.into() }
    }
}
