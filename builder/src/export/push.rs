//! Images to a registry: layers first, the manifest last, so that what a tag shows is whole.

use cache::{Descriptor, DiffId};
use frontend::Reference;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::error::ExportError;
use super::portable::Portable;
use crate::blocking;
use crate::progress::{Events, TransferPhase};
use crate::registry::{Pushed, RegistryError, Repository, Route};
use crate::source::{Meter, ResolvedImage, SourceError, Sources, manifest_name, repository};

/// Layers pushed at once.
const PUSHES: usize = 3;

/// Pushes `image` under the name `destination` and returns the descriptor of what was put there.
///
/// # Errors
///
/// [`ExportError`].
pub async fn push(
    sources: &Sources,
    image: &ResolvedImage,
    destination: &Reference,
    events: &Events,
) -> Result<Descriptor, ExportError> {
    sources.fetch_layers(image, events).await?;
    let (store, wanted, reports) = (sources.store().clone(), image.clone(), events.clone());
    let portable =
        blocking::run(move || Portable::prepare(&store, &wanted, false, &reports)).await?;
    let route = sources.registry().origin(&repository(destination))?;
    let mut pushes = Vec::with_capacity(portable.layers.len());
    for (layer, &diff_id) in portable.layers.iter().zip(&image.diff_ids) {
        pushes.push(push_layer(sources, &route, layer, diff_id, events));
    }
    stream::iter(pushes).buffer_unordered(PUSHES).try_collect::<()>().await?;
    push_blob(sources, &route, &portable.config, &[], events).await?;
    let (store, digest) = (sources.store().clone(), portable.manifest.digest);
    let bytes = blocking::run(move || store.content().read(&digest, crate::source::MANIFEST_LIMIT));
    let bytes = bytes.await.map_err(SourceError::store("read the manifest"))?;
    let bytes = bytes.ok_or(ExportError::Damaged { digest })?;
    route.push_manifest(&manifest_name(destination), &portable.manifest, &bytes).await?;
    Ok(portable.manifest)
}

/// Pushes one layer and notes that the repository has it.
async fn push_layer(
    sources: &Sources,
    route: &Route,
    layer: &Descriptor,
    diff_id: DiffId,
    events: &Events,
) -> Result<(), ExportError> {
    let store = sources.store().clone();
    let record = blocking::run(move || store.layers().get(&diff_id)).await;
    let record = record.map_err(SourceError::store("read a layer's record"))?;
    let noted = record.map(|record| record.sources).unwrap_or_default();
    let noted: Vec<_> = noted.iter().filter_map(|text| Repository::parse(text)).collect();
    push_blob(sources, route, layer, &noted, events).await?;
    let (store, source) = (sources.store().clone(), route.repository().to_string());
    let update = move |record: &mut cache::LayerRecord| {
        if !record.sources.contains(&source) {
            record.sources.push(source);
        }
    };
    blocking::run(move || store.layers().update(&diff_id, update))
        .await
        .map_err(SourceError::store("note a layer"))?;
    Ok(())
}

async fn push_blob(
    sources: &Sources,
    route: &Route,
    blob: &Descriptor,
    noted: &[Repository],
    events: &Events,
) -> Result<(), RegistryError> {
    let meter = Meter::new(events, &blob.digest, TransferPhase::Pushing, Some(blob.size));
    let file = sources.store().content().path(&blob.digest);
    match route.push_blob(blob, &file, noted, &|bytes| meter.moved(bytes)).await? {
        Pushed::Present | Pushed::Mounted => meter.end(TransferPhase::AlreadyPresent).await,
        Pushed::Sent => meter.end(TransferPhase::Done).await,
    }
    Ok(())
}
