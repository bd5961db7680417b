//! A layer in the form that a cache wants.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use cache::{Descriptor, DiffId, Store};

use super::error::ExchangeError;
use super::export::note_form;
use super::spec::{CacheCompression, CacheTo};
use crate::layer::{gzip_writer, zstd_writer};
use crate::progress::{Events, TransferPhase};
use crate::registry::document::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, oci_layer};
use crate::source::{Layer, LayerSource, Meter, SourceError, built_layer};

/// Threads of one compression: the build's own steps go first.
const THREADS: NonZeroUsize = NonZeroUsize::MIN;

/// Whether a blob is compressed like that.
pub(super) fn is_of(blob: &Descriptor, compression: CacheCompression) -> bool {
    oci_layer(blob).media_type == media_type(compression)
}

const fn media_type(compression: CacheCompression) -> &'static str {
    match compression {
        CacheCompression::Gzip => OCI_LAYER_GZIP,
        CacheCompression::Zstd => OCI_LAYER_ZSTD,
        CacheCompression::Uncompressed => OCI_LAYER,
    }
}

/// Finds a blob of the layer, or makes one and notes it down. A form that is here is as good as
/// the wanted one, unless that is forced. Blocking.
pub(super) fn layer_blob(
    store: &Store,
    diff_id: DiffId,
    to: &CacheTo,
    events: &Events,
) -> Result<Descriptor, ExchangeError> {
    let record =
        store.layers().get(&diff_id).map_err(SourceError::store("read a layer's record"))?;
    let noted = record.iter().flat_map(|record| &record.blobs).map(|blob| Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest,
        size: blob.size,
    });
    let here: Vec<_> = noted.filter(|blob| store.content().contains(&blob.digest)).collect();
    let wanted = here.iter().find(|blob| is_of(blob, to.compression));
    let any = here.iter().find(|blob| !is_of(blob, CacheCompression::Uncompressed));
    if let Some(blob) = wanted.or(any.filter(|_| !to.force_compression)) {
        return Ok(oci_layer(blob));
    }
    let size = record.and_then(|record| record.tar_size).unwrap_or_default();
    let layer = Layer { descriptor: built_layer(diff_id, size), diff_id };
    let source = LayerSource::find(store, &layer)?.ok_or(SourceError::Lost { diff_id })?;
    let meter = Meter::new(events, &diff_id.0, TransferPhase::Exporting, Some(size));
    let action = "keep a compressed layer";
    store.make_room(size).map_err(SourceError::store(action))?;
    let writer = store.content().writer().map_err(SourceError::store(action))?;
    let writer = match to.compression {
        CacheCompression::Gzip => {
            let mut gzip = gzip_writer(writer, THREADS);
            source.write_tar(diff_id, Counted { out: &mut gzip, count: 0, meter: &meter })?;
            gzip.finish().map_err(SourceError::store(action))?
        }
        CacheCompression::Zstd => {
            let mut zstd = zstd_writer(writer, THREADS).map_err(SourceError::store(action))?;
            source.write_tar(diff_id, Counted { out: &mut zstd, count: 0, meter: &meter })?;
            zstd.finish().map_err(SourceError::store(action))?
        }
        CacheCompression::Uncompressed => {
            let mut writer = writer;
            source.write_tar(diff_id, Counted { out: &mut writer, count: 0, meter: &meter })?;
            writer
        }
    };
    let blob = writer.commit(None).map_err(SourceError::store(action))?;
    meter.end_blocking(TransferPhase::Done);
    let media_type = media_type(to.compression).to_owned();
    let blob = Descriptor { media_type, digest: blob.digest, size: blob.size };
    note_form(store, diff_id, &blob)?;
    Ok(blob)
}

/// Reports what is written through it.
struct Counted<'a, W> {
    out: W,
    count: u64,
    meter: &'a Meter,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        self.meter.moved(self.count);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
