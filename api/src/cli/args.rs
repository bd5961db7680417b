//! What may be typed. The help texts are part of the product: keep them true.

#![expect(clippy::doc_markdown, reason = "the doc comments here are the help that terminals show")]

mod image;
mod run;
mod store;
mod value;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use builder::{Entitlement, OutputSpec};
use clap::{Args, Parser, Subcommand};
use frontend::Platform;

pub(crate) use image::{
    HistoryArgs, ImageCommand, ImageDiffArgs, ImagePruneArgs, ImageReferrersArgs, ImageTreeArgs,
    ImagesArgs, ImportArgs, InspectArgs, ListFormat, LoadArgs, PullArgs, PushArgs, RemoveArgs,
    SaveArgs, TagArgs,
};
pub(crate) use run::RunArgs;
pub(crate) use store::{CheckArgs, PruneArgs, StoreCommand, UsageArgs};
pub(super) use value::named_value;
use value::{mirror, pair, pull, target};

use super::cache::CacheArgs;
use super::check::CallArgs;
use super::debug::DebugCommand;
use super::dns::DnsArgs;
use super::doctor::DoctorArgs;
use super::fmt::FmtArgs;
use super::limits::LimitArgs;
use super::secrets::SecretArg;
use super::security::SecurityArgs;
use super::ssh::SshArg;
use crate::address::Address;
use crate::config::NetworkMode;
use crate::fault::EXIT_CODES;
use crate::progress::Mode;
use crate::upkeep::GcArgs;

