//! The stages of a file, and what each stands on.
//!
//! Stage names shadow image names; a named context shadows both. A reference to a later stage is
//! an error, never an image.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ast::{Dockerfile, Stage, StageHead, Statement, Word};
use crate::check::Checks;
use crate::nearest::did_you_mean;
use crate::words::{Expansion, Lexer};
use crate::{Diagnostic, Platform, Reference, Span};

use super::budget::Budget;
use super::head::without_default;
use super::reach::onbuild_triggers;
use super::scope::{self, platform_arguments};
use super::{BaseImage, LowerOptions, NamedContext};

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(BaseImage),
    /// A named context of this name that the builder hands in.
    Context(String),
    /// A named context that is a git remote.
    Git(crate::GitOp),
}

/// A stage with its base decided.
#[derive(Debug)]
pub(super) struct PlannedStage<'a> {
    pub(super) head: &'a StageHead,
    pub(super) base: Source,
    pub(super) platform: Platform,
    /// Empty where a named context stands in for the stage.
    pub(super) statements: &'a [Statement],
    /// Triggers of the base image, run first; theirs are the only spans not of this file.
    pub(super) triggers: Vec<Statement>,
    /// Whether the base's triggers were read.
    pub(super) is_inherited: bool,
}

/// The stages of a file under some options.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) options: &'a LowerOptions,
    pub(super) lexer: Lexer,
    /// Values that FROM sees and a bare ARG imports.
    pub(super) globals: BTreeMap<String, String>,
    /// Names of the ARGs before the first FROM, with a value or without.
    pub(super) declared: BTreeSet<&'a str>,
    pub(super) stages: Vec<PlannedStage<'a>>,
    pub(super) target: usize,
    /// ARGs before the first FROM that have no default.
    pub(super) without_default: BTreeSet<&'a str>,
    pub(super) names: Vec<Option<&'a str>>,
    /// Stages by name, in the order of the file.
    pub(super) by_name: HashMap<&'a str, Vec<usize>>,
    /// What expansions may still take.
    pub(super) budget: Cell<Budget>,
}

/// Triggers that all stages together may inherit from stages of the file: each stage on a stage
/// runs all of its triggers, so their number can be the square of the file's length.
const MAX_INHERITED: usize = 1 << 14;

