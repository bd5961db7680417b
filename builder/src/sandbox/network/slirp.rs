//! A network of its own by slirp4netns(1): user-mode TCP/IP on a tap device.
//!
//! It works as root and unprivileged alike and needs no rule on this machine. The process ends when
//! its standard input does, which is when the builder ends, however that comes about. This
//! machine's loopback is not reachable through it (`--disable-host-loopback`).

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, SealFlags};

use super::super::error::Fault;

/// Largest packet: packets are copied by one process, so few and large ones are fast.
const MTU: &str = "--mtu=65520";

/// What slirp4netns may say before it is ignored.
const LOG_BYTES: usize = 64 << 10;

/// The resolver inside its network, which asks this machine's (slirp4netns(1)).
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The address that it gives to what is inside.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

/// How long it may take; it is there after tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The device that packets pass; on machines without udev only root may open it.
const TUN: &str = "/dev/net/tun";

/// What to do about that.
const TUN_HELP: &str = ". The administrator must run `chmod 0666 /dev/net/tun`, or `modprobe tun` \
    where it is missing; or choose --network=none or --network=host";

/// A running slirp4netns; dropping it ends it.
#[derive(Debug)]
pub(super) struct Slirp {
    process: Child,
    /// Its end is the order to end.
    input: Option<ChildStdin>,
}

impl Slirp {
    /// Starts `program` for `netns` and waits until the network can be used. If it `resolves`, it
    /// answers questions for names.
    pub(super) fn start(program: &Path, netns: &OwnedFd, resolves: bool) -> Result<Self, Fault> {
        let mut log = make_log()?;
        let mut command = Command::new(program);
        command.args([
            "--configure",
            MTU,
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            "--netns-type=path",
            "--exit-fd=0",
            "--ready-fd=1",
        ]);
        if !resolves {
            command.arg("--disable-dns");
        }
        command
            .args([seen_from_outside(netns), "tap0".to_owned()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        let spawned = command.spawn();
        let mut process =
            spawned.map_err(|error| Fault::network(format!("{}: {error}", program.display())))?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let slirp = Self { process, input };
        let mut ready = output.ok_or_else(|| Fault::network("slirp4netns has no output"))?;
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, patience)? == 0 {
            return Err(Fault::network("slirp4netns did not get ready"));
        }
        if ready.read(&mut [0])? == 0 {
            return Err(failure(&mut log));
        }
        Ok(slirp)
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may have ended by itself, and is not waited for in earnest: it has nothing to lose.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Names a descriptor of this process as another process sees it.
fn seen_from_outside(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Says why the network never came up.
fn failure(log: &mut File) -> Fault {
    let mut text = String::new();
    // What cannot be read is not told; the exit itself is.
    drop(log.rewind().and_then(|()| log.read_to_string(&mut text)));
    let said: Vec<&str> = text.trim_matches(['\0', '\n']).lines().collect();
    let said = said.join("; ");
    let help = if said.contains(TUN) { TUN_HELP } else { "" };
    Fault::network(format!("slirp4netns ended: {said}{help}"))
}

/// Memory of fixed size: a program that talks without end writes nowhere.
fn make_log() -> Result<File, Fault> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let log = rustix::fs::memfd_create("network-log", flags)?;
    rustix::fs::ftruncate(&log, LOG_BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&log, SealFlags::GROW)?;
    Ok(log.into())
}
