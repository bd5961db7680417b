//! COPY and ADD executed: what was selected goes onto a snapshot, by BuildKit's rules.
//!
//! - Files of a context are root's; files of a stage keep their owner; `--chown` gives all of them,
//!   and the directories made on the way, another.
//! - Directories are merged. Those inside a copied directory take its mode, owner and attributes,
//!   the destination itself only its time.
//! - A file replaces a file or a link; a directory and anything else never replace each other.
//! - Modes, times, links, hard links of one source and portable attributes are kept.

mod draft;
mod files;
mod fill;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::{CopyOp, Unpack};

pub(super) use self::draft::Draft;
use self::files::{Files, MOST_BATCHES, Writing};
use self::fill::Asked;
pub(super) use self::fill::{check_unchanged, open_unchanged};
use super::chmod::{Chmod, ChmodError};
use super::select::{CopyInput, Entry, Item, Match, SelectError, Selection};
use super::unpack::{is_archive, unpack_archive};
use crate::ErrorKind;
use crate::hand_out::hand_out;
use crate::layer::{UnpackError, WHITEOUT};
use crate::rootfs::{
    Attributes, Follow, Kind, LayeredRoot, OpenDir, RootError, Upper, UpperError, UserError,
    components, display_path, join, resolve_owner, split_last,
};

