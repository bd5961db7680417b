//! RUN: from op to sandbox, and its output to events.

use std::cell::OnceCell;
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};

use cache::{ActiveSnapshot, SnapshotId, Store};
use frontend::{HEREDOC_DIR, RunNetwork, RunOp};
use tokio_util::sync::CancellationToken;

use super::changes;
use super::devices;
use super::error::OpError;
use super::mounts::{self, Kept, World};
use super::output::Output;
use super::perform::{Root, commit, lowers_of, prepare};
use super::settings::RunSettings;
use crate::entitlement::Entitlement;
use crate::progress::{Event, Events, OutputStream};
use crate::rootfs::{LayeredRoot, resolve_user};
use crate::sandbox::{
    Control, Ended, Exit, MountSource, Network, Sandbox, SandboxError, SandboxMount, SandboxSpec,
    StdioMode,
};
use crate::ssh;

/// Where a step's output and its orders go through.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Index in the plan; `None` keeps the output to itself.
    pub(crate) index: Option<usize>,
    /// Receives the output.
    pub(crate) events: Events,
    /// Ends the command.
    pub(crate) cancel: CancellationToken,
    /// Takes what the command had left if it failed; `None` drops it.
    pub(crate) failed: Option<Arc<OnceLock<SnapshotId>>>,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its layer on those below.
    pub(crate) root: Root,
    /// Whether the layer holds a secret, which was allowed: no other build may come by it.
    pub(crate) has_secret: bool,
}

/// Runs the command on the first input and commits what it left.
pub(crate) fn run(
    store: &Store,
    sandbox: &Sandbox,
    op: &RunOp,
    inputs: &[Root],
    settings: &RunSettings,
    step: &Step,
) -> Result<Ran, OpError> {
    settings.grants.check_run(op, settings.network)?;
    let active = prepare(store, inputs)?;
    let mut kept = Kept::default();
    let lowers = active.lowers().to_vec();
    let world = World { store, inputs, settings, step };
    let mut spec = describe(&world, op, lowers, &mut kept)?;
    let lost = OnceCell::new();
    let mut output = Output::new(step.index, &step.events, settings.masker.as_ref(), &lost);
    let mut control = || {
        if step.cancel.is_cancelled() || lost.get().is_some() {
            Control::Cancel
        } else {
            Control::Continue
        }
    };
    let mut push = |stream: OutputStream, bytes: &[u8]| output.push(stream, bytes);
    let ended = with_agents(&kept, || {
        changes::run_on(&active, sandbox, &mut spec, settings, step, &mut push, &mut control)
    })??;
    let tail = output.finish();
    if let Some(error) = lost.into_inner() {
        return Err(OpError::Output(error));
    }
    let ended = match ended {
        Err(SandboxError::TimedOut { limit }) => {
            // A helper that had to be killed took no certificate out of the layer.
            if settings.ca_certs.is_empty() {
                keep_failed(op, active, settings, step);
            }
            return Err(OpError::TimedOut { limit, tail });
        }
        ended => ended?,
    };
    if let Some(index) = step.index {
        step.events.send_blocking(Event::StepUsage { step: index, usage: ended.usage });
    }
    if ended.exit.is_success() {
        let has_secret = find_leak(op, active.upper(), settings, step)?;
        return Ok(Ran { root: commit(active)?, has_secret });
    }
    keep_failed(op, active, settings, step);
    match ended.exit {
        exit if ended.is_out_of_memory() => {
            let (code, usage) = (exit.code(), Box::new(ended.usage));
            Err(OpError::OutOfMemory { code, usage, tail })
        }
        Exit::Code(code) => Err(OpError::Exit { code, tail }),
        Exit::Signal(signal) => Err(OpError::Signal { signal, tail }),
    }
}

