//! A root handed out whole: as a directory or as one tar.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::content::copy_content;
use super::describe::Attributes;
use super::open_dir::OpenDir;
use super::upper::{Upper, UpperError};
use super::{InodeId, Kind, LayeredRoot, MergedDir, Node, RootError, Time, display_path, join};
use crate::layer::{LayerStats, TarEntry, TarError, TarWriter};

/// Directories nested deeper than this are refused; `PATH_MAX` allows no deeper path.
const MAX_DEPTH: usize = 2048;

/// Why a root cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The root cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The destination cannot be written.
    #[error(transparent)]
    Write(#[from] UpperError),
    /// An entry cannot be expressed, or the output takes no more.
    #[error("could not write the archive")]
    Archive(#[from] TarError),
    /// Directories nested without end.
    #[error("`{}` is nested too deeply", path.display())]
    TooDeep {
        /// Path in the root.
        path: PathBuf,
    },
}

/// Copies the root that the stack `lowers` (topmost first) makes into the existing directory
/// `dest`, whose other content stays. Devices are left out where they cannot be made.
///
/// # Errors
///
/// [`ExportError`].
pub fn export_dir(lowers: &[PathBuf], dest: &Path) -> Result<LayerStats, ExportError> {
    let root = LayeredRoot::open(lowers)?;
    let upper = Upper::open_plain(dest)?;
    let mut export = DirExport { upper, links: HashMap::new(), stats: LayerStats::default() };
    walk(root.top(), b"", 0, &mut export)?;
    export.upper.finish()?;
    export.stats.unmapped_owners = export.upper.describer().unmapped_owners();
    Ok(export.stats)
}

/// Writes the root that the stack `lowers` (topmost first) makes to `out` as one tar, in the form
/// of our layers: sorted, the same bytes for the same tree.
///
/// # Errors
///
/// [`ExportError`].
pub fn export_tar(lowers: &[PathBuf], out: impl Write) -> Result<LayerStats, ExportError> {
    export_tar_until(lowers, &[], out)
}

/// As [`export_tar`]; nothing of a layer is younger than its element of `latest` (seconds since
/// 1970, in the order of `lowers`), where there is one: so its own archive has it too.
///
/// # Errors
///
/// [`ExportError`].
pub(crate) fn export_tar_until(
    lowers: &[PathBuf],
    latest: &[Option<i64>],
    out: impl Write,
) -> Result<LayerStats, ExportError> {
    let root = LayeredRoot::open(lowers)?;
    let mut export = TarExport { tar: TarWriter::new(out), latest, links: HashMap::new() };
    walk(root.top(), b"", 0, &mut export)?;
    Ok(export.tar.finish()?.1)
}

/// What is done with each object on the way.
trait Export {
    fn object(&mut self, object: &Object<'_>) -> Result<(), ExportError>;
}

/// One object below the root, with the directory that it was found in.
struct Object<'a> {
    path: Vec<u8>,
    name: &'a [u8],
    node: &'a Node,
    dir: &'a MergedDir,
}

impl Object<'_> {
    fn link_target(&self) -> Result<Vec<u8>, RootError> {
        let target = self.dir.read_link(self.name, self.node);
        target.map_err(|error| RootError::io(&self.path, error))
    }
}

fn walk(
    dir: &MergedDir,
    path: &[u8],
    depth: usize,
    export: &mut impl Export,
) -> Result<(), ExportError> {
    if depth > MAX_DEPTH {
        return Err(ExportError::TooDeep { path: display_path(path) });
    }
    for entry in dir.entries().map_err(|error| RootError::io(path, error))? {
        let path = join(path, &entry.name);
        let is_dir = entry.node.metadata.is_dir();
        export.object(&Object { path: path.clone(), name: &entry.name, node: &entry.node, dir })?;
        if is_dir {
            let below = dir.open_dir(&entry.name).map_err(|error| RootError::io(&path, error))?;
            if let Some(below) = below {
                walk(&below, &path, depth + 1, export)?;
            }
        }
    }
    Ok(())
}

struct TarExport<'a, W: Write> {
    tar: TarWriter<W>,
    latest: &'a [Option<i64>],
    links: HashMap<(usize, InodeId), Vec<u8>>,
}

