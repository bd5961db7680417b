//! Settings: flags, then the environment, then `rbuild.toml`, then defaults.
//!
//! One file is read, not merged: `$RBUILD_CONFIG`, else `~/.config/rbuild/rbuild.toml`, else
//! `/etc/rbuild/rbuild.toml`. A key that it does not know is an error, with its line.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use builder::{BuilderConfig, CDI_DIRS, CacheConfig, Entitlement, Entitlements, RegistryConfig};
use serde::Deserialize;

use crate::address::Address;
use crate::client::{ClientAccess, ClientTable};
use crate::fault::Fault;
use crate::limits::LimitsTable;
use crate::registries::{RegistriesTable, certificate_dirs, tls_of};
use crate::server::{ServerLimits, ServerTable};
use crate::telemetry::TelemetryTable;
use crate::upkeep::{GcArgs, GcTable, HistoryTable};

/// Where the system's settings are.
const SYSTEM_FILE: &str = "/etc/rbuild/rbuild.toml";

/// RUN steps executing at once where nothing is said: most of their time they wait for a network or
/// a disk.
const DEFAULT_STEPS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// The store of root.
const SYSTEM_STORE: &str = "/var/lib/rbuild";

/// Environment variables and the user, taken once, so that tests can hand in their own.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// Whether the user is root outside of any user namespace that rbuild makes.
    pub(crate) is_root: bool,
}

impl Environment {
    /// The environment of this process. Take it before entering a user namespace.
    pub(crate) fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    #[cfg(test)]
    pub(crate) fn new(is_root: bool, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|&(name, value)| (name.into(), value.into()));
        Self { variables: variables.collect(), is_root }
    }

    /// Returns the value of variable `name` as it is.
    pub(crate) fn raw(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns the path in variable `name`; empty counts as unset.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.raw(name)?;
        (!value.is_empty()).then(|| value.into())
    }

    /// Returns the text in variable `name`, empty ones too; what is not UTF-8 counts as unset.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.raw(name)?.to_str()
    }

    fn config_dir(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME").or_else(|| Some(self.path("HOME")?.join(".config")))
    }

    fn data_dir(&self) -> Option<PathBuf> {
        self.path("XDG_DATA_HOME").or_else(|| Some(self.path("HOME")?.join(".local/share")))
    }

    /// Returns the socket that a service listens on when it is not told otherwise.
    pub(crate) fn default_socket(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/run/rbuild/rbuild.sock".into());
        }
        Some(self.path("XDG_RUNTIME_DIR")?.join("rbuild/rbuild.sock"))
    }

    /// Returns Docker's `config.json`, whether it is there or not.
    fn auth_file(&self) -> Option<PathBuf> {
        let dir =
            self.path("DOCKER_CONFIG").or_else(|| Some(self.path("HOME")?.join(".docker")))?;
        Some(dir.join("config.json"))
    }
}

/// `rbuild.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) registries: RegistriesTable,
    pub(crate) run: RunTable,
    pub(crate) store: StoreTable,
    pub(crate) build: BuildTable,
    pub(crate) history: HistoryTable,
    pub(crate) gc: GcTable,
    pub(crate) server: ServerTable,
    pub(crate) client: ClientTable,
    pub(crate) cache: CacheTable,
    pub(crate) telemetry: TelemetryTable,
}

/// `[cache]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CacheTable {
    /// PEM file of the Ed25519 key that entries of shared caches are signed with; a relative one
    /// is beside the configuration file.
    pub(crate) sign_key: Option<PathBuf>,
    /// PEM files of the public keys that are trusted.
    pub(crate) trusted_keys: Vec<PathBuf>,
}

/// `[run]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunTable {
    /// PEM files; relative ones are beside the configuration file.
    pub(crate) ca_certs: Vec<PathBuf>,
    /// `default`, `none` or `host`.
    pub(crate) network: Option<NetworkMode>,
    /// Whether set-user-ID programs give no step a privilege.
    pub(crate) no_new_privs: bool,
    /// Where specs of devices are looked for; relative ones are beside the configuration file.
    pub(crate) cdi_dirs: Option<Vec<PathBuf>>,
    /// What each step may have.
    pub(crate) limits: LimitsTable,
}

/// `[store]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreTable {
    /// The store's directory; a relative one is beside the configuration file.
    pub(crate) root: Option<PathBuf>,
}

