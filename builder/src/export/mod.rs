//! Images out of the store and back in: archives for other tools, and pushes.
//!
//! Invariants: an archive appears under its name whole or not at all; every byte of it was
//! checked against the digest that it is filed under; no layer is held in memory; the same images
//! give the same bytes.

mod annotation;
mod archive;
mod atomic;
mod docker;
mod documents;
mod error;
mod form;
mod import;
mod layer;
mod load;
mod load_docker;
mod load_oci;
mod oci;
mod portable;
mod push;

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use cache::{ChainId, DiffId, Digest};
use frontend::Reference;

use self::archive::Out;
use crate::blocking;
use crate::progress::Events;
use crate::source::{Sources, Target};

pub use annotation::{AnnotationLevel, Annotations};
pub(crate) use atomic::replace;
pub(crate) use documents::{annotate, write_index};
pub use error::ExportError;
pub use form::{ImageForm, MediaTypes};
pub use import::{ImportOptions, import};
pub(crate) use layer::{compress, form_name, media_type};
pub use load::{LoadError, load};
pub use push::{PushForm, push, push_target};

/// An image to be written, with the names that it gets in the archive.
#[derive(Clone, Debug)]
pub struct ExportImage {
    /// What is written.
    pub target: Target,
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
    export_as(sources, images, kind, ImageForm::default(), dest, events).await
}

/// Writes `images` as one archive for a docker engine that has the layers of `stacks`: of each
/// image the layers, base first, as `sha256:<hex>` of their tars. Those are named and left out.
///
/// # Errors
///
/// [`ExportError`].
pub(crate) async fn export_missing(
    sources: &Sources,
    images: Vec<ExportImage>,
    stacks: &[Vec<String>],
    mut out: Box<dyn Write + Send>,
    events: &Events,
) -> Result<(), ExportError> {
    for image in images.iter().flat_map(|entry| &entry.target.images) {
        sources.fetch_layers(image, events).await?;
    }
    let known: HashSet<ChainId> = stacks.iter().flat_map(|stack| chains(stack)).collect();
    let (store, events) = (sources.store().clone(), events.clone());
    blocking::run(move || {
        docker::write(&store, &images, &mut out, &|chain_id| known.contains(chain_id), &events)?;
        out.flush().map_err(|source| ExportError::Archive { source })
    })
    .await
}

/// Returns the chain IDs of a stack of layers, up to the first name that is none.
fn chains(stack: &[String]) -> impl Iterator<Item = ChainId> {
    stack.iter().map_while(|text| Digest::parse(text).ok()).scan(None, |below, digest| {
        let layer = DiffId(digest);
        let next = below.map_or(ChainId(digest), |below: ChainId| below.push(layer));
        *below = Some(next);
        Some(next)
    })
}

/// As [`export`], in `form`; an archive for docker has none but annotations, which it cannot hold.
///
/// # Errors
///
/// [`ExportError`]; a file at the destination is then untouched.
pub async fn export_as(
    sources: &Sources,
    images: Vec<ExportImage>,
    kind: ArchiveKind,
    form: ImageForm,
    dest: ArchiveDest,
    events: &Events,
) -> Result<(), ExportError> {
    for image in images.iter().flat_map(|entry| &entry.target.images) {
        sources.fetch_layers(image, events).await?;
    }
    let (store, events) = (sources.store().clone(), events.clone());
    blocking::run(move || {
        let write = |out: &mut dyn Out| match kind {
            ArchiveKind::Oci => oci::write(&store, &images, &form, out, &events),
            ArchiveKind::Docker => docker::write(&store, &images, out, &|_| false, &events),
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
