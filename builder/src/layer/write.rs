//! A snapshot as the tar of a layer: the same bytes for the same tree, always.
//!
//! Order: depth first, each directory before its content, names by their raw bytes. Times are cut
//! to whole seconds, as Docker's and BuildKit's layers have them: fractions would need a PAX header
//! an entry, and file systems that cannot keep them would give another digest. Owners' names stay
//! empty, since only the image's own passwd could tell them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cache::{DiffId, Digest, HashingWriter};
use rustix::fs::FileType;

use super::entry::TarEntry;
use super::read::TarError;
use super::small_files::{SmallFile, read_ahead};
use super::tar_writer::TarWriter;
use super::{LayerStats, OPAQUE_MARKER, WHITEOUT};
use crate::rootfs::{
    Dir, InodeId, Kind, Metadata, Time, Xattrs, display_path, fd_xattrs, is_marked, join,
};
use crate::side_by_side::Ahead;

/// Directories nested deeper than this are refused; `PATH_MAX` allows no deeper path.
pub(super) const MAX_DEPTH: usize = 2048;

/// Why a snapshot cannot be written as a layer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The snapshot cannot be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// Path in the snapshot, or of it.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A name that would read as a deletion (image-spec, layer.md: reserved).
    #[error("`{}` has a name that is reserved for deletions in layers", path.display())]
    Reserved {
        /// Path in the snapshot.
        path: PathBuf,
    },
    /// Directories nested without end.
    #[error("`{}` is nested too deeply", path.display())]
    TooDeep {
        /// Path in the snapshot.
        path: PathBuf,
    },
    /// An entry cannot be expressed, or the output takes no more.
    #[error("could not write the layer")]
    Archive(#[from] TarError),
}

/// Writes the snapshot in the directory `upper` (overlayfs upper format, mounted with
/// `userxattr`) to `out` as an uncompressed layer.
///
/// # Errors
///
/// [`WriteError`].
pub fn write_layer(upper: &Path, out: impl Write) -> Result<LayerStats, WriteError> {
    write(upper, out, None, None)
}

/// As [`write_layer`]; no entry is younger than `latest` (seconds since 1970), if given.
///
/// # Errors
///
/// [`WriteError`].
pub(crate) fn write_layer_until(
    upper: &Path,
    latest: Option<i64>,
    out: impl Write,
) -> Result<LayerStats, WriteError> {
    write(upper, out, latest, None)
}

