//! `RUN --mount`: from op to what the sandbox mounts.

use std::path::Path;
use std::time::Duration;

use cache::{CacheMount, Sharing, Store, TempDir};
use frontend::{CacheSharing, MountKind, RunMount};
use rustix::fs::{Gid, Mode, Uid};

use super::error::OpError;
use super::perform::{Root, bound_tree, lowers_of, tree_copy, view};
use super::run::Step;
use super::settings::RunSettings;
use super::{CopyInput, copy, select};
use crate::rootfs::LayeredRoot;
use crate::sandbox::{MountSource, SandboxMount, SandboxSpec, SecretVariable};
use crate::ssh::{AgentSocket, SOCKET_NAME};

/// How often a cache mount that another step has is asked for again.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// What mounts are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct World<'a> {
    pub(super) store: &'a Store,
    pub(super) inputs: &'a [Root],
    pub(super) settings: &'a RunSettings,
    pub(super) step: &'a Step,
}

/// What mounts need while the command runs.
#[derive(Debug, Default)]
pub(super) struct Kept {
    trees: Vec<TempDir>,
    caches: Vec<CacheMount>,
    pub(super) agents: Vec<AgentSocket>,
}

/// Adds one mount to `spec`; what it needs on disk goes into `kept`.
pub(super) fn add(
    world: &World<'_>,
    mount: &RunMount,
    kept: &mut Kept,
    spec: &mut SandboxSpec,
) -> Result<(), OpError> {
    let source = match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            bind(world, *input, source, *writable, kept)?
        }
        MountKind::Tmpfs { size } => MountSource::Tmpfs { size: *size },
        MountKind::Cache { id, sharing, from, read_only, mode, uid, gid } => {
            let cache = take(world, id, *sharing, |new| {
                if let Some((input, path)) = from {
                    fill(world, *input, path, new)?;
                }
                let failed = |errno: rustix::io::Errno| OpError::store(std::io::Error::from(errno));
                let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                rustix::fs::chown(new, owner.0, owner.1).map_err(failed)?;
                rustix::fs::chmod(new, Mode::from_raw_mode(*mode)).map_err(failed)
            })?;
            let root = cache.path().to_owned();
            kept.caches.push(cache);
            MountSource::Bind {
                root,
                path: String::new(),
                writable: !read_only,
                is_recursive: false,
            }
        }
        MountKind::Secret { .. } => return secret(world, mount, spec),
        MountKind::Ssh { id, required, mode, uid, gid } => {
            let Some(agent) = world.settings.ssh.get(id) else {
                return if *required { Err(OpError::NoAgent { id: id.clone() }) } else { Ok(()) };
            };
            let socket = AgentSocket::open(world.store, agent, *mode, (*uid, *gid));
            let socket = socket.map_err(OpError::Agent)?;
            let (root, path) = (socket.dir().to_owned(), SOCKET_NAME.to_owned());
            kept.agents.push(socket);
            MountSource::Bind { root, path, writable: false, is_recursive: false }
        }
    };
    spec.mounts.push(SandboxMount { target: mount.target.clone(), source });
    Ok(())
}

/// Hands a secret over as a file in memory, as an environment variable, or as both.
fn secret(world: &World<'_>, mount: &RunMount, spec: &mut SandboxSpec) -> Result<(), OpError> {
    let MountKind::Secret { id, required, env, mode, uid, gid } = &mount.kind else {
        unreachable!("only secrets are handed over here")
    };
    let Some(value) = world.settings.secrets.get(id) else {
        return if *required { Err(OpError::NoSecret { id: id.clone() }) } else { Ok(()) };
    };
    if let Some(name) = env {
        // What the image or an ARG says under this name gives way.
        spec.env.retain(|(other, _)| other != name);
        spec.secret_env.push(SecretVariable { name: name.clone(), value: value.clone() });
    }
    if !mount.target.is_empty() {
        let (mode, uid, gid) = (*mode, *uid, *gid);
        let source = MountSource::File { content: value.clone(), mode, uid, gid };
        spec.mounts.push(SandboxMount { target: mount.target.clone(), source });
    }
    Ok(())
}

fn bind(
    world: &World<'_>,
    input: usize,
    source: &str,
    writable: bool,
    kept: &mut Kept,
) -> Result<MountSource, OpError> {
    let input = world.inputs.get(input).expect("lowering gives every bind mount its input");
    let lowers = match input {
        Root::Files(files) if files.rules.is_some() => {
            let tree = bound_tree(world.store, files, source)?;
            let lowers = vec![tree.path().to_owned()];
            kept.trees.push(tree);
            lowers
        }
        Root::Files(files) => vec![files.dir.clone()],
        Root::Empty | Root::Snapshot(_) => lowers_of(world.store, input)?,
    };
    Ok(MountSource::Tree { lowers, path: source.to_owned(), writable })
}

/// Takes a cache mount, waiting for the step that has it where one must wait for the other; `fill`
/// gives a new one its content.
fn take(
    world: &World<'_>,
    id: &str,
    sharing: CacheSharing,
    fill: impl Fn(&Path) -> Result<(), OpError>,
) -> Result<CacheMount, OpError> {
    let sharing = match sharing {
        CacheSharing::Shared => Sharing::Shared,
        CacheSharing::Private => Sharing::Private,
        CacheSharing::Locked => Sharing::Locked,
    };
    loop {
        if let Some(cache) = world.store.cache_mount_with(id, sharing, &fill)? {
            return Ok(cache);
        }
        if world.step.cancel.is_cancelled() {
            return Err(OpError::Cancelled);
        }
        std::thread::sleep(BUSY_INTERVAL);
    }
}

/// Gives a new cache mount its first content: what `path` of an input holds.
fn fill(world: &World<'_>, input: usize, path: &str, new: &Path) -> Result<(), OpError> {
    let input = world.inputs.get(input).expect("lowering gives every cache mount its input");
    let root = LayeredRoot::open(&lowers_of(world.store, input)?)?;
    let views = [match input {
        Root::Files(files) => view(files),
        Root::Empty | Root::Snapshot(_) => CopyInput::Root(&root),
    }];
    let op = tree_copy(path, false);
    copy(&op, &select(&op, &views)?, &views, &LayeredRoot::open(&[])?, new)?;
    Ok(())
}
