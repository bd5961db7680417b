//! `rbuild run`: an image's command in the sandbox that RUN steps get, to try the image out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use frontend::{ImageConfig, Platform, RunNetwork};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::builder::Inner;
use crate::entitlement::{Entitlement, Entitlements, Grants};
use crate::image::{self, ImageError};
use crate::limits::Limits;
use crate::progress::{Event, Events};
use crate::rootfs::{LayeredRoot, resolve_user};
use crate::sandbox::{
    Control, DEFAULT_PATH, Dns, MountSource, PortForward, SandboxMount, SandboxSpec, StdioMode,
    terminal_size,
};
use crate::source::{PullPolicy, SourceError};

/// The size of a terminal whose own nobody knows.
const TERMINAL_SIZE: (u16, u16) = (24, 80);

/// One run of an image.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent choice")]
pub struct RunRequest {
    /// Name or ID; pulled when it is not here.
    pub image: String,
    /// In place of the image's CMD, if not empty.
    pub command: Vec<String>,
    /// In place of the image's ENTRYPOINT, and its CMD goes too; empty for none.
    pub entrypoint: Option<String>,
    /// In place of, or beside, the image's environment.
    pub env: Vec<(String, String)>,
    /// In place of the image's WORKDIR; absolute.
    pub cwd: Option<String>,
    /// In place of the image's USER.
    pub user: Option<String>,
    /// Name of the machine inside.
    pub hostname: Option<String>,
    /// Files and directories of this machine.
    pub volumes: Vec<Volume>,
    /// Absolute paths that get memory, with its limit in bytes.
    pub tmpfs: Vec<(String, Option<u64>)>,
    /// Whether the root can only be read.
    pub is_read_only: bool,
    /// Whether the command reads this process's standard input.
    pub is_interactive: bool,
    /// Whether it has a terminal.
    pub has_terminal: bool,
    /// Ports of this machine's loopback and the ports inside that they lead to.
    pub ports: Vec<(u16, u16)>,
    /// Which network the command sees.
    pub network: RunNetwork,
    /// Extra certificate authorities, PEM.
    pub ca_certs: Vec<u8>,
    /// How the command resolves names.
    pub dns: Dns,
    /// What the command may use up.
    pub limits: Limits,
    /// Whether set-user-ID programs such as sudo give the command no privilege.
    pub no_new_privs: bool,
}

/// A file or directory of this machine, shown to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Absolute path on this machine.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
    /// Whether the command may change it.
    pub is_writable: bool,
}

/// Runs the image with this process's standard streams; returns its exit code. Numbers that come
/// by `signals` are passed on to the command.
pub(crate) async fn run(
    inner: &Inner,
    request: RunRequest,
    events: &Events,
    mut signals: mpsc::Receiver<i32>,
    cancel: CancellationToken,
) -> Result<i32, ImageError> {
    let grants = Grants::new(inner.config.allow.clone(), Entitlements::all());
    if request.network == RunNetwork::Host {
        let refused = grants.check(Entitlement::NetworkHost, "--network host").err();
        if let Some(refused) = refused {
            return Err(ImageError::NotAllowed { what: refused.to_string() });
        }
    }
    let image = match image::resolved(&inner.store, &request.image) {
        Ok(image) => image,
        Err(ImageError::NotFound { .. }) => {
            let reference = image::parse_name(&request.image)?;
            inner.sources.resolve(&reference, &Platform::host(), PullPolicy::Missing).await?
        }
        Err(error) => return Err(error),
    };
    let limits = request.limits.clone().within(&inner.config.limits)?;
    let no_new_privs = inner.config.no_new_privs;
    let top = inner.sources.materialize(&image, events).await?;
    let (store, sandbox, events) = (inner.store.clone(), inner.sandbox()?, events.clone());
    blocking::run(move || {
        let lowers = match top {
            Some(id) => {
                store.snapshots().lowers(&id).map_err(SourceError::store("read the layers"))?
            }
            None => Vec::new(),
        };
        let mut spec = describe(&image.config, lowers, request, limits)?;
        spec.no_new_privs |= no_new_privs;
        let mut control = || match signals.try_recv() {
            _ if cancel.is_cancelled() => Control::Cancel,
            Ok(number) => Control::Signal(number),
            Err(_) => Control::Continue,
        };
        let ended = sandbox.run(&spec, &mut |_, _| {}, &mut control)?;
        if ended.is_out_of_memory() {
            let text = format!("the command {}", ended.usage.out_of_memory());
            events.send_blocking(Event::Note { text });
        }
        Ok(ended.code())
    })
    .await
}

