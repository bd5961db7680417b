//! Lowering the stages one after the other, and the instructions of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ast::{Command, Instruction, Statement, Word};
use crate::check::{self, Checks};
use crate::words::{Expansion, Lexer};
use crate::{Diagnostic, HistoryStep, ImageConfig, Output, Platform, Span, Step, VertexId};

use super::budget::Budget;
use super::plan::{Plan, PlannedStage, Source};
use super::reach::onbuild_triggers;
use super::scope::Scope;
use super::vertices::Vertices;
use super::{BaseImage, LowerOptions, ResolvedBase, history};

/// A fault found while lowering one instruction.
pub(super) type Fault = Box<Diagnostic>;

/// Remarks of one build that get a hint.
const MAX_HINTS: usize = 1000;

const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A stage as far as it is lowered.
#[derive(Clone, Debug)]
pub(super) struct StageResult {
    /// The root filesystem.
    pub(super) root: VertexId,
    pub(super) platform: Platform,
    /// Without the environment, which `scope` holds.
    pub(super) config: ImageConfig,
    pub(super) scope: Scope,
    pub(super) history: Vec<HistoryStep>,
    /// A WORKDIR of this file was seen.
    pub(super) has_workdir: bool,
    /// Where CMD, ENTRYPOINT and HEALTHCHECK of this stage stand.
    pub(super) seen: BTreeMap<&'static str, Span>,
}

impl StageResult {
    /// Roughly the bytes that a copy takes.
    pub(super) fn cost(&self) -> usize {
        self.scope.bytes() + history::bytes(&self.history) + config_bytes(&self.config)
    }
}

/// The state of lowering.
pub(super) struct Lowering<'a, 'o> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) bases: &'a BTreeMap<BaseImage, ResolvedBase>,
    pub(super) checks: Checks<'o>,
    pub(super) budget: Budget,
    pub(super) vertices: Vertices,
    pub(super) steps: Vec<Step>,
    pub(super) results: HashMap<usize, StageResult>,
    /// Where diagnostics of a base's triggers point instead of into the trigger.
    relocated: Option<Span>,
    /// The stage being lowered.
    pub(super) index: usize,
}

impl<'a, 'o> Lowering<'a, 'o> {
    pub(super) fn new(
        plan: &'a Plan<'a>,
        bases: &'a BTreeMap<BaseImage, ResolvedBase>,
        checks: Checks<'o>,
    ) -> Self {
        Self {
            plan,
            bases,
            checks,
            budget: plan.budget.get(),
            vertices: Vertices::default(),
            steps: Vec::new(),
            results: HashMap::new(),
            relocated: None,
            index: 0,
        }
    }

    /// Lowers one stage; those that it stands on were lowered before. Does nothing once the budget
    /// is used up.
    pub(super) fn stage(&mut self, index: usize) {
        let plan = self.plan;
        let planned = &plan.stages[index];
        self.index = index;
        self.vertices.after = self.roots_of(&plan.after(index));
        let Some(mut stage) = self.base(planned) else { return };
        let inherited = match planned.base {
            Source::Stage(base) => onbuild_triggers(plan.stages[base].statements),
            _ => Vec::new(),
        };
        if let Source::Stage(base) = planned.base {
            self.check_triggers(planned, plan.stages[base].statements);
        }
        let total = 1 + planned.triggers.len() + inherited.len() + planned.statements.len();
        let label = (plan.stages.len() > 1).then(|| plan.label(index));
        let head_vertex = match planned.base {
            Source::Image(_) | Source::Context(_) | Source::Git(_) => Some(stage.root),
            Source::Scratch | Source::Stage(_) => None,
        };
        let mut number = 1;
        let mut step = |steps: &mut Vec<Step>, text: String, span, vertex, shell| {
            steps.push(Step { stage: label.clone(), number, total, text, span, vertex, shell });
            number += 1;
        };
        let text = history::one_line(&planned.head.text);
        step(&mut self.steps, text, planned.head.span, head_vertex, None);
        let foreign = planned.triggers.iter().map(|statement| (statement, true, true));
        let inherited = inherited.into_iter().map(|statement| (statement, true, false));
        let own = planned.statements.iter().map(|statement| (statement, false, false));
        for (statement, is_trigger, is_foreign) in foreign.chain(inherited).chain(own) {
            self.relocated = is_foreign.then_some(planned.head.base.span);
            let vertex = self.statement_or_fault(&mut stage, statement);
            let prefix = if is_trigger { "ONBUILD " } else { "" };
            let text = format!("{prefix}{}", history::step_text(statement));
            let span = if is_foreign { planned.head.span } else { statement.span };
            let shell = vertex.and_then(|_| stage.config.config.shell.clone());
            step(&mut self.steps, text, span, vertex, shell);
            if self.budget.is_spent() {
                break;
            }
        }
        self.relocated = None;
        self.results.insert(index, stage);
    }

