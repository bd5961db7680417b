//! Images out of the store and back in: archives for other tools, and pushes.
//!
//! Invariants: an archive appears under its name whole or not at all; every byte of it was
//! checked against the digest that it is filed under; no layer is held in memory; the same images
//! give the same bytes.

mod archive;
mod atomic;
mod docker;
mod error;
mod import;
mod load;
mod load_docker;
mod load_oci;
mod oci;
mod portable;
mod push;

use std::io::Write;
use std::path::PathBuf;

use frontend::Reference;

use crate::blocking;
use crate::progress::Events;
use crate::source::{ResolvedImage, Sources};

pub(crate) use atomic::replace;
pub use error::ExportError;
pub use import::{ImportOptions, import};
pub use load::{LoadError, load};
pub use push::push;

/// An image to be written, with the names that it gets in the archive.
#[derive(Clone, Debug)]
pub struct ExportImage {
    /// What is written.
    pub image: ResolvedImage,
    /// Its names; none leaves it to be found by its digest.
    pub names: Vec<Reference>,
}

/// What an archive is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI image layout in a tar (OCI image-spec, image-layout.md), layers compressed.
    Oci,
    /// What `docker load` reads, layers as plain tars.
    Docker,
}

/// Where an archive goes.
pub enum ArchiveDest {
    /// A file, replaced only when the archive is complete.
    File(PathBuf),
    /// Anything else, as it comes.
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for ArchiveDest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Writes `images` as one archive; layers that are not here yet are fetched first.
///
/// # Errors
///
/// [`ExportError`]; a file at the destination is then untouched.
pub async fn export(
    sources: &Sources,
    images: Vec<ExportImage>,
    kind: ArchiveKind,
    dest: ArchiveDest,
    events: &Events,
) -> Result<(), ExportError> {
    for entry in &images {
        sources.fetch_layers(&entry.image, events).await?;
    }
    let (store, events) = (sources.store().clone(), events.clone());
    blocking::run(move || {
        let write = |out: &mut dyn Write| match kind {
            ArchiveKind::Oci => oci::write(&store, &images, out, &events),
            ArchiveKind::Docker => docker::write(&store, &images, out, &events),
        };
        match dest {
            ArchiveDest::File(path) => atomic::replace(&path, write),
            ArchiveDest::Stream(mut out) => {
                write(&mut out)?;
                out.flush().map_err(|source| ExportError::Archive { source })
            }
        }
    })
    .await
}
