//! Where cgroups can be made: `/proc/self/cgroup` and the mount table, read as text.
//!
//! Version 1 has a tree for each controller, and offers a place below the own cgroup. Version 2 has
//! one tree, in which a cgroup with processes gives its children no controllers: the place is the
//! nearest cgroup above that does, which in practice is the root, or what systemd delegates.

use std::fs;
use std::path::{Path, PathBuf};

/// What a cgroup can count or bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sandbox) enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Version 1 counts apart from where it bounds; version 2 counts always.
    CpuAccount,
    Cpuset,
    Io,
}

impl Controller {
    const ALL: [Self; 6] =
        [Self::Memory, Self::Pids, Self::Cpu, Self::CpuAccount, Self::Cpuset, Self::Io];

    const fn v1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAccount => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Io => "blkio",
        }
    }

    /// Its name in version 2; `None` needs no controller there.
    pub(super) const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::CpuAccount => None,
            Self::Io => Some("io"),
            other => Some(other.v1_name()),
        }
    }
}

/// The parents of cgroups to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Place {
    /// Controllers and the directory of each; two may share one.
    V1(Vec<(Controller, PathBuf)>),
    /// One directory and what its children get.
    V2 {
        /// The directory.
        parent: PathBuf,
        /// The controllers.
        controllers: Vec<Controller>,
    },
}

impl Place {
    /// Finds the place of this process.
    pub(in crate::sandbox) fn find() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find_in(&own, &mounts)
    }

    fn find_in(own: &str, mounts: &str) -> Option<Self> {
        let v1: Vec<(Controller, PathBuf)> = Controller::ALL
            .into_iter()
            .filter_map(|controller| Some((controller, v1_parent(own, mounts, controller)?)))
            .collect();
        if v1.is_empty() { v2_parent(own, mounts) } else { Some(Self::V1(v1)) }
    }

    /// The directory in which a cgroup with `controller` is made.
    pub(super) fn parent(&self, controller: Controller) -> Option<&Path> {
        match self {
            Self::V1(dirs) => {
                dirs.iter().find(|(found, _)| *found == controller).map(|(_, dir)| dir.as_path())
            }
            Self::V2 { parent, controllers } => {
                let is_there = controller.v2_name().is_none() || controllers.contains(&controller);
                is_there.then_some(parent)
            }
        }
    }

    /// Tells the version, what can be bounded, and what cannot.
    pub(in crate::sandbox) fn describe(&self) -> String {
        let names = |is_there: bool| {
            let found = Controller::ALL.iter().filter(|it| self.parent(**it).is_some() == is_there);
            found.map(|controller| controller.v1_name()).collect::<Vec<_>>().join(", ")
        };
        let version = if matches!(self, Self::V1(_)) { 1 } else { 2 };
        let missing = match names(false) {
            none if none.is_empty() => String::new(),
            missing => format!("; not {missing}"),
        };
        format!("cgroups of version {version} with {}{missing}", names(true))
    }

    /// Every directory in which cgroups are made, once.
    pub(super) fn parents(&self) -> Vec<&Path> {
        let mut parents: Vec<&Path> = match self {
            Self::V1(dirs) => dirs.iter().map(|(_, dir)| dir.as_path()).collect(),
            Self::V2 { parent, .. } => vec![parent],
        };
        parents.sort_unstable();
        parents.dedup();
        parents
    }
}

/// Finds the own cgroup of one controller of version 1, if it may be written to.
fn v1_parent(own: &str, mounts: &str, controller: Controller) -> Option<PathBuf> {
    let name = controller.v1_name();
    let path = own_path(own, |controllers| controllers.split(',').any(|it| it == name))?;
    let mount = mounts.lines().filter_map(Mount::parse).find(|mount| {
        mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name)
    })?;
    writable(mount.locate(path)?)
}

