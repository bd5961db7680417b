//! One build from request to image: the order of things, and nothing else.

mod error;
mod execute;
mod exported;
mod failure;
mod guard;
mod imported;
mod inputs;
mod keys;
mod latest;
mod lowering;
mod plan;
mod policy;
mod remotes;
mod squash;
mod steps;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use cache::{Record, StepLog};
use frontend::{ImageConfig, Platform, Reference, VertexId};
use tokio_util::sync::CancellationToken;

pub(crate) use self::keys::unix_now;
pub(crate) use error::BuildError;
pub(crate) use failure::failure_of;
pub use plan::is_directory_context;

use self::execute::{Execution, Shared};
use self::plan::Plan;
use self::steps::Steps;
use crate::builder::Inner;
use crate::cache_exchange::{Asked, CachePlace, CacheTo, Exports, Imports};
use crate::explain::{Explainer, Scope};
use crate::export::Annotations;
use crate::image::unpacked_size;
use crate::op::{OpError, RunSettings};
use crate::output::{OutputDest, OutputKind, OutputSpec};
use crate::progress::{Event, Events, Finished, SourceDiagnostic, SourceText};
use crate::request::BuildRequest;
use crate::source::{SourceSecrets, Sources};
use crate::{blocking, history, output, secret, solver, userns};

/// Where a failure's spans point into; filled as soon as the Dockerfile is read.
pub(crate) type SourceSlot = Option<SourceText>;

/// Builds `request` and returns what came of it; its steps are noted in `log`.
///
/// A layer that an output finds damaged in the store is a miss that shows late: it is made again.
pub(crate) async fn build(
    inner: &Arc<Inner>,
    request: BuildRequest,
    events: &Events,
    cancel: &CancellationToken,
    source: &mut SourceSlot,
    log: Option<StepLog>,
) -> Result<Finished, BuildError> {
    let since = Instant::now();
    let wanted = Wanted::of(&request)?;
    let sources = inner.sources_with(&request.credentials);
    let mut prepared = prepare(inner, &sources, request, events, cancel, source).await?;
    prepared.keeps_failed = log.is_some() && inner.config.history.failed_steps > 0;
    prepared.squashes = wanted.squash;
    let mut mended = BTreeSet::new();
    loop {
        let made = make(inner, &sources, &prepared, &wanted, events, cancel, log.as_ref()).await;
        let damaged = match &made {
            Err(BuildError::Export(error)) => output::damaged_layer(error),
            _ => None,
        };
        let damaged = damaged.filter(|_| wanted.can_be_repeated() && !cancel.is_cancelled());
        // Once each: a layer that comes out damaged again is not mended by making it.
        let Some(diff_id) = damaged.filter(|diff_id| mended.insert(*diff_id)) else {
            let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            return made.map(|made| Finished { millis, ..made });
        };
        let text = format!("layer {} is damaged in the store: it is made again", diff_id.0);
        events.send(Event::Note { text }).await;
    }
}

/// Makes what is missing, the images of it, and the outputs.
async fn make(
    inner: &Arc<Inner>,
    sources: &Sources,
    prepared: &Prepared,
    wanted: &Wanted,
    events: &Events,
    cancel: &CancellationToken,
    log: Option<&StepLog>,
) -> Result<Finished, BuildError> {
    let Prepared { plan, shared, .. } = prepared;
    let Solved { execution, records, cached } =
        solve(inner, sources, prepared, events, cancel).await?;
    let failed = records.as_ref().err().map(|(vertex, _)| *vertex);
    let (known, explainer) = (Arc::clone(&execution), Arc::clone(&prepared.explainer));
    let (log, kept_builds) = (log.cloned(), inner.config.history.failed_steps);
    let build = blocking::run(move || {
        explainer.save();
        log.and_then(|log| history::note_steps(&log, &known.remember(failed), kept_builds))
    })
    .await;
    let records = match records {
        Ok(records) => records,
        Err(_) if cancel.is_cancelled() => return Err(BuildError::Cancelled),
        Err((vertex, error)) => {
            // Whoever mends it need not make again what went well.
            let entries = execution.entries(&execution.finished()).await;
            shared.exports.finish_failed(&entries).await;
            return Err(execution.step_error(vertex, error, build));
        }
    };
    let entries = execution.entries(&records).await;
    let inline = |config: &mut ImageConfig| shared.exports.put_inline(config, &entries);
    let products = store::images(inner, plan, &records, wanted, inline).await?;
    let written = async { Ok(output::write(sources, &products, &wanted.outputs, events).await?) };
    let exported = async { Ok(shared.exports.finish(&entries).await?) };
    let leaving = Box::pin(async { tokio::try_join!(written, exported) });
    // Nothing of it needs to be ended: what is under way stops when it is dropped.
    let left: Option<Result<_, BuildError>> = cancel.run_until_cancelled(leaving).await;
    let (written, ()) = left.ok_or(BuildError::Cancelled)??;
    let tags = products.iter().flat_map(|product| &product.names).map(Reference::familiar);
    let first = &products[0].target;
    let image = first.image_for(&Platform::host()).clone();
    let (image_id, store) = (image.config_digest.to_string(), inner.store.clone());
    let size = blocking::run(move || unpacked_size(&store, &image)).await;
    Ok(Finished {
        image_id,
        manifest_digest: first.descriptor.digest.to_string(),
        tags: tags.collect(),
        outputs: written.outputs,
        pushed: written.pushed,
        millis: 0,
        cached,
        saved: execution.saved(),
        size,
    })
}

