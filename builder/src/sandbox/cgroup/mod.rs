//! A cgroup of each step: bounds what it may use up and counts what it uses.
//!
//! Where no cgroup can be made there is none, which is an error only if a limit was asked for; the
//! defaults protect the machine, they are not something that anybody waits for.
//!
//! An empty cgroup outlives kill -9. Each is locked (flock(2)) by the process that made it, and its
//! name holds that process's number; the next sandbox removes what nobody holds any more.

mod place;
mod settings;
mod usage;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::FlockOperation;

use self::place::Controller;
pub(super) use self::place::Place;
use self::settings::Setting;
use super::error::SandboxError;
use crate::limits::{Limits, StepUsage};

/// Prefix of the names: `rbuild-PROCESS-NUMBER`.
const PREFIX: &str = "rbuild-";

/// How often removal is tried: a cgroup counts its dead for a moment.
const REMOVE_TRIES: u32 = 50;

/// Pause between two tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// How often a name is tried: a sweeper may take a cgroup away before it is locked.
const CREATE_TRIES: u32 = 3;

/// What every step gets, whatever was asked for: these count and protect.
const ALWAYS: [Controller; 4] =
    [Controller::Memory, Controller::Pids, Controller::CpuAccount, Controller::Io];

/// The cgroups of one step, one a tree of controllers; removed when dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    place: Place,
    name: String,
    /// Directories made, each with the lock that says that it is in use.
    made: Vec<(PathBuf, File)>,
    /// Bytes of memory where nobody asks for another bound.
    default_memory: Option<u64>,
}

impl Cgroup {
    /// Makes what every step is in, without limits so far.
    ///
    /// # Errors
    ///
    /// None but those of a machine that gives a place and then refuses it.
    pub(super) fn prepare(place: &Place) -> Result<Self, SandboxError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let (place, default_memory) = (place.clone(), default_memory(place));
        let mut cgroup = Self { place, name, made: Vec::new(), default_memory };
        cgroup.make(&ALWAYS)?;
        Ok(cgroup)
    }

    /// Sets `limits`; returns the directories that it made for that.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Limit`] names what was asked for and cannot hold.
    pub(super) fn limit(&mut self, limits: &Limits) -> Result<Vec<PathBuf>, SandboxError> {
        let settings = match self.place {
            Place::V1(_) => settings::v1(limits, self.default_memory),
            Place::V2 { .. } => settings::v2(limits, self.default_memory),
        };
        let before = self.made.len();
        let wanted: Vec<Controller> = settings.iter().map(|it| it.controller).collect();
        self.make(&wanted)?;
        settings.iter().try_for_each(|setting| self.set(setting))?;
        Ok(self.made[before..].iter().map(|(path, _)| path.clone()).collect())
    }

    /// Makes the directories of `wanted` that are missing, as far as there is a place.
    fn make(&mut self, wanted: &[Controller]) -> Result<(), SandboxError> {
        let parents = wanted.iter().filter_map(|controller| self.place.parent(*controller));
        let mut paths: Vec<PathBuf> = parents.map(|parent| parent.join(&self.name)).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| self.made.iter().all(|(made, _)| made != path));
        for path in paths {
            match make_locked(&path) {
                Ok(lock) => self.made.push((path, lock)),
                // Whether that matters is known when something is to be set in it.
                Err(error) => tracing::debug!(path = %path.display(), %error, "no cgroup"),
            }
        }
        let is_v1 = matches!(self.place, Place::V1(_));
        if is_v1
            && wanted.contains(&Controller::Cpuset)
            && let Some(dir) = self.dir(Controller::Cpuset)
            && let Some(parent) = dir.parent()
        {
            // Version 1 takes no process before both are set, and inherits neither.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let inherit = || fs::write(dir.join(file), fs::read(parent.join(file))?);
                inherit().map_err(|source| limit("processors", dir, file, source))?;
            }
        }
        Ok(())
    }

    fn set(&self, setting: &Setting) -> Result<(), SandboxError> {
        let Some(dir) = self.dir(setting.controller) else {
            return setting.asked.map_or(Ok(()), |what| Err(missing(what)));
        };
        match (fs::write(dir.join(setting.file), &setting.value), setting.asked) {
            (Err(source), Some(what)) => Err(limit(what, dir, setting.file, source)),
            (Err(error), None) => {
                let file = dir.join(setting.file);
                tracing::debug!(file = %file.display(), %error, "a default limit does not hold");
                Ok(())
            }
            (Ok(()), _) => Ok(()),
        }
    }

    /// The directory of a controller, if one was made.
    fn dir(&self, controller: Controller) -> Option<&Path> {
        let path = self.place.parent(controller)?.join(&self.name);
        self.made.iter().map(|(made, _)| made.as_path()).find(|made| *made == path)
    }

    /// The directories that a process of the step must enter.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        self.made.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Puts what was counted in place of what `usage` says so far.
    pub(super) fn read_usage(&self, usage: &mut StepUsage) {
        match &self.place {
            Place::V1(_) => usage::v1(usage, |controller| self.dir(controller)),
            Place::V2 { .. } => {
                if let [(dir, _)] = &self.made[..] {
                    usage::v2(usage, dir);
                }
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for (path, _) in &self.made {
            remove(path);
        }
    }
}

fn remove(path: &Path) {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => sleep(REMOVE_PAUSE),
        }
    }
    tracing::warn!(path = %path.display(), "could not remove a cgroup");
}

/// Makes a cgroup and locks it, so that nobody takes it for a stale one.
fn make_locked(path: &Path) -> io::Result<File> {
    let mut tries = 0;
    loop {
        fs::create_dir(path)?;
        let lock = File::open(path).and_then(|dir| {
            Ok(rustix::fs::flock(&dir, FlockOperation::LockExclusive).map(|()| dir)?)
        });
        tries += 1;
        match lock {
            Ok(lock) if path.exists() => return Ok(lock),
            Ok(_) if tries < CREATE_TRIES => {}
            Ok(_) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => {
                drop(fs::remove_dir(path));
                return Err(error);
            }
        }
    }
}

