//! Lowering: from the syntax tree to the build graph. The only part that knows both.
//!
//! BuildKit's `dockerfile2llb` is the measure: the same config, the same history texts (without
//! the values of build arguments), a vertex wherever it makes a layer.
//!
//! Invariant: the work is bounded by [`budget::LIMIT`], whatever variables expand to.

mod base;
mod budget;
mod builder_args;
mod config;
mod copy;
mod head;
mod history;
mod outline;
mod plan;
mod reach;
mod run;
mod scope;
mod stage;
mod triggers;
mod vertices;

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::Dockerfile;
use crate::check::Checks;
use crate::diagnostic::Remarks;
use crate::{
    BuildGraph, Diagnostic, Extent, GitOp, IgnoreRules, ImageConfig, Parsed, Platform,
    SourceDateEpoch, Span,
};

pub use outline::{Outline, OutlineArg, OutlineMount, outline};
use plan::Plan;
use stage::{Lowering, StageResult};

/// What the user chose beside the Dockerfile.
#[derive(Clone, Debug)]
pub struct LowerOptions {
    /// Stage to build, by name (letter case does not count) or number; `None` is the last.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, applied last to the output's config.
    pub labels: BTreeMap<String, String>,
    /// The platform to build for.
    pub target_platform: Platform,
    /// The platform that builds.
    pub build_platform: Platform,
    /// `--build-context`.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// What stays out of the main context; only the rule `CopyIgnoredFile` asks.
    pub ignore: IgnoreRules,
}

impl Default for LowerOptions {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            target_platform: Platform::host(),
            build_platform: Platform::host(),
            named_contexts: BTreeMap::new(),
            ignore: IgnoreRules::default(),
        }
    }
}

/// What `--build-context name=...` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, or an archive that the builder turns into one: `Op::Context` with its name.
    Local,
    /// `docker-image://`: a reference in Docker's grammar.
    Image(String),
    /// `oci-layout://`: taken as it is, the reference of the base is `oci-layout://` and this.
    OciLayout(String),
    /// A git remote.
    Git(GitOp),
}

/// An image that must be resolved before lowering.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseImage {
    /// Normalised: `docker.io/library/node:14`.
    pub reference: String,
    /// The platform whose config and layers are wanted.
    pub platform: Platform,
}

/// What an image resolved to.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedBase {
    /// `sha256:<hex>` of the manifest for the platform.
    pub digest: String,
    /// Its config.
    pub config: ImageConfig,
}

/// The outcome of [`lower`].
#[derive(Clone, Debug)]
pub enum Lowered {
    /// The graph of the target.
    Graph(Box<BuildGraph>),
    /// Images that are missing among the bases: ONBUILD triggers of a base can name some that
    /// nobody knew of. Resolve them and lower again.
    Needs(Vec<BaseImage>),
}

/// Names the images that the target needs, as far as the file tells: bases of its stages, and
/// images named by `COPY --from` and mounts.
///
/// # Errors
///
/// Every fault found on the way.
pub fn base_images(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
) -> Result<Vec<BaseImage>, Vec<Diagnostic>> {
    let mut checks = Checks::new(&dockerfile.directives.check, Remarks::default());
    let plan = Plan::new(dockerfile, options, &mut checks);
    faults_of(&checks)?;
    Ok(plan.images(&plan.reached()).into_iter().collect())
}

/// Returns what of a file that was parsed keeps the target of `options` from being built: nothing
/// if all that is wrong is in stages that it does not need.
#[must_use]
pub fn faults(parsed: &Parsed, options: &LowerOptions) -> Vec<Diagnostic> {
    let faults = || parsed.diagnostics.iter().filter(|said| said.is_fault());
    let all = || faults().cloned().collect();
    if !faults().all(|fault| matches!(fault.extent, Extent::Stage(_))) {
        return all();
    }
    if faults().next().is_none() {
        return Vec::new();
    }
    let dockerfile = &parsed.dockerfile;
    let mut checks = Checks::new(&dockerfile.directives.check, Remarks::default());
    let plan = Plan::new(dockerfile, options, &mut checks);
    if faults_of(&checks).is_err() {
        return all();
    }
    let is_built = |stage: usize| !plan.stages[stage].statements.is_empty();
    let reached: BTreeSet<usize> = plan.reached().into_iter().filter(|&it| is_built(it)).collect();
    let counts =
        |fault: &&Diagnostic| matches!(fault.extent, Extent::Stage(it) if reached.contains(&it));
    faults().filter(counts).cloned().collect()
}

/// Returns where `image` is named first, among the stages that the target needs.
#[must_use]
pub fn image_span(dockerfile: &Dockerfile, options: &LowerOptions, image: &BaseImage) -> Span {
    let mut checks = Checks::new(&dockerfile.directives.check, Remarks::default());
    let plan = Plan::new(dockerfile, options, &mut checks);
    let reached = plan.reached();
    reached.into_iter().find_map(|stage| plan.span_of(stage, image)).unwrap_or_default()
}