/// Runs the command of `op`, which ended long ago in its build, with this process's standard
/// streams, on files as they were; what it writes is dropped.
#[expect(clippy::too_many_arguments, reason = "all that a command is run with")]
pub(crate) fn enter(
    store: &Store,
    sandbox: &Sandbox,
    op: &RunOp,
    inputs: &[Root],
    settings: &RunSettings,
    stdio: StdioMode,
    step: &Step,
    control: &mut dyn FnMut() -> Control,
) -> Result<Ended, OpError> {
    settings.grants.check_run(op, settings.network)?;
    let root = inputs.first().unwrap_or(&Root::Empty);
    let mut kept = Kept::default();
    let world = World { store, inputs, settings, step };
    let mut spec = describe(&world, op, lowers_of(store, root)?, &mut kept)?;
    if matches!(stdio, StdioMode::Terminal { .. }) && !op.env.contains_key("TERM") {
        spec.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    spec.stdio = stdio;
    Ok(with_agents(&kept, || sandbox.run(&spec, &mut |_, _| {}, control))??)
}

/// Keeps what a failed command left, so that one can look at it: unless it holds a secret, or
/// cannot be searched for one. That it is lost fails nothing.
fn keep_failed(op: &RunOp, active: ActiveSnapshot, settings: &RunSettings, step: &Step) {
    let Some(slot) = &step.failed else { return };
    let kept = match settings.search_for(op).layer(active.upper()) {
        Ok(None) => commit(active),
        Ok(Some(leak)) => {
            let text = format!("{leak}; what the step left was thrown away");
            return step.events.send_blocking(Event::Note { text });
        }
        Err(error) => Err(error.into()),
    };
    match kept {
        Ok(root) => {
            if let Some(id) = root.snapshot() {
                let _only_one_command = slot.set(id.clone());
            }
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "what the failed step left could not be kept");
        }
    }
}

/// Does `work` while the step's ssh agents are served.
fn with_agents<T>(kept: &Kept, work: impl FnOnce() -> T) -> Result<T, OpError> {
    if kept.agents.is_empty() {
        return Ok(work());
    }
    let failed = |errno: rustix::io::Errno| OpError::Agent(errno.into());
    let (stop, running) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    Ok(std::thread::scope(|scope| {
        scope.spawn(|| ssh::serve(&kept.agents, stop.as_fd()));
        let result = work();
        drop(running);
        result
    }))
}

/// Searches what the step left for the secrets that it had; an allowed leak is only told.
fn find_leak(
    op: &RunOp,
    upper: &std::path::Path,
    settings: &RunSettings,
    step: &Step,
) -> Result<bool, OpError> {
    let Some(leak) = settings.search_for(op).layer(upper)? else { return Ok(false) };
    if settings.grants.check(Entitlement::SecretLeak, leak.to_string()).is_err() {
        return Err(OpError::Leak(leak));
    }
    step.events.send_blocking(Event::Note { text: format!("{leak}; this is allowed") });
    Ok(true)
}

fn describe(
    world: &World<'_>,
    op: &RunOp,
    lowers: Vec<std::path::PathBuf>,
    kept: &mut Kept,
) -> Result<SandboxSpec, OpError> {
    let settings = world.settings;
    let user = resolve_user(&LayeredRoot::open(&lowers)?, &op.user)?;
    let mut env = settings.proxies.clone();
    env.extend(op.env.clone());
    env.entry("HOME".to_owned()).or_insert(user.home);
    let mut spec = SandboxSpec::new(lowers, op.args.clone());
    spec.env = env.into_iter().collect();
    spec.cwd.clone_from(&op.cwd);
    (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
    spec.network = settings.network_of(op).into();
    if let Some(hostname) = &op.hostname {
        spec.hostname.clone_from(hostname);
    }
    spec.extra_hosts.clone_from(&settings.extra_hosts);
    spec.ca_certs.clone_from(&settings.ca_certs);
    spec.dns.clone_from(&settings.dns);
    spec.limits.clone_from(&settings.limits);
    spec.is_insecure = op.insecure;
    spec.no_new_privs = settings.no_new_privs;
    for file in &op.files {
        spec.mounts.push(SandboxMount {
            target: format!("{HEREDOC_DIR}/{}", file.name),
            source: MountSource::File {
                content: file.content.clone().into(),
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
        });
    }
    for mount in &op.mounts {
        mounts::add(world, mount, kept, &mut spec)?;
    }
    for text in devices::add(op, &settings.cdi_dirs, &mut spec)? {
        world.step.events.send_blocking(Event::Note { text });
    }
    Ok(spec)
}

impl From<RunNetwork> for Network {
    fn from(network: RunNetwork) -> Self {
        match network {
            RunNetwork::Default => Self::Private,
            RunNetwork::None => Self::None,
            RunNetwork::Host => Self::Host,
        }
    }
}
