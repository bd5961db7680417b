//! The tree on disk, and how it comes into being.
//!
//! ```text
//! ROOT/                        0700: nobody else may traverse it, images hold set-uid files
//!   version                    "rbuild store 1"
//!   lock                       flock: shared while a name is looked up and held, alone for gc
//!   content/                   an OCI image layout, readable by other tools
//!     oci-layout index.json
//!     blobs/sha256/<hex>       exact bytes, named by their digest
//!   snapshots/<id>/            one committed layer of files
//!     fs/                      the overlay upper directory, as the kernel left it
//!     meta.json                parent, and whether the bytes are known to be on the disk
//!     size                     bytes on disk, measured once, absent until somebody asked
//!     tree                     what its files are and how they change those below, without times
//!   flights                    one byte a key, locked while somebody executes its step
//!   index/<2 hex>/<hex>        one cache record, named by its key
//!   cutoffs/<hex>              what one op made of which trees lately
//!   stat/<hex>                 digests of a context's files, named by a hash of its path
//!   layers/<hex>               what is known of one layer, named by its diff_id
//!   images/<hex>               one tag, named by the SHA-256 of its reference
//!   images/untagged-<hex>      an image without a tag, named by its config digest
//!   cache-mounts/<hex>/        directories of `RUN --mount=type=cache`, named by a hash of the id
//!     id <n>/ <n>.lock
//!   trails/                    what the last builds looked up, to explain the next miss
//!   evicted                    which cache records gc took, and when
//!   builds/<time>-<id>/        the history of builds
//!   used                       bytes that the store takes, about
//!   tmp/<session>/             everything in the making; its directory is locked while its
//!                              process lives, and what is unlocked is garbage
//!     lease-<n>                names that a running build relies on: roots for gc
//! ```
//!
//! Invariant: a name outside `tmp` appears by rename(2) only, after its content. A process killed
//! at any instant leaves garbage in `tmp` and nowhere else.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, found};
use crate::lock::FileLock;

/// The format drawn above; grows whenever an older program would misread the tree.
pub const STORE_VERSION: u32 = 1;

const VERSION_PREFIX: &str = "rbuild store ";
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

/// Why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a later version of this program.
    #[error(
        "the store at `{}` has format {found}, this program knows {STORE_VERSION}: use a newer \
         rbuild, or name another store", root.display()
    )]
    Newer {
        /// The store.
        root: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The directory holds something else; it is left as it is.
    #[error(
        "`{}` is not a store of rbuild and not empty: name an empty or a new directory",
        root.display()
    )]
    NotAStore {
        /// The directory.
        root: PathBuf,
    },
    /// The file `version` cannot be understood.
    #[error(
        "the file `version` of the store at `{}` is damaged: it should read \
         `{VERSION_PREFIX}{STORE_VERSION}`", root.display()
    )]
    Version {
        /// The store.
        root: PathBuf,
    },
    /// The file system refused.
    #[error("could not open the store at `{}`", root.display())]
    Io {
        /// The store.
        root: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    /// Returns who must act.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Newer { .. } | Self::NotAStore { .. } => ErrorKind::User,
            Self::Version { .. } | Self::Io { .. } => ErrorKind::Host,
        }
    }
}

/// The paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens the tree at `root`, making it when absent or empty.
    pub(crate) fn establish(root: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { root: root.to_owned(), source };
        make_dir(root, true).map_err(failed)?;
        let layout = Self { root: root.canonicalize().map_err(failed)? };
        if !layout.has_version()? {
            layout.refuse_foreign()?;
            layout.write_version().map_err(failed)?;
        }
        layout.make_private().map_err(failed)?;
        layout.make_dirs().map_err(failed)?;
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("content/blobs/sha256")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn cutoffs(&self) -> PathBuf {
        self.root.join("cutoffs")
    }

    pub(crate) fn flights(&self) -> PathBuf {
        self.root.join("flights")
    }

    pub(crate) fn stat(&self) -> PathBuf {
        self.root.join("stat")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn cache_mounts(&self) -> PathBuf {
        self.root.join("cache-mounts")
    }

    pub(crate) fn trails(&self) -> PathBuf {
        self.root.join("trails")
    }

    pub(crate) fn evicted(&self) -> PathBuf {
        self.root.join("evicted")
    }

    pub(crate) fn used(&self) -> PathBuf {
        self.root.join("used")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn has_version(&self) -> Result<bool, OpenError> {
        let root = || self.root.clone();
        let text = read_start(&self.root.join("version"))
            .map_err(|source| OpenError::Io { root: root(), source })?;
        let Some(text) = text else { return Ok(false) };
        let number = text.strip_prefix(VERSION_PREFIX).and_then(|rest| rest.trim().parse().ok());
        match number {
            Some(STORE_VERSION) => Ok(true),
            Some(found) if found > STORE_VERSION => Err(OpenError::Newer { root: root(), found }),
            Some(_) | None => Err(OpenError::Version { root: root() }),
        }
    }

    /// Keeps a mistyped `--store /home/me` from being taken over.
    fn refuse_foreign(&self) -> Result<(), OpenError> {
        // What `write_version` may have left when it was killed, and what mkfs leaves.
        let ours = ["lock", "version", "version.new", "lost+found"].map(OsStr::new);
        let entries = fs::read_dir(&self.root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries =
            entries.map_err(|source| OpenError::Io { root: self.root.clone(), source })?;
        if entries.iter().all(|entry| ours.contains(&entry.file_name().as_os_str())) {
            return Ok(());
        }
        // Another process may have made the store since `version` was looked for.
        if self.has_version()? {
            return Ok(());
        }
        Err(OpenError::NotAStore { root: self.root.clone() })
    }

    fn write_version(&self) -> io::Result<()> {
        let _alone = FileLock::exclusive(&self.lock())?;
        let version = self.root.join("version");
        if version.try_exists()? {
            return Ok(());
        }
        let new = self.root.join("version.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{VERSION_PREFIX}{STORE_VERSION}")?;
        file.sync_all()?;
        fs::rename(&new, &version)
    }

    fn make_private(&self) -> io::Result<()> {
        let mode = fs::metadata(&self.root)?.permissions().mode();
        if mode & 0o777 == 0o700 {
            return Ok(());
        }
        fs::set_permissions(&self.root, Permissions::from_mode(0o700))
    }

    fn make_dirs(&self) -> io::Result<()> {
        let dirs = [
            self.tmp(),
            self.blobs(),
            self.snapshots(),
            self.index(),
            self.layers(),
            self.images(),
            self.cache_mounts(),
            self.trails().join("files"),
            self.builds(),
        ];
        for dir in dirs {
            make_dir(&dir, true)?;
        }
        for (name, bytes) in [("oci-layout", OCI_LAYOUT), ("index.json", EMPTY_INDEX)] {
            let path = self.content().join(name);
            if !path.try_exists()? {
                let _alone = FileLock::exclusive(&self.lock())?;
                let new = self.content().join(format!("{name}.new"));
                fs::write(&new, bytes)?;
                fs::rename(&new, &path)?;
            }
        }
        Ok(())
    }
}

/// Makes one directory that only we may enter; an existing one is as good.
pub(crate) fn make_dir(path: &Path, with_parents: bool) -> io::Result<()> {
    let made = DirBuilder::new().recursive(with_parents).mode(0o700).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Reads at most 64 bytes of a file as text; `None` when there is no such file.
fn read_start(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = found(File::open(path))? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(64).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
