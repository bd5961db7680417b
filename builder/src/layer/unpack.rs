//! Archives onto a tree: the engine under layers, contexts and ADD.
//!
//! Invariants: names are cleaned to components, `..` is refused; the parent of an entry is
//! resolved inside the tree (symlinks lead nowhere else) and its descriptor is what is written
//! to; the last component is never followed. What cannot be a file of a tree is an error that
//! names it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::entry::{TarEntry, TarKind};
use super::read::{TarError, TarReader};
use super::{LayerStats, Limits, OPAQUE_MARKER, WHITEOUT, decompress};
use crate::rootfs::{
    Attributes, Follow, Kind, Node, OpenDir, RootError, Time, Upper, UpperError, components,
    copy_content, display_path, fd_xattrs, join, split_last,
};

/// Content is moved in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// Deletions of what the lowers have, as in layers.
    Apply,
    /// Deletions of what the upper holds too: the archive is a layer above those that are in it. A
    /// deletion has to come before what takes its place, as in the layers that are written here.
    Merge,
    /// Names like any other: the tree is no snapshot.
    Keep,
    /// Nothing good: in a snapshot they would become deletions.
    Refuse,
}

/// What becomes of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Devices {
    /// Made where the kernel allows it.
    Make,
    /// Left out, FIFOs too, as BuildKit's ADD does.
    Skip,
    /// An error.
    Refuse,
}

/// Who owns what is unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Whom the archive names.
    Archive,
    /// One owner and group.
    Fixed(u32, u32),
    /// Who unpacks.
    Leave,
}

/// How an archive is read onto a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) whiteouts: Whiteouts,
    pub(crate) devices: Devices,
    pub(crate) owners: Owners,
    /// Whether an entry for the root itself changes the root.
    pub(crate) root_entry: bool,
}

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is malformed or too large.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The tree cannot be written.
    #[error(transparent)]
    Write(#[from] UpperError),
    /// A path that leads out of the tree.
    #[error("the archive's entry `{}` leads outside", path.display())]
    Escapes {
        /// As in the archive.
        path: PathBuf,
    },
    /// Nested too deeply.
    #[error("the archive's entry `{}` exceeds the limit of {limit} directories", path.display())]
    TooDeep {
        /// As in the archive.
        path: PathBuf,
        /// Directories allowed.
        limit: usize,
    },
    /// A name that is reserved for deletions.
    #[error("`{}` has a name that is reserved for deletions in layers", path.display())]
    Reserved {
        /// As in the archive.
        path: PathBuf,
    },
    /// A device where none may be, or one that would read as a deletion.
    #[error("the archive's entry `{}` is a device, which is refused here", path.display())]
    Device {
        /// As in the archive.
        path: PathBuf,
    },
    /// A hard link to nothing, to a directory or to itself.
    #[error("the archive's hard link `{}` has no file to link to at `{}`", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
}

impl From<RootError> for UnpackError {
    fn from(error: RootError) -> Self {
        Self::Write(UpperError::Root(error))
    }
}

/// Whether `file` is a tar, compressed or not: whether it begins with a header that can be read. An
/// empty or a broken archive is a file like any other, as it is for Docker.
pub(crate) fn begins_archive(file: impl Read + Send) -> bool {
    let Ok(plain) = decompress(file, Limits::LAYER.bytes) else { return false };
    matches!(TarReader::new(plain, Limits::LAYER).next_entry(), Ok(Some(_)))
}

/// Reads the archive to its end onto `upper`.
pub(crate) fn unpack<R: Read>(
    tar: TarReader<R>,
    upper: Upper,
    policy: Policy,
    depth: usize,
) -> Result<(Upper, LayerStats), UnpackError> {
    let implied = Attributes {
        mode: 0o755,
        owner: match policy.owners {
            Owners::Archive => Some((0, 0)),
            Owners::Fixed(uid, gid) => Some((uid, gid)),
            Owners::Leave => None,
        },
        mtime: Some(Time::default()),
        xattrs: Vec::new(),
    };
    let stats = LayerStats::default();
    let buffer = vec![0; BUFFER];
    let mut unpack = Unpack { tar, upper, policy, depth, implied, stats, buffer, parent: None };
    while let Some(entry) = unpack.tar.next_entry()? {
        unpack.entry(&entry)?;
    }
    unpack.upper.finish()?;
    unpack.stats.unmapped_owners = unpack.upper.describer().unmapped_owners();
    Ok((unpack.upper, unpack.stats))
}

struct Unpack<R> {
    tar: TarReader<R>,
    upper: Upper,
    policy: Policy,
    depth: usize,
    implied: Attributes,
    stats: LayerStats,
    buffer: Vec<u8>,
    /// The parent of the entry before, as written and as opened: most often also that of the next
    /// one. Whatever could change where a path leads forgets it.
    parent: Option<(Vec<u8>, OpenDir)>,
}

