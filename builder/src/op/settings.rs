//! What all RUN steps of a build share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use frontend::{MountKind, RunNetwork, RunOp};
use serde::{Deserialize, Serialize};

use crate::config::BuilderConfig;
use crate::entitlement::Grants;
use crate::limits::{LimitError, Limits};
use crate::progress::{Event, Events};
use crate::request::BuildRequest;
use crate::sandbox::Dns;
use crate::secret::{Masker, Search, Secrets};
use crate::ssh::SshAgents;

/// Build arguments that reach every RUN without an ARG (Dockerfile reference, "Predefined ARGs").
pub const PROXY_NAMES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What all RUN steps of a build share. None of it can change a result, so none of it but the
/// network is part of a key.
#[derive(Clone, Debug)]
pub(crate) struct RunSettings {
    /// The network of steps that do not choose one.
    pub(crate) network: RunNetwork,
    /// What steps may do beyond the sandbox.
    pub(crate) grants: Grants,
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) ca_certs: Vec<u8>,
    pub(super) proxies: BTreeMap<String, String>,
    pub(super) dns: Dns,
    pub(super) limits: Limits,
    pub(super) no_new_privs: bool,
    pub(super) cdi_dirs: Vec<PathBuf>,
    pub(super) secrets: Secrets,
    pub(super) ssh: SshAgents,
    pub(super) masker: Option<Masker>,
    /// Whether the user knows already what [`RunSettings::say_once`] says.
    is_said: Arc<AtomicBool>,
}

/// What can be written down of the settings: no secret is in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordedSettings {
    network: RunNetwork,
    extra_hosts: Vec<(String, String)>,
    /// PEM.
    ca_certs: String,
    dns: Dns,
    limits: Limits,
    no_new_privs: bool,
}

/// What is not written down, and given anew.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Values by id.
    pub(crate) secrets: Secrets,
    /// Agents by id.
    pub(crate) ssh: SshAgents,
    /// Variables by name.
    pub(crate) proxies: BTreeMap<String, String>,
}

impl RunSettings {
    /// Returns what a past build's steps can be run with again.
    pub(crate) fn record(&self) -> RecordedSettings {
        RecordedSettings {
            network: self.network,
            extra_hosts: self.extra_hosts.clone(),
            ca_certs: String::from_utf8_lossy(&self.ca_certs).into_owned(),
            dns: self.dns.clone(),
            limits: self.limits.clone(),
            no_new_privs: self.no_new_privs,
        }
    }

    /// Takes them from a past build, under the caps of the builder as it is now. Nobody waits for
    /// the command, so its time is not limited.
    ///
    /// # Errors
    ///
    /// [`LimitError`] when that build had more than the builder allows now.
    pub(crate) fn recorded(
        recorded: RecordedSettings,
        given: Given,
        grants: Grants,
        config: &BuilderConfig,
    ) -> Result<Self, LimitError> {
        let mut limits = recorded.limits.within(&config.limits)?;
        limits.timeout = None;
        Ok(Self {
            network: recorded.network,
            grants,
            extra_hosts: recorded.extra_hosts,
            ca_certs: recorded.ca_certs.into_bytes(),
            proxies: given.proxies,
            dns: recorded.dns,
            limits,
            no_new_privs: recorded.no_new_privs || config.no_new_privs,
            cdi_dirs: config.cdi_dirs.clone(),
            secrets: given.secrets,
            ssh: given.ssh,
            masker: None,
            is_said: Arc::default(),
        })
    }

    /// Returns the network that `op` is run with.
    pub(crate) fn network_of(&self, op: &RunOp) -> RunNetwork {
        match op.network {
            RunNetwork::Default => self.network,
            RunNetwork::None | RunNetwork::Host => op.network,
        }
    }

    /// Whether a secret was given.
    pub(crate) fn has_secret(&self, id: &str) -> bool {
        self.secrets.contains_key(id)
    }

    /// Whether an ssh agent was given.
    pub(crate) fn has_agent(&self, id: &str) -> bool {
        self.ssh.contains_key(id)
    }

    /// Takes them from a request, under the caps of the builder.
    ///
    /// # Errors
    ///
    /// [`LimitError`] when more is asked for than the builder allows.
    pub(crate) fn of(request: &BuildRequest, config: &BuilderConfig) -> Result<Self, LimitError> {
        let proxies = PROXY_NAMES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), request.build_args.get(*name)?.clone())))
            .collect();
        Ok(Self {
            network: request.network,
            grants: Grants::new(config.allow.clone(), request.allow.clone()),
            extra_hosts: request.extra_hosts.clone(),
            ca_certs: request.ca_certs.clone(),
            proxies,
            dns: request.dns.clone(),
            limits: request.limits.clone().within(&config.limits)?,
            no_new_privs: request.no_new_privs || config.no_new_privs,
            cdi_dirs: config.cdi_dirs.clone(),
            masker: Masker::new(&request.secrets),
            secrets: request.secrets.clone(),
            ssh: request.ssh.clone(),
            is_said: Arc::default(),
        })
    }

    /// Sends an event that is the same for every step, with the first of them.
    pub(super) fn say_once(&self, events: &Events, event: impl FnOnce() -> Event) {
        if !self.is_said.swap(true, Ordering::Relaxed) {
            events.send_blocking(event());
        }
    }

    /// Prepares the search for the secrets that `op` can see.
    pub(super) fn search_for(&self, op: &RunOp) -> Search {
        let ids = op.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => Some(id),
            MountKind::Bind { .. }
            | MountKind::Cache { .. }
            | MountKind::Tmpfs { .. }
            | MountKind::Ssh { .. } => None,
        });
        Search::new(ids.filter_map(|id| self.secrets.get_key_value(id)))
    }
}
