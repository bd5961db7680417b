//! One build from request to image: the order of things, and nothing else.

mod error;
mod execute;
mod exported;
mod failure;
mod guard;
mod imported;
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
use frontend::{ImageConfig, Reference, VertexId};
use tokio_util::sync::CancellationToken;

pub(crate) use self::keys::unix_now;
pub(crate) use error::BuildError;
pub(crate) use failure::failure_of;

use self::execute::{Execution, Shared};
use self::plan::Plan;
use self::steps::Steps;
use crate::builder::Inner;
use crate::cache_exchange::{Asked, Exports, Imports};
use crate::explain::{Explainer, Scope};
use crate::image::assemble::{assemble, layer_chain};
use crate::op::{OpError, RunSettings};
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
    let mut prepared = prepare(inner, &sources, request, events, cancel, source).await?;
    prepared.keeps_failed = keeps_failed;
    let Solved { execution, records, cached } =
        solve(inner, &sources, &prepared, events, cancel).await?;
    let failed = records.as_ref().err().map(|(vertex, _)| *vertex);
    let (known, explainer) = (Arc::clone(&execution), Arc::clone(&prepared.explainer));
    let build = blocking::run(move || {
        explainer.save();
        log.and_then(|log| history::note_steps(&log, &known.remember(failed), kept_builds))
    })
    .await;
    let records = records.map_err(|(vertex, error)| {
        if cancel.is_cancelled() {
            BuildError::Cancelled
        } else {
            execution.step_error(vertex, error, build)
        }
    })?;
    let Prepared { plan, shared, .. } = prepared;
    let entries = execution.entries(&records).await;
    let inline = |config: &mut ImageConfig| shared.exports.put_inline(config, &entries);
    let image = store_image(inner, &plan, records, &tags, inline).await?;
    let written = async { Ok(output::write(&sources, &image, &tags, &outputs, events).await?) };
    let exported = async { Ok(shared.exports.finish(&entries).await?) };
    let (written, ()) = tokio::try_join!(written, exported).map_err(|error: BuildError| error)?;
    Ok(Finished {
        image_id: image.config_digest.to_string(),
        manifest_digest: image.manifest.digest.to_string(),
        tags: tags.iter().map(Reference::familiar).collect(),
        outputs: written,
        millis: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        cached,
    })
}

/// How the work on a graph ended.
struct Solved {
    execution: Arc<Execution>,
    records: Result<BTreeMap<VertexId, Record>, (VertexId, OpError)>,
    /// Steps with work that were found, and steps with work in all.
    cached: (usize, usize),
}

/// Looks up and makes what the output needs. A layer that a shared cache promised and does not
/// give is forgotten, and all begins anew: what was made meanwhile is found.
async fn solve(
    inner: &Arc<Inner>,
    sources: &Sources,
    prepared: &Prepared,
    events: &Events,
    cancel: &CancellationToken,
) -> Result<Solved, BuildError> {
    loop {
        let execution = prepared.execution(inner, sources, events).await?;
        let (hits, total) = execution.report_hits().await;
        let graph = &prepared.plan.graph;
        let attempt = async {
            let solved = solver::solve(graph, Arc::clone(&execution), cancel).await;
            let sealed = solved.map_err(|failed| (failed.vertex, failed.error))?;
            let mut records = execution.records();
            records.extend(sealed);
            execution.fetch_output(&records).await?;
            Ok(records)
        };
        let records = attempt.await;
        let lost = records.as_ref().err().and_then(|(_, error)| error.lost_layer());
        let begins_anew = lost.is_some_and(|diff_id| prepared.shared.imports.forget(diff_id));
        if !begins_anew || cancel.is_cancelled() {
            let cached = (hits + execution.found_late(), total);
            return Ok(Solved { execution, records, cached });
        }
    }
}

/// Everything that a build knows before its first look-up.
struct Prepared {
    plan: Plan,
    explainer: Arc<Explainer>,
    settings: Arc<RunSettings>,
    shared: Shared,
    steps: Arc<Steps>,
    /// Whether somebody may ask for what a failed command left.
    keeps_failed: bool,
}

impl Prepared {
    /// Looks all steps up.
    async fn execution(
        &self,
        inner: &Arc<Inner>,
        sources: &Sources,
        events: &Events,
    ) -> Result<Arc<Execution>, BuildError> {
        Ok(Arc::new(Execution::prepare(inner, sources, self, events).await?))
    }
}

/// Plans `request`.
async fn prepare(
    inner: &Arc<Inner>,
    sources: &Sources,
    request: BuildRequest,
    events: &Events,
    cancel: &CancellationToken,
    source: &mut SourceSlot,
) -> Result<Prepared, BuildError> {
    let refuse = |what: String| BuildError::Request { what, help: None };
    let settings =
        RunSettings::of(&request, &inner.config).map_err(|error| refuse(error.to_string()))?;
    let asked = Asked::of(&request).map_err(|reason| refuse(format!("--cache-scope: {reason}")))?;
    let secrets = request.secrets.clone();
    let source_secrets =
        SourceSecrets::new(secrets.clone()).with_agent(request.ssh.get("default").cloned());
    let scope = Scope::of(&request);

    // Everything up to the solver may be dropped at any point: it only reads and waits.
    let (mut plan, imports) = tokio::select! {
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
        both = async {
            let plan = plan::make(inner, sources, request, &source_secrets, events, source);
            let imports = async {
                Ok(Imports::load(&asked, &inner.config.cache, sources, events).await?)
            };
            tokio::try_join!(plan, imports)
        } => both?,
    };
    let imports = Arc::new(imports);
    let exports = Exports::prepare(&asked, &inner.config.cache, sources, &imports, events).await?;
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
    let shared = Shared { imports, exports: Arc::new(exports) };
    let settings = Arc::new(settings);
    Ok(Prepared { plan, explainer, settings, shared, steps, keeps_failed: false })
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
    // It only looks.
    let request = BuildRequest { cache_to: Vec::new(), ..request };
    let prepared = Box::pin(prepare(inner, &sources, request, events, cancel, source)).await?;
    prepared.execution(inner, &sources, events).await?.report_hits().await;
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
    amend: impl FnOnce(&mut ImageConfig),
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
    let mut assembled = assemble(&output, base_layers, &chain, &records, epoch);
    amend(&mut assembled.config);
    blocking::run(move || {
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