    /// Speaks of triggers of the stage below that no build can run.
    fn check_triggers(&mut self, planned: &PlannedStage<'_>, below: &[Statement]) {
        let bad = below.iter().filter_map(|statement| match &statement.instruction {
            Instruction::Onbuild(onbuild) if onbuild.trigger.is_none() => Some(onbuild),
            _ => None,
        });
        for onbuild in bad {
            let line = history::one_line(&onbuild.expression);
            let message = format!("the stage below leaves a trigger that cannot run: `{line}`");
            self.checks.out.push(Diagnostic::error(planned.head.base.span, message));
        }
    }

    /// The last work of stages that were lowered before; a stage that does none has none.
    fn roots_of(&self, stages: &[usize]) -> Vec<VertexId> {
        let results = stages.iter().filter_map(|stage| self.results.get(stage));
        let roots = results.map(|stage| stage.root).filter(|&root| self.vertices.is_work(root));
        roots.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn statement_or_fault(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
    ) -> Option<VertexId> {
        let before = self.checks.out.len();
        let result = self.statement(stage, statement);
        let vertex = result.unwrap_or_else(|fault| {
            self.checks.out.push(*fault);
            None
        });
        if let Some(span) = self.relocated {
            for diagnostic in self.checks.out.said_since(before) {
                diagnostic.span = span;
            }
        }
        vertex
    }

    /// Lowers one instruction; returns the vertex that does its work.
    fn statement(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
    ) -> Result<Option<VertexId>, Fault> {
        match &statement.instruction {
            Instruction::Run(run) => self.run(stage, statement, run).map(Some),
            Instruction::Copy(transfer) => {
                self.transfer(stage, statement, transfer, false).map(Some)
            }
            Instruction::Add(transfer) => self.transfer(stage, statement, transfer, true).map(Some),
            Instruction::Workdir(path) => self.workdir(stage, statement, path),
            Instruction::Arg(declarations) => {
                self.arg(stage, statement, declarations)?;
                Ok(None)
            }
            Instruction::Env(pairs) => {
                self.env(stage, statement, pairs)?;
                Ok(None)
            }
            Instruction::Label(pairs) => {
                self.label(stage, statement, pairs)?;
                Ok(None)
            }
            Instruction::Cmd(command) => {
                self.cmd(stage, statement, command);
                Ok(None)
            }
            Instruction::Entrypoint(command) => {
                self.entrypoint(stage, statement, command);
                Ok(None)
            }
            Instruction::Healthcheck(spec) => {
                self.healthcheck(stage, statement, spec);
                Ok(None)
            }
            Instruction::Expose(ports) => {
                self.expose(stage, statement, ports)?;
                Ok(None)
            }
            Instruction::Volume(paths) => {
                self.volume(stage, statement, paths)?;
                Ok(None)
            }
            Instruction::User(user) => {
                self.user(stage, statement, user)?;
                Ok(None)
            }
            Instruction::Stopsignal(signal) => {
                self.stopsignal(stage, statement, signal)?;
                Ok(None)
            }
            Instruction::Shell(words) => {
                let words: Vec<String> = words.iter().map(|word| word.text.to_string()).collect();
                let text = format!("SHELL [{}]", words.join(" "));
                stage.config.config.shell = Some(words);
                self.commit(stage, statement.span, text, None)?;
                Ok(None)
            }
            Instruction::Maintainer(author) => {
                stage.config.author = Some(author.text.to_string());
                self.commit(stage, statement.span, format!("MAINTAINER {}", author.text), None)?;
                Ok(None)
            }
            Instruction::Onbuild(onbuild) => {
                let triggers = stage.config.config.on_build.get_or_insert_default();
                triggers.push(onbuild.expression.clone());
                Ok(None)
            }
        }
    }

    /// Adds a history entry; `vertex` is what its layer comes from.
    pub(super) fn commit(
        &mut self,
        stage: &mut StageResult,
        span: Span,
        created_by: String,
        vertex: Option<VertexId>,
    ) -> Result<(), Fault> {
        self.charge(created_by.len(), span)?;
        // BuildKit leaves the author of an entry out; the config has it.
        stage.history.push(HistoryStep { created_by, author: None, vertex });
        Ok(())
    }

    /// Takes `bytes` of the budget.
    pub(super) fn charge(&mut self, bytes: usize, span: Span) -> Result<(), Fault> {
        if self.budget.take(bytes) { Ok(()) } else { Err(too_large(span)) }
    }

    /// Expands a word by the file's rules.
    pub(super) fn expand(
        &mut self,
        stage: &StageResult,
        statement: &Statement,
        word: &Word,
    ) -> Result<String, Fault> {
        let lexer = self.plan.lexer;
        self.expand_with(lexer, &stage.scope, statement, word).map(|expansion| expansion.text)
    }

    /// Expands a word by `lexer`'s rules and speaks of variables that are not set.
    pub(super) fn expand_with(
        &mut self,
        lexer: Lexer,
        scope: &Scope,
        statement: &Statement,
        word: &Word,
    ) -> Result<Expansion, Fault> {
        let expansion = lexer
            .process(&word.text, scope)
            .map_err(|error| Box::new(Diagnostic::error(word.part(error.range), error.message)))?;
        self.charge(expansion.cost(scope), word.span)?;
        for name in expansion.unmatched.iter().filter(|name| !scope.is_declared(name)) {
            // Beyond so many remarks nobody reads a hint, and each costs a look at all names.
            let is_read = self.checks.out.len() < MAX_HINTS;
            let names = scope.names().take(if is_read { usize::MAX } else { 0 });
            let hint = check::did_you_mean(name, "$", names);
            let message = format!("Usage of undefined variable '${name}'{hint}");
            let help = self
                .unknown_base()
                .map(|image| format!("unless `{image}` sets it, whose config is not known here"));
            let rule = check::UNDEFINED_VAR;
            if let Some(warning) = self.checks.warn(&statement.comments, rule, word.span, message) {
                warning.help = help;
            }
        }
        Ok(expansion)
    }

    /// Puts the shell before the text of a shell form.
    pub(super) fn arguments(stage: &StageResult, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.iter().map(|word| word.text.to_string()).collect(),
            Command::Shell(text) => with_shell(stage, text.text.to_string()),
        }
    }
}

