//! What may be typed after `rbuild run`.

use std::path::PathBuf;

use builder::Volume;
use clap::Args;

use super::super::dns::DnsArgs;
use super::super::limits::LimitArgs;
use super::super::run::{parse_tmpfs, parse_volume};
use super::super::security::SecurityArgs;
use super::value::{absolute, named_value, ports};
use crate::config::NetworkMode;
use crate::signals;

/// Run an image's command in a sandbox, to try the image out
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct RunArgs {
    /// Name or ID
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Command and arguments, in place of the image's CMD
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Keep nothing of what the command wrote; always so, and accepted for habit's sake
    #[arg(long)]
    pub(crate) rm: bool,
    /// Lead a port of this machine's loopback to one of the command's (repeatable)
    #[arg(short, long, value_name = "HOST:CONTAINER", value_parser = ports)]
    pub(crate) publish: Vec<(u16, u16)>,
    /// Hand standard input over to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Environment variable; without a value, this environment's (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = named_value)]
    pub(crate) env: Vec<(String, Option<String>)>,
    /// File of such variables, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Show a file or directory of this machine to the command; absolute paths (repeatable)
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]", value_parser = parse_volume)]
    pub(crate) volume: Vec<Volume>,
    /// Memory in place of a directory (repeatable)
    #[arg(long, value_name = "PATH[:size=SIZE]", value_parser = parse_tmpfs)]
    pub(crate) tmpfs: Vec<(String, Option<u64>)>,
    /// Working directory [default: the image's]
    #[arg(short, long, value_name = "DIR", value_parser = absolute)]
    pub(crate) workdir: Option<String>,
    /// User, and perhaps group [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Program in place of the image's ENTRYPOINT and CMD
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Name of the machine inside
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Let the command write to mounts alone
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Time from SIGTERM, which is passed on, to the end of a command that goes on
    #[arg(long, value_name = "SECONDS", default_value_t = signals::STOP_GRACE.as_secs())]
    pub(crate) stop_timeout: u64,
    /// Network of the command
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) network: Option<NetworkMode>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// PEM file of a certificate authority that the command trusts (repeatable)
    /// [env: RBUILD_CA_CERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Vec<PathBuf>,
}