/// Builds container images from Dockerfiles, without a daemon, as a service, or as its client
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    after_help = EXIT_CODES,
    override_usage = "rbuild [OPTIONS] COMMAND\n       rbuild [OPTIONS] [BUILD OPTIONS] PATH | -",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command, before or after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Directory of images and cache [env: RBUILD_STORE] [default: /var/lib/rbuild for root, else
    /// ~/.local/share/rbuild]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Service to be a client of: unix://PATH, tcp://HOST:PORT or https://HOST:PORT
    /// [env: RBUILD_HOST, its token in RBUILD_TOKEN]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) host: Option<String>,
    /// Mirror to try before a registry, such as docker.io=http://127.0.0.1:5000 (repeatable)
    #[arg(long, global = true, value_name = "HOST=URL", value_parser = mirror)]
    pub(crate) registry_mirror: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(Box<BuildArgs>),
    Verify(Box<super::verify::VerifyArgs>),
    Check(Box<super::check::CheckArgs>),
    Serve(ServeArgs),
    Images(ImagesArgs),
    History(HistoryArgs),
    Inspect(InspectArgs),
    Pull(PullArgs),
    Push(PushArgs),
    Tag(TagArgs),
    Rmi(RemoveArgs),
    Save(SaveArgs),
    Load(LoadArgs),
    Import(ImportArgs),
    /// Look into images, and clear them out
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Put images of several platforms under one name
    Index {
        #[command(subcommand)]
        command: super::index::IndexCommand,
    },
    Login(super::login::LoginArgs),
    Logout(super::login::LogoutArgs),
    Run(Box<RunArgs>),
    Shell(Box<super::shell::ShellArgs>),
    Attach(super::attach::AttachArgs),
    Explain(super::explain::ExplainArgs),
    /// Look at past builds
    Builds {
        #[command(subcommand)]
        command: super::builds::BuildsCommand,
    },
    Du(UsageArgs),
    Doctor(DoctorArgs),
    Prune(PruneArgs),
    /// Look after the store
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Look at what a build takes from a context
    Context {
        #[command(subcommand)]
        command: super::context_list::ContextCommand,
    },
    Fmt(FmtArgs),
    /// Look into how rbuild reads a Dockerfile
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Print the shell's script that completes rbuild's commands
    ///
    /// For bash: `rbuild completions bash > /etc/bash_completion.d/rbuild`
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands to a directory
    ///
    /// `rbuild man | man -l -` shows it.
    Man {
        /// Directory for rbuild.1, rbuild-build.1 and the rest
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Show the version, and the service's with --host
    Version,
}

impl Command {
    /// Tells whether the command works on the store when it is done by this process.
    pub(crate) const fn uses_store(&self) -> bool {
        !matches!(
            self,
            Self::Version
                | Self::Completions { .. }
                | Self::Man { .. }
                | Self::Debug { .. }
                | Self::Fmt(_)
                | Self::Login(_)
                | Self::Logout(_)
                | Self::Context { .. }
                | Self::Check(_)
                | Self::Attach(_)
        )
    }
}

/// Build an image; `rbuild -t x .` is short for `rbuild build -t x .`
///
/// PATH is a directory; `-` for standard input: a tar of the context (plain, gzip, bzip2, xz, zstd),
/// or a Dockerfile; or the URL of a git repository (URL#REF:DIRECTORY), of a tar or of a Dockerfile.
/// Progress goes to standard error.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct BuildArgs {
    /// Context directory, URL, or `-`
    #[arg(value_name = "PATH")]
    pub(crate) context: PathBuf,
    /// Name of the result (repeatable)
    #[arg(short, long, value_name = "NAME:TAG")]
    pub(crate) tag: Vec<String>,
    /// Dockerfile, `-` for standard input; looked for here, then in the context; several are read
    /// as one [default: Dockerfile or Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// Ignore file in the place of those that are looked for (FILE.containerignore,
    /// FILE.dockerignore, .containerignore, .dockerignore)
    #[arg(long, value_name = "FILE")]
    pub(crate) ignorefile: Option<PathBuf>,
    /// Write the result elsewhere too: type=image|registry|oci|docker|local|tar|cacheonly with
    /// BuildKit's options, a directory, or `-` for a tar on standard output (repeatable)
    #[arg(short, long, value_name = "SPEC", value_parser = OutputSpec::parse)]
    pub(crate) output: Vec<OutputSpec>,
    /// Push the result to the registries that its names tell: -o type=registry
    #[arg(long)]
    pub(crate) push: bool,
    /// Put the result into the docker engine of DOCKER_HOST, which is sent what it lacks:
    /// -o type=docker
    #[arg(long)]
    pub(crate) load: bool,
    /// Annotation of the manifest, or of what LEVEL says: manifest, manifest-descriptor, index,
    /// index-descriptor, with a `[PLATFORM]` or without (repeatable)
    #[arg(long, value_name = "[LEVEL,..:]KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Stage to build, and a name for it; several are built as one [default: the last] (repeatable)
    #[arg(long, value_name = "STAGE[=NAME:TAG]", value_parser = target)]
    pub(crate) target: Vec<(String, Option<String>)>,
    /// Value of an ARG; without a value, this environment's (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = named_value)]
    pub(crate) build_arg: Vec<(String, Option<String>)>,
    /// File of such values, one a line; --build-arg wins (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) build_arg_file: Vec<PathBuf>,
    /// Seconds since 1970 that stand for every time of the result: the argument SOURCE_DATE_EPOCH
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) timestamp: Option<i64>,
    /// Label of the image (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = named_value)]
    pub(crate) label: Vec<(String, Option<String>)>,
    /// Platform to build for, such as linux/arm64; several make one image index [default: this
    /// machine's] (repeatable, or separated by commas)
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse, value_delimiter = ',')]
    pub(crate) platform: Vec<Platform>,
    /// Network of RUN steps
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) network: Option<NetworkMode>,
    /// Entry of /etc/hosts in RUN steps; the address `host-gateway` is this machine's (repeatable)
    #[arg(long, value_name = "HOST:ADDRESS", value_parser = crate::server::parse_extra_host)]
    pub(crate) add_host: Vec<(String, String)>,
    /// Directory, docker-image://NAME, oci-layout://DIR:TAG or DIR@DIGEST, or the URL of a git
    /// repository or an archive, for COPY --from=NAME and FROM NAME (repeatable)
    #[arg(long, value_name = "NAME=SOURCE", value_parser = pair)]
    pub(crate) build_context: Vec<(String, String)>,
    /// PEM file of a certificate authority that RUN steps trust; leaves no trace in the image
    /// (repeatable) [env: RBUILD_CA_CERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Vec<PathBuf>,
    /// Secret for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME. Its value reaches no
    /// layer, log or cache key (repeatable)
    #[arg(long, value_name = "SPEC", value_parser = super::secrets::parse)]
    pub(crate) secret: Vec<SecretArg>,
    /// Agent for RUN --mount=type=ssh: default for this environment's, or ID=SOCKET (repeatable)
    #[arg(long, value_name = "SPEC", value_parser = super::ssh::parse)]
    pub(crate) ssh: Vec<SshArg>,
    /// Let steps do more than the sandbox allows: network.host, security.insecure, device,
    /// device=NAME, secret.leak (repeatable)
    #[arg(long, value_name = "ENTITLEMENT", value_parser = Entitlement::parse)]
    pub(crate) allow: Vec<Entitlement>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
    #[command(flatten)]
    pub(crate) call: CallArgs,
    /// Make one layer of those that the build adds to its base: what a step deletes is then in none
    #[arg(long)]
    pub(crate) squash: bool,
    /// Look nothing up in the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Build these stages anew, by name or number; what follows is reused where they give the same
    /// files again (repeatable, or separated by commas)
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Run again what RUN steps made longer ago than this, such as 12h, 30m or 7d
    #[arg(long, value_name = "DURATION", value_parser = super::duration::parse_duration)]
    pub(crate) cache_ttl: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Ask registries for newer base images: always, or of those that are missing alone
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "missing", default_missing_value = "always", value_parser = pull)]
    pub(crate) pull: bool,
    /// RUN steps executing at once [default: 16, or one a processor where those are more]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// How progress is shown
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(crate) progress: Mode,
    /// Print the image ID alone: --progress quiet
    #[arg(short, long, conflicts_with = "progress")]
    pub(crate) quiet: bool,
    /// With --host: print the build's ID once its context is sent, and let it go on by itself; see
    /// rbuild attach
    #[arg(long, conflicts_with_all = ["iidfile", "metadata_file"])]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) gc: GcArgs,
    #[command(flatten)]
    pub(crate) habit: super::foreign::HabitArgs,
}

