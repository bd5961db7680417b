//! Which stages the target reaches, and what each stands on.
//!
//! Stage names shadow image names; a named context shadows both. A reference to a later stage is
//! an error, never an image.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ast::{Dockerfile, Instruction, Stage, StageHead, Statement, Word};
use crate::check::{self, Checks};
use crate::nearest::{did_you_mean, nearest};
use crate::words::{Expansion, Lexer};
use crate::{Diagnostic, Platform, Reference, Span};

use super::budget::Budget;
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
    declared: BTreeSet<&'a str>,
    pub(super) stages: Vec<PlannedStage<'a>>,
    pub(super) target: usize,
    /// ARGs before the first FROM that have no default.
    without_default: BTreeSet<&'a str>,
    names: Vec<Option<&'a str>>,
    /// Stages by name, in the order of the file.
    by_name: HashMap<&'a str, Vec<usize>>,
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
    fn expand(
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

    /// Evaluates the ARGs before the first FROM; returns what they were without `--build-arg`.
    fn read_globals(
        &mut self,
        dockerfile: &Dockerfile,
        checks: &mut Checks<'_>,
    ) -> BTreeMap<String, String> {
        let mut defaults = self.globals.clone();
        for declaration in dockerfile.globals.iter().flat_map(scope::declared) {
            if self.budget.get().is_spent() {
                break;
            }
            let name = &declaration.name.text;
            let given = self.options.build_args.get(name.as_str()).cloned();
            if let Some(default) = &declaration.default {
                if let Ok(value) = self.expand(default, &defaults) {
                    defaults.insert(name.to_string(), value.text);
                }
                if given.is_none() {
                    match self.expand(default, &self.globals) {
                        Ok(value) => {
                            self.globals.insert(name.to_string(), value.text);
                        }
                        Err(diagnostic) => checks.out.push(*diagnostic),
                    }
                }
            }
            if let Some(given) = given {
                self.globals.insert(name.to_string(), given);
            }
        }
        defaults
    }

    fn check_default_base(
        &self,
        stage: &Stage,
        defaults: &BTreeMap<String, String>,
        checks: &mut Checks<'_>,
    ) {
        let base = &stage.from.base;
        if !base.text.contains('$') {
            return;
        }
        let Ok(value) = self.expand(base, defaults) else { return };
        if Reference::parse_normalized(&value.text).is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                base.text
            );
            let rule = check::INVALID_DEFAULT_ARG_IN_FROM;
            checks.warn(&stage.from.comments, rule, base.span, message);
        }
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
    fn named_below(&self, name: &str, end: usize) -> Option<usize> {
        let stages = self.by_name.get(name)?;
        let earlier = stages.partition_point(|&stage| stage < end);
        stages[..earlier].last().copied()
    }

    /// Resolves a name that is no stage: `scratch`, a named context or an image.
    fn image_source(
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

    /// Expands a word of FROM with the global arguments.
    fn expand_head(
        &self,
        head: &StageHead,
        word: &Word,
        checks: &mut Checks<'_>,
    ) -> Option<Expansion> {
        let expansion = match self.expand(word, &self.globals) {
            Ok(expansion) => expansion,
            Err(diagnostic) => {
                checks.out.push(*diagnostic);
                return None;
            }
        };
        for name in &expansion.unmatched {
            if self.declared.contains(name.as_str()) {
                continue;
            }
            let known = self.globals.keys().map(String::as_str);
            let hint = check::did_you_mean(name, "", known.chain(self.declared.iter().copied()));
            let message = format!("FROM argument '{name}' is not declared{hint}");
            checks.warn(&head.comments, check::UNDEFINED_ARG_IN_FROM, word.span, message);
        }
        Some(expansion)
    }

    /// Says how a variable of FROM that is not set can get its value.
    fn how_to_set(&self, expansion: &Expansion) -> Option<String> {
        let name = expansion.unmatched.first()?;
        if self.without_default.contains(name.as_str()) {
            return Some(format!("give `--build-arg {name}=VALUE`, or its ARG a default"));
        }
        let names = self.globals.keys().map(String::as_str);
        Some(match nearest(name, names.chain(self.without_default.iter().copied())) {
            Some(near) => format!("did you mean `${near}`?"),
            None => format!("declare it before the first FROM: `ARG {name}=VALUE`"),
        })
    }

    fn platform(&self, head: &StageHead, checks: &mut Checks<'_>) -> Option<Platform> {
        let word = head.platform.as_ref()?;
        let expansion = self.expand_head(head, word, checks)?;
        let text = &expansion.text;
        if text.is_empty() {
            let mut error = Diagnostic::error(word.span, format!("`{}` is blank", word.text));
            error.help = self.how_to_set(&expansion);
            checks.out.push(error);
            return None;
        }
        let platform = match Platform::parse(text) {
            Ok(platform) => platform,
            Err(error) => {
                checks.out.push(Diagnostic::error(word.span, error.to_string()));
                return None;
            }
        };
        let is_only_target = expansion.matched.len() == 1
            && expansion.unmatched.is_empty()
            && expansion.matched.contains("TARGETPLATFORM")
            && Some(text) == self.globals.get("TARGETPLATFORM");
        if is_only_target {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            let rule = check::REDUNDANT_TARGET_PLATFORM;
            checks.warn(&head.comments, rule, word.span, message);
        }
        let is_constant = expansion.matched.is_empty() && expansion.unmatched.is_empty();
        let name = head.name.as_ref().map_or("", |name| name.text.as_str());
        if is_constant && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value \"{text}\"");
            let rule = check::FROM_PLATFORM_FLAG_CONST;
            if let Some(warning) = checks.warn(&head.comments, rule, word.span, message) {
                warning.help = Some("use a variable, or name the stage after it".to_owned());
            }
        }
        Some(platform)
    }

    /// Resolves the name in a `--from` or a mount's `from` of the stage `index`.
    pub(super) fn resolve(&self, index: usize, from: &Word) -> Result<Source, Box<Diagnostic>> {
        let text = from.text.as_str();
        let lower = text.to_lowercase();
        let number = text.parse::<usize>().ok().filter(|_| !text.starts_with('+'));
        let earlier = self.named_below(&lower, index);
        if let Some(stage) = earlier.or(number.filter(|&number| number < index)) {
            return Ok(Source::Stage(stage));
        }
        let error = |message: String| Box::new(Diagnostic::error(from.span, message));
        if self.names[index] == Some(lower.as_str()) || number == Some(index) {
            return Err(error(format!("stage `{text}` cannot copy from itself")));
        }
        let is_below = self.by_name.contains_key(lower.as_str());
        if is_below || number.is_some_and(|number| number < self.names.len()) {
            let message = format!("stage `{text}` stands below; it must stand above its use");
            return Err(error(message));
        }
        if number.is_some() {
            let message = format!("there is no stage {text}; this one is stage {index}");
            return Err(error(message));
        }
        self.image_source(text, &self.options.target_platform, from.span).map_err(|mut fault| {
            let names = self.names[..index].iter().flatten().copied();
            fault.help = fault.help.take().or_else(|| did_you_mean(text, names));
            fault
        })
    }

    /// The stages that the stage `index` waits for (`FROM --after`).
    pub(super) fn after(&self, index: usize) -> Vec<usize> {
        let Some(stage) = self.stages.get(index) else { return Vec::new() };
        stage.head.after.iter().filter_map(|word| self.resolve_stage(index, word).ok()).collect()
    }

    /// Resolves a name or number that must be an earlier stage's.
    fn resolve_stage(&self, index: usize, word: &Word) -> Result<usize, Box<Diagnostic>> {
        let names = self.names[..index].iter().flatten().copied();
        let known = self.named_below(&word.text.to_lowercase(), index).is_some()
            || word.text.parse::<usize>().is_ok();
        match self.resolve(index, word) {
            Ok(Source::Stage(stage)) => Ok(stage),
            Err(fault) if known || self.by_name.contains_key(word.text.to_lowercase().as_str()) => {
                Err(fault)
            }
            _ => {
                let message = format!("`--after` names no stage above: `{}`", word.text);
                let mut error = Diagnostic::error(word.span, message);
                error.help = did_you_mean(&word.text, names);
                Err(Box::new(error))
            }
        }
    }

    fn check_references(&self, checks: &mut Checks<'_>) {
        for index in 0..self.stages.len() {
            for from in self.references(index) {
                if let Err(diagnostic) = self.resolve(index, from) {
                    checks.out.push(*diagnostic);
                }
            }
            for stage in &self.stages[index].head.after {
                if let Err(diagnostic) = self.resolve_stage(index, stage) {
                    checks.out.push(*diagnostic);
                }
            }
        }
    }

    /// The `from`s of a stage's instructions, those of triggers that it inherits included.
    fn references(&self, index: usize) -> Vec<&Word> {
        let stage = &self.stages[index];
        let inherited = match stage.base {
            Source::Stage(base) => onbuild_triggers(self.stages[base].statements),
            _ => Vec::new(),
        };
        let statements = stage.triggers.iter().chain(inherited).chain(stage.statements);
        statements.flat_map(references_of).collect()
    }

    /// The stages that the target needs, in the order of the file.
    pub(super) fn reached(&self) -> Vec<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !reached.insert(index) {
                continue;
            }
            if let Some(Source::Stage(base)) = self.stages.get(index).map(|stage| &stage.base) {
                open.push(*base);
            }
            for from in self.references(index) {
                if let Ok(Source::Stage(stage)) = self.resolve(index, from) {
                    open.push(stage);
                }
            }
            open.extend(self.after(index));
        }
        reached.into_iter().collect()
    }

    /// The images that the stages `reached` need.
    pub(super) fn images(&self, reached: &[usize]) -> BTreeSet<BaseImage> {
        let mut images = BTreeSet::new();
        for &index in reached {
            let sources = self.references(index).into_iter();
            let sources = sources.filter_map(|from| self.resolve(index, from).ok());
            let base = self.stages[index].base.clone();
            images.extend(sources.chain([base]).filter_map(|source| match source {
                Source::Image(image) => Some(image),
                Source::Scratch | Source::Stage(_) | Source::Context(_) | Source::Git(_) => None,
            }));
        }
        images
    }

    /// Where the stage `index` names `image`, if it does.
    pub(super) fn span_of(&self, index: usize, image: &BaseImage) -> Option<Span> {
        let is_meant = |source: &Source| matches!(source, Source::Image(base) if base == image);
        let stage = self.stages.get(index)?;
        if is_meant(&stage.base) {
            return Some(stage.head.base.span);
        }
        let mut references = self.references(index).into_iter();
        let found = references.find(|from| self.resolve(index, from).is_ok_and(|s| is_meant(&s)));
        found.map(|from| from.span)
    }

    /// A stage's name or number, as messages and progress show it.
    pub(super) fn label(&self, index: usize) -> String {
        self.names[index].map_or_else(|| index.to_string(), str::to_owned)
    }
}

/// Names the ARGs before the first FROM that have no default.
fn without_default(dockerfile: &Dockerfile) -> BTreeSet<&str> {
    let declared = dockerfile.globals.iter().flat_map(scope::declared);
    let bare = declared.filter(|declaration| declaration.default.is_none());
    bare.map(|declaration| declaration.name.text.as_str()).collect()
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

/// The triggers that ONBUILD instructions of a stage leave to stages on it.
pub(super) fn onbuild_triggers(statements: &[Statement]) -> Vec<&Statement> {
    statements
        .iter()
        .filter_map(|statement| match &statement.instruction {
            Instruction::Onbuild(onbuild) => Some(&*onbuild.trigger),
            _ => None,
        })
        .collect()
}

pub(super) fn references_of(statement: &Statement) -> Vec<&Word> {
    match &statement.instruction {
        Instruction::Copy(transfer) => transfer.from.iter().collect(),
        Instruction::Run(run) => run.mounts().iter().filter_map(|mount| mount.from()).collect(),
        _ => Vec::new(),
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