/// What is made of the result.
struct Wanted {
    /// The names of each target's result.
    names: Vec<Vec<Reference>>,
    outputs: Vec<OutputSpec>,
    /// Of the image in the store.
    annotations: Annotations,
    /// Images of one target; several make an index.
    platforms: usize,
    /// Whether the layers of each become one.
    squash: bool,
}

impl Wanted {
    /// Takes it from a request, before anything is done for it.
    fn of(request: &BuildRequest) -> Result<Self, BuildError> {
        let parse = |tags: &[String]| tags.iter().map(|tag| parse_tag(tag)).collect();
        let more = request.more_targets.iter().map(|target| parse(&target.tags));
        let names: Vec<Vec<Reference>> =
            std::iter::once(parse(&request.tags)).chain(more).collect::<Result<_, _>>()?;
        let mut outputs = request.outputs.clone();
        let mut annotations = request.annotations.clone();
        for output in &mut outputs {
            let mut own = request.annotations.clone();
            own.extend(&output.form.annotations);
            output.form.annotations = own;
            if output.kind == OutputKind::Image {
                annotations.extend(&output.form.annotations);
            }
        }
        let platforms = request.distinct_platforms().len();
        output::check(&outputs, &names, platforms)
            .map_err(|what| BuildError::Request { what, help: None })?;
        let squash = request.squash;
        let is_inline = |to: &CacheTo| to.place == CachePlace::Inline;
        if squash && request.cache_to.iter().any(is_inline) {
            return Err(BuildError::Request {
                what: "--squash leaves no layer in the image that an inline cache could name"
                    .to_owned(),
                help: Some("write the cache with --cache-to type=registry".to_owned()),
            });
        }
        Ok(Self { names, outputs, annotations, platforms, squash })
    }

    /// Whether the outputs can be written once more: a stream has taken what it was given.
    fn can_be_repeated(&self) -> bool {
        let is_stream = |output: &OutputSpec| match output.kind {
            OutputKind::Image | OutputKind::CacheOnly => false,
            OutputKind::Local | OutputKind::Tar | OutputKind::Oci | OutputKind::Docker => {
                !matches!(output.dest, OutputDest::Path(_))
            }
        };
        !self.outputs.iter().any(is_stream)
    }
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
        execution.expect_steps();
        let graph = &prepared.plan.graph;
        let attempt = async {
            let solved = solver::solve(graph, Arc::clone(&execution), cancel).await;
            let sealed = solved.map_err(|failed| (failed.vertex, failed.error))?;
            let mut records = execution.records();
            records.extend(sealed);
            let fetch = execution.fetch_output(&records, prepared.squashes);
            match cancel.run_until_cancelled(fetch).await {
                Some(fetched) => fetched?,
                None => return Err((graph.output.vertex, OpError::Cancelled)),
            }
            Ok(records)
        };
        let (records, ()) = tokio::join!(attempt, execution.keep_notes());
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
    /// Whether the files of all layers of the image are needed.
    squashes: bool,
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
    let exports = Exports::prepare(&asked, &inner.config.cache, sources, &imports, events);
    let exports = cancel.run_until_cancelled(exports).await.ok_or(BuildError::Cancelled)??;
    for warning in &plan.graph.warnings {
        let text = source.as_ref().map_or("", |source| source.text.as_str());
        events.send(Event::Warning(SourceDiagnostic::new(warning, text))).await;
    }
    for text in userns::single_id_notice().into_iter().chain(secret::short_notes(&secrets)) {
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
    Ok(Prepared { plan, explainer, settings, shared, steps, keeps_failed: false, squashes: false })
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
    let execution = prepared.execution(inner, &sources, events).await?;
    execution.report_hits().await;
    execution.keep_notes().await;
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