impl<R: Read> Unpack<R> {
    fn entry(&mut self, entry: &TarEntry) -> Result<(), UnpackError> {
        let path = self.clean(&entry.path, &entry.path)?;
        self.stats.entries += 1;
        let (parent, name) = split_last(&path);
        if name.is_empty() {
            return self.root(entry);
        }
        if name.starts_with(WHITEOUT) {
            match self.policy.whiteouts {
                Whiteouts::Apply | Whiteouts::Merge => {
                    return self.deletion(parent, name, &path);
                }
                Whiteouts::Refuse => {
                    return Err(UnpackError::Reserved { path: display_path(&path) });
                }
                Whiteouts::Keep => {}
            }
        }
        if self.skips(entry, &path)? {
            return Ok(());
        }
        let at = self.open_parent(parent)?;
        match entry.kind {
            TarKind::Dir => self.dir(entry, &at, name),
            TarKind::File => self.file(entry, &at, name),
            TarKind::HardLink => self.hard_link(entry, &at, name, &path),
            TarKind::Symlink => {
                self.replace(&at, name)?;
                self.parent = None;
                let attributes = self.attributes(entry);
                Ok(self.upper.symlink(&at, name, &entry.link, &attributes)?)
            }
            TarKind::CharDevice => self.special(entry, &at, name, Kind::CharDevice),
            TarKind::BlockDevice => self.special(entry, &at, name, Kind::BlockDevice),
            TarKind::Fifo => self.special(entry, &at, name, Kind::Fifo),
        }
    }

