//! A layer in the form that may leave the machine: found among the store's blobs, or compressed into
//! it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use cache::{BlobWriter, Descriptor, DiffId, Digest, LayerBlob, LayerForm, Store, StoreError};
use tokio::sync::mpsc::UnboundedSender;

use super::error::ExportError;
use super::form::ImageForm;
use crate::config::processors;
use crate::growing::{Growing, GrowingWriter};
use crate::layer::{Compression, StreamWriter, TOC_DIGEST, UNCOMPRESSED_SIZE, write_estargz};
use crate::progress::{Events, TransferPhase};
use crate::registry::document::{self, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::source::{Layer, LayerSource, Meter, SourceError};

/// Who looks on while layers are brought into their form.
pub(super) struct Work {
    pub(super) events: Events,
    /// Is told of each layer, in their order, as soon as there is something of it to read.
    pub(super) layers: Option<UnboundedSender<Outgoing>>,
}

/// The blob of a layer on its way out.
pub(super) enum Outgoing {
    /// It is in the store.
    Kept(Descriptor),
    /// It is being made.
    Growing(Arc<Growing>),
}

impl Work {
    /// Nobody but the one who reads `events`.
    pub(super) const fn alone(events: Events) -> Self {
        Self { events, layers: None }
    }

    /// Says that there is something to read; false if nobody wants to. Whoever did may have failed,
    /// and is asked for that at its end.
    fn tell(&self, layer: Outgoing) -> bool {
        self.layers.as_ref().is_some_and(|layers| layers.send(layer).is_ok())
    }
}

/// One layer on its way out.
pub(super) struct PortableLayer {
    pub(super) blob: Descriptor,
    /// What it unpacks to.
    pub(super) diff_id: DiffId,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Finds or makes the blob of a layer. One that was pulled stays as it came, unless forced.
pub(super) fn portable_layer(
    store: &Store,
    layer: &Layer,
    annotations: BTreeMap<String, String>,
    form: &ImageForm,
    work: &Work,
) -> Result<PortableLayer, ExportError> {
    if let Some(found) = kept_layer(store, layer, annotations, form)? {
        work.tell(Outgoing::Kept(found.blob.clone()));
        return Ok(found);
    }
    let diff_id = layer.diff_id;
    let source = LayerSource::find(store, layer)?.ok_or(SourceError::Lost { diff_id })?;
    let form = (form.compression.unwrap_or_default(), form.level);
    let made = compress_for(store, layer, &source, form, processors(), work)?;
    Ok(PortableLayer::of(made, diff_id))
}

/// Finds a blob of the layer in the form that is wanted.
fn kept_layer(
    store: &Store,
    layer: &Layer,
    annotations: BTreeMap<String, String>,
    form: &ImageForm,
) -> Result<Option<PortableLayer>, ExportError> {
    let diff_id = layer.diff_id;
    let is_built = is_plain(&layer.descriptor);
    let wanted = form.compression.unwrap_or_default();
    let is_here = store.content().contains(&layer.descriptor.digest);
    if is_here && !is_built && (!form.force || has_form(&layer.descriptor, &annotations, wanted)) {
        let blob = layer.descriptor.clone();
        return Ok(Some(PortableLayer { blob, diff_id, annotations }));
    }
    let record =
        store.layers().get(&diff_id).map_err(SourceError::store("read a layer's record"))?;
    let Some(record) = record else { return Ok(None) };
    let is_kept = |blob: &LayerBlob| store.content().contains(&blob.digest);
    let name = form_name(wanted, form.level);
    if let Some(made) = record.forms.get(&name).filter(|made| is_kept(&made.blob)) {
        return Ok(Some(PortableLayer::of(made.clone(), diff_id)));
    }
    let found = record.blobs.iter().find(|blob| {
        let is_like = blob.media_type == media_type(wanted);
        form.level.is_none() && blob.checked && is_like && is_kept(blob)
    });
    let found = found.filter(|_| wanted != Compression::Estargz).map(|blob| {
        let made = LayerForm { blob: blob.clone(), diff_id: None, annotations: BTreeMap::new() };
        PortableLayer::of(made, diff_id)
    });
    Ok(found)
}

impl PortableLayer {
    fn of(made: LayerForm, diff_id: DiffId) -> Self {
        let LayerForm { blob, diff_id: own, annotations } = made;
        let LayerBlob { digest, size, media_type, .. } = blob;
        let blob = Descriptor { media_type, digest, size };
        Self { blob, diff_id: own.unwrap_or(diff_id), annotations }
    }
}

fn is_plain(blob: &Descriptor) -> bool {
    document::oci_layer(blob).media_type == OCI_LAYER
}

/// Whether a layer that came from elsewhere is in the form `wanted`.
fn has_form(
    blob: &Descriptor,
    annotations: &BTreeMap<String, String>,
    wanted: Compression,
) -> bool {
    let is_estargz = annotations.contains_key(TOC_DIGEST);
    document::oci_layer(blob).media_type == media_type(wanted)
        && is_estargz == (wanted == Compression::Estargz)
}

pub(crate) const fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Uncompressed => OCI_LAYER,
        Compression::Gzip | Compression::Estargz => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    }
}