impl<W: Write> Export for TarExport<'_, W> {
    fn object(&mut self, object: &Object<'_>) -> Result<(), ExportError> {
        let mut metadata = object.node.metadata;
        let latest = self.latest.get(object.node.layer).copied().flatten();
        if let Some(seconds) = latest.filter(|latest| metadata.mtime.seconds >= *latest) {
            metadata.mtime = Time { seconds, nanoseconds: 0 };
        }
        let metadata = &metadata;
        let key = (object.node.layer, metadata.inode);
        if metadata.links > 1 && !metadata.is_dir() {
            if let Some(target) = self.links.get(&key) {
                return Ok(self.tar.hard_link(&object.path, target, metadata)?);
            }
            self.links.insert(key, object.path.clone());
        }
        let xattrs = object.dir.xattrs_of(object.name, object.node);
        let xattrs = xattrs.map_err(|error| RootError::io(&object.path, error))?;
        let link = match metadata.kind {
            Kind::Symlink => object.link_target()?,
            _ => Vec::new(),
        };
        let Some(entry) = TarEntry::of(object.path.clone(), metadata, link, xattrs) else {
            return Ok(());
        };
        if metadata.kind == Kind::File {
            let opened = object.dir.open_file(object.name, object.node);
            let (file, _) = opened.map_err(|error| RootError::io(&object.path, error))?;
            return Ok(self.tar.file(&entry, &file)?);
        }
        Ok(self.tar.entry(&entry)?)
    }
}

struct DirExport {
    upper: Upper,
    links: HashMap<(usize, InodeId), Vec<u8>>,
    stats: LayerStats,
}

impl Export for DirExport {
    fn object(&mut self, object: &Object<'_>) -> Result<(), ExportError> {
        let metadata = &object.node.metadata;
        let (parent, name) = super::split_last(&object.path);
        let at = self.upper.dir(parent, &Attributes::implied_dir())?;
        let xattrs = object.dir.xattrs_of(object.name, object.node);
        let xattrs = xattrs.map_err(|error| RootError::io(&object.path, error))?;
        let attributes = Attributes::of(metadata, xattrs);
        self.stats.entries += 1;
        if metadata.is_dir() {
            return self.dir(&at, name, &attributes);
        }
        self.upper.clear(&at, name)?;
        if metadata.links > 1 {
            let key = (object.node.layer, metadata.inode);
            if let Some(first) = self.links.get(&key) {
                let (first_dir, first_name) = super::split_last(first);
                let from = self.upper.dir(first_dir, &Attributes::implied_dir())?;
                return Ok(at.hard_link(name, &from, first_name)?);
            }
            self.links.insert(key, object.path.clone());
        }
        self.leaf(object, &at, name, &attributes)
    }
}

impl DirExport {
    fn dir(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), ExportError> {
        if at.in_upper(name)?.is_some_and(|found| found.is_dir()) {
            let dir = self.upper.dir(&join(&at.path, name), attributes)?;
            return Ok(self.upper.describe_dir(&dir, attributes)?);
        }
        self.upper.make_dir(at, name, attributes)?;
        Ok(())
    }

    fn leaf(
        &mut self,
        object: &Object<'_>,
        at: &OpenDir,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), ExportError> {
        let metadata = &object.node.metadata;
        match metadata.kind {
            Kind::Symlink => {
                self.upper.symlink(at, name, &object.link_target()?, attributes)?;
            }
            Kind::File | Kind::Dir => {
                let opened = object.dir.open_file(object.name, object.node);
                let (from, found) = opened.map_err(|error| RootError::io(&object.path, error))?;
                let file = at.create_file(name)?;
                self.stats.bytes += copy_content(&from, &file, &found)
                    .map_err(|error: io::Error| RootError::io(&object.path, error))?;
                self.upper.describer().describe_file(&file, &object.path, attributes)?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                let kind = metadata.kind;
                if !self.upper.special(at, name, kind, metadata.device, attributes)? {
                    self.stats.skipped_devices += 1;
                }
            }
        }
        Ok(())
    }
}
