//! `rbuild shell`: a command in the sandbox of a past build's step, with this process's standard
//! streams. What it writes is dropped.

mod error;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::SnapshotId;
use frontend::{IgnoreRules, MountKind, RunOp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use error::ShellError;
pub(crate) use record::{Known, RecordedSteps};

use self::record::{RecordedInput, RecordedStep};
use crate::blocking;
use crate::builder::Inner;
use crate::context::{FileRoot, Rules};
use crate::entitlement::{Entitlements, Grants};
use crate::op::{self, Given, Root, RunSettings, Step};
use crate::progress::{Event, Events};
use crate::sandbox::{Control, StdioMode, terminal_size};
use crate::secret::Secrets;
use crate::source::read_image;
use crate::ssh::SshAgents;

/// The size of a terminal whose own nobody knows.
const TERMINAL_SIZE: (u16, u16) = (24, 80);

/// What runs commands in shell form unless SHELL says otherwise (Dockerfile reference, "SHELL").
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// One visit to a step.
#[derive(Clone, Debug)]
pub struct ShellRequest {
    /// Id of the build, in full.
    pub build: String,
    /// Number of a RUN step, or `STAGE/NUMBER`; `None` is the one that failed, or else the last.
    pub step: Option<String>,
    /// Whether to see what the step began with, in place of what it left.
    pub is_before: bool,
    /// What is run.
    pub command: ShellCommand,
    /// Whether it has a terminal.
    pub has_terminal: bool,
    /// Values for the step's secret mounts.
    pub secrets: Secrets,
    /// Agents for its ssh mounts.
    pub ssh: SshAgents,
    /// Proxy variables, which are not remembered.
    pub proxies: BTreeMap<String, String>,
    /// What the step may do beyond the sandbox, if the builder allows it too.
    pub allow: Entitlements,
}

/// What is run in a step's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellCommand {
    /// The step's shell, which reads standard input.
    Interactive,
    /// A text for the step's shell, as in `RUN`.
    Text(String),
    /// A program with its arguments.
    Program(Vec<String>),
}

impl ShellCommand {
    fn args(&self, shell: Option<&[String]>) -> Vec<String> {
        let shell = shell.filter(|shell| !shell.is_empty()).map(<[_]>::to_vec);
        let mut shell = shell.unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
        match self {
            // Its other words are there to take a text.
            Self::Interactive => shell.truncate(1),
            Self::Text(text) => shell.push(text.clone()),
            Self::Program(args) => shell.clone_from(args),
        }
        shell
    }
}

/// Enters a step; returns the exit code of what was run there.
pub(crate) async fn enter(
    inner: &Inner,
    request: ShellRequest,
    events: &Events,
    mut signals: mpsc::Receiver<i32>,
    cancel: CancellationToken,
) -> Result<i32, ShellError> {
    let RecordedSteps { settings, steps } = inner
        .store
        .builds()
        .steps(&request.build)
        .map_err(ShellError::Store)?
        .ok_or_else(|| ShellError::NoSteps { build: request.build.clone() })?;
    let step = choose(steps, &request)?;
    let grants = Grants::new(inner.config.allow.clone(), request.allow);
    let given = Given { secrets: request.secrets, ssh: request.ssh, proxies: request.proxies };
    let settings = RunSettings::recorded(settings, given, grants, &inner.config)?;
    let visit = Visit { inner, events, step: &step };
    let state =
        if request.is_before { visit.before().await? } else { visit.after(&request.build)? };
    let (mut op, inputs) = visit.mounts(state, &settings).await?;
    let note = format!("step {}: {}", step.name(), step.text);
    events.send(Event::Note { text: note }).await;
    op.args = request.command.args(step.shell.as_deref());
    let stdio = if request.has_terminal {
        let (rows, columns) = terminal_size().unwrap_or(TERMINAL_SIZE);
        StdioMode::Terminal { rows, columns, takes_input: true }
    } else {
        StdioMode::Inherit
    };
    let (store, sandbox, events) = (inner.store.clone(), inner.sandbox()?, events.clone());
    let step = Step { index: None, events: events.clone(), cancel: cancel.clone(), failed: None };
    blocking::run(move || {
        let mut control = || match signals.try_recv() {
            _ if cancel.is_cancelled() => Control::Cancel,
            Ok(number) => Control::Signal(number),
            Err(_) => Control::Continue,
        };
        let ended =
            op::enter(&store, &sandbox, &op, &inputs, &settings, stdio, &step, &mut control)?;
        if ended.is_out_of_memory() {
            let text = format!("the command {}", ended.usage.out_of_memory());
            events.send_blocking(Event::Note { text });
        }
        Ok(ended.code())
    })
    .await
}

