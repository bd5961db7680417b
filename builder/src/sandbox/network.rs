//! A network of its own with a way out, by slirp4netns(1): user-mode TCP/IP on a tap device.
//!
//! It works as root and unprivileged alike, needs no rule on this machine, and leaves nothing: it
//! runs in the PID namespace that ends with the step. This machine's loopback is not reachable
//! through it (`--disable-host-loopback`).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use rustix::pipe::PipeFlags;

use super::error::{At as _, Fault};
use super::etc;
use super::mount::{KERNEL, path_of, tmpfs};
use super::spec::{PortForward, SandboxSpec};
use super::wire;

/// Largest packet: packets are copied by one process, so few and large ones are fast.
const MTU: &str = "--mtu=65520";

/// What slirp4netns may say before it is ignored.
const LOG_BYTES: usize = 64 << 10;

/// Names the program that is missing and how to get it.
pub(super) const MISSING: &str = "install slirp4netns (Debian: apt-get install slirp4netns), or \
    choose --network=none or --network=host";

/// The device that packets pass; on machines without udev only root may open it.
const TUN: &str = "/dev/net/tun";

/// What to do about that.
const TUN_HELP: &str = ". The administrator must run `chmod 0666 /dev/net/tun`, or `modprobe tun` \
    where it is missing; or choose --network=none or --network=host";

/// Where the program is looked for beside `PATH`, which daemons often lack.
const PLACES: [&str; 5] = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/usr/local/sbin"];

/// Finds slirp4netns on this machine, never in an image.
pub(super) fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.iter().map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("slirp4netns"))
        .find(|program| program.is_file())
}

/// A network on its way up.
#[derive(Debug)]
pub(super) struct PrivateNetwork {
    /// The network namespace.
    pub netns: OwnedFd,
    /// Becomes readable when the network can be used, and ends if it never can.
    pub ready: OwnedFd,
    log: File,
    /// A directory in memory with the control socket, if ports are to be forwarded.
    control: Option<OwnedFd>,
}

impl PrivateNetwork {
    /// Starts `program` for `netns`. The caller must be the first process of a PID namespace, so
    /// that the program ends with it.
    pub(super) fn start(program: &Path, netns: OwnedFd, spec: &SandboxSpec) -> Result<Self, Fault> {
        let (ready, told) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let log = make_log()?;
        let control = (!spec.port_forwards.is_empty()).then(|| tmpfs("700", Some(4096), KERNEL));
        let control = control.transpose()?;

        let mut command = Command::new(program);
        command.args(["--configure", MTU, "--disable-host-loopback"]).args([
            "--enable-sandbox",
            "--enable-seccomp",
            "--netns-type=path",
        ]);
        if !etc::needs_own_resolver() {
            command.arg("--disable-dns");
        }
        if let Some(dir) = &control {
            command.arg(format!("--api-socket={}/socket", inherit(dir)?));
        }
        inherit(&told)?;
        command
            .arg(format!("--ready-fd={}", told.as_raw_fd()))
            .args([inherit(&netns)?, "tap0".to_owned()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone()?);
        let spawned = command.spawn();
        for fd in control.iter().chain([&netns]) {
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
        spawned.map_err(|error| Fault::network(format!("{}: {error}", program.display())))?;
        Ok(Self { netns, ready, log, control })
    }

    /// Says why the network never came up.
    pub(super) fn failure(&mut self) -> Fault {
        let mut text = String::new();
        // What cannot be read is not told; the exit itself is.
        drop(self.log.rewind().and_then(|()| self.log.read_to_string(&mut text)));
        let said: Vec<&str> = text.trim_matches(['\0', '\n']).lines().collect();
        let said = said.join("; ");
        let help = if said.contains(TUN) { TUN_HELP } else { "" };
        Fault::network(format!("slirp4netns ended: {said}{help}"))
    }

    /// Has the ports forwarded, once the network is up.
    pub(super) fn forward(&self, ports: &[PortForward]) -> Result<(), Fault> {
        let Some(dir) = &self.control else { return Ok(()) };
        ports.iter().try_for_each(|port| forward_one(&format!("{}/socket", path_of(dir)), *port))
    }
}

/// Asks for one port (slirp4netns(1), "API SOCKET": one request a connection).
fn forward_one(socket: &str, port: PortForward) -> Result<(), Fault> {
    let request = serde_json::json!({
        "execute": "add_hostfwd",
        "arguments": {
            "proto": "tcp",
            "host_addr": port.host.ip(),
            "host_port": port.host.port(),
            "guest_port": port.port,
        },
    });
    let mut stream = UnixStream::connect(socket).at("control socket of slirp4netns")?;
    stream.write_all(request.to_string().as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    BufReader::new(stream.take(4096)).read_line(&mut answer)?;
    if answer.contains("\"error\"") {
        return Err(Fault::network(format!("cannot forward {}: {}", port.host, answer.trim())));
    }
    Ok(())
}

/// Enters a new network namespace and sends it over `link`. A user namespace cannot return to the
/// network that it came from, so this is done by a process that needs no network.
pub(super) fn send_namespace(link: &OwnedFd) -> Result<(), Fault> {
    let make = || -> Result<File, Fault> {
        unshare(CloneFlags::CLONE_NEWNET).at("network namespace")?;
        File::open("/proc/self/ns/net").at("network namespace")
    };
    let netns = make();
    let fds: Vec<_> = netns.iter().map(AsFd::as_fd).collect();
    Ok(wire::send(link, &netns.as_ref().err(), &fds)?)
}

/// Receives what [`send_namespace`] sends.
pub(super) fn receive_namespace(link: &OwnedFd) -> Result<OwnedFd, Fault> {
    let (fault, fds) = wire::receive::<Option<Fault>>(link)?.ok_or(Errno::PIPE)?;
    match (fault, fds.into_iter().next()) {
        (Some(fault), _) => Err(fault),
        (None, netns) => netns.ok_or_else(|| Errno::BADMSG.into()),
    }
}

/// Memory of fixed size: a program that talks without end writes nowhere.
fn make_log() -> Result<File, Fault> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let log = rustix::fs::memfd_create("network-log", flags)?;
    rustix::fs::ftruncate(&log, LOG_BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&log, SealFlags::GROW)?;
    Ok(log.into())
}

/// Lets the next program inherit `fd` and names it as that program sees it.
fn inherit(fd: &OwnedFd) -> Result<String, Fault> {
    rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    Ok(path_of(fd))
}
