//! What a build is asked to do: the one form that command line, client and service produce.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use frontend::{Platform, RunNetwork};

use crate::cache_exchange::{CacheFrom, CacheTo};
use crate::entitlement::Entitlements;
use crate::export::Annotations;
use crate::limits::Limits;
use crate::output::OutputSpec;
use crate::sandbox::Dns;
use crate::secret::Secrets;
use crate::ssh::SshAgents;
use crate::telemetry::TraceParent;

/// One build.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct BuildRequest {
    /// Where COPY and ADD find their files.
    pub context: ContextInput,
    /// `--build-context`: a name and a directory, `docker-image://REF`, `oci-layout://DIR`, or a
    /// URL as in [`ContextInput::Url`].
    pub named_contexts: BTreeMap<String, String>,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileInput,
    /// `--ignorefile`: a file of this machine in the place of those that would be looked for.
    pub ignore_file: Option<PathBuf>,
    /// Names for the result, as given; checked before anything else happens.
    pub tags: Vec<String>,
    /// Stage to build; `None` is the last.
    pub target: Option<String>,
    /// `--build-arg`, host values already filled in.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// Further targets, with names for their results.
    pub more_targets: Vec<NamedTarget>,
    /// One image for each; none is the machine's. Several make an index.
    pub platforms: Vec<Platform>,
    /// `--annotation`: for all outputs that are images, and the image in the store.
    pub annotations: Annotations,
    /// The network of RUN steps that do not choose one.
    pub network: RunNetwork,
    /// `--add-host`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// How RUN steps resolve names.
    pub dns: Dns,
    /// What each RUN step may use up.
    pub limits: Limits,
    /// Whether set-user-ID programs such as sudo give steps no privilege.
    pub no_new_privs: bool,
    /// Make one layer of those that the build adds to its base.
    pub squash: bool,
    /// Look nothing up in the cache (results are still recorded).
    pub no_cache: bool,
    /// Stages, by name or number, that are built anew.
    pub no_cache_filter: Vec<String>,
    /// What RUN steps made longer ago than this is made anew; `None` keeps it for ever.
    pub cache_ttl: Option<Duration>,
    /// `--cache-from`: caches of others, the first asked first.
    pub cache_from: Vec<CacheFrom>,
    /// `--cache-to`: where results go beside the store.
    pub cache_to: Vec<CacheTo>,
    /// `--cache-scope`: parts of those caches; all are read and the first is written.
    pub cache_scopes: Vec<String>,
    /// Ask the registry for bases even when they are here.
    pub pull: bool,
    /// Beside the local store.
    pub outputs: Vec<OutputSpec>,
    /// `--secret`: values by id.
    pub secrets: Secrets,
    /// `--ssh`: sockets of agents by id.
    pub ssh: SshAgents,
    /// `--allow`: what steps may do beyond the sandbox, if the builder allows it too.
    pub allow: Entitlements,
    /// Extra certificate authorities for RUN steps, PEM.
    pub ca_certs: Vec<u8>,
    /// Registry credentials that came with the request: host to (user, password).
    pub credentials: BTreeMap<String, Credentials>,
    /// The span of whoever asked, where they trace.
    pub trace_parent: Option<TraceParent>,
}

impl BuildRequest {
    /// Returns what is built for: each platform once, this machine's where none is given.
    pub(crate) fn distinct_platforms(&self) -> Vec<Platform> {
        let mut distinct = Vec::with_capacity(self.platforms.len());
        for platform in &self.platforms {
            if !distinct.contains(platform) {
                distinct.push(platform.clone());
            }
        }
        if distinct.is_empty() { vec![Platform::host()] } else { distinct }
    }
}

/// One of several targets of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTarget {
    /// The stage.
    pub stage: String,
    /// Names for the result, as given.
    pub tags: Vec<String>,
}

/// A user and a password for one registry host. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// OAuth refresh token, used in place of the password where present.
    pub identity_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where the main context comes from.
pub enum ContextInput {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A tar, plain or compressed, as it arrives.
    Tar(Box<dyn Read + Send>),
    /// A git repository, or an archive or a Dockerfile by http or https.
    Url(String),
    /// Nothing: the Dockerfile came on standard input.
    Empty,
}

impl fmt::Debug for ContextInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Tar(_) => f.write_str("Tar"),
            Self::Url(url) => f.debug_tuple("Url").field(&frontend::redact_url(url)).finish(),
            Self::Empty => f.write_str("Empty"),
        }
    }
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileInput {
    /// A path inside the context; `None` looks for `Dockerfile`, then `Containerfile`.
    InContext(Option<String>),
    /// A file of this machine, possibly outside the context.
    File(PathBuf),
    /// The text itself (`-f -`).
    Inline(String),
}
