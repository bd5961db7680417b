//! The state of one path as bytes: equal bytes are an equal state.

use std::sync::Arc;

use cache::Digest;

use crate::layer::{TarEntry, TarKind};

/// Grows with every change of what is encoded here.
pub(super) const VERSION: u32 = 1;

/// Bytes that describe a file without attributes.
const LEN: usize = 61;

/// First byte of a path that is deleted.
const GONE: u8 = b'-';
/// First byte of a directory.
const DIR: u8 = b'd';
/// First byte of a directory that hides the one below it.
const OPAQUE: u8 = b'o';
/// First byte of a regular file.
const FILE: u8 = b'f';
/// First byte of a further name of a file.
const LINK: u8 = b'h';

/// What lies at a path. Kept as bytes, of which clones share one copy: there may be very many, and
/// all that is asked is whether two are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State(Arc<[u8]>);

impl State {
    pub(super) fn gone() -> Self {
        Self([GONE].into())
    }

    /// Describes an entry without its times; `content` is that of a regular file.
    pub(super) fn of(entry: &TarEntry, content: Option<Digest>) -> Self {
        let kind = match entry.kind {
            TarKind::File => FILE,
            TarKind::HardLink => LINK,
            TarKind::Symlink => b'l',
            TarKind::CharDevice => b'c',
            TarKind::BlockDevice => b'b',
            TarKind::Dir => DIR,
            TarKind::Fifo => b'p',
        };
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(kind);
        for number in [entry.mode, entry.uid, entry.gid, entry.device.0, entry.device.1] {
            bytes.extend(number.to_le_bytes());
        }
        if let Some(content) = content {
            bytes.extend(content.as_bytes());
        }
        let attributes = entry.xattrs.iter().flat_map(|(name, value)| [name, value]);
        for part in std::iter::once(&entry.link).chain(attributes) {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        Self(bytes.into())
    }

    /// Describes a further name of the file at `first`, which is as `file` says.
    pub(super) fn link(first: &[u8], file: &Self) -> Self {
        Self([&[LINK], &(first.len() as u64).to_le_bytes()[..], first, &file.0].concat().into())
    }

    /// Takes back what [`Self::bytes`] gave.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the digest of a regular file's content.
    pub(super) fn content(&self) -> Option<Digest> {
        let digest = self.0.get(21..53).filter(|_| self.0[0] == FILE)?;
        Some(Digest::from_bytes(digest.try_into().ok()?))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.first() == Some(&GONE)
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.0.first(), Some(&(DIR | OPAQUE)))
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.0.first() == Some(&OPAQUE)
    }

    /// Returns this directory as one that hides, or does not hide, the one below it.
    pub(super) fn with_opaque(mut self, is_opaque: bool) -> Self {
        debug_assert!(self.is_dir(), "only directories are opaque");
        if self.is_opaque() != is_opaque {
            Arc::make_mut(&mut self.0)[0] = if is_opaque { OPAQUE } else { DIR };
        }
        self
    }
}
