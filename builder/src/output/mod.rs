//! What a build writes beside the store: images at registries, archives and trees.

mod intact;
mod received;
mod spec;

use std::io::{self, Write};
use std::path::PathBuf;

use cache::Store;
use frontend::{Platform, Reference};

use crate::blocking;
use crate::export::{
    self, ArchiveDest, ArchiveKind, ExportError, ExportImage, PushForm, push_target,
};
use crate::progress::{Events, PushedImage};
use crate::rootfs::{export_dir, export_tar_until};
use crate::source::{ResolvedImage, SourceError, Sources, Target};

pub(crate) use intact::damaged_layer;
pub use received::unpack_tree;
pub use spec::{OutputDest, OutputKind, OutputSpec};

/// The result of one target.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// An image, or the index of several.
    pub(crate) target: Target,
    pub(crate) names: Vec<Reference>,
}

/// What was written where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// For people.
    pub(crate) outputs: Vec<String>,
    pub(crate) pushed: Vec<PushedImage>,
}

/// Refuses outputs that cannot be, before there is a result; `names` are those of each target.
pub(crate) fn check(
    outputs: &[OutputSpec],
    names: &[Vec<Reference>],
    platforms: usize,
) -> Result<(), String> {
    for output in outputs {
        let is_nameless = output.names.is_empty() && names.iter().any(Vec::is_empty);
        match output.kind {
            OutputKind::Image if output.push && is_nameless => {
                return Err("the image has no name to push it to: give one with -t".to_owned());
            }
            OutputKind::Docker if platforms > 1 => {
                return Err("docker takes an image for one platform; write type=oci".to_owned());
            }
            OutputKind::Local | OutputKind::Tar if names.len() > 1 => {
                return Err("files of several targets cannot go to one place".to_owned());
            }
            OutputKind::Tar if platforms > 1 => {
                return Err("a tar holds the files of one platform; write type=local".to_owned());
            }
            OutputKind::Local if platforms > 1 && output.platform_split == Some(false) => {
                return Err("files of several platforms cannot go to one place".to_owned());
            }
            _ => {}
        }
        if let Some(key) = output.form.annotations.of_index().filter(|_| platforms == 1) {
            return Err(format!(
                "the annotation `{key}` is for an index, and an image for one platform has none"
            ));
        }
    }
    Ok(())
}

/// Writes `products` to every output. What is found to be damaged fails this and is removed, so
/// that it is made anew ([`damaged_layer`] tells which layer).
pub(crate) async fn write(
    sources: &Sources,
    products: &[Product],
    outputs: &[OutputSpec],
    events: &Events,
) -> Result<Written, ExportError> {
    let written = write_all(sources, products, outputs, events).await;
    let Err(error) = written else { return written };
    let store = sources.store().clone();
    blocking::run(move || {
        intact::forget_damaged(&store, &error);
        Err(error)
    })
    .await
}

async fn write_all(
    sources: &Sources,
    products: &[Product],
    outputs: &[OutputSpec],
    events: &Events,
) -> Result<Written, ExportError> {
    let mut written = Written::default();
    for output in outputs {
        let what = match output.kind {
            OutputKind::Image => {
                for product in products {
                    image(sources, product, output, &mut written, events).await?;
                }
                continue;
            }
            OutputKind::CacheOnly => continue,
            OutputKind::Oci => archive(sources, products, output, ArchiveKind::Oci, events).await?,
            OutputKind::Docker => {
                archive(sources, products, output, ArchiveKind::Docker, events).await?
            }
            OutputKind::Local | OutputKind::Tar => {
                tree(sources, &products[0].target, output, events).await?
            }
        };
        let place = match (&output.shown, &output.dest) {
            (Some(shown), _) => shown.clone(),
            (None, OutputDest::Path(path)) => path.display().to_string(),
            (None, OutputDest::Stdout | OutputDest::Own) => "standard output".to_owned(),
        };
        written.outputs.push(format!("{what} {place}"));
    }
    Ok(written)
}