/// Lowers `dockerfile` for the target of `options`, with `bases` resolved.
///
/// Expects a file that [`crate::parse`] found no errors in.
///
/// # Errors
///
/// Every fault found, with the warnings.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseImage, ResolvedBase>,
) -> Result<Lowered, Vec<Diagnostic>> {
    let mut checks = Checks::new(&dockerfile.directives.check, Remarks::default());
    let mut plan = Plan::new(dockerfile, options, &mut checks);
    faults_of(&checks)?;
    let reached = loop {
        let reached = plan.reached();
        let missing: BTreeSet<BaseImage> =
            plan.images(&reached).into_iter().filter(|image| !bases.contains_key(image)).collect();
        if !missing.is_empty() {
            return Ok(Lowered::Needs(missing.into_iter().collect()));
        }
        if !triggers::inherit(&mut plan, &reached, bases, &mut checks) {
            break reached;
        }
    };
    faults_of(&checks)?;
    let epoch = source_date_epoch(&plan, &mut checks);
    builder_args::warn(dockerfile, options, &mut checks);
    let mut lowering = Lowering::new(&plan, bases, checks);
    for &index in &reached {
        lowering.stage(index);
        if lowering.budget.is_spent() {
            break;
        }
    }
    let Lowering { mut checks, vertices, steps, mut results, .. } = lowering;
    errors_of(&checks)?;
    let target: Option<StageResult> = results.remove(&plan.target);
    let Some(result) = target else {
        checks.out.push(Diagnostic::error(Span::default(), "the target stage was not lowered"));
        return Err(checks.out.finish());
    };
    let output = stage::output(result, options);
    let (vertices, output, steps) = vertices.prune(output, steps);
    Ok(Lowered::Graph(Box::new(BuildGraph {
        vertices,
        steps,
        output,
        more_outputs: Vec::new(),
        warnings: checks.out.finish(),
        source_date_epoch: epoch,
    })))
}

/// Says all that rules and faults have to say about the target, or about every stage where there
/// is none; bases that are not known are taken to set nothing.
pub(crate) fn diagnose(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseImage, ResolvedBase>,
) -> Vec<Diagnostic> {
    let all = options.target.as_deref().is_none_or(str::is_empty);
    match lower_for(dockerfile, options, bases, all, |lowering, _| lowering.checks.out.finish()) {
        Ok(said) | Err(said) => said,
    }
}

/// Lowers what the target reaches, or `all` stages, and hands the state to `look`.
///
/// # Errors
///
/// What was said so far, where a fault keeps the stages from being told apart.
fn lower_for<T>(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseImage, ResolvedBase>,
    all: bool,
    look: impl FnOnce(Lowering<'_, '_>, &[usize]) -> T,
) -> Result<T, Vec<Diagnostic>> {
    let mut checks = Checks::new(&dockerfile.directives.check, Remarks::default());
    let mut plan = Plan::new(dockerfile, options, &mut checks);
    faults_of(&checks)?;
    let reached = loop {
        let reached = if all { (0..plan.stages.len()).collect() } else { plan.reached() };
        if !triggers::inherit(&mut plan, &reached, bases, &mut checks) {
            break reached;
        }
    };
    source_date_epoch(&plan, &mut checks);
    builder_args::warn(dockerfile, options, &mut checks);
    let mut lowering = Lowering::new(&plan, bases, checks);
    for &index in &reached {
        lowering.stage(index);
        if lowering.budget.is_spent() {
            break;
        }
    }
    Ok(look(lowering, &reached))
}

/// Stops at faults of the file; what rules say as errors waits until all is said.
fn faults_of(checks: &Checks<'_>) -> Result<(), Vec<Diagnostic>> {
    if checks.out.iter().any(Diagnostic::is_fault) {
        Err(checks.out.clone().finish())
    } else {
        Ok(())
    }
}

fn errors_of(checks: &Checks<'_>) -> Result<(), Vec<Diagnostic>> {
    if checks.out.has_errors() { Err(checks.out.clone().finish()) } else { Ok(()) }
}

/// Reads `SOURCE_DATE_EPOCH` from the build arguments or a global ARG's default.
fn source_date_epoch(plan: &Plan<'_>, checks: &mut Checks<'_>) -> Option<SourceDateEpoch> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let value = plan.options.build_args.get(NAME).or_else(|| plan.globals.get(NAME))?;
    if value.is_empty() {
        return None;
    }
    if value == "context" {
        return Some(SourceDateEpoch::Context);
    }
    if let Ok(seconds) = value.parse() {
        return Some(SourceDateEpoch::Seconds(seconds));
    }
    let message = format!("SOURCE_DATE_EPOCH cannot be `{value}`");
    checks.out.push(
        Diagnostic::error(Span::default(), message)
            .with_help("it is a number of seconds since 1970, or `context`"),
    );
    None
}
