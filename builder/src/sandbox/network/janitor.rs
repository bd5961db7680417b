//! A small process that puts this machine's firewall in order for one builder, and back.
//!
//! It outlives the builder by the moment that it takes to clean up, so that kill -9 of the builder
//! leaves no rule. If it is killed too, its notes tell the next builder what to take away.
//!
//! Meanwhile it passes on what steps ask a resolver that listens on this machine's loopback alone.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::super::error::{At as _, Fault};
use super::super::mount::path_of;
use super::super::wire;
use super::firewall::Firewall;
use super::plan::{self, Plan};
use super::{HELPER_ARG, dns};

/// Second argument of the helper that does this.
pub(in crate::sandbox) const JANITOR_ARG: &str = "network-janitor";

/// Notes are names and numbers; more is not read.
const NOTE_BYTES: u64 = 4096;

/// The janitor, from the builder's side: it cleans up when this is dropped.
#[derive(Debug)]
pub(super) struct Janitor {
    process: Child,
    /// Its end tells the janitor that the builder has ended.
    link: Option<OwnedFd>,
}

impl Janitor {
    /// Starts it and waits until the rules are in place. `program` is this program; `lock` is the
    /// plan's.
    pub(super) fn start(program: &OwnedFd, plan: &Plan, lock: &File) -> Result<Self, Fault> {
        let (link, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = Command::new(path_of(program))
            .args([HELPER_ARG, JANITOR_ARG])
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .at("start the network's janitor")?;
        let janitor = Self { process, link: Some(link) };
        let link = janitor.link.as_ref().expect("it was just put there");
        wire::send(link, plan, &[lock.as_fd()])?;
        match wire::receive::<Option<Fault>>(link)? {
            Some((None, _)) => Ok(janitor),
            Some((Some(fault), _)) => Err(fault),
            None => Err(Fault::network("its janitor was killed")),
        }
    }
}

/// Waits for the clean-up, so that a builder that ends in order leaves in order.
impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.link.take());
        // It was started, so waiting fails only if somebody else has waited for it.
        drop(self.process.wait());
    }
}

/// Does the janitor's work in a process of its own.
pub(in crate::sandbox) fn run(link: &OwnedFd) -> ExitCode {
    // Signals of a terminal are the builder's to act on. A group's leader cannot, and need not.
    let _ = rustix::process::setsid();
    let Ok(Some((plan, fds))) = wire::receive::<Plan>(link) else { return ExitCode::FAILURE };
    let Some(lock) = fds.into_iter().next() else { return ExitCode::FAILURE };
    let mut notes = File::from(lock);
    let work = Work::begin(&plan, &mut notes);
    // If the builder is gone already, the clean-up follows at once.
    let _ = wire::send(link, &work.as_ref().err(), &[]);
    let Ok(work) = work else { return ExitCode::FAILURE };
    if let Err(fault) = dns::serve_until_closed(link, &plan) {
        tracing::debug!(?fault, "the resolver's forwarder ended");
        // Steps are without names then; the rules stay until the builder ends.
        drop(wire::receive::<()>(link));
    }
    work.end(&plan, &mut notes);
    ExitCode::SUCCESS
}

/// What was changed.
struct Work {
    firewall: Firewall,
    forwarding: Option<Forwarding>,
}

impl Work {
    fn begin(plan: &Plan, notes: &mut File) -> Result<Self, Fault> {
        let firewall = Firewall::find()
            .ok_or_else(|| Fault::network("neither iptables nor nft is installed"))?;
        sweep(&firewall, plan, notes);
        write_note(notes, &serde_json::to_string(plan).unwrap_or_default())?;
        let forwards = sysctl("all").is_some_and(|value| value == "1");
        let forwarding = match &plan.uplink {
            Some(uplink) if !forwards => Some(Forwarding::hold(uplink)?),
            _ => None,
        };
        let work = Self { firewall, forwarding };
        if let Err(fault) = work.firewall.install(plan, !forwards) {
            work.end(plan, notes);
            return Err(fault);
        }
        Ok(work)
    }

    /// Undoes it. What cannot be undone is tried again by the next builder, by the notes.
    fn end(self, plan: &Plan, notes: &mut File) {
        if self.firewall.remove(plan).is_ok() {
            drop(write_note(notes, ""));
        }
        if let Some(forwarding) = self.forwarding {
            forwarding.release();
        }
    }
}

/// Takes away what janitors that were killed have left: of this block and of every other that
/// nobody holds.
fn sweep(firewall: &Firewall, own: &Plan, notes: &mut File) {
    clean(firewall, notes);
    for block in (0..=u8::MAX).filter(|block| *block != own.block) {
        let path = plan::block_file(block);
        if fs::metadata(&path).is_ok_and(|found| found.len() > 0)
            && let Ok(Some(mut lock)) = plan::lock(&path)
        {
            clean(firewall, &mut lock);
        }
    }
}

/// Removes the rules that `notes` tell of, if any.
fn clean(firewall: &Firewall, notes: &mut File) {
    let mut text = String::new();
    if notes.rewind().is_err() || notes.take(NOTE_BYTES).read_to_string(&mut text).is_err() {
        return;
    }
    if let Ok(stale) = serde_json::from_str::<Plan>(&text) {
        // Rules may never have been added, or may be gone with a reboot.
        drop(firewall.remove(&stale));
        drop(write_note(notes, ""));
    }
}

fn write_note(notes: &mut File, text: &str) -> Result<(), Fault> {
    notes.set_len(0)?;
    notes.rewind()?;
    Ok(notes.write_all(text.as_bytes())?)
}

/// The uplink forwards packets as long as any builder holds this.
struct Forwarding {
    uplink: String,
    lock: File,
}

impl Forwarding {
    fn hold(uplink: &str) -> Result<Self, Fault> {
        let path = plan::forwarding_file(uplink);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = open.at(path.display())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        if sysctl(uplink).is_some_and(|value| value == "0") {
            write_note(&mut lock, "0")?;
            set_sysctl(uplink, "1")?;
        }
        rustix::fs::flock(&lock, FlockOperation::LockShared)?;
        Ok(Self { uplink: uplink.to_owned(), lock })
    }

    /// The last one puts the setting back, unless the whole machine forwards by now, which is
    /// somebody else's wish.
    fn release(mut self) {
        let operation = FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::flock(&self.lock, operation).is_err() {
            return;
        }
        let mut text = String::new();
        let is_ours = self.lock.rewind().and_then(|()| self.lock.read_to_string(&mut text)).is_ok()
            && text == "0";
        if is_ours && sysctl("all").is_some_and(|value| value == "0") {
            drop(set_sysctl(&self.uplink, "0"));
        }
        drop(write_note(&mut self.lock, ""));
    }
}

fn forwarding_sysctl(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")
}

fn sysctl(interface: &str) -> Option<String> {
    Some(fs::read_to_string(forwarding_sysctl(interface)).ok()?.trim().to_owned())
}

/// Has an interface forward packets, or not.
pub(super) fn set_sysctl(interface: &str, value: &str) -> Result<(), Fault> {
    let path = forwarding_sysctl(interface);
    fs::write(&path, value).at(path)
}
