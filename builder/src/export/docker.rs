//! Archives for `docker load`: `manifest.json` beside an OCI layout, as Docker's own `save` has
//! written them since version 25. Old and new loaders, with either image store, read them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use cache::{ChainId, Descriptor, Store};
use serde_json::{Value, json};

use super::ExportImage;
use super::archive::{Archive, Out};
use super::error::ExportError;
use super::oci::{self, IndexEntry, blob_path};
use crate::progress::{Events, TransferPhase};
use crate::registry::document::{Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::source::{Layer, LayerSource, Meter, SourceError, built_layer, keep, manifest_bytes};

/// One image with its layers as plain tars.
struct Plain {
    manifest: Descriptor,
    config: Descriptor,
    layers: Vec<(Layer, LayerSource, u64)>,
}

/// Writes `images` as one archive.
///
/// Layers on top of which `omit` is true are named and left out: the engine that reads the archive
/// has them.
pub(super) fn write(
    store: &Store,
    images: &[ExportImage],
    out: &mut dyn Out,
    omit: &dyn Fn(&ChainId) -> bool,
    events: &Events,
) -> Result<(), ExportError> {
    let plain: Vec<_> =
        images.iter().map(|entry| prepare(store, entry)).collect::<Result<_, _>>()?;
    let mut archive = Archive::new(out);
    let entries = images.iter().zip(&plain).map(|(entry, plain)| IndexEntry {
        descriptor: &plain.manifest,
        platform: Some(entry.target.images[0].platform()),
        annotations: BTreeMap::new(),
        names: &entry.names,
    });
    oci::documents(&mut archive, entries)?;
    oci::directories(&mut archive)?;
    let entries: Value =
        images.iter().zip(&plain).map(|(entry, plain)| loader_entry(entry, plain)).collect();
    archive.file("manifest.json", entries.to_string().as_bytes())?;
    let mut written = BTreeSet::new();
    for image in &plain {
        for blob in [&image.manifest, &image.config] {
            if written.insert(blob.digest) {
                archive.blob(store, &blob_path(&blob.digest), blob, &mut |_| ())?;
            }
        }
        let mut below: Option<ChainId> = None;
        for (layer, source, size) in &image.layers {
            let chain_id = below.map_or(ChainId(layer.diff_id.0), |it| it.push(layer.diff_id));
            below = Some(chain_id);
            if !omit(&chain_id) && written.insert(layer.diff_id.0) {
                write_layer(&mut archive, layer, source, *size, events)?;
            }
        }
    }
    archive.finish()
}

/// Returns the image's entry in `manifest.json` (moby, `image/tarexport`, `manifestItem`).
fn loader_entry(entry: &ExportImage, plain: &Plain) -> Value {
    let tags: Vec<_> = entry.names.iter().map(frontend::Reference::familiar).collect();
    let layers: Vec<_> =
        plain.layers.iter().map(|(layer, ..)| blob_path(&layer.diff_id.0)).collect();
    json!({ "Config": blob_path(&plain.config.digest), "RepoTags": tags, "Layers": layers })
}

/// Finds the layers and their sizes: a tar states a file's size before its bytes.
fn prepare(store: &Store, entry: &ExportImage) -> Result<Plain, ExportError> {
    let [image] = entry.target.images.as_slice() else {
        let platforms = entry.target.images.iter().map(|image| image.platform().to_string());
        return Err(ExportError::Platforms { platforms: platforms.collect() });
    };
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in image.each_layer() {
        let source = LayerSource::find(store, &layer)?
            .ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
        let size = tar_size(store, &layer, &source)?;
        layers.push((layer, source, size));
    }
    let size = store
        .content()
        .size(&image.config_digest)
        .map_err(SourceError::store("find the config"))?
        .ok_or(ExportError::Damaged { digest: image.config_digest })?;
    let config =
        Descriptor { media_type: OCI_CONFIG.to_owned(), digest: image.config_digest, size };
    let parts = Manifest {
        config: config.clone(),
        layers: layers.iter().map(|(layer, _, size)| built_layer(layer.diff_id, *size)).collect(),
        annotations: Vec::new(),
    };
    let manifest = keep(store, &manifest_bytes(&parts)?, OCI_MANIFEST)?;
    Ok(Plain { manifest, config, layers })
}

/// Looks up the size of a layer's tar, or measures it once and notes it down.
fn tar_size(store: &Store, layer: &Layer, source: &LayerSource) -> Result<u64, ExportError> {
    if layer.descriptor.digest == layer.diff_id.0 {
        return Ok(layer.descriptor.size);
    }
    let record =
        store.layers().get(&layer.diff_id).map_err(SourceError::store("read a layer's record"))?;
    if let Some(size) = record.and_then(|record| record.tar_size) {
        return Ok(size);
    }
    let size = source.write_tar(layer.diff_id, io::sink())?;
    store
        .layers()
        .update(&layer.diff_id, |record| record.tar_size = Some(size))
        .map_err(SourceError::store("note a layer"))?;
    Ok(size)
}

fn write_layer(
    archive: &mut Archive<'_>,
    layer: &Layer,
    source: &LayerSource,
    size: u64,
    events: &Events,
) -> Result<(), ExportError> {
    let meter = Meter::new(events, &layer.diff_id.0, TransferPhase::Exporting, Some(size));
    archive.streamed(&blob_path(&layer.diff_id.0), size, |out| {
        let mut bounded = Bounded { inner: out, left: size, moved: 0, meter: &meter };
        let found = source.write_tar(layer.diff_id, &mut bounded)?;
        if found != size {
            let digest = layer.diff_id.0;
            return Err(ExportError::LayerSize { digest, expected: size, found });
        }
        Ok(())
    })?;
    meter.end_blocking(TransferPhase::Done);
    Ok(())
}

/// Refuses more bytes than the header has promised: they would be read as further entries.
struct Bounded<'a> {
    inner: &'a mut dyn Write,
    left: u64,
    moved: u64,
    meter: &'a Meter,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the layer is longer than noted",
            ));
        }
        let written = self.inner.write(bytes)?;
        self.left -= written as u64;
        self.moved += written as u64;
        self.meter.moved(self.moved);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