/// Refuses limits where there can be no cgroup.
///
/// # Errors
///
/// [`SandboxError::Limit`] names the first that was asked for.
pub(super) fn refuse_limits(limits: &Limits) -> Result<(), SandboxError> {
    let asked = settings::v2(limits, None).iter().find_map(|setting| setting.asked);
    asked.map_or(Ok(()), |what| Err(missing(what)))
}

fn missing(what: &'static str) -> SandboxError {
    SandboxError::Limit {
        what,
        detail: "there is no cgroup with the controller for it that this user may write to \
            (`rbuild doctor` tells more)"
            .to_owned(),
        source: None,
    }
}

fn limit(what: &'static str, dir: &Path, file: &str, source: io::Error) -> SandboxError {
    let detail = dir.join(file).display().to_string();
    SandboxError::Limit { what, detail, source: Some(source) }
}

/// Three quarters of the memory that there is: of the machine, or of the cgroup that it is run in.
fn default_memory(place: &Place) -> Option<u64> {
    let machine = usage::field(Path::new("/proc"), "meminfo", "MemTotal:");
    let machine = machine.map(|kibibytes| kibibytes * 1024);
    let parent = place.parent(Controller::Memory)?;
    let cgroup = match place {
        Place::V1(_) => usage::field(parent, "memory.stat", "hierarchical_memory_limit"),
        Place::V2 { .. } => {
            parent.ancestors().filter_map(|dir| usage::number(dir, "memory.max")).min()
        }
    };
    machine.into_iter().chain(cgroup).min().map(|bytes| bytes / 4 * 3)
}

/// Removes what builders that are gone have left. One that lives on keeps its own, by its number
/// or, in another PID namespace, by its lock.
pub(super) fn sweep(place: &Place) {
    for parent in place.parents() {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
            let is_stale = maker.is_some_and(|pid| {
                pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
            });
            if is_stale && is_unlocked(&entry.path()) {
                // Another builder may have been faster.
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
}

fn is_unlocked(dir: &Path) -> bool {
    let operation = FlockOperation::NonBlockingLockExclusive;
    File::open(dir).is_ok_and(|dir| rustix::fs::flock(dir, operation).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Bound;

    /// A tree of version 2 made of ordinary files.
    fn v2(dir: &Path, controllers: &[Controller]) -> Place {
        Place::V2 { parent: dir.to_owned(), controllers: controllers.to_vec() }
    }

    fn read(dir: &Path, file: &str) -> String {
        fs::read_to_string(dir.join(file)).unwrap_or_default()
    }

    #[test]
    fn version_2_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let place = v2(dir.path(), &[Controller::Memory, Controller::Pids, Controller::Cpu]);
        let limits = Limits { memory: Some(Bound::At(1 << 20)), ..Limits::default() };
        let mut cgroup = Cgroup::prepare(&place).unwrap();
        assert_eq!(cgroup.limit(&limits).unwrap(), [""; 0].map(PathBuf::from));
        let dirs = cgroup.dirs();
        assert_eq!(dirs.len(), 1);
        assert_eq!(read(&dirs[0], "memory.max"), "1048576");
        assert_eq!(read(&dirs[0], "memory.swap.max"), "1048576");
        assert_eq!(read(&dirs[0], "pids.max"), "4096");
        fs::write(dirs[0].join("memory.peak"), "77").unwrap();
        let mut usage = StepUsage::default();
        cgroup.read_usage(&mut usage);
        assert_eq!((usage.peak_memory_bytes, usage.memory_limit_bytes), (77, Some(1 << 20)));
        // Ordinary files keep a directory from being removed; a cgroup's do not.
        fs::remove_dir_all(&dirs[0]).unwrap();
    }

    #[test]
    fn what_was_asked_for_and_cannot_hold_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = v2(dir.path(), &[Controller::Pids]);
        let at = Some(Bound::At(5));
        #[rustfmt::skip]
        let cases = [
            ("memory, no controller", Some(&place), Limits { memory: at, ..Limits::default() },             Some("memory")),
            ("cpuset, no controller", Some(&place), Limits { cpuset_cpus: Some("0".into()), ..Limits::default() }, Some("processors")),
            ("pids, no cgroup",       None,         Limits { pids: at, ..Limits::default() },               Some("processes")),
            ("nothing, no cgroup",    None,         Limits::default(),                                      None),
        ];
        for (name, place, limits, want) in cases {
            let error = match place {
                Some(place) => Cgroup::prepare(place).and_then(|mut it| it.limit(&limits)).err(),
                None => refuse_limits(&limits).err(),
            };
            let what = error.as_ref().map(|error| match error {
                SandboxError::Limit { what, .. } => *what,
                other => panic!("{name}: {other}"),
            });
            assert_eq!(what, want, "{name}");
        }
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let place = v2(dir.path(), &[Controller::Pids]);
        // Larger than any process id (proc_sys_kernel(5), `pid_max`).
        let gone = u32::MAX;
        let names = [
            format!("{PREFIX}{gone}-0"),
            format!("{PREFIX}{gone}-1"),
            format!("{PREFIX}{}-0", std::process::id()),
            format!("{PREFIX}word-0"),
            "system.slice".to_owned(),
        ];
        for name in &names {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let held = File::open(dir.path().join(&names[1])).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        sweep(&place);
        let left: Vec<bool> = names.iter().map(|name| dir.path().join(name).exists()).collect();
        assert_eq!(left, [false, true, true, true, true]);
    }
}
