//! Images to a registry: layers first, the manifest last, so that what a tag shows is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Descriptor, DiffId};
use frontend::Reference;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::error::ExportError;
use super::form::ImageForm;
use super::layer::{Outgoing, Work};
use super::portable::PortableTarget;
use crate::blocking;
use crate::growing::Growing;
use crate::progress::{Event, Events, TransferPhase};
use crate::registry::{ManifestName, Pushed, RegistryError, Repository, Route, document};
use crate::source::{
    Meter, ResolvedImage, SourceError, Sources, Target, manifest_name, repository,
};

/// Layers pushed at once.
const PUSHES: usize = 3;

/// Pushes `image` as it is under the name `destination` and returns the descriptor of what was put
/// there.
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
    let target = Target::from(image.clone());
    push_target(sources, &target, destination, &PushForm::default(), events).await
}

/// What a push makes of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushForm {
    /// The form that the image gets.
    pub image: ImageForm,
    /// Leaves the tag alone: the image is found by its digest.
    pub by_digest: bool,
}

/// Pushes `target` under the name `destination` and returns the descriptor of what was put there.
///
/// # Errors
///
/// [`ExportError`].
pub async fn push_target(
    sources: &Sources,
    target: &Target,
    destination: &Reference,
    form: &PushForm,
    events: &Events,
) -> Result<Descriptor, ExportError> {
    for image in &target.images {
        sources.fetch_layers(image, events).await?;
    }
    let (store, wanted, reports) = (sources.store().clone(), target.clone(), events.clone());
    let asked = form.image.clone();
    let route = sources.registry().origin(&repository(destination))?;
    let (layers, outgoing) = mpsc::unbounded_channel();
    let prepare = blocking::run(move || {
        let work = Work { events: reports, layers: Some(layers) };
        PortableTarget::prepare(&store, &wanted, &asked, &work)
    });
    let (portable, ()) = tokio::join!(prepare, upload_growing(&route, outgoing, events));
    let portable = portable?;
    if portable.is_part {
        let platforms: Vec<_> =
            portable.images.iter().map(|image| image.platform.to_string()).collect();
        let (platforms, name) = (platforms.join(", "), destination.familiar());
        let text = format!("{name}: of the index's images those that are here go: {platforms}");
        events.send(Event::Note { text }).await;
    }
    let layers: BTreeMap<_, _> = portable
        .images
        .iter()
        .flat_map(|image| &image.layers)
        .map(|(layer, diff_id)| (layer.digest, (layer, *diff_id)))
        .collect();
    let mut pushes = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.into_values() {
        // Its manifest says where it is, and that it must not be passed on.
        if document::is_foreign(&layer.media_type) {
            continue;
        }
        pushes.push(push_layer(sources, &route, layer, diff_id, events));
    }
    stream::iter(pushes).buffer_unordered(PUSHES).try_collect::<()>().await?;
    for image in &portable.images {
        push_blob(sources, &route, &image.config, &image.config.digest.short(), &[], events)
            .await?;
        if portable.is_index() {
            let name = ManifestName::Digest(image.manifest.digest);
            push_manifest(sources, &route, &name, &image.manifest).await?;
        }
    }
    let name = if form.by_digest {
        ManifestName::Digest(portable.descriptor.digest)
    } else {
        manifest_name(destination)
    };
    push_manifest(sources, &route, &name, &portable.descriptor).await?;
    Ok(portable.descriptor)
}

/// Sends layers while they are compressed, and those alone: what was kept may be there already. What
/// fails here is sent once more when it is whole.
async fn upload_growing(
    route: &Route,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    events: &Events,
) {
    let each = stream::unfold(outgoing, async |mut outgoing| {
        loop {
            if let Outgoing::Growing(growing) = outgoing.recv().await? {
                return Some((growing, outgoing));
            }
        }
    });
    let upload = async |growing: Arc<Growing>| {
        let meter = Meter::named(events, &growing.name, TransferPhase::Pushing, None);
        let sent = route.push_growing(growing, &|bytes| meter.moved(bytes)).await;
        if let Err(error) = sent {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "a layer could not be sent while it was compressed");
        }
        meter.end(TransferPhase::Done).await;
    };
    each.map(upload).buffer_unordered(PUSHES).collect::<()>().await;
}

async fn push_manifest(
    sources: &Sources,
    route: &Route,
    name: &ManifestName,
    manifest: &Descriptor,
) -> Result<(), ExportError> {
    let (store, digest) = (sources.store().clone(), manifest.digest);
    let bytes = blocking::run(move || store.content().read(&digest, crate::source::MANIFEST_LIMIT));
    let bytes = bytes.await.map_err(SourceError::store("read the manifest"))?;
    let bytes = bytes.ok_or(ExportError::Damaged { digest })?;
    Ok(route.push_manifest(name, manifest, &bytes).await?)
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
    // As while it was compressed, it goes by what names it in the image.
    push_blob(sources, route, layer, &diff_id.0.short(), &noted, events).await?;
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
    shown: &str,
    noted: &[Repository],
    events: &Events,
) -> Result<(), RegistryError> {
    let meter = Meter::named(events, shown, TransferPhase::Pushing, Some(blob.size));
    let file = sources.store().content().path(&blob.digest);
    match route.push_blob(blob, &file, noted, &|bytes| meter.moved(bytes)).await? {
        Pushed::Present | Pushed::Mounted => meter.end(TransferPhase::AlreadyPresent).await,
        Pushed::Sent => meter.end(TransferPhase::Done).await,
    }
    Ok(())
}
