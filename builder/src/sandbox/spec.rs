//! What one command sees and may do, as data: the caller fills it in, a helper process acts on it.
//!
//! Invariant: a spec holds no policy. Whether a step may have the host's network or do without the
//! sandbox's walls is decided before a spec is made.

use std::fmt;
use std::net::{IpAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::secret::Secret;

/// One command and the world made for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Directories in overlay form (see overlayfs' "upper"), topmost first. Empty is a bare root.
    pub lowers: Vec<PathBuf>,
    /// Where the command's changes go; `None` keeps them in memory and drops them.
    pub scratch: Option<OverlayDirs>,
    /// Argument vector; the first is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// What comes to the environment beside it.
    pub secret_env: Vec<SecretVariable>,
    /// Absolute; made with its parents if missing.
    pub cwd: String,
    /// Numeric user, as seen inside.
    pub uid: u32,
    /// Numeric group, as seen inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Name of the machine inside.
    pub hostname: String,
    /// In order: later ones may lie inside earlier ones.
    pub mounts: Vec<SandboxMount>,
    /// What can be reached.
    pub network: Network,
    /// Lines for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// What `/etc/resolv.conf` says in place of what this machine's says.
    pub dns: Dns,
    /// PEM certificates trusted by the command beside the image's own, and kept out of the layer.
    #[serde(with = "base64_bytes")]
    pub ca_certs: Vec<u8>,
    /// Whether the root can only be read; mounts are as they say.
    pub is_read_only: bool,
    /// Takes the sandbox's walls away but for the namespaces: all capabilities, no filter of system
    /// calls, nothing masked, `/sys` writable. Needs an entitlement, which the caller has checked.
    pub is_insecure: bool,
    /// Whether no program gives the command privileges that it lacks: set-user-ID bits and file
    /// capabilities mean nothing (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// Device nodes of this machine. They need an entitlement too.
    pub devices: Vec<DeviceNode>,
    /// Where descriptors 0, 1 and 2 lead.
    pub stdio: StdioMode,
    /// What it may use up.
    pub limits: Limits,
    /// Ports of this machine that lead into the sandbox; only with [`Network::Private`].
    pub port_forwards: Vec<PortForward>,
}

impl SandboxSpec {
    /// Describes `args` run as root in `/` on the given directories, with a private network, no
    /// environment and default limits.
    #[must_use]
    pub fn new(lowers: Vec<PathBuf>, args: Vec<String>) -> Self {
        Self {
            lowers,
            scratch: None,
            args,
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: "rbuild".to_owned(),
            mounts: Vec::new(),
            network: Network::Private,
            extra_hosts: Vec::new(),
            dns: Dns::default(),
            ca_certs: Vec::new(),
            is_read_only: false,
            is_insecure: false,
            no_new_privs: false,
            devices: Vec::new(),
            stdio: StdioMode::Capture,
            limits: Limits::default(),
            port_forwards: Vec::new(),
        }
    }

    /// Returns the directories of which overlays are made for the command.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Path> {
        let trees = self.mounts.iter().flat_map(|mount| match &mount.source {
            MountSource::Tree { lowers, .. } => lowers.as_slice(),
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } | MountSource::File { .. } => &[],
        });
        let upper = self.scratch.iter().map(|dirs| &dirs.upper);
        self.lowers.iter().chain(upper).chain(trees).map(PathBuf::as_path)
    }
}

/// Shows no environment: a secret must not reach a log by way of `{:?}`.
impl fmt::Debug for SandboxSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSpec")
            .field("lowers", &self.lowers)
            .field("scratch", &self.scratch)
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// An environment variable with a value that must not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// Its value, which need not be text.
    #[serde(with = "base64_secret")]
    pub value: Secret,
}

/// The two directories that overlayfs writes to; on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayDirs {
    /// Receives the changes.
    pub upper: PathBuf,
    /// Overlayfs' own; empty, and not usable again afterwards (it is mounted `volatile`).
    pub work: PathBuf,
}

/// A device node of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside, below `/dev`.
    pub path: String,
    /// Absolute path on this machine, without symbolic links.
    pub host: PathBuf,
    /// Permission bits, if other than this machine's.
    pub mode: Option<u32>,
    /// Owner, as seen inside, if another.
    pub uid: Option<u32>,
    /// Group, as seen inside, if another.
    pub gid: Option<u32>,
}

/// Something mounted for the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMount {
    /// Absolute path inside; symbolic links of the image are followed beneath its root. Not `/`,
    /// and nothing below `/proc` or `/sys`.
    pub target: String,
    /// What appears there.
    pub source: MountSource,
}

