//! What this machine lets rbuild do: each capability with what is there, what is missing, and the
//! one setting that helps.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::sandbox::{Sandbox, SandboxError, probe};
use crate::userns::{self, IdMapping, UsernsError};

/// The oldest kernel that sandboxes run on: `lowerdir+` of overlayfs.
const KERNEL: (u32, u32) = (6, 5);

/// How well a capability is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing is missing.
    Good,
    /// Builds run, but something is out of reach.
    Limited,
    /// RUN steps cannot run.
    Missing,
}

/// One capability of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is: `overlay`.
    pub name: &'static str,
    /// How well it is there.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What would help.
    pub help: Option<String>,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, health: Health::Good, found: found.into(), help: None }
    }

    /// Good, or `health` with a way to mend it.
    fn of(name: &'static str, answer: Result<String, String>, health: Health, help: &str) -> Self {
        match answer {
            Ok(found) => Self::good(name, found),
            Err(found) => Self { name, health, found, help: Some(help.to_owned()) },
        }
    }
}

/// Looks at this machine as the process that would build on it sees it; `store` is where layers
/// are. `mapping` is what came of [`crate::enter_user_namespace`], for users other than root.
/// Blocking.
#[must_use]
pub fn doctor(store: &Path, mapping: Option<&Result<IdMapping, UsernsError>>) -> Vec<Finding> {
    let mut findings = vec![kernel()];
    findings.extend(mapping.map(user_namespace));
    findings.extend(mapping.map(user_ids));
    let sandbox = Sandbox::open();
    if matches!(mapping, Some(Err(_))) {
        findings.extend(["sandbox", "overlay"].map(needs_namespace));
    } else {
        // The nearest directory that is there: the store may never have been used.
        let dir = store.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
        findings.push(whole(&sandbox, dir));
        findings.push(overlay(dir));
    }
    findings.push(seccomp());
    findings.push(Finding::of(
        "limits",
        probe::limits(),
        Health::Limited,
        "as root, mount cgroups for writing; as a user, run in a scope of your own: `systemd-run \
         --user --scope -p Delegate=yes rbuild ...`",
    ));
    findings.push(private_network(&sandbox));
    findings.push(Finding::of(
        "slirp4netns",
        probe::program("slirp4netns")
            .and_then(|program| Ok(format!("{program}; {}", probe::tap()?))),
        Health::Limited,
        "networks of users other than root need it: apt-get install slirp4netns, and as root \
         `modprobe tun; chmod 0666 /dev/net/tun`; a container also `--device /dev/net/tun`",
    ));
    findings.push(emulators());
    findings
}

fn kernel() -> Finding {
    let names = nix::sys::utsname::uname();
    let release = names.map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let answer = if version >= KERNEL { Ok(release.clone()) } else { Err(release) };
    Finding::of("kernel", answer, Health::Missing, "RUN needs Linux 6.5 or newer")
}

fn user_namespace(mapping: &Result<IdMapping, UsernsError>) -> Finding {
    let name = "user namespace";
    match mapping {
        Ok(_) => Finding::good(name, "users may make them"),
        Err(UsernsError::Refused { hint, source }) => Finding {
            name,
            health: Health::Missing,
            found: source.to_string(),
            help: Some(hint.clone()),
        },
        Err(error) => Finding {
            name,
            health: Health::Missing,
            found: crate::error::causes(error).join(": "),
            help: None,
        },
    }
}

fn user_ids(mapping: &Result<IdMapping, UsernsError>) -> Finding {
    let name = "user ids";
    match mapping {
        Ok(IdMapping::Ranges) => Finding::good(name, "a range of subordinate ids is mapped"),
        Ok(IdMapping::Single { reason }) => Finding {
            name,
            health: Health::Limited,
            found: "one id: images whose files or steps belong to others than root do not work"
                .to_owned(),
            help: Some(reason.clone()),
        },
        Err(_) => Finding {
            name,
            health: Health::Missing,
            found: "none without a user namespace".to_owned(),
            help: None,
        },
    }
}