pub(crate) fn form_name(compression: Compression, level: Option<u8>) -> String {
    format!("{compression}-{}", compression.level(level))
}

/// Compresses a layer into the store, on `threads` threads, and notes it down, so that the next
/// export finds it.
pub(crate) fn compress(
    store: &Store,
    layer: &Layer,
    source: &LayerSource,
    form: (Compression, Option<u8>),
    threads: NonZeroUsize,
    events: &Events,
) -> Result<LayerForm, ExportError> {
    compress_for(store, layer, source, form, threads, &Work::alone(events.clone()))
}

/// As [`compress`], with others looking on.
fn compress_for(
    store: &Store,
    layer: &Layer,
    source: &LayerSource,
    (compression, level): (Compression, Option<u8>),
    threads: NonZeroUsize,
    work: &Work,
) -> Result<LayerForm, ExportError> {
    let total = Some(layer.descriptor.size);
    let meter = Meter::new(&work.events, &layer.descriptor.digest, TransferPhase::Exporting, total);
    let action = "keep a compressed layer";
    let writer = store.content().writer().map_err(SourceError::store(action))?;
    let followed =
        Followed::begin(&writer, &layer.diff_id, work).map_err(SourceError::store(action))?;
    let writer = GrowingWriter { inner: writer, growing: followed.0.clone() };
    let mut made = None;
    let tar_size;
    let writer = if compression == Compression::Estargz {
        let level = compression.level(level);
        let ((writer, written), size) =
            source.read_tar(layer.diff_id, |tar| write_estargz(tar, writer, level, threads))?;
        made = Some(written);
        tar_size = size;
        writer
    } else {
        let mut stream = StreamWriter::new(writer, compression, level, threads)
            .map_err(SourceError::store(action))?;
        let progress = Progress { inner: &mut stream, count: 0, meter: &meter };
        tar_size = source.write_tar(layer.diff_id, progress)?;
        stream.finish().map_err(SourceError::store(action))?
    };
    let blob = writer.inner.commit(None).map_err(SourceError::store(action))?;
    followed.finish(blob.digest);
    meter.end_blocking(TransferPhase::Done);
    let blob = LayerBlob {
        digest: blob.digest,
        size: blob.size,
        media_type: media_type(compression).to_owned(),
        checked: true,
    };
    let annotations = made.iter().flat_map(|made| {
        [
            (TOC_DIGEST.to_owned(), made.toc_digest.to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), made.tar_size.to_string()),
        ]
    });
    let annotations = annotations.collect();
    let form = LayerForm { blob, diff_id: made.map(|made| made.diff_id), annotations };
    let update = |record: &mut cache::LayerRecord| {
        record.tar_size = Some(tar_size);
        if form.diff_id.is_none() {
            record.note(form.blob.clone());
        }
        record.forms.insert(form_name(compression, level), form.clone());
    };
    store.layers().update(&layer.diff_id, update).map_err(SourceError::store("note a layer"))?;
    Ok(form)
}

/// A blob that somebody may read while it is made; dropped before its end is told, there is none.
struct Followed(Option<Arc<Growing>>);

impl Followed {
    fn begin(writer: &BlobWriter, layer: &DiffId, work: &Work) -> Result<Self, StoreError> {
        if work.layers.is_none() {
            return Ok(Self(None));
        }
        let growing = Arc::new(Growing::new(layer.0.short(), writer.reader()?));
        let is_read = work.tell(Outgoing::Growing(Arc::clone(&growing)));
        Ok(Self(is_read.then_some(growing)))
    }

    fn finish(&self, digest: Digest) {
        if let Some(growing) = &self.0 {
            growing.end(Some(digest));
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(growing) = &self.0 {
            growing.end(None);
        }
    }
}

/// Counts what is written through it.
struct Progress<'a, W> {
    inner: W,
    count: u64,
    meter: &'a Meter,
}

impl<W: Write> Write for Progress<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += written as u64;
        self.meter.moved(self.count);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