/// Returns the stage's shell with `text` as its last argument.
pub(super) fn with_shell(stage: &StageResult, text: String) -> Vec<String> {
    let shell = stage.config.config.shell.clone().filter(|shell| !shell.is_empty());
    let mut arguments =
        shell.unwrap_or_else(|| DEFAULT_SHELL.iter().map(ToString::to_string).collect());
    arguments.push(text);
    arguments
}

#[expect(clippy::unnecessary_box_returns, reason = "what lowering an instruction fails with")]
pub(super) fn too_large(span: Span) -> Fault {
    Box::new(
        Diagnostic::error(span, "variables make the build's configuration too large")
            .with_help("a variable that holds variables doubles with each line"),
    )
}

/// Roughly what a copy of the parts of a config takes that a file can make large.
fn config_bytes(config: &ImageConfig) -> usize {
    let config = &config.config;
    let ports = config.exposed_ports.iter().flatten().count();
    let volumes = config.volumes.iter().flatten().map(|(path, _)| path.len() + 64);
    let labels = config.labels.iter().flatten().map(|(key, value)| key.len() + value.len() + 64);
    let lists = [&config.cmd, &config.entrypoint, &config.shell, &config.on_build];
    let words = lists.into_iter().flatten().flatten().map(|word| word.len() + 32);
    ports * 64 + volumes.chain(labels).chain(words).sum::<usize>()
}

/// Makes the output of the target stage.
pub(super) fn output(stage: StageResult, options: &LowerOptions) -> Output {
    let StageResult { root, platform, mut config, scope, history, .. } = stage;
    config.config.env = Some(scope.config_env());
    if !options.labels.is_empty() {
        let labels = options.labels.clone();
        config.config.labels.get_or_insert_default().extend(labels);
    }
    // A platform that was asked for names the result, as in BuildKit; without one the stage's
    // own does (`FROM --platform=` of a single build).
    let is_asked = options.target_platform != options.build_platform;
    let named = if is_asked { &options.target_platform } else { &platform };
    let is_same = named.os == config.os && named.architecture == config.architecture;
    if named.variant.is_some() || !is_same {
        config.variant.clone_from(&named.variant);
    }
    config.os.clone_from(&named.os);
    config.architecture.clone_from(&named.architecture);
    Output { vertex: root, platform, config, history }
}
