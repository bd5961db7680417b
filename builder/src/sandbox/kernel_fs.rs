//! `/proc` and `/sys` as Docker shows them: parts masked, parts read-only.
//!
//! Masks are our own null device and an empty directory of ours, and are laid over what our own
//! mount's descriptor leads to: nothing of the image takes part.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::beneath::open_exact;
use super::child::Child;
use super::error::{At as _, Fault};
use super::ground::Ground;
use super::mount::{KERNEL, READ_ONLY, attach, clone_of, clone_of_all, filesystem, open_dir};
use super::source::Prepared;
use super::spec::Network;
use super::target::attach_at;

/// Hidden parts of `/proc` (Docker's defaults of 2026).
const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// Hidden parts of `/sys` (the same source); one more a processor, see [`THERMAL`].
const MASKED_SYS: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// Hidden in each directory of [`PROCESSORS`]: its counters tell what other programs compute.
const THERMAL: &str = "thermal_throttle";

/// Where `/sys` lists processors.
const PROCESSORS: &str = "devices/system/cpu";

/// Parts of `/proc` that can be read only (the same source).
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What Docker sets in a network of its own, so that a user other than root can serve port 80 and
/// send pings.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];

/// Makes `/proc` of the new PID namespace.
pub(super) fn make_proc(ground: &mut Ground) -> Result<(), Fault> {
    let proc = filesystem("proc", &[], KERNEL)?;
    ground.park(&proc, "proc")?;
    ground.proc = Some(proc);
    Ok(())
}

/// Hides and write-protects parts of `/proc`.
pub(super) fn mask_proc(ground: &mut Ground) -> Result<(), Fault> {
    let proc = ground.proc.as_ref().expect("`mount /proc` comes before `masked paths`");
    let covers = ground.covers.as_ref().expect("`mount /dev` comes before `masked paths`");
    let sysctls = open_part(proc, "sys")?;
    for name in MASKED_PROC {
        mask(proc, name, covers)?;
    }
    for name in READ_ONLY_PROC {
        if let Some(place) = open_part(proc, name)? {
            attach(clone_of(&place, READ_ONLY).at(name)?, place).at(name)?;
        }
    }
    ground.sysctls = sysctls;
    Ok(())
}

/// Mounts `/proc`; an insecure step gets one of which nothing is masked.
pub(super) fn mount_proc(child: &mut Child) -> Result<(), Fault> {
    let proc = if child.spec.is_insecure {
        filesystem("proc", &[], KERNEL)?
    } else {
        child.ground.proc.take().expect("`/proc` was made ahead")
    };
    if child.spec.network != Network::Host {
        child.ground.sysctls.iter().for_each(set_network_sysctls);
    }
    attach_dir(child, &child.places().proc.path, &proc)
}

/// Sets [`NETWORK_SYSCTLS`] in the own network namespace. A failure changes nothing that a step could not do otherwise: groups that are
/// not mapped, or a kernel without the name.
fn set_network_sysctls(sysctls: &OwnedFd) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    for (name, value) in NETWORK_SYSCTLS {
        if let Ok(file) = rustix::fs::openat(sysctls, name, flags, Mode::empty()) {
            let _ = rustix::io::write(file, value.as_bytes());
        }
    }
}

/// Mounts `/sys` of the new network namespace, read-only but for insecure steps, and a view of the own cgroup in it.
pub(super) fn mount_sys(child: &mut Child) -> Result<(), Fault> {
    let target = &child.places().sys.path;
    let flags = if child.spec.is_insecure { KERNEL } else { KERNEL | READ_ONLY };
    let sys = match filesystem("sysfs", &[], flags) {
        // A user namespace that does not own the host's network may only look at what is there.
        Err(fault) if fault.errno() == libc::EPERM && child.spec.network == Network::Host => {
            let sys = clone_of_all(open_dir(Path::new("/sys"))?, KERNEL | READ_ONLY)?;
            attach_dir(child, target, &sys)?;
            sys
        }
        sys => {
            let sys = sys?;
            attach_dir(child, target, &sys)?;
            mount_cgroup(&sys, flags)?;
            sys
        }
    };
    child.sys = Some(sys);
    Ok(())
}

/// Shows the own cgroup where programs look for their limits, if the machine has version 2 there.
fn mount_cgroup(sys: &OwnedFd, flags: MountAttrFlags) -> Result<(), Fault> {
    let is_v2 =
        statfs("/sys/fs/cgroup").is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let Some(place) = open_part(sys, "fs/cgroup")?.filter(|_| is_v2) else { return Ok(()) };
    attach(filesystem("cgroup2", &[], flags)?, place)
}

fn attach_dir(child: &Child, target: &Path, mount: &OwnedFd) -> Result<(), Fault> {
    let prepared = Prepared { mount: mount.try_clone()?, is_dir: true };
    attach_at(child.root(), target, &prepared)
}

/// Hides parts of `/sys`.
pub(super) fn mask_sys(child: &mut Child) -> Result<(), Fault> {
    if child.spec.is_insecure {
        return Ok(());
    }
    let sys = child.sys.as_ref().expect("`mount /sys` comes before `masked paths`");
    let covers = child.ground.covers.as_ref().expect("they were made ahead");
    for name in MASKED_SYS {
        mask(sys, name, covers)?;
    }
    for processor in processors(sys)? {
        mask(sys, &format!("{PROCESSORS}/{processor}/{THERMAL}"), covers)?;
    }
    Ok(())
}

/// Lays `null` or a copy of `empty` over `name` in `mount`, if there is such a thing.
fn mask(mount: &OwnedFd, name: &str, (null, empty): &(OwnedFd, OwnedFd)) -> Result<(), Fault> {
    let Some(place) = open_part(mount, name)? else { return Ok(()) };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place).at(name)?.st_mode);
    let cover = if kind == FileType::Directory { empty } else { null };
    attach(clone_of(cover, READ_ONLY).at(name)?, place).at(name)
}

fn open_part(mount: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Fault> {
    match open_exact(mount, Path::new(name)) {
        Err(Errno::NOENT) => Ok(None),
        place => place.at(name).map(Some),
    }
}

/// Names the directories `cpu0`, `cpu1` ... of `/sys`.
fn processors(sys: &OwnedFd) -> Result<Vec<String>, Fault> {
    let Some(place) = open_part(sys, PROCESSORS)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in fs::read_dir(super::mount::path_of(&place))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("cpu").unwrap_or_default();
        if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
            names.push(name);
        }
    }
    Ok(names)
}