fn describe(
    config: &ImageConfig,
    lowers: Vec<PathBuf>,
    request: RunRequest,
    limits: Limits,
) -> Result<SandboxSpec, ImageError> {
    let config = &config.config;
    let user = request.user.as_deref().or(config.user.as_deref()).unwrap_or_default();
    let user = resolve_user(&LayeredRoot::open(&lowers)?, user)?;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
    ]);
    if request.has_terminal {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    let image_env = config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    env.extend(image_env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let args = arguments(config.entrypoint.as_deref(), config.cmd.as_deref(), &request)?;
    env.extend(request.env);
    let mut spec = SandboxSpec::new(lowers, args);
    spec.env = env.into_iter().collect();
    let cwd = request.cwd.or_else(|| config.working_dir.clone()).filter(|dir| !dir.is_empty());
    spec.cwd = cwd.unwrap_or("/".into());
    (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
    spec.network = request.network.into();
    spec.ca_certs = request.ca_certs;
    spec.dns = request.dns;
    spec.limits = limits;
    spec.is_read_only = request.is_read_only;
    spec.no_new_privs = request.no_new_privs;
    if let Some(hostname) = request.hostname {
        spec.hostname = hostname;
    }
    spec.stdio = match (request.has_terminal, request.is_interactive) {
        (true, takes_input) => {
            let (rows, columns) = terminal_size().unwrap_or(TERMINAL_SIZE);
            StdioMode::Terminal { rows, columns, takes_input }
        }
        (false, true) => StdioMode::Inherit,
        (false, false) => StdioMode::InheritOutput,
    };
    spec.mounts.extend(request.volumes.iter().map(volume));
    let tmpfs = |(target, size)| SandboxMount { target, source: MountSource::Tmpfs { size } };
    spec.mounts.extend(request.tmpfs.into_iter().map(tmpfs));
    let forward =
        |(host, port)| PortForward { host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, host), port };
    spec.port_forwards = request.ports.into_iter().map(forward).collect();
    Ok(spec)
}

/// Puts the argument vector together as `docker run` does.
fn arguments(
    entrypoint: Option<&[String]>,
    cmd: Option<&[String]>,
    request: &RunRequest,
) -> Result<Vec<String>, ImageError> {
    let mut args = match &request.entrypoint {
        None => entrypoint.unwrap_or_default().to_vec(),
        Some(program) => Some(program).filter(|it| !it.is_empty()).into_iter().cloned().collect(),
    };
    if !request.command.is_empty() {
        args.extend(request.command.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(cmd.unwrap_or_default().iter().cloned());
    }
    if args.is_empty() {
        return Err(ImageError::NoCommand { name: request.image.clone() });
    }
    Ok(args)
}

/// A file is found beneath its directory, a directory is itself.
fn volume(volume: &Volume) -> SandboxMount {
    let Volume { source, target, is_writable } = volume;
    let (root, path) = match (source.is_dir(), source.parent(), source.file_name()) {
        (false, Some(parent), Some(name)) => (parent, Path::new(name)),
        _ => (source.as_path(), Path::new("")),
    };
    let path = path.to_string_lossy().into_owned();
    let source = MountSource::Bind {
        root: root.to_owned(),
        path,
        writable: *is_writable,
        is_recursive: false,
    };
    SandboxMount { target: target.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_docker() {
        let list =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        #[rustfmt::skip]
        let cases = [
            ("image's own",    "ep a", "cmd b", None,        "",    Some("ep a cmd b")),
            ("command",        "ep a", "cmd b", None,        "x y", Some("ep a x y")),
            ("entrypoint",     "ep a", "cmd b", Some("sh"),  "",    Some("sh")),
            ("both",           "ep a", "cmd b", Some("sh"),  "-c",  Some("sh -c")),
            ("none given",     "ep a", "cmd b", Some(""),    "x",   Some("x")),
            ("cmd alone",      "",     "cmd",   None,        "",    Some("cmd")),
            ("nothing",        "",     "",      None,        "",    None),
            ("nothing left",   "ep",   "cmd",   Some(""),    "",    None),
        ];
        for (name, entrypoint, cmd, given, command, want) in cases {
            let request = RunRequest {
                entrypoint: given.map(str::to_owned),
                command: list(command),
                ..RunRequest::default()
            };
            let got = arguments(Some(&list(entrypoint)), Some(&list(cmd)), &request).ok();
            assert_eq!(got, want.map(list), "{name}");
        }
    }
}