/// `[build]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BuildTable {
    /// RUN steps executing at once.
    pub(crate) jobs: Option<NonZeroUsize>,
}

/// `--network` and `[run] network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkMode {
    /// A private network with a way out
    #[default]
    Default,
    /// Loopback only
    None,
    /// The host's network
    Host,
}

impl From<NetworkMode> for frontend::RunNetwork {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::Default => Self::Default,
            NetworkMode::None => Self::None,
            NetworkMode::Host => Self::Host,
        }
    }
}

impl NetworkMode {
    /// The word that stands for it on the command line and in Docker's API.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--store`.
    pub(crate) store: Option<PathBuf>,
    /// `--host`.
    pub(crate) host: Option<String>,
    /// `--registry-mirror`: registry host and base URL.
    pub(crate) mirrors: Vec<(String, String)>,
    /// `--ca-cert`.
    pub(crate) ca_certs: Vec<PathBuf>,
    /// `--network`.
    pub(crate) network: Option<NetworkMode>,
    /// `--jobs`.
    pub(crate) jobs: Option<NonZeroUsize>,
    /// `--gc-...`.
    pub(crate) gc: GcArgs,
    /// `rbuild serve --allow`; `None` is another command, whose user may do as they like.
    pub(crate) serve_allow: Option<Vec<Entitlement>>,
}

/// What holds, after all sources were asked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The service to be a client of; `None` builds in this process.
    pub(crate) host: Option<Address>,
    /// How that service is spoken to.
    pub(crate) client: ClientAccess,
    /// PEM files for RUN steps.
    pub(crate) ca_certs: Vec<PathBuf>,
    /// The network of RUN steps that do not choose one.
    pub(crate) network: NetworkMode,
    /// What clients may ask of this process, as a service.
    pub(crate) server: ServerLimits,
    /// What the builder may use.
    pub(crate) builder: BuilderConfig,
}

impl Settings {
    /// Resolves the settings of this process.
    ///
    /// # Errors
    ///
    /// A configuration file that cannot be read or understood, a bad `RBUILD_HOST`, or no
    /// directory that the store could be in.
    pub(crate) fn resolve(flags: &Flags, environment: &Environment) -> Result<Self, Fault> {
        let file = load_file(environment)?;
        let host = flags
            .host
            .as_deref()
            .or_else(|| environment.text("RBUILD_HOST").filter(|host| !host.is_empty()))
            .map(|host| host.parse::<Address>().map_err(|error| Fault::user(error.to_string())))
            .transpose()?;
        let root = flags
            .store
            .clone()
            .or_else(|| environment.path("RBUILD_STORE"))
            .or_else(|| file.store.root.clone())
            .or_else(|| default_store(environment))
            .ok_or_else(|| {
                Fault::user("there is no place for the store: HOME is not set")
                    .with_help("name one with --store DIR or RBUILD_STORE")
            })?;
        let steps = builder::processors().max(DEFAULT_STEPS);
        Ok(Self {
            host,
            client: file.client.clone().access(environment)?,
            ca_certs: ca_certs(flags, environment, &file),
            network: flags.network.or(file.run.network).unwrap_or_default(),
            server: file.server.limits(),
            builder: BuilderConfig {
                root: std::path::absolute(&root)
                    .map_err(|error| Fault::file("use the store", &root, &error))?,
                parallel_steps: flags.jobs.or(file.build.jobs).unwrap_or(steps),
                limits: file.run.limits.limits().map_err(Fault::user)?,
                allow: allowed(flags, &file.server),
                no_new_privs: file.run.no_new_privs,
                cdi_dirs: file.run.cdi_dirs.unwrap_or_else(|| CDI_DIRS.map(PathBuf::from).into()),
                registries: RegistryConfig {
                    mirrors: mirrors(flags, file.registries.mirrors),
                    insecure: file.registries.insecure,
                    auth_file: environment.auth_file(),
                    tls: tls_of(file.registries.tls)?,
                    certificate_dirs: certificate_dirs(environment.config_dir().as_deref()),
                    transfers: file.registries.transfers,
                },
                cache: CacheConfig {
                    sign_key: file.cache.sign_key,
                    trusted_keys: file.cache.trusted_keys,
                },
                history: file.history.limits(),
                gc: flags.gc.policy(&file.gc),
                telemetry: file.telemetry.resolve(environment)?,
            },
        })
    }
}

