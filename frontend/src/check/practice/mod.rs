//! Practices: what builds well but builds less surely, less safely or larger than it could.
//!
//! A rule speaks only where the text leaves no doubt; what a variable, a script or an unknown base
//! image might change, it leaves alone. One family of rules a file.

mod apt;
mod files;
mod image;
mod language;
mod run;
mod shell;
mod system;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::ast::{Dockerfile, Instruction, Stage, Statement};
use crate::diagnostic::Remarks;
use crate::{Diagnostic, LowerOptions, Span};

use super::Checks;
use super::fix::Edit;
use super::rule::Rule;

/// The rules of all families.
pub(super) fn rules() -> impl Iterator<Item = &'static Rule> {
    let families =
        [apt::RULES, files::RULES, image::RULES, language::RULES, shell::RULES, system::RULES];
    families.into_iter().flatten()
}

/// Holds a file without faults against every practice.
pub(super) fn check(
    source: &str,
    dockerfile: &Dockerfile,
    options: &LowerOptions,
) -> Vec<(Diagnostic, Vec<Edit>)> {
    let mut practice = Practice {
        source,
        dockerfile,
        options,
        checks: Checks::new(&dockerfile.directives.check, Remarks::default()),
        edits: BTreeMap::new(),
        names: StageNames::default(),
        set: HashSet::new(),
    };
    let kept = kept_stages(dockerfile, options);
    let mut states: Vec<StageState> = Vec::new();
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        let base = practice.names.get(&stage.from.base.text);
        let inherited = base.and_then(|base| states.get(base)).cloned();
        let mut state = StageState {
            index,
            is_kept: kept.contains(&index),
            image: stage.from.base.text.to_string(),
            ..StageState::default()
        };
        if let Some(inherited) = inherited {
            state.image = inherited.image;
            state.has_workdir = inherited.has_workdir;
            state.shell = inherited.shell;
            state.user = inherited.user;
            state.settings = inherited.settings;
        } else {
            practice.base_image(stage);
        }
        for statement in &stage.statements {
            practice.statement(&mut state, statement);
        }
        states.push(state);
        practice.names.add(stage, index);
    }
    if let Some(state) = states.get(target(dockerfile, options)) {
        practice.end_of_image(state, &dockerfile.stages[state.index].from);
    }
    let Practice { checks, mut edits, .. } = practice;
    let remarks = checks.out.into_kept().into_iter().enumerate();
    remarks.map(|(at, diagnostic)| (diagnostic, edits.remove(&at).unwrap_or_default())).collect()
}

/// The state of a check.
struct Practice<'a> {
    source: &'a str,
    dockerfile: &'a Dockerfile,
    options: &'a LowerOptions,
    checks: Checks<'a>,
    /// What mends a diagnostic, by its index in `checks.out`.
    edits: BTreeMap<usize, Vec<Edit>>,
    /// The stages above the one that is looked at.
    names: StageNames,
    /// Every variable that an ARG or ENV above sets, in whatever stage.
    set: HashSet<String>,
}

/// Stages by name; of several the last counts.
#[derive(Clone, Debug, Default)]
struct StageNames(HashMap<String, usize>);

impl StageNames {
    fn add(&mut self, stage: &Stage, index: usize) {
        if let Some(name) = stage.name() {
            self.0.insert(name.to_owned(), index);
        }
    }

    fn get(&self, name: &str) -> Option<usize> {
        self.0.get(&name.to_lowercase()).copied()
    }
}

/// Settings of package managers that a stage made for the commands below.
#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    /// apt answers its questions itself.
    apt_says_yes: bool,
    /// apt leaves recommended packages out, or was told to bring them.
    apt_recommends: bool,
    /// pip keeps no cache.
    pip_no_cache: bool,
}

/// What is known of a stage after some of its instructions.
#[derive(Clone, Debug, Default)]
struct StageState {
    index: usize,
    /// The image that is built contains this stage's layers.
    is_kept: bool,
    /// The image below all stages it stands on, as written.
    image: String,
    has_workdir: bool,
    /// SHELL, as far as one was given.
    shell: Option<Vec<String>>,
    /// The last USER, and the comments above it.
    user: Option<(String, Span, Vec<String>)>,
    settings: Settings,
    /// Archives that COPY took from the context: name, place, comments.
    archives: Vec<(String, Span, Vec<String>)>,
    /// The first use of curl and of wget.
    fetchers: BTreeMap<&'static str, (Span, Vec<String>)>,
    /// The RUN directly before, where it could be joined with the next.
    last_run: Option<String>,
    has_healthcheck: bool,
}

