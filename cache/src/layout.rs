//! The store on disk: names, versions, and how a name comes to be.
//!
//! ```text
//! ROOT/                     mode 0700: set-uid files of images are nobody else's to run
//! ├── version               STORE_VERSION, one line
//! ├── lock                  shared while anybody uses the store, exclusive for what must be alone
//! ├── content/              an OCI image layout: oci-layout, blobs/sha256/HEX
//! ├── snapshots/ID/         fs/ in overlayfs upper form; `parent`: the ID below, or nothing
//! ├── chains/HEX            chain ID -> a snapshot with exactly that stack of layers
//! ├── index/HEX             cache key -> record
//! ├── layers/HEX            diff_id -> where the layer's bytes can be had
//! ├── images/HEX            digest of a name -> image
//! └── tmp/NAME              in the making; NAME.lock is locked while its owner lives
//! ```
//!
//! Invariants: everything with a name was written under `tmp/`, and renamed. A crash at any line
//! leaves garbage under `tmp/`, which the next opener sweeps, and nothing else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Raise it when an older rbuild would misread what this one writes.
pub(crate) const STORE_VERSION: u32 = 1;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or read.
    #[error("cannot use `{}` as a store", .path.display())]
    Directory {
        /// The store's root or a part of it.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Written by a newer rbuild.
    #[error(
        "the store `{}` has version {found}, this rbuild knows {STORE_VERSION}: \
         use a newer rbuild, or another store with --store", .path.display()
    )]
    Newer {
        /// The store's root.
        path: PathBuf,
        /// As its `version` file says.
        found: u32,
    },
    /// The directory holds something else.
    #[error("`{}` is not a store: it is not empty and has no readable `version`", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
}

/// Paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

const DIRECTORIES: [&str; 8] = [
    "content/blobs/sha256",
    "snapshots",
    "chains",
    "index",
    "layers",
    "images",
    "cache-mounts",
    "tmp",
];

impl Layout {
    /// Makes what is missing of a store at `root` and checks its version.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        let fault = |source| OpenError::Directory { path: root.to_owned(), source };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(fault)?;
        let root = root.canonicalize().map_err(fault)?;
        let layout = Self { root };
        let version = layout.root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) => layout.check_version(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A store being made by another process has its directories before its version.
                let is_ours = |name: &std::ffi::OsStr| {
                    name.to_str().is_some_and(|name| {
                        name == "lock"
                            || DIRECTORIES.iter().any(|d| d.split('/').next() == Some(name))
                    })
                };
                let mut entries = fs::read_dir(&layout.root).map_err(fault)?;
                if entries.any(|entry| entry.is_ok_and(|entry| !is_ours(&entry.file_name()))) {
                    return Err(OpenError::Foreign { path: layout.root });
                }
                layout.make().map_err(fault)?;
            }
            Err(error) => return Err(fault(error)),
        }
        fs::set_permissions(&layout.root, fs::Permissions::from_mode(0o700)).map_err(fault)?;
        Ok(layout)
    }

    fn check_version(&self, text: &str) -> Result<(), OpenError> {
        match text.trim().parse::<u32>() {
            Ok(found) if found > STORE_VERSION => {
                Err(OpenError::Newer { path: self.root.clone(), found })
            }
            Ok(_) => Ok(()),
            Err(_) => Err(OpenError::Foreign { path: self.root.clone() }),
        }
    }

    fn make(&self) -> io::Result<()> {
        for directory in DIRECTORIES {
            fs::create_dir_all(self.root.join(directory))?;
        }
        self.write(&self.root.join("content/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.write(&self.root.join("version"), format!("{STORE_VERSION}\n").as_bytes())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a small file whole or not at all.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temp_name()?;
        let mut file = File::create_new(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            drop(fs::remove_file(&temporary));
        }
        written
    }

    /// Returns a fresh path under `tmp/`.
    pub(crate) fn temp_name(&self) -> io::Result<PathBuf> {
        Ok(self.root.join("tmp").join(random_name()?))
    }

    /// Makes a directory under `tmp/` that no other process sweeps while the value lives.
    pub(crate) fn temp_dir(&self) -> io::Result<TempDir> {
        let path = self.temp_name()?;
        let lock_path = path.with_extension("lock");
        // The lock comes first: a directory without a locked lock is garbage.
        let lock = File::create_new(&lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(TempDir { path, lock_path, lock })
    }

    /// Deletes what dead owners left under `tmp/`. Errors are reported, not returned: garbage
    /// harms nobody.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("tmp")) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                continue;
            }
            let lock_path = path.with_extension("lock");
            let owner_is_dead = match File::open(&lock_path) {
                Ok(lock) => {
                    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                }
                // Single files have no lock: they live for moments only.
                Err(_) => is_older_than_an_hour(&path),
            };
            if owner_is_dead {
                if let Err(error) = crate::delete::delete_tree(&path) {
                    tracing::warn!(path = %path.display(), %error, "garbage stays in the store");
                }
                drop(fs::remove_file(&lock_path));
            }
        }
    }
}

fn is_older_than_an_hour(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 3600))
}

/// Returns 32 random hex digits.
pub(crate) fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex::encode(bytes))
}

/// A directory under `tmp/`, deleted with everything in it when dropped.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held, not read: the kernel drops the lock with the process.
    #[expect(dead_code, reason = "holding the descriptor is its use")]
    lock: File,
}

impl TempDir {
    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Renames a finished directory to `target`; false when `target` is there already.
pub(crate) fn publish(made: &Path, target: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, made, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = crate::delete::delete_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "garbage stays in the store");
        }
        drop(fs::remove_file(&self.lock_path));
    }
}