/// Reads the file anew for what clients may ask of a service.
///
/// # Errors
///
/// A configuration file that cannot be read or understood.
pub(crate) fn server_limits(environment: &Environment) -> Result<ServerLimits, Fault> {
    Ok(load_file(environment)?.server.limits())
}

fn default_store(environment: &Environment) -> Option<PathBuf> {
    if environment.is_root {
        return Some(SYSTEM_STORE.into());
    }
    Some(environment.data_dir()?.join("rbuild"))
}

/// A service allows what its flags or its file say; who builds in their own process asks nobody.
fn allowed(flags: &Flags, server: &ServerTable) -> Entitlements {
    match &flags.serve_allow {
        None => Entitlements::all(),
        Some(given) if given.is_empty() => server.allowed(),
        Some(given) => given.iter().cloned().collect(),
    }
}

/// Flags replace the variable and the variable replaces the file, as for every other setting.
fn ca_certs(flags: &Flags, environment: &Environment, file: &ConfigFile) -> Vec<PathBuf> {
    if !flags.ca_certs.is_empty() {
        return flags.ca_certs.clone();
    }
    environment.path("RBUILD_CA_CERT").map_or_else(|| file.run.ca_certs.clone(), |path| vec![path])
}

/// The mirrors of a registry named by a flag replace those of the file.
fn mirrors(
    flags: &Flags,
    mut of_file: BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, Vec<String>> {
    for (registry, _) in &flags.mirrors {
        of_file.insert(registry.clone(), Vec::new());
    }
    for (registry, url) in &flags.mirrors {
        of_file.entry(registry.clone()).or_default().push(url.clone());
    }
    of_file
}

fn load_file(environment: &Environment) -> Result<ConfigFile, Fault> {
    if let Some(path) = environment.path("RBUILD_CONFIG") {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Fault::file("read the configuration", &path, &error))?;
        return parse_file(&path, &text);
    }
    let of_user = environment.config_dir().map(|dir| dir.join("rbuild/rbuild.toml"));
    for path in of_user.into_iter().chain([PathBuf::from(SYSTEM_FILE)]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse_file(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Fault::file("read the configuration", &path, &error)),
        }
    }
    Ok(ConfigFile::default())
}

fn parse_file(path: &Path, text: &str) -> Result<ConfigFile, Fault> {
    let mut file: ConfigFile = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = frontend::Span::new(start, start).line_column(text);
        let message = error.message().replace('\n', ", ");
        Fault::user(format!("{}:{line}:{column}: {message}", path.display()))
    })?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let cdi_dirs = file.run.cdi_dirs.iter_mut().flatten();
    for path in file.run.ca_certs.iter_mut().chain(cdi_dirs) {
        *path = beside.join(&*path);
    }
    for key in file.cache.trusted_keys.iter_mut().chain(&mut file.cache.sign_key) {
        *key = beside.join(&*key);
    }
    file.store.root = file.store.root.map(|root| beside.join(root));
    file.registries.resolve(beside);
    file.client.resolve(beside);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[registries]
