//! What `statx` says about a file, in types of fixed width.

use rustix::fs::{FileType, Statx, StatxFlags};

/// The fields that every caller needs; birth times and mount ids are not among them.
pub(crate) const STATX_FIELDS: StatxFlags = StatxFlags::BASIC_STATS;

/// Kind of a file system object (inode(7), "The file type and mode").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

/// A point in time: seconds since 1970, before it negative, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// Names one inode of this machine, so that hard links are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InodeId {
    device: (u32, u32),
    number: u64,
}

impl InodeId {
    /// Major and minor number of the file system's device.
    pub(crate) const fn device(self) -> (u32, u32) {
        self.device
    }

    /// Inode number.
    pub(crate) const fn number(self) -> u64 {
        self.number
    }
}

/// Type, permissions, owner, size and times of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: up to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; of a symlink, of its target.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or metadata; cannot be set by anyone.
    pub ctime: Time,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Which inode it is.
    pub inode: InodeId,
    /// Number of names that the inode has.
    pub links: u32,
}

impl Metadata {
    pub(crate) fn from_statx(stat: &Statx) -> Self {
        let mode = u32::from(stat.stx_mode);
        Self {
            kind: kind_of(FileType::from_raw_mode(mode)),
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            mtime: Time { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
            ctime: Time { seconds: stat.stx_ctime.tv_sec, nanoseconds: stat.stx_ctime.tv_nsec },
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            inode: InodeId {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                number: stat.stx_ino,
            },
            links: stat.stx_nlink,
        }
    }

    /// Describes a root that has no layer: an empty directory, 0755, root's.
    pub(crate) fn empty_dir() -> Self {
        Self {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            device: (0, 0),
            inode: InodeId { device: (0, 0), number: 0 },
            links: 1,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether overlayfs reads it as "deleted here" (kernel documentation, overlayfs.rst,
    /// "whiteouts and opaque directories").
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.device == (0, 0)
    }

    /// Whether this may be a file that records a deletion: see [`super::dir::WHITEOUT_MARK`].
    pub(crate) fn may_be_marked(&self) -> bool {
        self.kind == Kind::File && self.size == 0 && self.mode == 0
    }

    /// Describes a deletion as the device that records it elsewhere.
    pub(crate) fn as_whiteout(self) -> Self {
        Self { kind: Kind::CharDevice, device: (0, 0), ..self }
    }

    /// Whether the file has holes worth keeping.
    pub(crate) fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Whether `later` describes the same unchanged file. The change time gives away every write,
    /// even one that sets the modification time back.
    pub(crate) fn is_unchanged(&self, later: &Self) -> bool {
        self.inode == later.inode && self.size == later.size && self.ctime == later.ctime
    }
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        // `Unknown` cannot come from the mode of a file that exists.
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}
