//! An image in the form that may leave the machine: every layer a blob in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use cache::{BlobWriter, Descriptor, DiffId, Digest, LayerBlob, LayerForm, Store, StoreError};
use frontend::Platform;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::annotation::{AnnotationLevel, Annotations};
use super::error::ExportError;
use super::form::{ImageForm, MediaTypes};
use crate::config::processors;
use crate::layer::{Compression, StreamWriter, TOC_DIGEST, UNCOMPRESSED_SIZE, write_estargz};
use crate::progress::{Events, TransferPhase};
use crate::registry::document::{
    self, DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER,
    OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::registry::{Growing, GrowingWriter};
use crate::source::{
    CONFIG_LIMIT, Layer, LayerSource, MANIFEST_LIMIT, Meter, ResolvedImage, SourceError, Target,
    keep, platform_value,
};

/// Who looks on while layers are compressed.
pub(super) struct Work<'a> {
    pub(super) events: &'a Events,
    /// Sends blobs as they grow.
    pub(super) uploads: Option<&'a UnboundedSender<Arc<Growing>>>,
}

impl<'a> Work<'a> {
    /// Nobody but the one who reads `events`.
    pub(super) const fn alone(events: &'a Events) -> Self {
        Self { events, uploads: None }
    }
}

/// What a name stands for, every part a blob of the store.
#[derive(Clone, Debug)]
pub(super) struct PortableTarget {
    /// Of the manifest or index.
    pub(super) descriptor: Descriptor,
    /// Whether the index that it comes from lists what is not here: images for other platforms.
    pub(super) is_part: bool,
    /// At least one.
    pub(super) images: Vec<Portable>,
}

/// An image whose parts are all blobs of the store.
#[derive(Clone, Debug)]
pub(super) struct Portable {
    pub(super) platform: Platform,
    pub(super) manifest: Descriptor,
    pub(super) config: Descriptor,
    /// With the layers that they were made from.
    pub(super) layers: Vec<(Descriptor, DiffId)>,
    /// Those of them whose bytes were written and hashed just now.
    pub(super) fresh: BTreeSet<Digest>,
}

impl PortableTarget {
    /// Brings `target` into `form`. What has it already stays as it is, digests included.
    pub(super) fn prepare(
        store: &Store,
        target: &Target,
        form: &ImageForm,
        work: &Work<'_>,
    ) -> Result<Self, ExportError> {
        let prepare = |image| Portable::prepare(store, image, form, work);
        let images: Vec<_> = target.images.iter().map(prepare).collect::<Result<_, _>>()?;
        if !target.is_index() {
            if let Some(key) = form.annotations.of_index() {
                return Err(ExportError::NoIndex { key: key.to_owned() });
            }
            let descriptor = images[0].manifest.clone();
            return Ok(Self { descriptor, is_part: false, images });
        }
        let old = read(store, &target.descriptor, MANIFEST_LIMIT)?;
        let is_here = |entry: &Value| {
            let digest = entry.get("digest").and_then(Value::as_str);
            target.images.iter().any(|it| digest == Some(&it.manifest.digest.to_string()))
        };
        let is_part = !entries_of(&old).all(is_here);
        if let (true, [only], None) = (is_part, images.as_slice(), form.annotations.of_index()) {
            let descriptor = only.manifest.clone();
            return Ok(Self { descriptor, is_part, images });
        }
        let own = form.annotations.at(AnnotationLevel::Index, None);
        let is_same = !is_part
            && images.iter().zip(&target.images).all(|(a, b)| a.manifest == b.manifest)
            && own.is_empty()
            && fits(&target.descriptor, form);
        let descriptor = if is_same {
            target.descriptor.clone()
        } else {
            let entries = images.iter().zip(&target.images);
            let entries = entries.map(|(image, was)| IndexEntry {
                was: &was.manifest.digest,
                manifest: &image.manifest,
                platform: &image.platform,
            });
            index(store, Some(&old), entries, form)?
        };
        Ok(Self { descriptor, is_part, images })
    }

    /// Whether the top is an index.
    pub(super) fn is_index(&self) -> bool {
        document::is_index(&self.descriptor.media_type)
    }