/// Finds the nearest cgroup of version 2 whose children get controllers and that may be written to.
fn v2_parent(own: &str, mounts: &str) -> Option<Place> {
    let path = own_path(own, str::is_empty)?;
    let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.kind == "cgroup2")?;
    let top = Path::new(&mount.point).to_owned();
    let own = mount.locate(path)?;
    own.ancestors().take_while(|dir| dir.starts_with(&top)).find_map(|dir| {
        let controllers = v2_controllers(dir);
        if controllers.is_empty() {
            return None;
        }
        Some(Place::V2 { parent: writable(dir.to_owned())?, controllers })
    })
}

/// What the children of a cgroup of version 2 get.
fn v2_controllers(dir: &Path) -> Vec<Controller> {
    let text = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let is_there = |name: &str| text.split_whitespace().any(|it| it == name);
    let named = |controller: &Controller| controller.v2_name().is_some_and(is_there);
    Controller::ALL.into_iter().filter(named).collect()
}

/// Finds the path of the line of `/proc/self/cgroup` with the controllers asked for (cgroups(7)).
fn own_path(own: &str, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        is_wanted(controllers).then_some(path)
    })
}

fn writable(dir: PathBuf) -> Option<PathBuf> {
    let access = rustix::fs::Access::WRITE_OK;
    rustix::fs::access(&dir, access).is_ok().then_some(dir)
}

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    /// What part of the filesystem is shown.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        let (root, point) = (left.next()?, left.next()?);
        Some(Self { root, point, kind: right.next()?, options: right.nth(1).unwrap_or_default() })
    }

    /// Where a cgroup's path is in this mount. In a container the mount may show a part of the
    /// tree alone, and the path may still be told from its top.
    fn locate(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).or_else(|_| {
            // A cgroup namespace: paths begin at its own root.
            Path::new(path).strip_prefix("/")
        });
        Some(Path::new(self.point).join(below.ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_found_by_controller() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().display();
        for path in ["memory/a/b", "pids", "cpu,cpuacct/c"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let own =
            "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n3:cpu,cpuacct:/c\n2:rcpuset:/\n0::/\n";
        let mounts = format!(
            "25 1 0:1 / {top}/memory rw,relatime - cgroup cgroup rw,memory\n\
             26 1 0:2 / {top}/pids rw - cgroup cgroup rw,pids\n\
             27 1 0:3 / {top}/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             28 1 0:4 / {top}/unified rw - cgroup2 cgroup2 rw\n"
        );
        let Some(Place::V1(dirs)) = Place::find_in(own, &mounts) else { panic!("no place") };
        let want = [
            (Controller::Memory, "memory/a/b"),
            (Controller::Pids, "pids"),
            (Controller::Cpu, "cpu,cpuacct/c"),
            (Controller::CpuAccount, "cpu,cpuacct/c"),
        ];
        assert_eq!(dirs, want.map(|(controller, path)| (controller, dir.path().join(path))));
        assert_eq!(Place::V1(dirs).parents().len(), 3);
    }

    #[test]
    fn version_2_is_the_nearest_that_delegates() {
        #[rustfmt::skip]
        let cases = [
            ("root",       "0::/user/1/scope\n", "/",     vec![("", "memory pids cpu io cpuset")],           Some("")),
            ("delegated",  "0::/user/1/scope\n", "/",     vec![("", "memory pids"), ("user/1", "pids")],      Some("user/1")),
            ("container",  "0::/docker/x\n",     "/docker/x", vec![("", "memory pids")],                     Some("")),
            ("namespace",  "0::/\n",             "/docker/x", vec![("", "pids")],                             Some("")),
            ("none",       "0::/user/1/scope\n", "/",     vec![("", "")],                                     None),
            ("hybrid",     "1:name=systemd:/\n", "/",     vec![("", "memory")],                               None),
        ];
        for (name, own, root, controls, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("user/1/scope")).unwrap();
            for (path, text) in controls {
                let file = dir.path().join(path).join("cgroup.subtree_control");
                fs::write(file, text).unwrap();
            }
            let mounts =
                format!("9 1 0:1 {root} {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
            let got = Place::find_in(own, &mounts);
            let got = got.as_ref().map(|place| place.parents()[0].to_owned());
            assert_eq!(
                got,
                want.map(|path| dir.path().join(path).components().collect()),
                "{name}"
            );
        }
    }
}