/// What appears at a mount's target.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MountSource {
    /// A file or directory of this machine, found beneath `root` with links kept inside it.
    Bind {
        /// A directory of this machine.
        root: PathBuf,
        /// Path beneath it; empty is `root` itself.
        path: String,
        /// Whether the command may change it.
        writable: bool,
        /// Whether what is mounted below it comes along.
        is_recursive: bool,
    },
    /// Part of another image or stage.
    Tree {
        /// As [`SandboxSpec::lowers`].
        lowers: Vec<PathBuf>,
        /// Path beneath the merged root, links kept inside it.
        path: String,
        /// Whether writes succeed (they are dropped afterwards) or fail.
        writable: bool,
    },
    /// Memory, gone afterwards.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// One file with this content, in memory only (secrets, heredocs).
    File {
        /// What it holds.
        #[serde(with = "base64_secret")]
        content: Secret,
        /// Permission bits.
        mode: u32,
        /// Owner, as seen inside.
        uid: u32,
        /// Group, as seen inside.
        gid: u32,
    },
}

impl MountSource {
    /// Returns how many bytes of content there are, which may be a secret.
    pub(super) fn content_bytes(&self) -> usize {
        match self {
            Self::File { content, .. } => content.bytes().len(),
            Self::Bind { .. } | Self::Tree { .. } | Self::Tmpfs { .. } => 0,
        }
    }
}

/// Shows everything but content: a secret must not reach a log by way of `{:?}`.
impl fmt::Debug for MountSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { root, path, writable, .. } => f
                .debug_struct("Bind")
                .field("root", root)
                .field("path", path)
                .field("writable", writable)
                .finish(),
            Self::Tree { lowers, path, writable } => f
                .debug_struct("Tree")
                .field("lowers", lowers)
                .field("path", path)
                .field("writable", writable)
                .finish(),
            Self::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            Self::File { content, mode, .. } => f
                .debug_struct("File")
                .field("bytes", &content.bytes().len())
                .field("mode", mode)
                .finish_non_exhaustive(),
        }
    }
}

/// What a command can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace of its own with a way out; this machine's loopback is not reachable.
    #[default]
    Private,
    /// Loopback of its own and nothing else.
    None,
    /// This machine's network. Needs an entitlement, which the caller has checked.
    Host,
}

/// Where descriptors 0, 1 and 2 lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdioMode {
    /// Input is empty, output goes to the caller.
    #[default]
    Capture,
    /// The caller's own.
    Inherit,
    /// The caller's own, but for input, which is empty.
    InheritOutput,
    /// A terminal of its own, joined to the caller's standard streams.
    Terminal {
        /// Lines of its window at first; it follows the caller's.
        rows: u16,
        /// Characters in a line at first.
        columns: u16,
        /// Whether it reads the caller's input.
        takes_input: bool,
    },
}

/// How names are resolved; what is empty is as this machine has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of resolvers.
    pub servers: Vec<IpAddr>,
    /// Domains in which names are looked for; `.` alone for none.
    pub search: Vec<String>,
    /// Options such as `ndots:2`.
    pub options: Vec<String>,
}

impl Dns {
    /// Puts what is set in the place of what `text`, a resolv.conf(5), says.
    pub(super) fn replace_in(&self, text: &str) -> String {
        let is_kept = |line: &&str| match line.split_whitespace().next() {
            Some("nameserver") => self.servers.is_empty(),
            Some("search" | "domain") => self.search.is_empty(),
            Some("options") => self.options.is_empty(),
            _ => true,
        };
        let mut lines: Vec<String> = text.lines().filter(is_kept).map(str::to_owned).collect();
        lines.extend(self.servers.iter().map(|server| format!("nameserver {server}")));
        let search: Vec<&str> =
            self.search.iter().map(String::as_str).filter(|domain| *domain != ".").collect();
        for (word, rest) in [("search", search.join(" ")), ("options", self.options.join(" "))] {
            if !rest.is_empty() {
                lines.push(format!("{word} {rest}"));
            }
        }
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

/// A TCP port of this machine that leads into the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// Where this machine listens.
    pub host: SocketAddrV4,
    /// Port that the command listens on.
    pub port: u16,
}

/// Bytes as base64: JSON arrays of numbers cost four times as much.
pub(super) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(in crate::sandbox) fn serialize<S: Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::sandbox) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Secrets as base64, with the text wiped: only [`super::wire`] may put them into words, for a
/// memory file.
mod base64_secret {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use zeroize::Zeroizing;

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Secret,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(secret.bytes())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        STANDARD.decode(&*text).map(Secret::new).map_err(de::Error::custom)
    }
}