/// Answer Docker clients and `rbuild --host`
///
/// Listens on a socket file that its owner and group may use, or on a port of the loopback
/// interface; on another interface only with tokens or client certificates. A socket that systemd
/// hands over is used unless --listen is given. SIGTERM lets running builds finish for ten seconds;
/// SIGHUP reads tokens, certificates and the limits of `[server]` in rbuild.toml anew.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// unix://PATH or tcp://127.0.0.1:PORT [default: unix:///run/rbuild/rbuild.sock for root, else
    /// unix://$XDG_RUNTIME_DIR/rbuild/rbuild.sock]
    #[arg(long, value_name = "URL")]
    pub(crate) listen: Option<Address>,
    /// File of lines `NAME SCOPE[,SCOPE] TOKEN`, scopes read, build, push and admin: requests need
    /// one of the tokens. The token in RBUILD_TOKEN may do everything
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of the certificate to speak TLS with
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// PEM file of the authority that must have signed the clients' certificates
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// PEM file of a certificate authority that RUN steps trust (repeatable) [env: RBUILD_CA_CERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Vec<PathBuf>,
    /// Let builds that ask for it do more than the sandbox allows: network.host,
    /// security.insecure, device, device=NAME, secret.leak (repeatable)
    #[arg(long, value_name = "ENTITLEMENT", value_parser = Entitlement::parse)]
    pub(crate) allow: Vec<Entitlement>,
    /// RUN steps of one build executing at once [default: 16, or one a processor where those are
    /// more]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) gc: GcArgs,
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
