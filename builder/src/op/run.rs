//! RUN: from op to sandbox, and its output to events.

use std::collections::{BTreeMap, VecDeque};

use cache::Store;
use frontend::{HEREDOC_DIR, RunNetwork, RunOp};
use tokio_util::sync::CancellationToken;

use super::error::OpError;
use super::mounts::{self, Kept, World};
use super::perform::{Root, commit, prepare};
use crate::limits::{LimitError, Limits};
use crate::progress::{Event, Events, OutputBytes, OutputStream};
use crate::request::BuildRequest;
use crate::rootfs::{LayeredRoot, resolve_user};
use crate::sandbox::{
    Control, Exit, MountSource, Network, OverlayDirs, Sandbox, SandboxError, SandboxMount,
    SandboxSpec,
};

/// Lines of output that a failure repeats.
const TAIL_LINES: usize = 20;

/// Bytes of one line that a failure repeats.
const TAIL_LINE_LIMIT: usize = 400;

/// Build arguments that reach every RUN without an ARG (Dockerfile reference, "Predefined ARGs").
const PROXY_NAMES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What all RUN steps of a build share. None of it can change a result, so none of it but the
/// network is part of a key.
#[derive(Clone, Debug)]
pub(crate) struct RunSettings {
    /// The network of steps that do not choose one.
    pub(crate) network: RunNetwork,
    extra_hosts: Vec<(String, String)>,
    ca_certs: Vec<u8>,
    proxies: BTreeMap<String, String>,
    limits: Limits,
}

impl RunSettings {
    /// Takes them from a request, under the caps of the builder.
    ///
    /// # Errors
    ///
    /// [`LimitError`] when more is asked for than the builder allows.
    pub(crate) fn of(request: &BuildRequest, caps: &Limits) -> Result<Self, LimitError> {
        let proxies = PROXY_NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), request.build_args.get(*name)?.clone())))
            .collect();
        Ok(Self {
            network: request.network,
            extra_hosts: request.extra_hosts.clone(),
            ca_certs: request.ca_certs.clone(),
            proxies,
            limits: request.limits.clone().within(caps)?,
        })
    }
}

/// Where a step's output and its orders go through.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Index in the plan; `None` keeps the output to itself.
    pub(crate) index: Option<usize>,
    /// Receives the output.
    pub(crate) events: Events,
    /// Ends the command.
    pub(crate) cancel: CancellationToken,
}

/// Runs the command on the first input and commits what it left.
pub(crate) fn run(
    store: &Store,
    sandbox: &Sandbox,
    op: &RunOp,
    inputs: &[Root],
    settings: &RunSettings,
    step: &Step,
) -> Result<Root, OpError> {
    let active = prepare(store, inputs)?;
    let mut kept = Kept::default();
    let lowers = active.lowers().to_vec();
    let world = World { store, inputs, cancel: &step.cancel };
    let mut spec = describe(&world, op, lowers, settings, &mut kept)?;
    spec.scratch =
        Some(OverlayDirs { upper: active.upper().to_owned(), work: active.work().to_owned() });
    let mut tail = Tail::default();
    let mut output = |stream: OutputStream, bytes: &[u8]| {
        tail.push(bytes);
        if let Some(index) = step.index {
            let data = OutputBytes::new(bytes.to_vec());
            step.events.send_blocking(Event::StepOutput { step: index, stream, data });
        }
    };
    let mut control =
        || if step.cancel.is_cancelled() { Control::Cancel } else { Control::Continue };
    let ended = match sandbox.run(&spec, &mut output, &mut control) {
        Err(SandboxError::TimedOut { limit }) => {
            return Err(OpError::TimedOut { limit, tail: tail.lines() });
        }
        ended => ended?,
    };
    if let Some(index) = step.index {
        step.events.send_blocking(Event::StepUsage { step: index, usage: ended.usage });
    }
    match ended.exit {
        Exit::Code(0) => commit(active),
        exit if ended.is_out_of_memory() => {
            let (code, usage) = (exit.code(), Box::new(ended.usage));
            Err(OpError::OutOfMemory { code, usage, tail: tail.lines() })
        }
        Exit::Code(code) => Err(OpError::Exit { code, tail: tail.lines() }),
        Exit::Signal(signal) => Err(OpError::Signal { signal, tail: tail.lines() }),
    }
}

fn describe(
    world: &World<'_>,
    op: &RunOp,
    lowers: Vec<std::path::PathBuf>,
    settings: &RunSettings,
    kept: &mut Kept,
) -> Result<SandboxSpec, OpError> {
    refuse_unsupported(op)?;
    let user = resolve_user(&LayeredRoot::open(&lowers)?, &op.user)?;
    let mut env = settings.proxies.clone();
    env.extend(op.env.clone());
    env.entry("HOME".to_owned()).or_insert(user.home);
    let mut spec = SandboxSpec::new(lowers, op.args.clone());
    spec.env = env.into_iter().collect();
    spec.cwd.clone_from(&op.cwd);
    (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
    spec.network = match op.network {
        RunNetwork::Default => settings.network,
        RunNetwork::None | RunNetwork::Host => op.network,
    }
    .into();
    spec.extra_hosts.clone_from(&settings.extra_hosts);
    spec.ca_certs.clone_from(&settings.ca_certs);
    spec.limits.clone_from(&settings.limits);
    for file in &op.files {
        spec.mounts.push(SandboxMount {
            target: format!("{HEREDOC_DIR}/{}", file.name),
            source: MountSource::File {
                content: file.content.clone().into_bytes(),
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
        });
    }
    for mount in &op.mounts {
        spec.mounts.push(mounts::describe(world, mount, kept)?);
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

fn refuse_unsupported(op: &RunOp) -> Result<(), OpError> {
    let unsupported = |what: &str| Err(OpError::Unsupported { what: what.to_owned() });
    if op.insecure {
        return unsupported("RUN --security=insecure");
    }
    if op.devices.is_empty() { Ok(()) } else { unsupported("RUN --device") }
}

/// The last lines of a step's output.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.close();
            } else if self.open.len() < TAIL_LINE_LIMIT {
                self.open.push(byte);
            }
        }
    }

    fn close(&mut self) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(std::mem::take(&mut self.open));
    }

    fn lines(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.close();
        }
        self.lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for number in 0..30 {
            tail.push(format!("line {number}\r\n").as_bytes());
        }
        tail.push(b"no end");
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[0], "line 11");
        assert_eq!(lines[TAIL_LINES - 1], "no end");
    }
}