impl<'a> Plan<'a> {
    /// Decides every stage's base; faults go to `checks`.
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a LowerOptions,
        checks: &mut Checks<'_>,
    ) -> Self {
        let names: Vec<Option<&str>> = dockerfile.stages.iter().map(Stage::name).collect();
        let target = find_target(options, &names, checks);
        let target_name = options.target.clone();
        let target_name =
            target_name.or_else(|| names.last().copied().flatten().map(str::to_owned));
        let mut globals = platform_arguments(
            &options.target_platform,
            &options.build_platform,
            target_name.as_deref().unwrap_or("default"),
        );
        for (name, value) in &mut globals {
            if let Some(given) = options.build_args.get(name) {
                value.clone_from(given);
            }
        }
        let lexer = Lexer::new(dockerfile.directives.escape);
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            if let Some(name) = name {
                by_name.entry(name).or_default().push(index);
            }
        }
        let stages = Vec::new();
        let declared = dockerfile.globals.iter().flat_map(scope::declared);
        let mut plan = Self {
            options,
            lexer,
            globals,
            declared: declared.map(|declaration| declaration.name.text.as_str()).collect(),
            stages,
            target,
            without_default: without_default(dockerfile),
            names,
            by_name,
            budget: Cell::default(),
        };
        let defaults = plan.read_globals(dockerfile, checks);
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            plan.check_default_base(stage, &defaults, checks);
            let planned = plan.plan_stage(index, stage, checks);
            plan.stages.push(planned);
            if plan.budget.get().is_spent() {
                checks.out.push(*super::stage::too_large(stage.from.span));
                return plan;
            }
        }
        let inherited = plan.stages.iter().map(|stage| match stage.base {
            Source::Stage(base) => onbuild_triggers(plan.stages[base].statements).len(),
            _ => 0,
        });
        if inherited.sum::<usize>() > MAX_INHERITED {
            let message = "the stages inherit too many ONBUILD triggers from each other";
            checks.out.push(Diagnostic::error(Span::default(), message));
            return plan;
        }
        plan.check_references(checks);
        plan
    }

    /// Expands a word that global arguments may stand in, within the budget.
    pub(super) fn expand(
        &self,
        word: &Word,
        values: &BTreeMap<String, String>,
    ) -> Result<Expansion, Box<Diagnostic>> {
        if self.budget.get().is_spent() {
            return Err(super::stage::too_large(word.span));
        }
        let expansion = self
            .lexer
            .process(&word.text, values)
            .map_err(|error| Box::new(Diagnostic::error(word.part(error.range), error.message)))?;
        let mut budget = self.budget.get();
        let is_within = budget.take(expansion.cost(values));
        self.budget.set(budget);
        if is_within { Ok(expansion) } else { Err(super::stage::too_large(word.span)) }
    }

    fn plan_stage(
        &self,
        index: usize,
        stage: &'a Stage,
        checks: &mut Checks<'_>,
    ) -> PlannedStage<'a> {
        let head = &stage.from;
        let platform = self.platform(head, checks);
        let own_platform = platform.clone().unwrap_or_else(|| self.options.target_platform.clone());
        let mut planned = PlannedStage {
            head,
            base: Source::Scratch,
            platform: own_platform,
            statements: &stage.statements,
            triggers: Vec::new(),
            is_inherited: false,
        };
        let context = stage.name().and_then(|name| self.named_context(name));
        if let Some((name, context)) = context {
            planned.statements = &[];
            match context_source(name, context, &planned.platform, head.base.span) {
                Ok(source) => planned.base = source,
                Err(diagnostic) => checks.out.push(*diagnostic),
            }
            return planned;
        }
        let Some(base) = self.expand_head(head, &head.base, checks) else { return planned };
        if base.text.is_empty() {
            let mut error =
                Diagnostic::error(head.base.span, format!("`{}` is blank", head.base.text));
            error.help = self.how_to_set(&base);
            checks.out.push(error);
            return planned;
        }
        match self.base_source(index, &base.text, &planned.platform, head.base.span) {
            Ok(source) => planned.base = source,
            Err(mut diagnostic) => {
                diagnostic.help = diagnostic.help.take().or_else(|| self.how_to_set(&base));
                checks.out.push(*diagnostic);
            }
        }
        // A stage on a stage works for the platform of that stage, whatever its own flag says.
        if let Source::Stage(base) = planned.base {
            planned.platform = self.stages[base].platform.clone();
        }
        planned
    }

    fn base_source(
        &self,
        index: usize,
        text: &str,
        platform: &Platform,
        span: Span,
    ) -> Result<Source, Box<Diagnostic>> {
        let lower = text.to_lowercase();
        if let Some(earlier) = self.named_below(&lower, index) {
            return Ok(Source::Stage(earlier));
        }
        self.image_source(text, platform, span)
    }

    /// Returns the last stage named `name`, in lower case, among the first `end`.
    pub(super) fn named_below(&self, name: &str, end: usize) -> Option<usize> {
        let stages = self.by_name.get(name)?;
        let earlier = stages.partition_point(|&stage| stage < end);
        stages[..earlier].last().copied()
    }

    /// Resolves a name that is no stage: `scratch`, a named context or an image.
    pub(super) fn image_source(
        &self,
        text: &str,
        platform: &Platform,
        span: Span,
    ) -> Result<Source, Box<Diagnostic>> {
        if text == "scratch" {
            return Ok(Source::Scratch);
        }
        if let Some((name, context)) = self.named_context(text) {
            return context_source(name, context, platform, span);
        }
        match Reference::parse_normalized(text) {
            Ok(reference) => Ok(Source::Image(BaseImage {
                reference: reference.with_default_tag().to_string(),
                platform: platform.clone(),
            })),
            Err(error) => Err(Box::new(Diagnostic::error(span, error.to_string()))),
        }
    }

    /// Looks a named context up: by name, or by the image that it stands in for.
    fn named_context(&self, text: &str) -> Option<(&'a str, &'a NamedContext)> {
        let key = context_key(text);
        let mut contexts = self.options.named_contexts.iter();
        let found = contexts.find(|(name, _)| context_key(name) == key)?;
        Some((found.0.as_str(), found.1))
    }

    /// A stage's name or number, as messages and progress show it.
    pub(super) fn label(&self, index: usize) -> String {
        self.names[index].map_or_else(|| index.to_string(), str::to_owned)
    }
}

/// Returns what a named context stands for.
fn context_source(
    name: &str,
    context: &NamedContext,
    platform: &Platform,
    span: Span,
) -> Result<Source, Box<Diagnostic>> {
    let image =
        |reference: String| Source::Image(BaseImage { reference, platform: platform.clone() });
    match context {
        NamedContext::Local => Ok(Source::Context(name.to_owned())),
        NamedContext::Git(op) => Ok(Source::Git(op.clone())),
        NamedContext::OciLayout(path) => Ok(image(format!("oci-layout://{path}"))),
        NamedContext::Image(text) => match Reference::parse_normalized(text) {
            Ok(reference) => Ok(image(reference.with_default_tag().to_string())),
            Err(error) => {
                let message = format!("the build context `{name}`: {error}");
                Err(Box::new(Diagnostic::error(span, message)))
            }
        },
    }
}

/// The name under which a context is looked up: as people write images, without `:latest`.
fn context_key(name: &str) -> String {
    let Ok(reference) = Reference::parse_normalized(name) else { return name.to_lowercase() };
    let familiar = reference.familiar();
    familiar.strip_suffix(":latest").map_or_else(|| familiar.clone(), str::to_owned)
}

fn find_target(options: &LowerOptions, names: &[Option<&str>], checks: &mut Checks<'_>) -> usize {
    let last = names.len().saturating_sub(1);
    if names.is_empty() {
        let message = "the file has no stage to build";
        checks.out.push(Diagnostic::error(Span::default(), message));
    }
    let Some(target) = options.target.as_deref().filter(|target| !target.is_empty()) else {
        return last;
    };
    let lower = target.to_lowercase();
    let by_name = names.iter().rposition(|name| *name == Some(lower.as_str()));
    let by_number = target.parse().ok().filter(|&number: &usize| number < names.len());
    by_name.or(by_number).unwrap_or_else(|| {
        let message = format!("there is no stage `{target}` to build");
        let known = names.iter().flatten().copied();
        let mut error = Diagnostic::error(Span::default(), message);
        error.help = did_you_mean(target, known);
        checks.out.push(error);
        last
    })
}
