//! RUN.

use std::fmt::Write as _;

use crate::ast::{Command, Run, Statement};
use crate::heredoc;
use crate::ignore::clean;
use crate::instruction::mount::{MountSpec, MountType};
use crate::{
    Diagnostic, HEREDOC_DIR, MountKind, Op, RunFile, RunMount, RunNetwork, RunOp, VertexId,
};

use super::builder_args;
use super::plan::Source;
use super::stage::{Fault, Lowering, StageResult, with_shell};

/// Where an agent's socket is mounted unless told otherwise.
const SSH_SOCKET: &str = "/run/buildkit/ssh_agent.";

impl Lowering<'_, '_> {
    pub(super) fn run(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        run: &Run,
    ) -> Result<VertexId, Fault> {
        let (args, files) = command(stage, run);
        self.charge(stage.scope.bytes(), statement.span)?;
        let mut env = stage.scope.run_env();
        let mut inputs = vec![stage.root];
        let mut mounts = Vec::with_capacity(run.mounts().len());
        let mut agents = 0;
        for flag in run.mounts() {
            let spec = flag.evaluate(|word| self.expand(stage, statement, word))?;
            let mount = match spec.kind {
                MountType::Bind => self.bind(stage, &spec, flag.span, &mut inputs)?,
                MountType::Cache => self.cache(stage, &spec, flag.span, &mut inputs)?,
                MountType::Tmpfs => {
                    let target = target(stage, &spec.target, flag.span)?;
                    RunMount { target, kind: MountKind::Tmpfs { size: spec.size } }
                }
                MountType::Secret => secret(stage, &spec),
                MountType::Ssh => {
                    agents += 1;
                    ssh(stage, &spec, agents - 1)
                }
            };
            if agents == 1 && matches!(mount.kind, MountKind::Ssh { .. }) {
                env.insert("SSH_AUTH_SOCK".to_owned(), mount.target.clone());
            }
            mounts.push(mount);
        }
        let network = match run.network().map(|word| word.text.as_str()) {
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            _ => RunNetwork::Default,
        };
        let entry = format!("RUN {}{} # buildkit", arguments_mark(stage), args.join(" "));
        let op = Op::Run(RunOp {
            args,
            env,
            cwd: clean(stage.config.config.working_dir.as_deref().unwrap_or("/")),
            user: stage.config.config.user.clone().unwrap_or_default(),
            mounts,
            network,
            insecure: run.security().is_some_and(|word| word.text == "insecure"),
            files,
            devices: run.devices().iter().map(|device| device.text.to_string()).collect(),
            hostname: self.plan.options.build_args.get(builder_args::HOSTNAME).cloned(),
        });
        let vertex = self.vertices.add(op, inputs, stage.platform.clone());
        stage.root = vertex;
        self.commit(stage, statement.span, entry, Some(vertex))?;
        Ok(vertex)
    }

    fn bind(
        &mut self,
        stage: &StageResult,
        spec: &MountSpec,
        span: crate::Span,
        inputs: &mut Vec<VertexId>,
    ) -> Result<RunMount, Fault> {
        let root = match &spec.from {
            None => self.context(None),
            Some(from) => {
                let source = self.plan.resolve(self.index, from)?;
                self.root_of_reference(&source)
            }
        };
        let kind = MountKind::Bind {
            input: input(inputs, root),
            source: clean(&format!("/{}", spec.source)),
            writable: spec.read_only == Some(false),
        };
        Ok(RunMount { target: target(stage, &spec.target, span)?, kind })
    }

