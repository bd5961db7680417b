//! What one builder may use.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::entitlement::Entitlements;
use crate::limits::Limits;
use crate::telemetry::TelemetryConfig;

/// Returns how many processors this process may use, looked up once: it means to read cgroups.
#[must_use]
pub fn processors() -> NonZeroUsize {
    static FOUND: OnceLock<NonZeroUsize> = OnceLock::new();
    *FOUND.get_or_init(|| available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// What one builder may use. No `Default`: the caller knows, the builder does not guess.
#[derive(Clone, Debug)]
pub struct BuilderConfig {
    /// The store's directory; one filesystem, so that rename is atomic.
    pub root: PathBuf,
    /// RUN steps of one build executing at once; what rbuild does itself is bounded by the
    /// processors.
    pub parallel_steps: NonZeroUsize,
    /// What a step may have at most, and has where its build asks for nothing.
    pub limits: Limits,
    /// What builds may do beyond the sandbox, if they ask for it.
    pub allow: Entitlements,
    /// Whether set-user-ID programs give no step a privilege, whatever it asks for.
    pub no_new_privs: bool,
    /// Where makers of devices say what steps need for them, as [`CDI_DIRS`](crate::CDI_DIRS).
    pub cdi_dirs: Vec<PathBuf>,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// Whose entries of shared caches count.
    pub cache: CacheConfig,
    /// How long past builds are remembered.
    pub history: HistoryLimits,
    /// How much the store may take.
    pub gc: cache::GcPolicy,
    /// Where traces of builds go; `None` makes none.
    pub telemetry: Option<TelemetryConfig>,
}

/// How long past builds are remembered: as long as both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Builds remembered at most.
    pub builds: usize,
    /// Age at which a build is forgotten.
    pub age: Duration,
    /// Builds, the last ones that failed, whose failed step's files are kept.
    pub failed_steps: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { builds: 200, age: Duration::from_secs(30 * 24 * 3600), failed_steps: 5 }
    }
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Registry host (`docker.io`) to base URLs tried in order before the registry itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (`registry.local:5000`) that may be spoken to by plain HTTP; loopback always may.
    pub insecure: Vec<String>,
    /// Docker's `config.json` with credentials; a missing file means none.
    pub auth_file: Option<PathBuf>,
    /// Registry host to its certificates.
    pub tls: BTreeMap<String, RegistryTls>,
    /// Directories such as `/etc/docker/certs.d`; the first that holds one for a host counts.
    pub certificate_dirs: Vec<PathBuf>,
    /// Blobs that move from and to one registry at once, over all builds;
    /// [`DEFAULT_TRANSFERS`](crate::DEFAULT_TRANSFERS) where nothing is said.
    pub transfers: Option<NonZeroUsize>,
}

/// The certificates of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryTls {
    /// PEM file of authorities that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// Who we are.
    pub client: Option<ClientCertificate>,
}

/// A certificate to show and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file of the certificate, then those that vouch for it.
    pub cert: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
}

/// Whose entries of shared caches count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// PEM file of the Ed25519 key that entries are signed with.
    pub sign_key: Option<PathBuf>,
    /// PEM files of the public keys that `require-signed` wants one of.
    pub trusted_keys: Vec<PathBuf>,
}
