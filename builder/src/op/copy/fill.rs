//! One regular file of a COPY: filled and described, and kept for its layer where it is small.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use cache::Digest;

use super::super::chmod::Chmod;
use super::super::select::{CopyInput, Entry, SelectError};
use super::CopyError;
use crate::layer::{Room, SmallFile, What};
use crate::rootfs::{
    Attributes, Describer, LayeredRoot, Metadata, OpenDir, RootError, UpperError, Xattrs,
    copy_content_by, display_path, fd_metadata, fd_xattrs,
};

/// What the instruction gives to all that it copies, and who gives it.
#[derive(Debug)]
pub(super) struct Asked {
    /// `--chown`.
    pub(super) owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub(super) chmod: Chmod,
    pub(super) describer: Arc<Describer>,
}

impl Asked {
    pub(super) fn attributes(
        &self,
        input: &CopyInput<'_>,
        entry: &Entry,
        xattrs: Xattrs,
    ) -> Attributes {
        let metadata = &entry.node.metadata;
        let owner = match self.owner {
            Some(owner) => owner,
            None if input.is_context() => (0, 0),
            None => (metadata.uid, metadata.gid),
        };
        Attributes {
            mode: self.chmod.apply(metadata.mode, metadata.is_dir()),
            owner: Some(owner),
            mtime: Some(metadata.mtime),
            xattrs,
        }
    }

    /// Returns the mode to create the copy of `entry` with.
    pub(super) fn creation_mode(&self, input: &CopyInput<'_>, entry: &Entry) -> u32 {
        self.describer.creation_mode(&self.attributes(input, entry, Vec::new()))
    }

    /// Gives the new file `to`, which is `target`, all that `entry` has. Its content, which goes
    /// through `buffer`, is kept where it finds `room`.
    pub(super) fn fill(
        &self,
        input: &CopyInput<'_>,
        entry: &Entry,
        target: &[u8],
        to: &File,
        buffer: &mut BytesMut,
        room: Option<&Room>,
    ) -> Result<Filled, CopyError> {
        let (from, xattrs) = open_unchanged(input.root(), entry)?;
        let attributes = self.attributes(input, entry, xattrs);
        let copied = copy_content_by(buffer, &from, to, &entry.node.metadata);
        let bytes = copied.map_err(|source| UpperError::Io {
            action: "write",
            path: display_path(target),
            source,
        })?;
        check_unchanged(&from, entry)?;
        let made = self.describer.describe_file(to, target, &attributes)?;
        let small = room.and_then(|room| small(buffer, made, &attributes, room));
        Ok(Filled { bytes, small })
    }
}

/// A file that was written.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) bytes: u64,
    /// All of it, where it found room.
    small: Option<SmallFile>,
}

impl Filled {
    /// Says what the layer holds: the file `name` of the directory `at`.
    pub(super) fn what(self, at: &OpenDir, name: &[u8]) -> What {
        match self.small {
            Some(small) => What::Small(small),
            None => What::File { dir: at.upper().clone(), name: name.to_vec() },
        }
    }
}

/// Keeps the file whose content was just written, and which is as `made` says; `None` where there
/// is more to it, or no room. What is not kept leaves the buffer to the next.
fn small(
    content: &mut BytesMut,
    made: Metadata,
    attributes: &Attributes,
    room: &Room,
) -> Option<SmallFile> {
    let is_plain = made.links == 1 && !made.may_be_marked() && attributes.xattrs.is_empty();
    if !is_plain || made.size != content.len() as u64 || !room.take(made.size) {
        return None;
    }
    let content = content.split().freeze();
    let digest = Some(Digest::of(&content));
    Some(SmallFile { metadata: made, xattrs: Vec::new(), content, digest })
}

/// Opens a selected file with its attributes, if it is still the one that was selected.
pub(in crate::op) fn open_unchanged(
    root: &LayeredRoot,
    entry: &Entry,
) -> Result<(File, Xattrs), SelectError> {
    let failed = |error: io::Error| RootError::io(&entry.source, error);
    let (file, found) = root.open_node(&entry.source, &entry.node).map_err(failed)?;
    if !entry.node.metadata.is_unchanged(&found) {
        return Err(SelectError::Changed { path: display_path(&entry.source) });
    }
    let xattrs = fd_xattrs(&file).map_err(failed)?;
    Ok((file, xattrs))
}

/// Checks after reading that nobody has written to the file since it was selected.
pub(in crate::op) fn check_unchanged(file: &File, entry: &Entry) -> Result<(), SelectError> {
    let found = fd_metadata(file).map_err(|error| RootError::io(&entry.source, error))?;
    if entry.node.metadata.is_unchanged(&found) {
        return Ok(());
    }
    Err(SelectError::Changed { path: display_path(&entry.source) })
}
