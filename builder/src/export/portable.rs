//! An image in the form that may leave the machine: every layer a compressed blob in the store.

use cache::{Descriptor, LayerBlob, Store};

use super::error::ExportError;
use crate::config::processors;
use crate::layer::gzip_writer;
use crate::progress::{Events, TransferPhase};
use crate::registry::document::{
    self, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST,
};
use crate::source::{Layer, LayerSource, Meter, ResolvedImage, SourceError, keep, manifest_bytes};

/// An image whose parts are all blobs of the store.
#[derive(Clone, Debug)]
pub(super) struct Portable {
    pub(super) manifest: Descriptor,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Portable {
    /// Compresses the layers that were built here. Those that were pulled stay as they came, and
    /// so does the whole manifest where nothing had to change, so that its digest stays.
    ///
    /// With `as_oci` a manifest of Docker's is rewritten: an image layout holds OCI ones.
    pub(super) fn prepare(
        store: &Store,
        image: &ResolvedImage,
        as_oci: bool,
        events: &Events,
    ) -> Result<Self, ExportError> {
        let layers = image.each_layer().map(|layer| portable_layer(store, &layer, events));
        let layers: Vec<_> = layers.collect::<Result<_, ExportError>>()?;
        let size = store
            .content()
            .size(&image.config_digest)
            .map_err(SourceError::store("find the config"))?
            .ok_or(ExportError::Damaged { digest: image.config_digest })?;
        let config =
            Descriptor { media_type: OCI_CONFIG.to_owned(), digest: image.config_digest, size };
        let is_oci = image.manifest.media_type == OCI_MANIFEST;
        if layers == image.layers && (is_oci || !as_oci) {
            return Ok(Self { manifest: image.manifest.clone(), config, layers });
        }
        let layers: Vec<_> = layers.iter().map(document::oci_layer).collect();
        let parts = Manifest { config: config.clone(), layers: layers.clone() };
        let manifest = keep(store, &manifest_bytes(&parts)?, OCI_MANIFEST)?;
        Ok(Self { manifest, config, layers })
    }
}

/// Finds or makes the compressed blob of a layer.
fn portable_layer(
    store: &Store,
    layer: &Layer,
    events: &Events,
) -> Result<Descriptor, ExportError> {
    let source =
        LayerSource::find(store, layer)?.ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
    if let LayerSource::Blob { blob, .. } = &source
        && !is_plain(blob)
    {
        return Ok(blob.clone());
    }
    compress(store, layer, &source, events)
}

fn is_plain(blob: &Descriptor) -> bool {
    document::oci_layer(blob).media_type == OCI_LAYER
}

/// Compresses a layer into the store and notes it down, so that the next export finds it.
fn compress(
    store: &Store,
    layer: &Layer,
    source: &LayerSource,
    events: &Events,
) -> Result<Descriptor, ExportError> {
    let total = Some(layer.descriptor.size);
    let meter = Meter::new(events, &layer.descriptor.digest, TransferPhase::Exporting, total);
    let action = "keep a compressed layer";
    let writer = store.content().writer().map_err(SourceError::store(action))?;
    let threads = processors();
    let mut gzip = gzip_writer(writer, threads);
    let tar_size =
        source.write_tar(layer.diff_id, Progress { inner: &mut gzip, count: 0, meter: &meter })?;
    let writer = gzip.finish().map_err(SourceError::store(action))?;
    let blob = writer.commit(None).map_err(SourceError::store(action))?;
    meter.end_blocking(TransferPhase::Done);
    let noted =
        LayerBlob { digest: blob.digest, size: blob.size, media_type: OCI_LAYER_GZIP.to_owned() };
    let update = |record: &mut cache::LayerRecord| {
        record.tar_size = Some(tar_size);
        if !record.blobs.iter().any(|known| known.digest == noted.digest) {
            record.blobs.push(noted.clone());
        }
    };
    store.layers().update(&layer.diff_id, update).map_err(SourceError::store("note a layer"))?;
    Ok(Descriptor { media_type: OCI_LAYER_GZIP.to_owned(), digest: blob.digest, size: blob.size })
}

/// Counts what is written through it.
struct Progress<'a, W> {
    inner: W,
    count: u64,
    meter: &'a Meter,
}

impl<W: std::io::Write> std::io::Write for Progress<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += written as u64;
        self.meter.moved(self.count);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
