//! The namespaces of the command, and what is set inside them at once.

use std::fs;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};

use super::child::Child;
use super::error::{At as _, Fault};
use super::spec::Network;

/// Enters the cgroups that only some commands have.
pub(super) fn join_more_cgroups(child: &mut Child) -> Result<(), Fault> {
    join_cgroups(&child.cgroups)
}

/// Enters cgroups, before the cgroup namespace makes them the root.
pub(super) fn join_cgroups(dirs: &[PathBuf]) -> Result<(), Fault> {
    // Zero is the writer itself, whatever its number in another namespace (cgroups(7)).
    let join = |dir: &PathBuf| fs::write(dir.join("cgroup.procs"), "0").at(dir.display());
    dirs.iter().try_for_each(join)
}

/// Enters a new cgroup namespace and the network namespace made for it; the others are new already.
pub(super) fn enter_namespaces(child: &mut Child) -> Result<(), Fault> {
    match (child.spec.network, &child.netns) {
        (Network::Host, _) => {}
        (Network::None | Network::Private, Some(netns)) => {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
        }
        (Network::None | Network::Private, None) => {
            return Err(Fault::network("none was made"));
        }
    }
    Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// Names the machine.
pub(super) fn set_hostname(child: &mut Child) -> Result<(), Fault> {
    nix::unistd::sethostname(&child.spec.hostname).at(&child.spec.hostname)
}
