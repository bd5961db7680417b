//! One build from request to image: the order of things, and nothing else.

mod error;
mod execute;
mod failure;
mod guard;
mod inputs;
mod keys;
mod plan;
mod policy;
mod remotes;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cache::{ImageRecord, Record, StepLog};
use frontend::{Reference, VertexId};
use tokio_util::sync::CancellationToken;

pub(crate) use self::keys::unix_now;
pub(crate) use error::BuildError;
pub(crate) use failure::failure_of;

use self::execute::Execution;
use self::plan::Plan;
use self::steps::Steps;
use crate::builder::Inner;
use crate::explain::{Explainer, Scope};
use crate::image::assemble::{assemble, layer_chain};
use crate::op::RunSettings;
use crate::progress::{Event, Events, Finished, SourceDiagnostic, SourceText};
use crate::request::BuildRequest;
use crate::source::{ResolvedImage, SourceSecrets, Sources, write_image};
use crate::{blocking, history, output, secret, solver};

/// Where a failure's spans point into; filled as soon as the Dockerfile is read.
pub(crate) type SourceSlot = Option<SourceText>;

/// Builds `request` and returns what came of it; its steps are noted in `log`.
pub(crate) async fn build(
    inner: &Arc<Inner>,
    request: BuildRequest,
    events: &Events,
    cancel: &CancellationToken,
    source: &mut SourceSlot,
    log: Option<StepLog>,
) -> Result<Finished, BuildError> {
    let since = Instant::now();
    let tags = request.tags.iter().map(|tag| parse_tag(tag)).collect::<Result<Vec<_>, _>>()?;
    let outputs = request.outputs.clone();
    let sources = inner.sources_with(&request.credentials);
    let kept_builds = inner.config.history.failed_steps;
    let keeps_failed = log.is_some() && kept_builds > 0;
    let Prepared { plan, explainer, execution } =
        prepare(inner, &sources, request, events, cancel, source, keeps_failed).await?;
    let (hits, total) = execution.report_hits().await;

    let solved = solver::solve(&plan.graph, Arc::clone(&execution), cancel).await;
    let failed = solved.as_ref().err().map(|failed| failed.vertex);
    let known = Arc::clone(&execution);
    let build = blocking::run(move || {
        explainer.save();
        log.and_then(|log| history::note_steps(&log, &known.remember(failed), kept_builds))
    })
    .await;
    let sealed = solved.map_err(|failed| {
        if cancel.is_cancelled() {
            BuildError::Cancelled
        } else {
            execution.step_error(failed.vertex, failed.error, build)
        }
    })?;
    let mut records = execution.records();
    records.extend(sealed);
    let cached = (hits + execution.found_late(), total);
    let image = store_image(inner, &plan, records, &tags).await?;
    let written = output::write(&sources, &image, &tags, &outputs, events).await?;
    Ok(Finished {
        image_id: image.config_digest.to_string(),
        manifest_digest: image.manifest.digest.to_string(),
        tags: tags.iter().map(Reference::familiar).collect(),
        outputs: written,
        millis: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        cached,
    })
}

/// Everything that a build knows before its first step.
struct Prepared {
    plan: Plan,
    explainer: Arc<Explainer>,
    execution: Arc<Execution>,
}

/// Plans `request`, and looks its steps up.
async fn prepare(
    inner: &Arc<Inner>,
    sources: &Sources,
    request: BuildRequest,
    events: &Events,
    cancel: &CancellationToken,
    source: &mut SourceSlot,
    keeps_failed: bool,
) -> Result<Prepared, BuildError> {
    let settings = RunSettings::of(&request, &inner.config)
        .map_err(|error| BuildError::Request { what: error.to_string(), help: None })?;
    let secrets = request.secrets.clone();
    let source_secrets =
        SourceSecrets::new(secrets.clone()).with_agent(request.ssh.get("default").cloned());
    let scope = Scope::of(&request);

    // Everything up to the solver may be dropped at any point: it only reads and waits.
    let mut plan = tokio::select! {
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
        plan = plan::make(inner, sources, request, &source_secrets, events, source) => plan?,
    };
    for warning in &plan.graph.warnings {
        let text = source.as_ref().map_or("", |source| source.text.as_str());
        events.send(Event::Warning(SourceDiagnostic::new(warning, text))).await;
    }
    for text in secret::short_notes(&secrets) {
        events.send(Event::Note { text }).await;
    }
    guard::check(&plan.graph, &settings, &secrets)?;
    let explainer = Arc::new(explainer(inner, &plan, scope));
    let steps = Arc::new(Steps::announce(&plan.graph, &explainer, events).await);
    plan.remotes = tokio::select! {
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
        remotes = remotes::settle(&plan.graph, sources, &source_secrets, events) => remotes?,
    };
    let execution =
        Execution::prepare(inner, sources, &plan, settings, &steps, events, keeps_failed).await?;
    Ok(Prepared { plan, explainer, execution: Arc::new(execution) })
}

/// Says what a build of `request` would find in the cache.
pub(crate) async fn preview(
    inner: &Arc<Inner>,
    request: BuildRequest,
    events: &Events,
    cancel: &CancellationToken,
    source: &mut SourceSlot,
) -> Result<(), BuildError> {
    let sources = inner.sources_with(&request.credentials);
    let prepared = prepare(inner, &sources, request, events, cancel, source, false).await?;
    prepared.execution.report_hits().await;
    Ok(())
}

fn explainer(inner: &Inner, plan: &Plan, scope: Scope) -> Explainer {
    let (source, context) = plan.source_and_context();
    let scope = scope.with_files(&source.name, &source.text, context);
    Explainer::new(&inner.store, &plan.graph, scope)
}

fn parse_tag(tag: &str) -> Result<Reference, BuildError> {
    let refuse = |reason: String| BuildError::Request {
        what: format!("`{tag}` cannot be a tag: {reason}"),
        help: Some("names look like `name:tag` or `registry.example/path/name:tag`".to_owned()),
    };
    let reference = Reference::parse_normalized(tag).map_err(|error| refuse(error.to_string()))?;
    match reference.digest {
        Some(_) => Err(refuse("it holds a digest, which only the result can have".to_owned())),
        None => Ok(reference.with_default_tag()),
    }
}

/// Writes config, manifest and tags.
async fn store_image(
    inner: &Arc<Inner>,
    plan: &Plan,
    records: BTreeMap<VertexId, Record>,
    tags: &[Reference],
) -> Result<ResolvedImage, BuildError> {
    let output = plan.graph.output.clone();
    let epoch = plan.epoch;
    let (base, chain) = layer_chain(&plan.graph, output.vertex);
    let base_layers = base
        .and_then(|base| plan.image(base))
        .map(|image| image.layers.clone())
        .unwrap_or_default();
    let references: Vec<Option<String>> = if tags.is_empty() {
        vec![None]
    } else {
        tags.iter().map(|tag| Some(tag.to_string())).collect()
    };
    let store = inner.store.clone();
    blocking::run(move || {
        let assembled = assemble(&output, base_layers, &chain, &records, epoch);
        let name = references.iter().flatten().next().map_or("the image", String::as_str);
        let image = write_image(&store, name, &assembled.config, &assembled.layers)?;
        let now = unix_now();
        for reference in references {
            let record = ImageRecord {
                reference,
                manifest: image.manifest.clone(),
                config: image.config_digest,
                created: now,
                updated: now,
            };
            store.images().put(&record).map_err(BuildError::store)?;
        }
        Ok(image)
    })
    .await
}
