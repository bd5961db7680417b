//! What a build leaves in the store: configs, manifests, indexes, and their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Descriptor, Record};
use frontend::{ImageConfig, Output, Platform, Reference, VertexId};

use super::Wanted;
use super::error::BuildError;
use super::plan::Plan;
use super::squash::squash;
use crate::blocking;
use crate::builder::Inner;
use crate::export::{annotate, write_index};
use crate::image::assemble::{Assembled, assemble, layer_chain};
use crate::op::OpError;
use crate::output::{OutputKind, OutputSpec, Product};
use crate::source::{Target, name_target, write_image};

/// Everything that one image is made of.
struct Parts {
    platform: Platform,
    assembled: Assembled,
    /// What the base's manifest notes of each of its layers.
    annotations: Vec<BTreeMap<String, String>>,
}

/// Writes the image of every output, and gives each target's its names.
pub(super) async fn images(
    inner: &Arc<Inner>,
    plan: &Plan,
    records: &BTreeMap<VertexId, Record>,
    wanted: &Wanted,
    amend: impl Fn(&mut ImageConfig),
) -> Result<Vec<Product>, BuildError> {
    let records = settled(inner, plan, records).await?;
    let mut parts = Vec::new();
    for output in plan.graph.outputs() {
        let mut made = self::parts(plan, output, &records);
        amend(&mut made.assembled.config);
        if wanted.squash {
            squash(inner, plan, output, &records, &mut made.assembled).await?;
        }
        parts.push(made);
    }
    let store = inner.store.clone();
    let (names, annotations) = (wanted.names.clone(), wanted.annotations.clone());
    let is_named = !wanted.outputs.iter().any(is_nameless);
    let (platforms, image_names) = (wanted.platforms, image_names(&wanted.outputs));
    blocking::run(move || {
        let mut products = Vec::with_capacity(names.len());
        for (parts, mut names) in parts.chunks(platforms).zip(names) {
            for name in &image_names {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            let shown = names.first().map_or_else(|| "the image".to_owned(), ToString::to_string);
            let mut images = Vec::with_capacity(parts.len());
            for Parts { assembled: Assembled { config, layers }, annotations: noted, .. } in parts {
                let image = write_image(&store, &shown, config, layers, noted)?;
                images.push(annotate(&store, image, &annotations)?);
            }
            let target = if platforms == 1 {
                Target::from(images.remove(0))
            } else {
                let entries: Vec<(&Descriptor, &Platform)> = images
                    .iter()
                    .zip(parts)
                    .map(|(image, parts)| (&image.manifest, &parts.platform))
                    .collect();
                let descriptor = write_index(&store, None, &entries, &annotations)?;
                Target { descriptor, images }
            };
            let untagged = names.is_empty().then_some(None);
            for name in names.iter().map(Some).chain(untagged).filter(|_| is_named) {
                name_target(&store, &target, name)?;
            }
            products.push(Product { target, names });
        }
        Ok(products)
    })
    .await
}

/// Brings the layers of all outputs to the epoch that is given.
async fn settled(
    inner: &Arc<Inner>,
    plan: &Plan,
    records: &BTreeMap<VertexId, Record>,
) -> Result<BTreeMap<VertexId, Record>, BuildError> {
    if plan.epoch.is_none() {
        return Ok(records.clone());
    }
    let chains = plan.graph.outputs().flat_map(|output| layer_chain(&plan.graph, output.vertex).1);
    let wanted: BTreeMap<VertexId, Record> =
        chains.filter_map(|id| Some((id, records.get(&id)?.clone()))).collect();
    let (store, latest) = (inner.store.clone(), Arc::clone(&plan.latest));
    blocking::run(move || {
        let settle = |(id, record)| Ok((id, latest.settle(&store, record)?));
        wanted.into_iter().map(settle).collect::<Result<_, OpError>>()
    })
    .await
    .map_err(BuildError::store)
}

fn parts(plan: &Plan, output: &Output, records: &BTreeMap<VertexId, Record>) -> Parts {
    let (base, chain) = layer_chain(&plan.graph, output.vertex);
    let base = base.and_then(|base| plan.image(base));
    let base_layers = base.map(|image| image.layers.clone()).unwrap_or_default();
    let assembled = assemble(output, base_layers, &chain, records, plan.epoch);
    let annotations = base.map(|image| image.layer_annotations.clone()).unwrap_or_default();
    Parts { platform: output.platform.clone(), assembled, annotations }
}

/// Whether an output keeps the result from getting names.
fn is_nameless(output: &OutputSpec) -> bool {
    output.kind == OutputKind::Image && !output.store || output.kind == OutputKind::CacheOnly
}

/// Returns the names that outputs of images have of their own.
fn image_names(outputs: &[OutputSpec]) -> Vec<Reference> {
    let images = outputs.iter().filter(|output| output.kind == OutputKind::Image);
    let named = images.filter(|output| !output.by_digest).flat_map(|output| &output.names);
    named.cloned().map(Reference::with_default_tag).collect()
}