    /// Reduces a path to its components. A leading slash means the tree's root, as everywhere.
    fn clean(&self, path: &[u8], entry: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let names: Vec<&[u8]> = components(path).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(UnpackError::Escapes { path: display_raw(entry) });
        }
        if names.len() > self.depth {
            return Err(UnpackError::TooDeep { path: display_raw(entry), limit: self.depth });
        }
        Ok(names.join(&b'/'))
    }

    fn root(&mut self, entry: &TarEntry) -> Result<(), UnpackError> {
        if self.policy.root_entry && entry.kind == TarKind::Dir {
            let at = self.upper.dir(b"", &self.implied)?;
            let attributes = self.attributes(entry);
            self.upper.describe_dir(&at, &attributes)?;
            return Ok(());
        }
        // A file in the place of the root, CVE-2021-29136.
        match entry.kind {
            TarKind::Dir => Ok(()),
            _ => Err(UnpackError::Escapes { path: display_raw(&entry.path) }),
        }
    }

    /// Whether the entry is left out; devices that may not be are errors.
    fn skips(&mut self, entry: &TarEntry, path: &[u8]) -> Result<bool, UnpackError> {
        let is_device = matches!(entry.kind, TarKind::CharDevice | TarKind::BlockDevice);
        match self.policy.devices {
            Devices::Skip if is_device || entry.kind == TarKind::Fifo => {
                self.stats.skipped_devices += 1;
                Ok(true)
            }
            Devices::Refuse if is_device => Err(UnpackError::Device { path: display_path(path) }),
            // The device 0:0 is how a snapshot records deletions.
            _ if entry.kind == TarKind::CharDevice && entry.device == (0, 0) => {
                Err(UnpackError::Device { path: display_path(path) })
            }
            _ => Ok(false),
        }
    }

    /// Opens the directory that the path leads to inside the tree, made if need be.
    fn open_parent(&mut self, parent: &[u8]) -> Result<OpenDir, UnpackError> {
        if let Some((path, at)) = &self.parent
            && path == parent
        {
            return Ok(at.clone());
        }
        let resolved = self.upper.merged().resolve(parent, Follow::Last)?;
        let at = self.upper.dir(&resolved.path, &self.implied)?;
        self.parent = Some((parent.to_vec(), at.clone()));
        Ok(at)
    }

    fn attributes(&self, entry: &TarEntry) -> Attributes {
        Attributes {
            mode: entry.mode,
            owner: match self.policy.owners {
                Owners::Archive => Some((entry.uid, entry.gid)),
                Owners::Fixed(uid, gid) => Some((uid, gid)),
                Owners::Leave => None,
            },
            mtime: Some(entry.mtime),
            xattrs: entry.xattrs.clone(),
        }
    }

    /// Takes away what the upper has under the name, to make room for something else.
    fn replace(&mut self, at: &OpenDir, name: &[u8]) -> Result<(), UnpackError> {
        if self.upper.clear(at, name)? {
            self.parent = None;
        }
        Ok(())
    }

    fn dir(&mut self, entry: &TarEntry, at: &OpenDir, name: &[u8]) -> Result<(), UnpackError> {
        let attributes = self.attributes(entry);
        if at.lookup(name)?.is_some_and(|node| node.metadata.is_dir()) {
            let dir = self.upper.dir(&join(&at.path, name), &attributes)?;
            if self.merges() {
                Upper::drop_xattrs(&dir, &attributes)?;
            }
            return Ok(self.upper.describe_dir(&dir, &attributes)?);
        }
        self.parent = None;
        self.upper.make_dir(at, name, &attributes)?;
        Ok(())
    }

    fn file(&mut self, entry: &TarEntry, at: &OpenDir, name: &[u8]) -> Result<(), UnpackError> {
        self.replace(at, name)?;
        let path = join(&at.path, name);
        let mut file = at.create_file(name)?;
        let unwritable =
            |source| UpperError::Io { action: "write", path: display_path(&path), source };
        let mut has_holes = false;
        loop {
            // A hole of the archive's is one of the file's: it costs no space.
            let hole = self.tar.skip_hole();
            if hole > 0 {
                has_holes = true;
                let offset = i64::try_from(hole).unwrap_or(i64::MAX);
                file.seek(SeekFrom::Current(offset)).map_err(unwritable)?;
                continue;
            }
            let read = self.tar.read(&mut self.buffer).map_err(TarError::Io)?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read]).map_err(unwritable)?;
        }
        if has_holes {
            // One at the end is none before the file is that long.
            file.set_len(entry.size).map_err(unwritable)?;
        }
        self.stats.bytes += entry.size;
        let attributes = self.attributes(entry);
        self.upper.describer().describe_file(&file, &path, &attributes)?;
        Ok(())
    }

    fn special(
        &mut self,
        entry: &TarEntry,
        at: &OpenDir,
        name: &[u8],
        kind: Kind,
    ) -> Result<(), UnpackError> {
        self.replace(at, name)?;
        let attributes = self.attributes(entry);
        if !self.upper.special(at, name, kind, entry.device, &attributes)? {
            self.stats.skipped_devices += 1;
        }
        Ok(())
    }

    /// Attributes stay those of the first name: they are one file.
    fn hard_link(
        &mut self,
        entry: &TarEntry,
        at: &OpenDir,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let missing =
            || UnpackError::Link { path: display_path(path), target: display_raw(&entry.link) };
        let target = self.clean(&entry.link, &entry.path)?;
        let (target_parent, target_name) = split_last(&target);
        let resolved = self.upper.merged().resolve(target_parent, Follow::Last)?;
        if !resolved.node.is_some_and(|node| node.metadata.is_dir()) || target_name.is_empty() {
            return Err(missing());
        }
        let from = self.upper.dir(&resolved.path, &self.implied)?;
        let node = from.lookup(target_name)?.ok_or_else(missing)?;
        let is_itself = from.path == at.path && target_name == name;
        if node.metadata.is_dir() || is_itself {
            return Err(missing());
        }
        if from.in_upper(target_name)?.is_none() {
            self.copy_up(&from, target_name, &node)?;
        }
        self.replace(at, name)?;
        Ok(at.hard_link(name, &from, target_name)?)
    }

    /// Makes in the upper what only the lowers have, for a second name to be given to it.
    fn copy_up(&mut self, at: &OpenDir, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        let path = join(&at.path, name);
        let failed = |source| RootError::io(&path, source);
        let metadata = &node.metadata;
        match metadata.kind {
            Kind::File | Kind::Dir => {
                let (from, found) = at.open_file(name, node)?;
                let xattrs = fd_xattrs(&from).map_err(failed)?;
                let to = at.create_file(name)?;
                copy_content(&from, &to, &found).map_err(failed)?;
                self.upper.describer().describe_file(
                    &to,
                    &path,
                    &Attributes::of(metadata, xattrs),
                )?;
            }
            Kind::Symlink => {
                let target = self.upper.merged().read_link(&path, node)?;
                let attributes = Attributes::of(metadata, Vec::new());
                self.upper.symlink(at, name, &target, &attributes)?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
                let attributes = Attributes::of(metadata, Vec::new());
                self.upper.special(at, name, metadata.kind, metadata.device, &attributes)?;
            }
        }
        Ok(())
    }

    /// Applies `.wh.NAME` and the opaque marker; other names of AUFS's own mean nothing anymore.
    fn deletion(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        let at = self.open_parent(parent)?;
        self.parent = None;
        if name == OPAQUE_MARKER {
            let hide = if self.merges() { Upper::delete_content } else { Upper::set_opaque };
            return Ok(hide(&mut self.upper, &at)?);
        }
        let deleted = &name[WHITEOUT.len()..];
        if deleted.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(deleted, b"" | b"." | b"..") {
            return Err(UnpackError::Escapes { path: display_path(path) });
        }
        let delete = if self.merges() { Upper::delete } else { Upper::whiteout };
        Ok(delete(&mut self.upper, &at, deleted)?)
    }

    fn merges(&self) -> bool {
        self.policy.whiteouts == Whiteouts::Merge
    }
}

fn display_raw(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}
