//! Who the command is and what it may do: session, limits, working directory, user, capabilities.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Gid, Uid};

use super::beneath::open_followed;
use super::child::Child;
use super::error::{At as _, Fault};
use super::{seccomp, sys};
use crate::limits::{ULIMIT_NAMES, Ulimit};
use crate::userns;

/// What root keeps: Docker's default set, mask `a80425fb`.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Open files of the command at most: what Docker gives since 2024, soft and hard.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Starts a session without a terminal and with nobody's keyring. Signals have their default actions
/// since the first process of the sandbox reset them.
pub(super) fn start_session(_: &mut Child) -> Result<(), Fault> {
    // The helper leads a session already, and this process is its child, so this cannot fail.
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    match sys::join_new_session_keyring() {
        // Where a container's filter forbids keyrings, the step reaches none either.
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOSYS) => Ok(()),
        result => Ok(result?),
    }
}

/// What [`ULIMIT_NAMES`] name, in their order.
const RESOURCES: [Resource; ULIMIT_NAMES.len()] = [
    Resource::As,
    Resource::Core,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Locks,
    Resource::Memlock,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Rss,
    Resource::Rtprio,
    Resource::Rttime,
    Resource::Stack,
];

/// Sets the limits that were asked for, and those that would otherwise come from whoever started
/// the builder.
pub(super) fn limit_resources(child: &mut Child) -> Result<(), Fault> {
    let (soft, hard) = OPEN_FILES;
    // A hard limit can be lowered by everyone and raised by nobody who is not root.
    let ceiling = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let maximum = hard.min(ceiling);
    let files = Rlimit { current: Some(soft.min(maximum)), maximum: Some(maximum) };
    rustix::process::setrlimit(Resource::Nofile, files)?;
    // A program that crashes must not leave its memory in a layer.
    let ceiling = rustix::process::getrlimit(Resource::Core).maximum;
    let core = Rlimit { current: Some(0), maximum: ceiling };
    rustix::process::setrlimit(Resource::Core, core)?;
    child.spec.limits.ulimits.iter().try_for_each(set_ulimit)
}

fn set_ulimit(ulimit: &Ulimit) -> Result<(), Fault> {
    let name = ulimit.name.as_str();
    let known = ULIMIT_NAMES.iter().position(|known| *known == name);
    let Some(resource) = known.map(|index| RESOURCES[index]) else {
        return Err(Fault::refused(format!("there is no ulimit `{name}`")));
    };
    let limit = Rlimit { current: ulimit.soft, maximum: ulimit.hard };
    match rustix::process::setrlimit(resource, limit) {
        Err(Errno::PERM) => Err(Fault::refused(format!(
            "the hard limit of ulimit `{name}` is above this builder's own"
        ))),
        Err(Errno::INVAL) => {
            Err(Fault::refused(format!("ulimit `{name}`: the soft limit is above the hard one")))
        }
        result => result.at(format_args!("ulimit {name}")),
    }
}

/// Enters the working directory, makes it if it is missing, and checks that it lies inside.
pub(super) fn enter_directory(child: &mut Child) -> Result<(), Fault> {
    let cwd = &child.spec.cwd;
    if !cwd.starts_with('/') {
        return Err(Fault::refused(format!("working directory `{cwd}` is not absolute")));
    }
    let open = |path: &str| open_followed(child.root(), Path::new(path), OFlags::DIRECTORY);
    let mut path = String::new();
    let mut dir = open("/")?;
    for name in cwd.split('/').filter(|name| !name.is_empty()) {
        path = format!("{path}/{name}");
        dir = match open(&path) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).at(&path)?;
                open(&path).at(&path)?
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Fault::refused(format!(
                    "working directory `{cwd}`: `{path}` is no directory"
                )));
            }
            next => next.at(&path)?,
        };
    }
    rustix::process::fchdir(&dir)?;
    // A directory outside the root has no path in it: getcwd(2) says `(unreachable)`.
    let inside = rustix::process::getcwd(Vec::new())?.to_bytes().starts_with(b"/");
    if inside {
        Ok(())
    } else {
        Err(Fault::refused(format!("working directory `{cwd}` is outside")))
    }
}

/// Takes from the bounding set what the command can never have.
pub(super) fn drop_bounding_set(child: &mut Child) -> Result<(), Fault> {
    if child.spec.is_insecure {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if CAPABILITIES.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no further one.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Filters system calls from here on. It comes before the privilege to do so is dropped, since
/// `no_new_privs`, the other way, would break set-user-ID programs such as `sudo` where nobody asked
/// for that.
pub(super) fn filter_system_calls(child: &mut Child) -> Result<(), Fault> {
    if child.spec.is_insecure {
        return Ok(());
    }
    Ok(sys::set_filter(seccomp::program())?)
}

/// Keeps programs from giving the command privileges, where that is wanted.
pub(super) fn refuse_new_privileges(child: &mut Child) -> Result<(), Fault> {
    if child.spec.no_new_privs {
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// Takes on the command's user and groups.
pub(super) fn become_user(child: &mut Child) -> Result<(), Fault> {
    let spec = &child.spec;
    let single = userns::has_single_id();
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
    // With one id the kernel forbids setgroups(2), lest dropping a group grant something.
    if !(single && groups.is_empty()) {
        nix::unistd::setgroups(&groups).map_err(|errno| unmapped(errno, child, single))?;
    }
    nix::unistd::setresgid(gid, gid, gid).map_err(|errno| unmapped(errno, child, single))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|errno| unmapped(errno, child, single))
}

/// Explains why an id cannot be taken on.
fn unmapped(errno: nix::errno::Errno, child: &Child, single: bool) -> Fault {
    let (uid, gid) = (child.spec.uid, child.spec.gid);
    if single {
        let need = "the builder runs with a single user id; give it a range in /etc/subuid and \
            /etc/subgid and install newuidmap (Debian: apt-get install uidmap)";
        return Fault::refused(format!("cannot become user {uid}, group {gid}: {need}"));
    }
    if errno == nix::errno::Errno::EINVAL {
        let need = "it is outside the range that /etc/subuid and /etc/subgid give the builder";
        return Fault::refused(format!("cannot become user {uid}, group {gid}: {need}"));
    }
    errno.into()
}

/// Leaves root the default capabilities, and everybody else none: inheritable and ambient sets
/// are empty, so that no program gets any by being executed.
pub(super) fn drop_capabilities(child: &mut Child) -> Result<(), Fault> {
    let kept = match child.spec.uid {
        0 if child.spec.is_insecure => rustix::thread::capabilities(None)?.permitted,
        0 => CAPABILITIES,
        _ => CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Lets execve close all but the three standard descriptors.
pub(super) fn close_descriptors(_: &mut Child) -> Result<(), Fault> {
    Ok(sys::close_from_on_exec(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_dockers_fourteen() {
        assert_eq!(CAPABILITIES.bits(), 0xa804_25fb);
        assert_eq!(CAPABILITIES.bits().count_ones(), 14);
    }
}
