//! What builder and helper say to each other over a `SOCK_SEQPACKET` pair.
//!
//! ```text
//! builder -> spawner  Hello, once
//! builder -> spawner  Prepare, with the sockets of an init to come and of its command; any number
//!                     of times
//! spawner -> builder  Spawned, with a descriptor of it
//! builder -> command  Launch, with descriptors: memfd of the spec, standard output and error
//!                     [, network] [, standard input]
//! command -> init     Launched, which is read when the command has ended
//! builder -> init     Order, any number of times
//! init, command -> builder   Report, at least one unless it was killed
//! ```
//!
//! Messages are JSON, one a packet. Both ends are the same executable, so no version is sent.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::Fault;
use super::run::Exit;
use super::spec::SandboxSpec;
use super::timeline::Timeline;
use crate::limits::StepUsage;

/// Largest message; specs travel in a memfd because they may be larger.
const MESSAGE_BYTES: usize = 32 << 10;

/// Room for a spec without its secrets; more is found where needed.
const SPEC_BYTES: usize = 64 << 10;

/// Descriptors that go with a message at most.
const MESSAGE_FDS: usize = 5;

/// The first message to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The builder's process id, to notice that it died before the spawner could be tied to it.
    pub parent: u32,
}

/// What the spawner answers to [`Prepare`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Spawned {
    /// A process whose command waits for [`Launch`]; a descriptor of it comes along.
    Here,
    /// None could be made.
    Refused(Fault),
}

/// What can be done before it is known what to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Prepare {
    /// Directories of the cgroups made for the command.
    pub cgroups: Vec<PathBuf>,
}

/// What the command's process is told: all that is not in the spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// Whether the network namespace's descriptor follows that of the spec.
    pub has_netns: bool,
    /// Where the command finds a resolver, if not where this machine does.
    pub resolver: Option<Ipv4Addr>,
    /// This machine's address as the command knows it.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the directory of changes kept in memory is to be handed out.
    pub hands_out_changes: bool,
    /// Directories of the cgroups that are needed beside those of [`Prepare`].
    pub cgroups: Vec<PathBuf>,
    /// The layer that must be cleaned afterwards, if one must.
    pub unclean: Option<PathBuf>,
    /// Takes notes of the time, if they are wanted.
    pub timeline: Timeline,
}

/// What the command's process says as soon as it has [`Launch`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launched {
    /// As [`Launch::unclean`].
    pub unclean: Option<PathBuf>,
    /// Takes notes of the time, if they are wanted.
    pub timeline: Timeline,
}

/// What the builder may ask for while the command runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// Pass a signal on to the command.
    Signal(i32),
    /// Kill everything.
    Kill,
}

/// What a helper process has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command never ran.
    Failed {
        /// A name from a list of steps.
        step: String,
        /// Why.
        fault: Fault,
    },
    /// The command has a terminal; its other end comes along.
    Terminal,
    /// The command's changes are in memory; their directory comes along, in overlay form.
    Changes,
    /// How long things took, as far as they are wanted.
    Times(Timeline),
    /// The command ended, and all its processes with it.
    Ended {
        /// How.
        exit: Exit,
        /// What they used, as far as the kernel tells without cgroups.
        usage: StepUsage,
    },
}

/// Sends `message` with `fds`.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let text = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let parts = [IoSlice::new(&text)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Tells the builder that `step` failed. If the builder is gone, so is the reader of the message.
pub(super) fn send_failure(socket: impl AsFd, step: &str, fault: Fault) {
    let report = Report::Failed { step: step.to_owned(), fault: fault.clip() };
    let _ = send(socket, &report, &[]);
}

/// Receives one message and its descriptors; `None` when the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut text = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            // The other end died with our bytes unread; that is an end like any other.
            Err(Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&text[..received.bytes]).map_err(|_| Errno::BADMSG)?;
    Ok(Some((message, fds)))
}

/// Puts `spec` where only this process and its children can read it: never on a disk.
pub(super) fn write_spec(spec: &SandboxSpec) -> std::io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("sandbox-spec", MemfdFlags::CLOEXEC)?);
    // In one piece that is wiped: a buffer that grows leaves copies of secrets behind.
    let secrets: usize = spec.mounts.iter().map(|mount| mount.source.content_bytes()).sum();
    let variables: usize = spec.secret_env.iter().map(|it| it.value.bytes().len()).sum();
    let room = SPEC_BYTES + 2 * (secrets + variables);
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *text, spec)?;
    file.write_all(&text)?;
    Ok(file.into())
}

/// Reads what [`write_spec`] wrote.
///
/// Without the descriptor's offset, which all processes that have it share.
pub(super) fn read_spec(memory: &OwnedFd) -> std::io::Result<SandboxSpec> {
    let file = File::from(memory.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut text = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text)?)
}

/// What came with a [`Launch`].
#[derive(Debug)]
pub(super) struct Descriptors {
    pub spec: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub netns: Option<OwnedFd>,
    /// Standard input; empty where there is none.
    pub stdin: Option<OwnedFd>,
}

impl Descriptors {
    /// Takes them apart again.
    pub(super) fn sort(launch: &Launch, fds: Vec<OwnedFd>) -> Result<Self, Errno> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(Errno::BADMSG);
        let (spec, stdout, stderr) = (next()?, next()?, next()?);
        let netns = if launch.has_netns { Some(next()?) } else { None };
        Ok(Self { spec, stdout, stderr, netns, stdin: fds.next() })
    }
}