    fn cache(
        &mut self,
        stage: &StageResult,
        spec: &MountSpec,
        span: crate::Span,
        inputs: &mut Vec<VertexId>,
    ) -> Result<RunMount, Fault> {
        let source = clean(&format!("/{}", spec.source));
        let root = match &spec.from {
            Some(from) => {
                let resolved = self.plan.resolve(self.index, from)?;
                Some(self.root_of_reference(&resolved))
            }
            // A source without `from` is a directory in an empty root.
            None if source != "/" => Some(self.root_of_reference(&Source::Scratch)),
            None => None,
        };
        let target = target(stage, &spec.target, span)?;
        let id = if spec.id.is_empty() { clean(&spec.target) } else { spec.id.clone() };
        let namespace = self.plan.options.build_args.get(builder_args::CACHE_NAMESPACE);
        let id = match namespace.filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{namespace}/{id}"),
            None => id,
        };
        let kind = MountKind::Cache {
            id,
            sharing: spec.sharing.unwrap_or_default(),
            from: root.map(|root| (input(inputs, root), source)),
            read_only: spec.read_only.unwrap_or_default(),
            mode: spec.mode.unwrap_or(0o755),
            uid: spec.uid.unwrap_or_default(),
            gid: spec.gid.unwrap_or_default(),
        };
        Ok(RunMount { target, kind })
    }

    /// Returns the root of what a `from` names; images are for the target's platform.
    pub(super) fn root_of_reference(&mut self, source: &Source) -> VertexId {
        let platform = self.plan.options.target_platform.clone();
        self.root_of(source, &platform)
    }
}

/// Returns the index of `vertex` among the inputs, adding it where it is new.
pub(super) fn input(inputs: &mut Vec<VertexId>, vertex: VertexId) -> usize {
    let known = inputs.iter().position(|input| *input == vertex);
    known.unwrap_or_else(|| {
        inputs.push(vertex);
        inputs.len() - 1
    })
}

/// Names the build arguments that a command sees, as BuildKit does, but without their values.
fn arguments_mark(stage: &StageResult) -> String {
    let names = stage.scope.arguments();
    if names.is_empty() {
        return String::new();
    }
    format!("|{} {} ", names.len(), names.join(" "))
}

/// Returns the argument vector, shell included, and the files that it runs.
fn command(stage: &StageResult, run: &Run) -> (Vec<String>, Vec<RunFile>) {
    let (Command::Shell(text), Some(first)) = (&run.command, run.heredocs.first()) else {
        return (Lowering::arguments(stage, &run.command), Vec::new());
    };
    if heredoc::parse_mark(&text.text).is_none() {
        // The shell reads the heredocs itself.
        let mut whole = text.text.to_string();
        for heredoc in &run.heredocs {
            let _ = write!(whole, "\n{}{}", heredoc.content, heredoc.name);
        }
        return (with_shell(stage, whole), Vec::new());
    }
    let content = first.chomped();
    if !content.starts_with("#!") {
        return (with_shell(stage, content), Vec::new());
    }
    let file = RunFile { name: first.name.clone(), content };
    (with_shell(stage, format!("{HEREDOC_DIR}/{}", file.name)), vec![file])
}

/// Makes a mount's target absolute; the root itself cannot be one.
fn target(stage: &StageResult, target: &str, span: crate::Span) -> Result<String, Fault> {
    let path = absolute(stage, target);
    if path == "/" {
        let error = Diagnostic::error(span, "a mount cannot cover the whole root");
        return Err(Box::new(error.with_help("give it a `target` below /")));
    }
    Ok(path)
}

fn absolute(stage: &StageResult, path: &str) -> String {
    if path.starts_with('/') {
        return clean(path);
    }
    let dir = stage.config.config.working_dir.as_deref().unwrap_or("/");
    clean(&format!("/{dir}/{path}"))
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn secret(stage: &StageResult, spec: &MountSpec) -> RunMount {
    let named = if spec.source.is_empty() { &spec.id } else { &spec.source };
    let id = if named.is_empty() { base_name(&spec.target).to_owned() } else { named.clone() };
    let target = match (spec.target.as_str(), &spec.env) {
        ("", Some(_)) => String::new(),
        ("", None) => format!("/run/secrets/{}", base_name(&id)),
        (target, _) => absolute(stage, target),
    };
    let kind = MountKind::Secret {
        id,
        required: spec.required,
        env: spec.env.clone(),
        mode: spec.mode.unwrap_or(0o400),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
    };
    RunMount { target, kind }
}

fn ssh(stage: &StageResult, spec: &MountSpec, number: usize) -> RunMount {
    let id = if spec.id.is_empty() { "default".to_owned() } else { spec.id.clone() };
    let target = match spec.target.as_str() {
        "" => format!("{SSH_SOCKET}{number}"),
        target => absolute(stage, target),
    };
    let kind = MountKind::Ssh {
        id,
        required: spec.required,
        mode: spec.mode.unwrap_or(0o600),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
    };
    RunMount { target, kind }
}