    /// Whether the blob was written just now, so that nothing can have happened to it since.
    pub(super) fn is_fresh(&self, digest: &Digest) -> bool {
        self.images.iter().any(|image| image.fresh.contains(digest))
    }

    /// Returns the config, layers and manifests below the top, each once a platform.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.images.iter().flat_map(|image| {
            let layers = image.layers.iter().map(|(layer, _)| layer);
            [&image.manifest, &image.config].into_iter().chain(layers)
        })
    }
}

/// Writes the index of `entries` and keeps it; annotations of `old` stay.
pub(crate) fn write_index(
    store: &Store,
    old: Option<&Descriptor>,
    entries: &[(&Descriptor, &Platform)],
    annotations: &Annotations,
) -> Result<Descriptor, ExportError> {
    let form = ImageForm { annotations: annotations.clone(), ..ImageForm::default() };
    let old = old.map(|old| read(store, old, MANIFEST_LIMIT)).transpose()?;
    let entries = entries.iter().map(|&(manifest, platform)| IndexEntry {
        was: &manifest.digest,
        manifest,
        platform,
    });
    index(store, old.as_ref(), entries, &form)
}

/// What an index shall list.
struct IndexEntry<'a> {
    /// What the old index lists in its place.
    was: &'a Digest,
    manifest: &'a Descriptor,
    platform: &'a Platform,
}

/// Writes an index and keeps it; what `old` says of itself and of what stays in it is kept.
fn index<'a>(
    store: &Store,
    old: Option<&Value>,
    entries: impl Iterator<Item = IndexEntry<'a>>,
    form: &ImageForm,
) -> Result<Descriptor, ExportError> {
    let mut annotations = old.map(annotations_of).unwrap_or_default();
    annotations.extend(form.annotations.at(AnnotationLevel::Index, None));
    let entries = entries.map(|IndexEntry { was, manifest, platform }| {
        let (level, digest) = (AnnotationLevel::ManifestDescriptor, was.to_string());
        let is_it = |entry: &&Value| entry.get("digest").and_then(Value::as_str) == Some(&digest);
        let was = old.and_then(|old| entries_of(old).find(is_it));
        let mut own = was.map(annotations_of).unwrap_or_default();
        own.extend(form.annotations.at(level, Some(platform)));
        let mut entry = descriptor_value(manifest, &own);
        // It may tell more than we read of it, such as the version of the system.
        let told = was.and_then(|was| was.get("platform")).cloned();
        entry["platform"] = told.unwrap_or_else(|| platform_value(platform));
        entry
    });
    let is_docker = form.types == Some(MediaTypes::Docker) && annotations.is_empty();
    let media_type = if is_docker { DOCKER_LIST } else { OCI_INDEX };
    let mut index = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": entries.collect::<Vec<_>>(),
    });
    if !annotations.is_empty() {
        index["annotations"] = json!(annotations);
    }
    Ok(keep(store, index.to_string().as_bytes(), media_type)?)
}

/// Gives the manifest of `image` the annotations that are for it.
pub(crate) fn annotate(
    store: &Store,
    image: ResolvedImage,
    annotations: &Annotations,
) -> Result<ResolvedImage, ExportError> {
    let own = annotations.at(AnnotationLevel::Manifest, Some(&image.platform()));
    if own.is_empty() {
        return Ok(image);
    }
    let mut document = read(store, &image.manifest, MANIFEST_LIMIT)?;
    let mut all = annotations_of(&document);
    all.extend(own);
    document["annotations"] = json!(all);
    let manifest = keep(store, document.to_string().as_bytes(), &image.manifest.media_type)?;
    Ok(ResolvedImage { target: manifest.clone(), manifest, ..image })
}

