//! A layer in the form that a cache wants.

use std::num::NonZeroUsize;

use cache::{Descriptor, DiffId, LayerBlob, Store};

use super::error::ExchangeError;
use super::spec::CacheTo;
use crate::export::{compress, form_name, media_type};
use crate::layer::Compression;
use crate::progress::Events;
use crate::registry::document::oci_layer;
use crate::source::{Layer, LayerSource, SourceError, built_layer};

/// Threads of one compression: the build's own steps go first.
const THREADS: NonZeroUsize = NonZeroUsize::MIN;

/// Whether a blob is compressed like that.
pub(super) fn is_of(blob: &Descriptor, compression: Compression) -> bool {
    oci_layer(blob).media_type == media_type(compression)
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
    let is_here = |blob: &&LayerBlob| store.content().contains(&blob.digest);
    if let Some(record) = &record {
        let exact = record.forms.get(&form_name(to.compression, to.level));
        let exact = exact.map(|form| &form.blob).filter(is_here);
        let noted =
            || record.blobs.iter().filter(|blob| blob.checked).filter(is_here).map(descriptor);
        let like = || noted().find(|blob| is_of(blob, to.compression));
        let any = || noted().find(|blob| !is_of(blob, Compression::Uncompressed));
        let found = match (to.force_compression, to.level) {
            (true, Some(_)) => exact.map(descriptor),
            (true, None) => exact.map(descriptor).or_else(like),
            (false, _) => exact.map(descriptor).or_else(like).or_else(any),
        };
        if let Some(blob) = found {
            return Ok(oci_layer(&blob));
        }
    }
    let size = record.and_then(|record| record.tar_size).unwrap_or_default();
    let layer = Layer { descriptor: built_layer(diff_id, size), diff_id };
    let source = LayerSource::find(store, &layer)?.ok_or(SourceError::Lost { diff_id })?;
    store.make_room(size).map_err(SourceError::store("keep a compressed layer"))?;
    let form = (to.compression, to.level);
    Ok(descriptor(&compress(store, &layer, &source, form, THREADS, events)?.blob))
}

fn descriptor(blob: &LayerBlob) -> Descriptor {
    Descriptor { media_type: blob.media_type.clone(), digest: blob.digest, size: blob.size }
}