/// Whether commands can be run as they are in builds.
fn whole(sandbox: &Result<Sandbox, SandboxError>, dir: &Path) -> Finding {
    let name = "sandbox";
    match probe::whole(sandbox, dir) {
        Ok(found) => Finding::good(name, found),
        Err((found, help)) => {
            let help = help.unwrap_or("run as root, or allow users to make user namespaces");
            Finding { name, health: Health::Missing, found, help: Some(help.to_owned()) }
        }
    }
}

/// What cannot be tried.
fn needs_namespace(name: &'static str) -> Finding {
    let help = Some("what helps the user namespace".to_owned());
    Finding { name, health: Health::Missing, found: "needs a user namespace".to_owned(), help }
}

fn overlay(dir: &Path) -> Finding {
    Finding::of(
        "overlay",
        probe::overlays(dir),
        Health::Limited,
        "what RUN steps change is kept in memory and copied; put the store (--store) on a \
         filesystem that can hold overlays, such as ext4, xfs or btrfs, and that this user may \
         write to: in a container on a volume (`-v rbuild:/var/lib/rbuild`). Without overlays at \
         all RUN needs `modprobe overlay`",
    )
}

/// Filters can be installed, and which one this process is under already.
fn seccomp() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let is_there = ["errno", "allow"].iter().all(|it| actions.split_whitespace().any(|a| a == *it));
    let found = if userns::is_filtered() {
        "filters can be installed; this process is under one already, as in a container"
    } else {
        "filters can be installed"
    };
    let answer = if is_there { Ok(found.to_owned()) } else { Err("no filters".to_owned()) };
    Finding::of("seccomp", answer, Health::Missing, "the kernel needs CONFIG_SECCOMP_FILTER")
}

fn private_network(sandbox: &Result<Sandbox, SandboxError>) -> Finding {
    Finding::of(
        "private network",
        probe::private_network(sandbox),
        Health::Limited,
        "as root install iptables or slirp4netns, as a user slirp4netns; or build with \
         --network=none, or --network=host where that is allowed",
    )
}

/// Other processors whose programs run here (Documentation/admin-guide/binfmt-misc).
fn emulators() -> Finding {
    let (name, help) = ("emulators", "for RUN with --platform: apt-get install qemu-user-static");
    let dir = "/proc/sys/fs/binfmt_misc";
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("qemu-").map(str::to_owned))
        .collect();
    names.sort_unstable();
    let answer = if names.is_empty() {
        Err(format!("none is registered in {dir}: only this machine's own programs run"))
    } else {
        Ok(names.join(", "))
    };
    Finding::of(name, answer, Health::Limited, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_finding_and_each_fault_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let single = Ok(IdMapping::Single { reason: "no range".to_owned() });
        let findings = doctor(&dir.path().join("not/made/yet"), Some(&single));
        let names: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
        let want = [
            "kernel",
            "user namespace",
            "user ids",
            "sandbox",
            "overlay",
            "seccomp",
            "limits",
            "private network",
            "slirp4netns",
            "emulators",
        ];
        assert_eq!(names, want);
        for finding in &findings {
            let is_helped = finding.help.is_some() || finding.health == Health::Good;
            assert!(is_helped, "{finding:?}");
        }
        assert_eq!(findings[2].help.as_deref(), Some("no range"));
    }

    #[test]
    fn a_refused_namespace_names_the_setting() {
        let refused = Err(UsernsError::Refused {
            hint: "set this".to_owned(),
            source: std::io::Error::from_raw_os_error(libc::EPERM),
        });
        let finding = user_namespace(&refused);
        assert_eq!((finding.health, finding.help.as_deref()), (Health::Missing, Some("set this")));
        assert_eq!(user_ids(&refused).health, Health::Missing);
    }
}