impl Portable {
    fn prepare(
        store: &Store,
        image: &ResolvedImage,
        form: &ImageForm,
        work: &Work<'_>,
    ) -> Result<Self, ExportError> {
        let platform = image.platform();
        let old = read(store, &image.manifest, MANIFEST_LIMIT)?;
        let mut annotations = annotations_of(&old);
        let asked = form.annotations.at(AnnotationLevel::Manifest, Some(&platform));
        let layers = image.each_layer().zip(image.layer_annotations.iter().cloned());
        let layers = layers.map(|(layer, noted)| portable_layer(store, &layer, noted, form, work));
        let layers: Vec<_> = layers.collect::<Result<_, ExportError>>()?;
        let is_same = layers.iter().zip(&image.layers).all(|(new, old)| new.blob == *old)
            && asked.iter().all(|(key, value)| annotations.get(key) == Some(value))
            && fits(&image.manifest, form);
        annotations.extend(asked);
        let is_docker =
            !is_same && form.types == Some(MediaTypes::Docker) && annotations.is_empty();
        let fresh = layers.iter().filter(|layer| layer.is_fresh);
        let fresh = fresh.map(|layer| layer.blob.digest).collect();
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let mut config = config(store, image, &diff_ids)?;
        let named = layers.iter().zip(&image.diff_ids).map(|(layer, &of)| {
            let descriptor = match (is_same, is_docker) {
                (true, _) => layer.blob.clone(),
                (false, true) => {
                    let media_type = document::docker_layer(&layer.blob.media_type);
                    Descriptor { media_type, ..layer.blob.clone() }
                }
                (false, false) => document::oci_layer(&layer.blob),
            };
            (descriptor, of)
        });
        let named: Vec<_> = named.collect();
        if is_same {
            let manifest = image.manifest.clone();
            return Ok(Self { platform, manifest, config, layers: named, fresh });
        }
        if is_docker {
            DOCKER_CONFIG.clone_into(&mut config.media_type);
        }
        let media_type = if is_docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        let notes = layers.iter().map(|layer| &layer.annotations);
        let descriptors = named.iter().zip(notes);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor_value(&config, &BTreeMap::new()),
            "layers": descriptors.map(|((it, _), notes)| descriptor_value(it, notes)).collect::<Vec<_>>(),
        });
        if !annotations.is_empty() {
            manifest["annotations"] = json!(annotations);
        }
        let manifest = keep(store, manifest.to_string().as_bytes(), media_type)?;
        Ok(Self { platform, manifest, config, layers: named, fresh })
    }
}

/// Whether a document has the media types asked for.
fn fits(document: &Descriptor, form: &ImageForm) -> bool {
    let is_oci = matches!(document.media_type.as_str(), OCI_MANIFEST | OCI_INDEX);
    match form.types {
        None => true,
        Some(MediaTypes::Oci) => is_oci,
        Some(MediaTypes::Docker) => !is_oci,
    }
}

/// Returns the config, which names other layers where making them portable changed their tars.
fn config(
    store: &Store,
    image: &ResolvedImage,
    diff_ids: &[DiffId],
) -> Result<Descriptor, ExportError> {
    let size = store
        .content()
        .size(&image.config_digest)
        .map_err(SourceError::store("find the config"))?
        .ok_or(ExportError::Damaged { digest: image.config_digest })?;
    let same = Descriptor { media_type: OCI_CONFIG.to_owned(), digest: image.config_digest, size };
    if diff_ids == image.diff_ids {
        return Ok(same);
    }
    let mut config = read(store, &same, CONFIG_LIMIT)?;
    config["rootfs"]["diff_ids"] = json!(diff_ids);
    Ok(keep(store, config.to_string().as_bytes(), OCI_CONFIG)?)
}

fn read(store: &Store, document: &Descriptor, limit: u64) -> Result<Value, ExportError> {
    let bytes = store.content().read(&document.digest, limit);
    let bytes = bytes.map_err(SourceError::store("read the image's documents"))?;
    let damaged = ExportError::Damaged { digest: document.digest };
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or(damaged)
}

fn entries_of(index: &Value) -> impl Iterator<Item = &Value> {
    index.get("manifests").and_then(Value::as_array).into_iter().flatten()
}

fn annotations_of(document: &Value) -> BTreeMap<String, String> {
    let all = document.get("annotations").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    all.into_iter().flatten().filter_map(text).collect()
}

fn descriptor_value(descriptor: &Descriptor, annotations: &BTreeMap<String, String>) -> Value {
    let mut value = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    value
}

/// One layer on its way out.
struct PortableLayer {
    blob: Descriptor,
    /// What it unpacks to.
    diff_id: DiffId,
    annotations: BTreeMap<String, String>,
    /// Whether the blob was written just now.
    is_fresh: bool,
}