/// Why a COPY or ADD failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source is at fault.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// `--chown` names nobody.
    #[error("invalid --chown")]
    Owner(#[from] UserError),
    /// `--chmod` is no mode.
    #[error("invalid --chmod")]
    Mode(#[from] ChmodError),
    /// The destination cannot be resolved or read.
    #[error("could not resolve the destination")]
    Root(#[from] RootError),
    /// The destination cannot be written.
    #[error(transparent)]
    Write(#[from] UpperError),
    /// An archive cannot be unpacked.
    #[error("could not unpack `{}`", path.display())]
    Archive {
        /// Path in the source.
        path: PathBuf,
        /// Why not.
        source: UnpackError,
    },
    /// BuildKit's words for a file onto a directory.
    #[error("cannot replace to directory {} with file", path.display())]
    FileOverDirectory {
        /// The destination.
        path: PathBuf,
    },
    /// BuildKit's words for a directory onto something else.
    #[error("cannot copy to non-directory: {}", path.display())]
    DirectoryOverFile {
        /// The destination.
        path: PathBuf,
    },
    /// More than one file to go where only one can be; BuildKit keeps the last of them.
    #[error("several sources cannot go into one file: {} is no directory; end it with `/`", path.display())]
    SeveralIntoFile {
        /// The destination.
        path: PathBuf,
    },
    /// A destination whose name is reserved for deletions.
    #[error("`{}` cannot be the destination: its name is reserved for deletions in layers", path.display())]
    Reserved {
        /// The destination.
        path: PathBuf,
    },
}

impl CopyError {
    /// Says who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Select(SelectError::Input { .. }) => ErrorKind::Bug,
            Self::Archive { source, .. } if source.kind() == ErrorKind::Host => ErrorKind::Host,
            Self::Select(SelectError::Root(RootError::Io { .. }))
            | Self::Root(RootError::Io { .. })
            | Self::Write(UpperError::Io { .. } | UpperError::Root(RootError::Io { .. }))
            | Self::Owner(UserError::File { source: RootError::Io { .. }, .. }) => ErrorKind::Host,
            _ => ErrorKind::User,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Objects of any kind, directories included.
    pub objects: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Devices that this user namespace may not make.
    pub skipped_devices: u64,
    /// Objects whose owner this user namespace has no id for: they are root's instead.
    pub unmapped_owners: u64,
}

/// Copies `selection`, which [`super::select()`] made of `op` and `inputs`, into the snapshot
/// `upper` on top of `root`.
///
/// # Errors
///
/// [`CopyError`]; `upper` is then of no use.
pub fn copy(
    op: &CopyOp,
    selection: &Selection,
    inputs: &[CopyInput<'_>],
    root: &LayeredRoot,
    upper: &Path,
) -> Result<CopyStats, CopyError> {
    Ok(copy_telling(op, selection, inputs, root, upper, &mut |_| (), None)?.0)
}

/// As [`copy`], and tells now and then what was written so far. Returns also whether `draft` was
/// told the whole layer.
pub(super) fn copy_telling(
    op: &CopyOp,
    selection: &Selection,
    inputs: &[CopyInput<'_>],
    root: &LayeredRoot,
    upper: &Path,
    told: &mut Told<'_>,
    draft: Option<Draft>,
) -> Result<(CopyStats, bool), CopyError> {
    let owner = op.owner.as_deref().map(|owner| resolve_owner(root, owner)).transpose()?;
    let upper = Upper::open(upper, root)?;
    let chmod = Chmod::new(op.mode.as_ref())?;
    let asked = Asked { owner, chmod, describer: Arc::clone(upper.describer()) };
    let mut copy = Copy {
        op,
        asked: &asked,
        is_one: selection.items.len() == 1,
        upper,
        stats: CopyStats::default(),
        told,
        draft,
    };
    for item in &selection.items {
        match item {
            Item::Inline { name, content } => copy.inline(name, content)?,
            Item::Match(found) => {
                let input = inputs.get(found.input);
                copy.found(found, input.ok_or(SelectError::Input { input: found.input })?)?;
            }
        }
    }
    copy.upper.finish()?;
    copy.stats.unmapped_owners += asked.describer.unmapped_owners();
    (copy.told)(&copy.stats);
    Ok((copy.stats, copy.draft.is_some()))
}

/// Hears what was written so far.
pub(super) type Told<'a> = dyn FnMut(&CopyStats) + Send + Sync + 'a;

struct Copy<'a> {
    op: &'a CopyOp,
    asked: &'a Asked,
    /// Whether only one thing was selected.
    is_one: bool,
    upper: Upper,
    stats: CopyStats,
    told: &'a mut Told<'a>,
    /// Hears of the layer, as long as it can be told in its order.
    draft: Option<Draft>,
}

impl Copy<'_> {
    /// Makes the directories that the destination needs and returns where it leads to.
    fn destination(&mut self) -> Result<Vec<u8>, CopyError> {
        let written = self.op.destination.as_bytes();
        for name in components(written) {
            if name.starts_with(WHITEOUT) {
                return Err(CopyError::Reserved { path: display_path(written) });
            }
        }
        if self.op.destination_is_dir {
            self.make_dirs(written)?;
        } else {
            self.make_dirs(split_last(written).0)?;
        }
        Ok(self.upper.merged().resolve(written, Follow::Last)?.path)
    }

    /// Makes `path` and its parents where they are missing, through symlinks inside the root.
    fn make_dirs(&mut self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let resolved = self.upper.merged().resolve(path, Follow::Last)?;
        match resolved.node {
            Some(node) if node.metadata.is_dir() => {}
            Some(_) => {
                return Err(RootError::NotADirectory { path: display_path(&resolved.path) }.into());
            }
            None => {
                let new = Attributes {
                    mode: self.asked.chmod.new_dir(),
                    owner: Some(self.asked.owner.unwrap_or((0, 0))),
                    ..Attributes::default()
                };
                self.upper.dir(&resolved.path, &new)?;
            }
        }
        Ok(resolved.path)
    }

    /// Returns where a file of that name goes: into the destination if that is a directory.
    fn file_target(&mut self, name: &[u8]) -> Result<Vec<u8>, CopyError> {
        let destination = self.destination()?;
        let node = self.upper.merged().lookup(&destination)?;
        if node.is_some_and(|node| node.metadata.is_dir()) {
            return Ok(join(&destination, name));
        }
        if !self.is_one {
            return Err(CopyError::SeveralIntoFile { path: display_path(&destination) });
        }
        Ok(destination)
    }

    fn inline(&mut self, name: &str, content: &str) -> Result<(), CopyError> {
        let target = self.file_target(name.as_bytes())?;
        reserved(&target)?;
        let attributes = Attributes {
            mode: self.asked.chmod.apply(0o644, false),
            owner: Some(self.asked.owner.unwrap_or((0, 0))),
            ..Attributes::default()
        };
        let (_, file) = self.create(&target, self.asked.describer.creation_mode(&attributes))?;
        let written = (&file).write_all(content.as_bytes());
        written.map_err(|error| RootError::io(&target, error))?;
        self.asked.describer.describe_file(&file, &target, &attributes)?;
        self.stats.objects += 1;
        self.stats.bytes += content.len() as u64;
        Ok(())
    }

    fn found(&mut self, found: &Match, input: &CopyInput<'_>) -> Result<(), CopyError> {
        let top = found.top();
        if !top.node.metadata.is_dir() {
            if self.op.unpack == Unpack::Archives && is_archive(input.root(), top)? {
                return self.unpack(input, top);
            }
            let target = self.file_target(&found.name)?;
            reserved(&target)?;
            self.stats.objects += 1;
            return match top.node.metadata.kind {
                Kind::File => self.file(input, top, &target),
                _ => self.special(input, top, &target),
            };
        }
        let destination = self.dir_target()?;
        let mtime = top.node.metadata.mtime;
        self.tell_destination(&destination, mtime)?;
        let files = Files::new(self.asked, input, self.draft.as_ref());
        hand_out(
            MOST_BATCHES,
            |batch| files.write(batch),
            |crew| {
                let mut writing = Writing::new(crew, &files);
                for entry in &found.entries[1..] {
                    self.stats.objects += 1;
                    match entry.node.metadata.kind {
                        Kind::File => self.gather(&mut writing, entry, &destination)?,
                        Kind::Dir => self.dir(input, entry, &join(&destination, entry.path()))?,
                        _ => self.special(input, entry, &join(&destination, entry.path()))?,
                    }
                    self.hand_out_told(&mut writing)?;
                }
                self.settle(&mut writing)
            },
        )?;
        let at = self.upper.dir(&destination, &Attributes::implied_dir())?;
        self.upper.set_dir_time(&at, mtime);
        Ok(())
    }

    /// Returns the directory that a directory's content goes into.
    fn dir_target(&mut self) -> Result<Vec<u8>, CopyError> {
        let destination = self.destination()?;
        match self.upper.merged().lookup(&destination)? {
            Some(node) if node.metadata.is_dir() => Ok(destination),
            Some(_) => Err(CopyError::DirectoryOverFile { path: display_path(&destination) }),
            None => self.make_dirs(&destination),
        }
    }

    fn dir(
        &mut self,
        input: &CopyInput<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        let (_, name) = split_last(target);
        let root = input.root();
        let xattrs = root.dir_xattrs(&entry.source, &entry.node);
        let xattrs = xattrs.map_err(|error| RootError::io(&entry.source, error))?;
        let attributes = self.asked.attributes(input, entry, xattrs);
        let at = self.parent(target)?;
        match at.lookup(name)? {
            None => {
                let made = self.upper.make_dir(&at, name, &attributes)?;
                self.tell_dir(&made, attributes.mtime)?;
            }
            Some(node) if !node.metadata.is_dir() => {
                return Err(CopyError::DirectoryOverFile { path: display_path(target) });
            }
            Some(_) => {
                let dir = self.upper.dir(target, &attributes)?;
                if entry.is_implied {
                    // Its time is that of the last thing created in it.
                    self.give_up();
                    dir.chmod(entry.node.metadata.mode)?;
                } else {
                    self.upper.describe_dir(&dir, &attributes)?;
                    self.tell_dir(&dir, attributes.mtime)?;
                }
            }
        }
        Ok(())
    }

    /// Opens the directory that `path` lies in.
    fn parent(&mut self, path: &[u8]) -> Result<OpenDir, CopyError> {
        Ok(self.upper.dir(split_last(path).0, &Attributes::implied_dir())?)
    }

    /// Creates a file in the place of what may be there, in a directory that is there and is
    /// returned too. Its permissions are at most `mode`.
    fn create(&mut self, target: &[u8], mode: u32) -> Result<(OpenDir, File), CopyError> {
        let (_, name) = split_last(target);
        let at = self.parent(target)?;
        if at.is_new()
            && !name.is_empty()
            && let Some(file) = at.create_if_absent(name, mode)?
        {
            return Ok((at, file));
        }
        let at = self.clear(target)?;
        let file = at.create_file(name)?;
        Ok((at, file))
    }

    fn clear(&mut self, target: &[u8]) -> Result<OpenDir, CopyError> {
        let (_, name) = split_last(target);
        let at = self.parent(target)?;
        if name.is_empty() || at.lookup(name)?.is_some_and(|node| node.metadata.is_dir()) {
            return Err(CopyError::FileOverDirectory { path: display_path(target) });
        }
        self.upper.clear(&at, name)?;
        Ok(at)
    }

    /// Copies what is neither a file nor a directory.
    fn special(
        &mut self,
        input: &CopyInput<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), CopyError> {
        reserved(target)?;
        let metadata = &entry.node.metadata;
        let attributes = self.asked.attributes(input, entry, Vec::new());
        if metadata.kind == Kind::Socket {
            // No archive can hold a socket: an empty file takes its place, as in BuildKit.
            let (at, file) =
                self.create(target, self.asked.describer.creation_mode(&attributes))?;
            self.asked.describer.describe_file(&file, target, &attributes)?;
            return self.tell_leaf(&at, split_last(target).1, b"");
        }
        let (_, name) = split_last(target);
        let at = self.clear(target)?;
        if metadata.kind == Kind::Symlink {
            self.upper.symlink(&at, name, &entry.link, &attributes)?;
        } else if !self.upper.special(&at, name, metadata.kind, metadata.device, &attributes)? {
            self.stats.skipped_devices += 1;
            return Ok(());
        }
        self.tell_leaf(&at, name, &entry.link)
    }

    /// Unpacks an archive into the destination, which is its root as it is for BuildKit.
    fn unpack(&mut self, input: &CopyInput<'_>, entry: &Entry) -> Result<(), CopyError> {
        let destination = self.op.destination.as_bytes();
        let destination = self.make_dirs(destination)?;
        let at = self.upper.dir(&destination, &Attributes::implied_dir())?;
        let (file, _) = open_unchanged(input.root(), entry)?;
        let unpacked = unpack_archive(file, self.upper.below(at), self.asked.owner);
        let stats = unpacked
            .map_err(|source| CopyError::Archive { path: display_path(&entry.source), source })?;
        self.stats.objects += stats.entries;
        self.stats.bytes += stats.bytes;
        self.stats.skipped_devices += stats.skipped_devices;
        self.stats.unmapped_owners += stats.unmapped_owners;
        self.upper.forget();
        Ok(())
    }
}

fn reserved(target: &[u8]) -> Result<(), CopyError> {
    if split_last(target).1.starts_with(WHITEOUT) {
        return Err(CopyError::Reserved { path: display_path(target) });
    }
    Ok(())
}
