//! Where a command's changes go while it runs: straight into the new layer, as an overlay's upper;
//! or into memory, where the store's file system cannot hold an upper (overlayfs itself, many a
//! network file system), and from there by copying into the layer.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use cache::ActiveSnapshot;

use super::error::OpError;
use super::run::Step;
use super::settings::RunSettings;
use crate::layer::WriteError;
use crate::progress::{Event, OutputStream};
use crate::rootfs::{
    Attributes, Dir, InodeId, Kind, LayeredRoot, Metadata, Upper, UpperError, copy_content,
    display_path, fd_xattrs, join,
};
use crate::sandbox::{Control, Ended, OverlayDirs, Sandbox, SandboxError, SandboxSpec};

/// Directories nested deeper than this are refused; `PATH_MAX` allows no deeper path.
const MAX_DEPTH: usize = 2048;

/// What the user is told; why it is so, `rbuild doctor` tells.
const IN_MEMORY: &str = "the store's file system cannot hold overlays: what RUN steps change is \
                         kept in memory and copied, which is slower; put the store (--store) on \
                         ext4, xfs or btrfs";

/// Runs `spec` on `active`.
///
/// # Errors
///
/// [`OpError`] when what the command left cannot be taken over; how the command itself fared is in
/// what is returned.
pub(super) fn run_on(
    active: &ActiveSnapshot,
    sandbox: &Sandbox,
    spec: &mut SandboxSpec,
    settings: &RunSettings,
    step: &Step,
    output: &mut dyn FnMut(OutputStream, &[u8]),
    control: &mut dyn FnMut() -> Control,
) -> Result<Result<Ended, SandboxError>, OpError> {
    if sandbox.overlay_fault().is_none() {
        let work = active.work().map_err(OpError::store)?;
        let (upper, work) = (active.upper().to_owned(), work.to_owned());
        spec.scratch = Some(OverlayDirs { upper, work: work.clone() });
        let ended = sandbox.run(spec, output, control);
        // Looked at only when something failed before the command began: nobody else waits for it.
        let is_set_up = !matches!(ended, Err(SandboxError::Step { .. }));
        if is_set_up || sandbox.find_overlay_fault(&work).is_none() {
            return Ok(ended);
        }
    }
    settings.say_once(&step.events, || Event::Note { text: IN_MEMORY.to_owned() });
    if !settings.ca_certs.is_empty() {
        let what = "--ca-cert with a store whose file system cannot hold overlays".to_owned();
        return Err(OpError::Unsupported { what });
    }
    let mut changes = None;
    let ended = sandbox.run_in_memory(spec, output, control, &mut changes);
    if let Some(changes) = changes {
        take_over(changes, active)?;
    }
    Ok(ended)
}

/// Copies the upper of an overlay into the empty layer `active`.
fn take_over(changes: OwnedFd, active: &ActiveSnapshot) -> Result<(), OpError> {
    let from = Dir::from(changes);
    let below = LayeredRoot::open(active.lowers())?;
    let mut copy = Copy { upper: Upper::open(active.upper(), &below)?, links: HashMap::new() };
    let attributes = attributes_of(&from, b"")?;
    copy.content(&from, b"", 0)?;
    let top = copy.upper.dir(b"", &attributes)?;
    copy.upper.describe_dir(&top, &attributes)?;
    Ok(copy.upper.finish()?)
}

struct Copy {
    upper: Upper,
    /// Files with several names: the first one.
    links: HashMap<InodeId, Vec<u8>>,
}

impl Copy {
    fn content(&mut self, from: &Dir, path: &[u8], depth: usize) -> Result<(), OpError> {
        if depth > MAX_DEPTH {
            return Err(WriteError::TooDeep { path: display_path(path) }.into());
        }
        let mut names = from.entries().map_err(read(path))?;
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, _) in names {
            let path = join(path, &name);
            let metadata = from.metadata_of(&name).map_err(read(&path))?;
            let metadata = metadata.ok_or_else(|| read(&path)(io::ErrorKind::NotFound.into()))?;
            if metadata.is_dir() {
                let below = from.open_dir(&name).map_err(read(&path))?;
                self.dir(&below, &path)?;
                self.content(&below, &path, depth + 1)?;
            } else {
                self.leaf(from, &name, &path, &metadata)?;
            }
        }
        Ok(())
    }

    fn dir(&mut self, from: &Dir, path: &[u8]) -> Result<(), OpError> {
        let (parent, name) = crate::rootfs::split_last(path);
        let at = self.upper.dir(parent, &Attributes::implied_dir())?;
        let made = self.upper.make_dir(&at, name, &attributes_of(from, path)?)?;
        if from.is_opaque().map_err(read(path))? {
            self.upper.set_opaque(&made)?;
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        from: &Dir,
        name: &[u8],
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<(), OpError> {
        let (parent, _) = crate::rootfs::split_last(path);
        let at = self.upper.dir(parent, &Attributes::implied_dir())?;
        if metadata.is_whiteout() {
            return Ok(self.upper.whiteout(&at, name)?);
        }
        if metadata.links > 1 {
            if let Some(first) = self.links.get(&metadata.inode) {
                let (dir, first_name) = crate::rootfs::split_last(first);
                let dir = self.upper.dir(dir, &Attributes::implied_dir())?;
                return Ok(at.hard_link(name, &dir, first_name)?);
            }
            self.links.insert(metadata.inode, path.to_vec());
        }
        match metadata.kind {
            Kind::File => {
                let (file, metadata) = from.open_file(name).map_err(read(path))?;
                let xattrs = fd_xattrs(&file).map_err(read(path))?;
                let made = at.create_file(name)?;
                copy_content(&file, &made, &metadata).map_err(|source| UpperError::Io {
                    action: "write",
                    path: display_path(path),
                    source,
                })?;
                self.upper.describer().describe_file(
                    &made,
                    path,
                    &Attributes::of(&metadata, xattrs),
                )?;
            }
            Kind::Symlink => {
                let target = from.read_link(name).map_err(read(path))?;
                let attributes = Attributes::of(metadata, Vec::new());
                self.upper.symlink(&at, name, &target, &attributes)?;
            }
            kind => {
                let attributes = Attributes::of(metadata, Vec::new());
                self.upper.special(&at, name, kind, metadata.device, &attributes)?;
            }
        }
        Ok(())
    }
}

fn attributes_of(dir: &Dir, path: &[u8]) -> Result<Attributes, WriteError> {
    let metadata = dir.metadata().map_err(read(path))?;
    Ok(Attributes::of(&metadata, fd_xattrs(dir).map_err(read(path))?))
}

fn read(path: &[u8]) -> impl Fn(io::Error) -> WriteError {
    let path = display_path(path);
    move |source| WriteError::Read { path: path.clone(), source }
}