/// Pushes an image, and unpacks it if that is asked for. In the store it is already.
async fn image(
    sources: &Sources,
    product: &Product,
    output: &OutputSpec,
    written: &mut Written,
    events: &Events,
) -> Result<(), ExportError> {
    if output.unpack {
        for image in &product.target.images {
            sources.materialize(image, events).await?;
        }
    }
    if !output.push {
        return Ok(());
    }
    let form = PushForm { image: output.form.clone(), by_digest: output.by_digest };
    let names = if output.names.is_empty() { &product.names } else { &output.names };
    for name in names {
        let name = if output.by_digest { name.clone() } else { name.clone().with_default_tag() };
        let pushed = push_target(sources, &product.target, &name, &form, events).await?;
        let shown = Reference { tag: name.tag.filter(|_| !output.by_digest), ..name };
        written.outputs.push(format!("{}@{} (pushed)", shown.familiar(), pushed.digest));
        written.pushed.push(PushedImage {
            name: shown.familiar(),
            digest: pushed.digest.to_string(),
            size: pushed.size,
            media_type: pushed.media_type,
        });
    }
    Ok(())
}

async fn archive(
    sources: &Sources,
    products: &[Product],
    output: &OutputSpec,
    kind: ArchiveKind,
    events: &Events,
) -> Result<&'static str, ExportError> {
    let entry = |product: &Product| {
        let names = if output.names.is_empty() { &product.names } else { &output.names };
        let names = names.iter().cloned().map(Reference::with_default_tag).collect();
        ExportImage { target: product.target.clone(), names }
    };
    let images = products.iter().map(entry).collect();
    let dest = match &output.dest {
        OutputDest::Path(path) => ArchiveDest::File(path.clone()),
        OutputDest::Stdout | OutputDest::Own => ArchiveDest::Stream(Box::new(io::stdout())),
    };
    export::export_as(sources, images, kind, output.form.clone(), dest, events).await?;
    Ok(match kind {
        ArchiveKind::Oci => "oci archive",
        ArchiveKind::Docker => "docker archive",
    })
}

/// Writes files; those of several platforms to a directory each, as BuildKit names them.
async fn tree(
    sources: &Sources,
    target: &Target,
    output: &OutputSpec,
    events: &Events,
) -> Result<&'static str, ExportError> {
    let is_split = output.platform_split.unwrap_or(target.is_index());
    let is_directory = output.kind == OutputKind::Local;
    for image in &target.images {
        let dest = match &output.dest {
            OutputDest::Path(path) if is_split && is_directory => {
                Some(path.join(directory_of(&image.platform())))
            }
            OutputDest::Path(path) => Some(path.clone()),
            OutputDest::Stdout | OutputDest::Own => None,
        };
        write_tree(sources, image, dest, is_directory, events).await?;
    }
    Ok(if is_directory { "directory" } else { "tar" })
}

/// `linux_arm_v7`.
fn directory_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

async fn write_tree(
    sources: &Sources,
    image: &ResolvedImage,
    dest: Option<PathBuf>,
    as_directory: bool,
    events: &Events,
) -> Result<(), ExportError> {
    let top = sources.materialize(image, events).await?;
    let (store, image) = (sources.store().clone(), image.clone());
    blocking::run(move || {
        let lowers = match top {
            Some(id) => {
                intact::check(&store, &image, &id)?;
                let lowers = store.snapshots().lowers(&id);
                lowers.map_err(SourceError::store("read the image's layers"))?
            }
            None => Vec::new(),
        };
        match dest {
            Some(dest) if as_directory => {
                std::fs::create_dir_all(&dest)
                    .map_err(|source| ExportError::File { path: dest.clone(), source })?;
                export_dir(&lowers, &dest)?;
                Ok(())
            }
            Some(dest) => {
                let latest = latest_of(&store, &image, lowers.len())?;
                let write = |out: &mut dyn Write| export_tar_until(&lowers, &latest, out);
                export::replace(&dest, |out| Ok(write(out).map(drop)?))
            }
            None => {
                let latest = latest_of(&store, &image, lowers.len())?;
                Ok(export_tar_until(&lowers, &latest, io::stdout().lock()).map(drop)?)
            }
        }
    })
    .await
}

/// Returns what stands for later times in each layer, topmost first, as the layers themselves have
/// it when they leave.
fn latest_of(
    store: &Store,
    image: &ResolvedImage,
    lowers: usize,
) -> Result<Vec<Option<i64>>, SourceError> {
    if image.diff_ids.len() != lowers {
        return Ok(Vec::new());
    }
    let latest = |diff_id| {
        let record = store.layers().get(diff_id);
        let record = record.map_err(SourceError::store("read a layer's record"))?;
        Ok(record.and_then(|record| record.latest))
    };
    image.diff_ids.iter().rev().map(latest).collect()
}
