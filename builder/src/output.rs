//! What a build writes beside the store: archives and trees.

use std::io;
use std::path::PathBuf;

use frontend::Reference;

use crate::blocking;
use crate::export::{self, ArchiveDest, ArchiveKind, ExportError, ExportImage};
use crate::progress::Events;
use crate::request::{OutputKind, OutputSpec};
use crate::rootfs::{export_dir, export_tar};
use crate::source::{ResolvedImage, SourceError, Sources};

/// Writes `image` to every output; returns what was written where, for people.
pub(crate) async fn write(
    sources: &Sources,
    image: &ResolvedImage,
    names: &[Reference],
    outputs: &[OutputSpec],
    events: &Events,
) -> Result<Vec<String>, ExportError> {
    let mut written = Vec::with_capacity(outputs.len());
    for output in outputs {
        let place = output
            .dest
            .as_ref()
            .map_or_else(|| "standard output".to_owned(), |dest| dest.display().to_string());
        let what = match output.kind {
            OutputKind::Oci | OutputKind::Docker => {
                let (kind, what) = match output.kind {
                    OutputKind::Oci => (ArchiveKind::Oci, "oci archive"),
                    _ => (ArchiveKind::Docker, "docker archive"),
                };
                let entry = ExportImage { image: image.clone(), names: names.to_vec() };
                let dest = match &output.dest {
                    Some(path) => ArchiveDest::File(path.clone()),
                    None => ArchiveDest::Stream(Box::new(io::stdout())),
                };
                export::export(sources, vec![entry], kind, dest, events).await?;
                what
            }
            OutputKind::Local => {
                write_tree(sources, image, output.dest.clone(), true, events).await?;
                "directory"
            }
            OutputKind::Tar => {
                write_tree(sources, image, output.dest.clone(), false, events).await?;
                "tar"
            }
        };
        written.push(format!("{what} {place}"));
    }
    Ok(written)
}

async fn write_tree(
    sources: &Sources,
    image: &ResolvedImage,
    dest: Option<PathBuf>,
    as_directory: bool,
    events: &Events,
) -> Result<(), ExportError> {
    let top = sources.materialize(image, events).await?;
    let store = sources.store().clone();
    blocking::run(move || {
        let lowers = match top {
            Some(id) => store
                .snapshots()
                .lowers(&id)
                .map_err(SourceError::store("read the image's layers"))?,
            None => Vec::new(),
        };
        match dest {
            Some(dest) if as_directory => {
                std::fs::create_dir_all(&dest)
                    .map_err(|source| ExportError::File { path: dest.clone(), source })?;
                export_dir(&lowers, &dest)?;
                Ok(())
            }
            Some(dest) => export::replace(&dest, |out| Ok(export_tar(&lowers, out).map(drop)?)),
            None => Ok(export_tar(&lowers, io::stdout().lock()).map(drop)?),
        }
    })
    .await
}
