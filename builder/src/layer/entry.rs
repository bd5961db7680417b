//! One entry of a tar archive, format details settled.

use crate::rootfs::{Kind, Metadata, Time, Xattrs};

/// Kind of an entry (POSIX pax, "ustar Interchange Format", typeflag).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TarKind {
    /// A regular file with content.
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// One entry: header, PAX records and GNU extensions merged. Paths are raw bytes as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarEntry {
    /// Where it belongs, not yet cleaned.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permission bits, up to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content that follow.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Target of a link, else empty.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: Xattrs,
}

impl TarEntry {
    /// Describes an object of a file system; `None` for a socket, which no archive can hold.
    pub(crate) fn of(
        path: Vec<u8>,
        metadata: &Metadata,
        link: Vec<u8>,
        xattrs: Xattrs,
    ) -> Option<Self> {
        let kind = match metadata.kind {
            Kind::File => TarKind::File,
            Kind::Dir => TarKind::Dir,
            Kind::Symlink => TarKind::Symlink,
            Kind::CharDevice => TarKind::CharDevice,
            Kind::BlockDevice => TarKind::BlockDevice,
            Kind::Fifo => TarKind::Fifo,
            Kind::Socket => return None,
        };
        Some(Self {
            path,
            kind,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            size: if kind == TarKind::File { metadata.size } else { 0 },
            mtime: metadata.mtime,
            link,
            device: metadata.device,
            xattrs,
        })
    }
}