mirrors = { "docker.io" = ["http://file:5000"], "ghcr.io" = ["http://ghcr:5000"] }
insecure = ["registry.local:5000"]
transfers = 9
[run]
ca_certs = ["file.pem", "/abs.pem"]
network = "none"
[run.limits]
memory = "2g"
[store]
root = "store"
[build]
jobs = 3
"#;

    fn resolve(flags: &Flags, variables: &[(&str, &str)]) -> Settings {
        Settings::resolve(flags, &Environment::new(false, variables)).unwrap()
    }

    #[test]
    fn flag_beats_variable_beats_file_beats_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rbuild.toml");
        std::fs::write(&path, FILE).unwrap();
        let file = ("RBUILD_CONFIG", path.to_str().unwrap());
        let home = ("HOME", "/home/u");
        let flags = Flags {
            store: Some("/flag".into()),
            ca_certs: vec!["flag.pem".into()],
            mirrors: vec![
                ("docker.io".into(), "http://one".into()),
                ("docker.io".into(), "http://two".into()),
            ],
            network: Some(NetworkMode::Host),
            jobs: NonZeroUsize::new(7),
            ..Flags::default()
        };
        let variables = [("RBUILD_STORE", "/variable"), ("RBUILD_CA_CERT", "variable.pem")];

        let got = resolve(&flags, &[file, home, variables[0], variables[1]]);
        assert_eq!(got.builder.root, Path::new("/flag"));
        assert_eq!(got.ca_certs, [Path::new("flag.pem")]);
        assert_eq!(got.network, NetworkMode::Host);
        assert_eq!(got.builder.parallel_steps.get(), 7);
        assert_eq!(got.builder.registries.mirrors["docker.io"], ["http://one", "http://two"]);
        assert_eq!(got.builder.registries.mirrors["ghcr.io"], ["http://ghcr:5000"]);

        let got = resolve(&Flags::default(), &[file, home, variables[0], variables[1]]);
        assert_eq!(got.builder.root, Path::new("/variable"));
        assert_eq!(got.ca_certs, [Path::new("variable.pem")]);

        let got = resolve(&Flags::default(), &[file, home]);
        assert_eq!(got.builder.root, dir.path().join("store"));
        assert_eq!(got.ca_certs, [dir.path().join("file.pem"), "/abs.pem".into()]);
        assert_eq!(got.network, NetworkMode::None);
        assert_eq!(got.builder.parallel_steps.get(), 3);
        assert_eq!(got.builder.limits.memory, Some(builder::Bound::At(2 << 30)));
        assert_eq!(got.builder.registries.mirrors["docker.io"], ["http://file:5000"]);
        assert_eq!(got.builder.registries.insecure, ["registry.local:5000"]);
        assert_eq!(got.builder.registries.transfers, NonZeroUsize::new(9));

        let got = resolve(&Flags::default(), &[home, ("XDG_CONFIG_HOME", "/nowhere")]);
        assert_eq!(got.builder.root, Path::new("/home/u/.local/share/rbuild"));
        assert_eq!(got.network, NetworkMode::Default);
        assert_eq!(
            got.builder.registries.auth_file.as_deref(),
            Some(Path::new("/home/u/.docker/config.json"))
        );
    }

    #[test]
    fn default_places_depend_on_the_user() {
        #[rustfmt::skip]
        let cases = [
            ("root",        true,  vec![],                             Some("/var/lib/rbuild"),            Some("/run/rbuild/rbuild.sock")),
            ("user",        false, vec![("HOME", "/h")],               Some("/h/.local/share/rbuild"),     None),
            ("xdg",         false, vec![("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_RUNTIME_DIR", "/r")],
                                                                       Some("/d/rbuild"),                  Some("/r/rbuild/rbuild.sock")),
            ("no home",     false, vec![],                             None,                               None),
        ];
        for (name, is_root, variables, store, socket) in cases {
            let environment = Environment::new(is_root, &variables);
            assert_eq!(default_store(&environment).as_deref(), store.map(Path::new), "{name}");
            assert_eq!(environment.default_socket().as_deref(), socket.map(Path::new), "{name}");
        }
    }

    #[test]
    fn what_the_file_may_not_say_is_told_with_its_line() {
        #[rustfmt::skip]
        let cases = [
            ("unknown key",    "[build]\njobz = 2\n",             "2:1"),
            ("unknown table",  "[biuld]\n",                       "1:2"),
            ("zero jobs",      "[build]\njobs = 0\n",             "2:8"),
            ("unknown network", "[run]\n\nnetwork = \"bridge\"\n", "3:11"),
            ("unknown limit",  "[run.limits]\nmem = 5\n",       "2:1"),
            ("unknown tls",    "[registries.tls.x]\nkee = \"k\"\n", "2:1"),
            ("no toml",        "[build\n",                        "1:7"),
        ];
        for (name, text, place) in cases {
            let fault = parse_file(Path::new("/etc/x.toml"), text).unwrap_err();
            let want = format!("/etc/x.toml:{place}: ");
            assert!(fault.causes[0].starts_with(&want), "{name}: {}", fault.causes[0]);
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let environment = Environment::new(true, &[("RBUILD_CONFIG", "/nowhere/rbuild.toml")]);
        let fault = Settings::resolve(&Flags::default(), &environment).unwrap_err();
        assert!(fault.causes[0].contains("/nowhere/rbuild.toml"), "{fault}");
    }

    #[test]
    fn a_bad_host_is_refused() {
        let environment = Environment::new(true, &[("RBUILD_HOST", "ftp://x")]);
        let fault = Settings::resolve(&Flags::default(), &environment).unwrap_err();
        assert!(fault.causes[0].contains("expected unix://PATH"), "{fault}");
    }
}