/// What is said, where.
struct Remark<'r> {
    rule: &'static str,
    span: Span,
    message: String,
    help: Option<&'r str>,
    edits: Vec<Edit>,
}

impl<'r> Remark<'r> {
    fn new(rule: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { rule, span, message: message.into(), help: None, edits: Vec::new() }
    }

    fn help(self, help: &'r str) -> Self {
        Self { help: Some(help), ..self }
    }

    fn edits(self, edits: Vec<Edit>) -> Self {
        Self { edits, ..self }
    }
}

impl Practice<'_> {
    fn say(&mut self, comments: &[String], remark: Remark<'_>) {
        let Remark { rule, span, message, help, edits } = remark;
        let index = self.checks.out.len();
        if let Some(diagnostic) = self.checks.warn(comments, rule, span, message) {
            diagnostic.help = help.map(str::to_owned);
            if !edits.is_empty() && self.checks.out.len() > index {
                self.edits.insert(index, edits);
            }
        }
    }

    fn set_variables<'w>(&mut self, state: &mut StageState, names: impl Iterator<Item = &'w str>) {
        for name in names {
            state.settings.pip_no_cache |= name == "PIP_NO_CACHE_DIR";
            self.set.insert(name.to_owned());
        }
    }

    fn statement(&mut self, state: &mut StageState, statement: &Statement) {
        let last_run = state.last_run.take();
        match &statement.instruction {
            Instruction::Run(run) => self.run(state, statement, run, last_run.as_deref()),
            Instruction::Add(transfer) => self.add(statement, transfer),
            Instruction::Copy(transfer) => self.copy(state, statement, transfer),
            Instruction::Env(pairs) => {
                self.env(statement, pairs);
                let names = pairs.iter().map(|pair| pair.key.text.as_str());
                self.set_variables(state, names);
            }
            Instruction::Arg(declarations) => {
                self.set_variables(state, declarations.iter().map(|arg| arg.name.text.as_str()));
            }
            Instruction::Label(pairs) => self.labels(statement, pairs),
            Instruction::Shell(words) => {
                state.shell = Some(words.iter().map(|word| word.text.to_string()).collect());
            }
            Instruction::User(user) => {
                let comments = statement.comments.clone();
                state.user = Some((user.text.to_string(), user.span, comments));
            }
            Instruction::Workdir(_) => state.has_workdir = true,
            Instruction::Healthcheck(_) => state.has_healthcheck = true,
            Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Expose(_)
            | Instruction::Maintainer(_)
            | Instruction::Onbuild(_)
            | Instruction::Stopsignal(_)
            | Instruction::Volume(_) => {}
        }
    }
}

impl StageState {
    /// Whether commands are read by a POSIX shell.
    fn has_posix_shell(&self) -> bool {
        let Some(shell) = &self.shell else { return true };
        let program = shell.first().map(String::as_str).unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        ["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"].contains(&name)
    }
}

/// The stage that is built.
fn target(dockerfile: &Dockerfile, options: &LowerOptions) -> usize {
    let last = dockerfile.stages.len().saturating_sub(1);
    let Some(target) = &options.target else { return last };
    let number = target.parse().ok().filter(|&number: &usize| number <= last);
    let name = target.to_lowercase();
    let named = dockerfile.stages.iter().rposition(|stage| stage.name() == Some(name.as_str()));
    named.or(number).unwrap_or(last)
}

/// The stage that is built and those it stands on: what others leave behind is in no image.
fn kept_stages(dockerfile: &Dockerfile, options: &LowerOptions) -> BTreeSet<usize> {
    let mut names = StageNames::default();
    let mut bases: Vec<Option<usize>> = Vec::new();
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        bases.push(names.get(&stage.from.base.text));
        names.add(stage, index);
    }
    let first = Some(target(dockerfile, options));
    std::iter::successors(first, |&index| bases.get(index).copied().flatten()).collect()
}

/// Used by the tests of the families.
#[cfg(test)]
fn said(source: &str, rule: &str) -> Vec<String> {
    let parsed = crate::parse(source);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let findings = check(source, &parsed.dockerfile, &LowerOptions::default());
    let of_rule = findings.into_iter().filter(|(said, _)| said.rule == Some(rule));
    of_rule.map(|(said, _)| source[said.span.start..said.span.end].to_owned()).collect()
}
