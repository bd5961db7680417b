//! `rbuild run`: an image's command in the sandbox that RUN steps get, to try the image out.

use frontend::{ImageConfig, Platform, RunNetwork};
use std::net::{Ipv4Addr, SocketAddrV4};
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::builder::Inner;
use crate::image::{self, ImageError};
use crate::limits::Limits;
use crate::progress::{Event, Events};
use crate::rootfs::{LayeredRoot, resolve_user};
use crate::sandbox::{Control, DEFAULT_PATH, Dns, PortForward, SandboxSpec, StdioMode};
use crate::source::{PullPolicy, SourceError};

/// One run of an image.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Name or ID; pulled when it is not here.
    pub image: String,
    /// In place of the image's CMD, if not empty.
    pub command: Vec<String>,
    /// In place of, or beside, the image's environment.
    pub env: Vec<(String, String)>,
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
}

/// Runs the image with this process's standard streams; returns its exit code.
pub(crate) async fn run(
    inner: &Inner,
    request: RunRequest,
    events: &Events,
    cancel: CancellationToken,
) -> Result<i32, ImageError> {
    let image = match image::resolved(&inner.store, &request.image) {
        Ok(image) => image,
        Err(ImageError::NotFound { .. }) => {
            let reference = image::parse_name(&request.image)?;
            inner.sources.resolve(&reference, &Platform::host(), PullPolicy::Missing).await?
        }
        Err(error) => return Err(error),
    };
    let limits = request.limits.clone().within(&inner.config.limits)?;
    let top = inner.sources.materialize(&image, events).await?;
    let (store, sandbox, events) = (inner.store.clone(), inner.sandbox()?, events.clone());
    blocking::run(move || {
        let lowers = match top {
            Some(id) => {
                store.snapshots().lowers(&id).map_err(SourceError::store("read the layers"))?
            }
            None => Vec::new(),
        };
        let spec = describe(&image.config, lowers, request, limits)?;
        let mut control =
            || if cancel.is_cancelled() { Control::Cancel } else { Control::Continue };
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
    lowers: Vec<std::path::PathBuf>,
    request: RunRequest,
    limits: Limits,
) -> Result<SandboxSpec, ImageError> {
    let config = &config.config;
    let user = config.user.as_deref().unwrap_or_default();
    let user = resolve_user(&LayeredRoot::open(&lowers)?, user)?;
    let mut args = config.entrypoint.clone().unwrap_or_default();
    if request.command.is_empty() {
        args.extend(config.cmd.clone().unwrap_or_default());
    } else {
        args.extend(request.command);
    }
    if args.is_empty() {
        return Err(ImageError::NoCommand { name: request.image });
    }
    let mut env = std::collections::BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
    ]);
    let image_env = config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    env.extend(image_env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(request.env);
    let mut spec = SandboxSpec::new(lowers, args);
    spec.env = env.into_iter().collect();
    spec.cwd = config.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or("/".into());
    (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups);
    spec.network = request.network.into();
    spec.ca_certs = request.ca_certs;
    spec.dns = request.dns;
    spec.limits = limits;
    spec.stdio = StdioMode::Inherit;
    spec.port_forwards = request
        .ports
        .into_iter()
        .map(|(host, port)| PortForward {
            host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, host),
            port,
        })
        .collect();
    Ok(spec)
}
