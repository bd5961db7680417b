//! What this machine gives sandboxes, found out by trying: for `rbuild doctor`.

use std::fs;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::cgroup::Place;
use super::error::{SEE_DOCTOR, SandboxError};
use super::mount::{open_dir, overlay};
use super::network::find_program;
use super::run::{Control, Sandbox};
use super::spec::{Network, SandboxSpec};
use crate::error::causes;

/// One answer: what was found, or why it is not there.
pub(crate) type Answer = Result<String, String>;

/// Whether layers under `dir` can be merged for writing.
pub(crate) fn overlays(dir: &Path) -> Answer {
    let attempt = || -> Result<(), String> {
        let scratch = tempdir(dir)?;
        let made = ["lower", "upper", "work"].map(|name| scratch.join(name));
        let opened = made.iter().try_fold(Vec::new(), |mut opened, dir| {
            fs::create_dir(dir).map_err(|error| error.to_string())?;
            opened.push(open_dir(dir).map_err(|fault| fault.describe())?);
            Ok::<_, String>(opened)
        });
        let mounted = opened.and_then(|dirs| {
            use std::os::fd::AsFd as _;
            let [lower, upper, work] = &dirs[..] else { return Err("no directories".to_owned()) };
            let writable = Some((upper.as_fd(), work.as_fd()));
            overlay(&[lower.as_fd()], writable).map(drop).map_err(|fault| fault.describe())
        });
        drop(fs::remove_dir_all(&scratch));
        mounted
    };
    attempt().map(|()| format!("overlays can be mounted in {}", dir.display()))
}

/// Makes a directory of our own for the trial.
fn tempdir(dir: &Path) -> Result<std::path::PathBuf, String> {
    let path = dir.join(format!("doctor-{}", std::process::id()));
    fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Whether a command can be started, by all steps of it but the last: an empty root has no program.
/// With why not comes what helps, where that is known.
pub(crate) fn whole(
    sandbox: &Result<Sandbox, SandboxError>,
    dir: &Path,
) -> Result<String, (String, Option<&'static str>)> {
    let refused = |error: &SandboxError| {
        (causes(error).join(": "), error.help().filter(|help| *help != SEE_DOCTOR))
    };
    let sandbox = sandbox.as_ref().map_err(refused)?;
    let empty = tempdir(dir).map_err(|reason| (reason, None))?;
    let mut spec = SandboxSpec::new(vec![empty.clone()], vec!["/no-program".to_owned()]);
    spec.network = Network::None;
    let ran = sandbox.run(&spec, &mut |_, _| {}, &mut || Control::Continue);
    drop(fs::remove_dir_all(&empty));
    match ran {
        Ok(_) => Ok("commands can be run".to_owned()),
        Err(error) if error.exit_code().is_some() => Ok("commands can be run".to_owned()),
        Err(error) => Err(refused(&error)),
    }
}

/// Which limits can be enforced.
pub(crate) fn limits() -> Answer {
    match Place::find() {
        Some(place) => Ok(place.describe()),
        None => Err("there is no cgroup that this user may write to".to_owned()),
    }
}

/// Which private network steps get.
pub(crate) fn private_network(sandbox: &Result<Sandbox, SandboxError>) -> Answer {
    let sandbox = sandbox.as_ref().map_err(|error| causes(error).join(": "))?;
    sandbox.try_network()
}

/// Whether tap devices can be made, as slirp4netns needs them.
pub(crate) fn tap() -> Answer {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open("/dev/net/tun", flags, Mode::empty()) {
        Ok(_) => Ok("/dev/net/tun can be opened".to_owned()),
        Err(errno) => Err(format!("/dev/net/tun: {errno}")),
    }
}

/// Where a program of this machine is.
pub(crate) fn program(name: &str) -> Answer {
    find_program(name)
        .map(|path| path.display().to_string())
        .ok_or_else(|| format!("{name} is not installed"))
}