/// Finds the step that is meant.
fn choose(steps: Vec<RecordedStep>, request: &ShellRequest) -> Result<RecordedStep, ShellError> {
    let names = |steps: &[RecordedStep]| steps.iter().map(RecordedStep::name).collect::<Vec<_>>();
    let (build, all) = (request.build.clone(), names(&steps));
    let Some(wanted) = &request.step else {
        let at = steps.iter().position(|step| step.has_failed);
        let at = at.or_else(|| steps.iter().rposition(|step| step.result.is_some()));
        let found = at.or(steps.len().checked_sub(1)).and_then(|at| steps.into_iter().nth(at));
        let none = || ShellError::NoStep { build, step: "of any kind".to_owned(), steps: all };
        return found.ok_or_else(none);
    };
    let mut meant: Vec<RecordedStep> = steps
        .into_iter()
        .filter(|step| step.name() == *wanted || step.number.to_string() == *wanted)
        .collect();
    // `2` is the stage's own name for it where the file has one stage.
    if let Some(at) = meant.iter().position(|step| step.name() == *wanted) {
        return Ok(meant.swap_remove(at));
    }
    let step = wanted.clone();
    match meant.len() {
        0 => Err(ShellError::NoStep { build, step, steps: all }),
        1 => Ok(meant.remove(0)),
        _ => Err(ShellError::AmbiguousStep { build, step, steps: names(&meant) }),
    }
}

/// A step, and where its files may be.
struct Visit<'a> {
    inner: &'a Inner,
    events: &'a Events,
    step: &'a RecordedStep,
}

impl Visit<'_> {
    /// What the step began with.
    async fn before(&self) -> Result<Root, ShellError> {
        let first = self.step.inputs.first().unwrap_or(&RecordedInput::Empty);
        let help = "build again; only a step that failed keeps its files from gc".to_owned();
        self.root(first).await?.map_err(|what| self.gone(&what, help))
    }

    /// What the step left.
    fn after(&self, build: &str) -> Result<Root, ShellError> {
        let store = &self.inner.store;
        if self.step.has_failed {
            let failed = store.builds().failed(build).map_err(ShellError::Store)?;
            let help = "--before shows what it began with; or build again".to_owned();
            let gone = || self.gone("what was left", help);
            return self.snapshot(&failed.ok_or_else(gone.clone())?)?.ok_or_else(gone);
        }
        let result = self.step.result.as_ref();
        let result = result.ok_or_else(|| ShellError::NotRun { step: self.step.name() })?;
        let help = "build again".to_owned();
        self.snapshot(result)?.ok_or_else(|| self.gone("what was left", help))
    }

    fn gone(&self, what: &str, help: String) -> ShellError {
        ShellError::Gone { what: what.to_owned(), step: self.step.name(), help }
    }

    /// Returns the step's op without the mounts that cannot be had, and its inputs; `state` is the
    /// root.
    async fn mounts(
        &self,
        state: Root,
        settings: &RunSettings,
    ) -> Result<(RunOp, Vec<Root>), ShellError> {
        let mut op = self.step.op.clone();
        let mut inputs = vec![state];
        let mut missing = BTreeMap::new();
        for (index, input) in self.step.inputs.iter().enumerate().skip(1) {
            inputs.push(match self.root(input).await? {
                Ok(root) => root,
                Err(what) => {
                    missing.insert(index, what);
                    Root::Empty
                }
            });
        }
        let mut notes = Vec::new();
        op.mounts.retain_mut(|mount| {
            let absent = match &mut mount.kind {
                MountKind::Bind { input, .. } => missing.get(input).cloned(),
                MountKind::Cache { from, .. } => {
                    // It has its content already, or begins empty.
                    from.take_if(|(input, _)| missing.contains_key(input));
                    None
                }
                MountKind::Secret { id, required, .. } => {
                    *required = false;
                    let is_given = settings.has_secret(id);
                    (!is_given).then(|| format!("secret `{id}`; give it with --secret id={id}"))
                }
                MountKind::Ssh { id, required, .. } => {
                    *required = false;
                    let is_given = settings.has_agent(id);
                    (!is_given).then(|| format!("ssh agent `{id}`; give it with --ssh {id}"))
                }
                MountKind::Tmpfs { .. } => None,
            };
            notes.extend(absent.iter().map(|what| match mount.target.as_str() {
                "" => format!("missing here: {what}"),
                target => format!("missing at {target}: {what}"),
            }));
            absent.is_none()
        });
        for text in notes {
            self.events.send(Event::Note { text }).await;
        }
        Ok((op, inputs))
    }

    /// Finds the files of an input, or says what is gone.
    async fn root(&self, input: &RecordedInput) -> Result<Result<Root, String>, ShellError> {
        Ok(match input {
            RecordedInput::Empty => Ok(Root::Empty),
            RecordedInput::Snapshot { id } => {
                self.snapshot(id)?.ok_or_else(|| "what the step before it left".to_owned())
            }
            RecordedInput::Image { reference, manifest } => {
                match read_image(&self.inner.store, reference, manifest)? {
                    Some(image) => {
                        let top = self.inner.sources.materialize(&image, self.events).await?;
                        Ok(top.map_or(Root::Empty, Root::Snapshot))
                    }
                    None => Err(format!("the image {reference}")),
                }
            }
            RecordedInput::Directory { path, ignored } => {
                let rules = ignored.as_ref().map(IgnoreRules::from_patterns).transpose();
                match (FileRoot::open(path), rules) {
                    (Ok(root), Ok(rules)) => {
                        Ok(Root::Files(Arc::new(root.with_rules(rules.map(Rules::from)))))
                    }
                    _ => Err(format!("the directory `{}`", path.display())),
                }
            }
            RecordedInput::Gone { what } => Err(what.clone()),
        })
    }

    fn snapshot(&self, id: &SnapshotId) -> Result<Option<Root>, ShellError> {
        let found = self.inner.store.snapshots().get(id).map_err(ShellError::Store)?;
        Ok(found.map(|found| Root::Snapshot(found.id)))
    }
}