/// One thing that a layer holds, told in passing.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// An entry; a regular file with the digest of its content.
    Entry(&'a TarEntry, Option<Digest>),
    /// A further name of a file told before.
    Link {
        /// The further name.
        path: &'a [u8],
        /// The first one.
        first: &'a [u8],
    },
    /// What lies at this path below is deleted.
    Deleted(&'a [u8]),
    /// The directory, told just before, hides those of its name below.
    Opaque,
}

/// As [`write_layer_until`], and tells what the layer holds: parents first, names by their raw bytes.
///
/// # Errors
///
/// [`WriteError`].
pub(crate) fn write_layer_telling(
    upper: &Path,
    latest: Option<i64>,
    out: impl Write,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<LayerStats, WriteError> {
    write(upper, out, latest, Some(tell))
}

fn write(
    upper: &Path,
    out: impl Write,
    latest: Option<i64>,
    tell: Option<&mut dyn FnMut(Told<'_>)>,
) -> Result<LayerStats, WriteError> {
    let dir = Dir::open(upper)
        .map_err(|source| WriteError::Read { path: upper.to_path_buf(), source })?;
    let mut writer = LayerWriter::new(out, latest, tell);
    writer.content(&dir, b"", 0)?;
    writer.finish()
}

/// Returns digest and size in bytes of the layer that [`write_layer`] makes of `upper`.
///
/// # Errors
///
/// [`WriteError`].
pub fn diff_id(upper: &Path) -> Result<(DiffId, u64), WriteError> {
    let mut out = HashingWriter::new(io::sink());
    write_layer(upper, &mut out)?;
    let (_, digest, size) = out.finish();
    Ok((DiffId(digest), size))
}

/// Writes what a snapshot holds, object by object.
pub(super) struct LayerWriter<'a, W: Write> {
    tar: TarWriter<W>,
    /// Stands for every later time, in seconds since 1970.
    latest: Option<i64>,
    /// Files with several names: the first name written.
    links: HashMap<InodeId, Vec<u8>>,
    /// Who wants to know what is written.
    tell: Option<&'a mut dyn FnMut(Told<'_>)>,
}

impl<'a, W: Write> LayerWriter<'a, W> {
    pub(super) fn new(
        out: W,
        latest: Option<i64>,
        tell: Option<&'a mut dyn FnMut(Told<'_>)>,
    ) -> Self {
        Self { tar: TarWriter::new(out), latest, links: HashMap::new(), tell }
    }

    pub(super) fn finish(self) -> Result<LayerStats, WriteError> {
        Ok(self.tar.finish()?.1)
    }

    fn clamped(&self, mut metadata: Metadata) -> Metadata {
        if let Some(latest) = self.latest.filter(|latest| metadata.mtime.seconds >= *latest) {
            metadata.mtime = Time { seconds: latest, nanoseconds: 0 };
        }
        metadata
    }

    fn tell(&mut self, told: Told<'_>) {
        if let Some(tell) = &mut self.tell {
            tell(told);
        }
    }

    fn content(&mut self, dir: &Dir, path: &[u8], depth: usize) -> Result<(), WriteError> {
        let failed = |source| WriteError::Read { path: display_path(path), source };
        if depth > MAX_DEPTH {
            return Err(WriteError::TooDeep { path: display_path(path) });
        }
        let mut names = dir.entries().map_err(failed)?;
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut small = Ahead::nothing();
        for (at, (name, file_type)) in names.iter().enumerate() {
            let path = join(path, name);
            if *file_type == FileType::RegularFile {
                if small.is_over(at) {
                    small = read_ahead(dir, &names[at..], at, self.tell.is_some());
                }
                match small.take(at) {
                    Some(file) => self.small_file(path, file)?,
                    None => self.file(dir, name, path)?,
                }
                continue;
            }
            let failed = |source| WriteError::Read { path: display_path(&path), source };
            let metadata = dir.layer_metadata_of(name).map_err(failed)?;
            let metadata = metadata.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            if *file_type == FileType::Directory || metadata.is_dir() {
                let below = dir.open_dir(name).map_err(failed)?;
                self.dir(&below, &path, metadata, depth)?;
            } else {
                self.leaf(dir, name, path, metadata)?;
            }
        }
        Ok(())
    }

    fn dir(
        &mut self,
        dir: &Dir,
        path: &[u8],
        metadata: Metadata,
        depth: usize,
    ) -> Result<(), WriteError> {
        let failed = |source| WriteError::Read { path: display_path(path), source };
        reserved(path)?;
        let (xattrs, is_opaque) = dir.layer_attributes().map_err(failed)?;
        self.dir_entry(path, metadata, xattrs, is_opaque)?;
        self.content(dir, path, depth + 1)
    }

    /// Writes a directory, of whose content nothing is written yet.
    pub(super) fn dir_entry(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        xattrs: Xattrs,
        is_opaque: bool,
    ) -> Result<(), WriteError> {
        reserved(path)?;
        let metadata = self.clamped(metadata);
        if let Some(entry) = TarEntry::of(path.to_vec(), &metadata, Vec::new(), xattrs) {
            self.tar.entry(&entry)?;
            self.tell(Told::Entry(&entry, None));
        }
        if is_opaque {
            self.tar.whiteout(join(path, OPAQUE_MARKER))?;
            self.tell(Told::Opaque);
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: Vec<u8>,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        if metadata.is_whiteout() {
            return self.deleted(name, &path);
        }
        if metadata.kind == Kind::File {
            return self.file(dir, name, path);
        }
        let failed = |source| WriteError::Read { path: display_path(&path), source };
        let link = match metadata.kind {
            Kind::Symlink => dir.read_link(name).map_err(failed)?,
            _ => Vec::new(),
        };
        self.other(path, metadata, link)
    }

    /// Writes what is neither file nor directory.
    pub(super) fn other(
        &mut self,
        path: Vec<u8>,
        metadata: Metadata,
        link: Vec<u8>,
    ) -> Result<(), WriteError> {
        reserved(&path)?;
        if metadata.kind == Kind::Socket {
            self.tar.stats.skipped_sockets += 1;
            return Ok(());
        }
        let metadata = self.clamped(metadata);
        if self.is_linked(&path, &metadata)? {
            return Ok(());
        }
        if let Some(entry) = TarEntry::of(path, &metadata, link, Vec::new()) {
            self.tar.entry(&entry)?;
            self.tell(Told::Entry(&entry, None));
        }
        Ok(())
    }
}

impl<W: Write> LayerWriter<'_, W> {
    /// Writes that `name` of the lower layers is deleted.
    fn deleted(&mut self, name: &[u8], path: &[u8]) -> Result<(), WriteError> {
        let (parent, _) = crate::rootfs::split_last(path);
        self.tell(Told::Deleted(path));
        Ok(self.tar.whiteout(join(parent, &[WHITEOUT, name].concat()))?)
    }

    /// Writes a regular file.
    pub(super) fn file(&mut self, dir: &Dir, name: &[u8], path: Vec<u8>) -> Result<(), WriteError> {
        let failed = |source| WriteError::Read { path: display_path(&path), source };
        let (file, metadata) = dir.open_file(name).map_err(failed)?;
        if metadata.may_be_marked() && is_marked(&file).map_err(failed)? {
            return self.deleted(name, &path);
        }
        reserved(&path)?;
        let metadata = self.clamped(metadata);
        if self.is_linked(&path, &metadata)? {
            return Ok(());
        }
        let xattrs = fd_xattrs(&file).map_err(failed)?;
        let Some(entry) = TarEntry::of(path, &metadata, Vec::new(), xattrs) else { return Ok(()) };
        if self.tell.is_none() {
            return Ok(self.tar.file(&entry, &file)?);
        }
        let mut content = HashingWriter::new(io::sink());
        self.tar.file_seen(&entry, &file, |bytes| {
            content.write_all(bytes).expect("a sink takes everything");
        })?;
        self.tell(Told::Entry(&entry, Some(content.finish().1)));
        Ok(())
    }

    /// Writes a regular file that was read already.
    pub(super) fn small_file(&mut self, path: Vec<u8>, file: SmallFile) -> Result<(), WriteError> {
        reserved(&path)?;
        let metadata = self.clamped(file.metadata);
        let entry = TarEntry::of(path, &metadata, Vec::new(), file.xattrs);
        let Some(entry) = entry else { return Ok(()) };
        self.tar.small_file(&entry, &file.content)?;
        self.tell(Told::Entry(&entry, file.digest));
        Ok(())
    }

    /// Writes a further name of an object written before; false when this is its first one.
    fn is_linked(&mut self, path: &[u8], metadata: &Metadata) -> Result<bool, WriteError> {
        if metadata.links < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&metadata.inode).cloned() else {
            self.links.insert(metadata.inode, path.to_vec());
            return Ok(false);
        };
        self.tell(Told::Link { path, first: &first });
        self.tar.hard_link(path, &first, metadata)?;
        Ok(true)
    }
}

/// Nobody but the builder records deletions: a file of such a name would delete when unpacked.
fn reserved(path: &[u8]) -> Result<(), WriteError> {
    if crate::rootfs::split_last(path).1.starts_with(WHITEOUT) {
        return Err(WriteError::Reserved { path: display_path(path) });
    }
    Ok(())
}
