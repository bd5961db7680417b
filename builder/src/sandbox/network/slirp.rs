//! A network of its own by slirp4netns(1): user-mode TCP/IP on a tap device.
//!
//! It works as root and unprivileged alike and needs no rule on this machine. The process ends when
//! its standard input does, which is when the builder ends, however that comes about. This
//! machine's loopback is not reachable through it (`--disable-host-loopback`).
//!
//! Why not pasta(1), measured on Debian 12 and Linux 6.18 with 300 MB by HTTP from this machine: it is as
//! fast (530 to 820 MB/s, slirp4netns 370 to 720 MB/s), but takes 70 to 120 ms to start and end where
//! slirp4netns is ready after 10 to 26 ms; started by root it never got ready; and unless told
//! otherwise it leads the gateway's address to this machine's loopback.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::error::Fault;

/// Largest packet: packets are copied by one process, so few and large ones are fast.
const MTU: &str = "--mtu=65520";

/// What slirp4netns may say before it is ignored.
const LOG_BYTES: usize = 64 << 10;

/// The resolver inside its network, which asks this machine's (slirp4netns(1)).
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The address that it gives to what is inside.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

/// What it writes when the network can be used (slirp4netns(1), `--ready-fd`).
const READY: &[u8; 1] = b"1";

/// How long it may take; it is there after tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The device that packets pass; on machines without udev only root may open it.
const TUN: &str = "/dev/net/tun";

/// What to do about that.
const TUN_HELP: &str = ". The administrator must run `chmod 0666 /dev/net/tun`, or `modprobe tun` \
    where it is missing, or start the container that this is with `--device /dev/net/tun`; or choose \
    --network=none or --network=host";

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
            .stderr(log.try_clone()?);
        // Each of its writes is one message, so that READY is told from what it prints.
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (output, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        let spawned = command.stdout(theirs).spawn();
        // Its end is to be seen here.
        drop(command);
        let mut process =
            spawned.map_err(|error| Fault::network(format!("{}: {error}", program.display())))?;
        let input = process.stdin.take();
        let slirp = Self { process, input };
        if wait_until_ready(&output)? { Ok(slirp) } else { Err(failure(&mut log)) }
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

/// Waits for [`READY`]; false if it ends before that.
fn wait_until_ready(output: &OwnedFd) -> Result<bool, Fault> {
    let deadline = Instant::now() + PATIENCE;
    let mut message = [0; 256];
    loop {
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            Ok(0) => return Err(Fault::network("slirp4netns did not get ready")),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(output, &mut message)? {
            0 => return Ok(false),
            length if message[..length] == *READY => return Ok(true),
            _ => {}
        }
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