/// Finds or makes the blob of a layer. One that was pulled stays as it came, unless forced.
fn portable_layer(
    store: &Store,
    layer: &Layer,
    annotations: BTreeMap<String, String>,
    form: &ImageForm,
    work: &Work<'_>,
) -> Result<PortableLayer, ExportError> {
    let diff_id = layer.diff_id;
    let is_built = is_plain(&layer.descriptor);
    let wanted = form.compression.unwrap_or_default();
    let is_here = store.content().contains(&layer.descriptor.digest);
    if is_here && !is_built && (!form.force || has_form(&layer.descriptor, &annotations, wanted)) {
        let blob = layer.descriptor.clone();
        return Ok(PortableLayer { blob, diff_id, annotations, is_fresh: false });
    }
    let name = form_name(wanted, form.level);
    let record =
        store.layers().get(&diff_id).map_err(SourceError::store("read a layer's record"))?;
    let is_kept = |blob: &LayerBlob| store.content().contains(&blob.digest);
    if let Some(record) = record {
        if let Some(made) = record.forms.get(&name).filter(|made| is_kept(&made.blob)) {
            return Ok(PortableLayer::of(made.clone(), diff_id));
        }
        let found = record.blobs.iter().find(|blob| {
            let is_like = blob.media_type == media_type(wanted);
            form.level.is_none() && blob.checked && is_like && is_kept(blob)
        });
        if let Some(blob) = found.filter(|_| wanted != Compression::Estargz) {
            let made =
                LayerForm { blob: blob.clone(), diff_id: None, annotations: BTreeMap::new() };
            return Ok(PortableLayer::of(made, diff_id));
        }
    }
    let source =
        LayerSource::find(store, layer)?.ok_or(SourceError::Lost { diff_id: layer.diff_id })?;
    let form = (wanted, form.level);
    let made = compress_for(store, layer, &source, form, processors(), work)?;
    Ok(PortableLayer { is_fresh: true, ..PortableLayer::of(made, diff_id) })
}

impl PortableLayer {
    fn of(made: LayerForm, diff_id: DiffId) -> Self {
        let LayerForm { blob, diff_id: own, annotations } = made;
        let LayerBlob { digest, size, media_type, .. } = blob;
        let blob = Descriptor { media_type, digest, size };
        Self { blob, diff_id: own.unwrap_or(diff_id), annotations, is_fresh: false }
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
    compress_for(store, layer, source, form, threads, &Work::alone(events))
}

/// As [`compress`], with others looking on.
fn compress_for(
    store: &Store,
    layer: &Layer,
    source: &LayerSource,
    (compression, level): (Compression, Option<u8>),
    threads: NonZeroUsize,
    work: &Work<'_>,
) -> Result<LayerForm, ExportError> {
    let total = Some(layer.descriptor.size);
    let meter = Meter::new(work.events, &layer.descriptor.digest, TransferPhase::Exporting, total);
    let action = "keep a compressed layer";
    let writer = store.content().writer().map_err(SourceError::store(action))?;
    let upload =
        Upload::begin(&writer, &layer.diff_id, work).map_err(SourceError::store(action))?;
    let writer = GrowingWriter { inner: writer, growing: upload.0.clone() };
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
    upload.finish(blob.digest);
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

/// A blob on its way while it is made; dropped before its end is told, it goes nowhere.
struct Upload(Option<Arc<Growing>>);

impl Upload {
    fn begin(writer: &BlobWriter, layer: &DiffId, work: &Work<'_>) -> Result<Self, StoreError> {
        let Some(uploads) = work.uploads else { return Ok(Self(None)) };
        let growing = Arc::new(Growing::new(layer.0.short(), writer.reader()?));
        // Whoever sends blobs may have failed already; it is told of at its end.
        let is_sent = uploads.send(Arc::clone(&growing)).is_ok();
        Ok(Self(is_sent.then_some(growing)))
    }

    fn finish(&self, digest: Digest) {
        if let Some(growing) = &self.0 {
            growing.end(Some(digest));
        }
    }
}

impl Drop for Upload {
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
