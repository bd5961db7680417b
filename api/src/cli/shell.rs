//! `rbuild shell`: into the sandbox of a past build's step.

use std::io::{self, Write as _};
use std::process::ExitCode;

use builder::{
    Entitlement, ErrorKind, Events, PROXY_NAMES, ShellCommand, ShellError, ShellRequest,
};
use clap::Args;
use rustix::termios::isatty;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::secrets::{self, SecretArg};
use super::ssh::{self, SshArg};
use super::{Why, build, open_local};
use crate::config::{Environment, Settings};
use crate::fault::{Fault, exit_code};
use crate::progress::{self, Mode};
use crate::signals;

/// Look around in a step of a past build: its files, environment, user, mounts, network, limits
///
/// A RUN step is shown as it failed, or as it was when it was done. The step's shell reads standard
/// input; what is written is dropped. Secrets, agents and proxies are not remembered: give them again.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// ID or the beginning of one, or `last`
    #[arg(value_name = "BUILD", default_value = "last")]
    pub(crate) id: String,
    /// Program and arguments, in place of the shell
    #[arg(value_name = "PROGRAM", last = true)]
    pub(crate) program: Vec<String>,
    /// RUN step, by its number or STAGE/NUMBER [default: the one that failed, or else the last]
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// Show what the step began with
    #[arg(long)]
    pub(crate) before: bool,
    /// Have the shell run this, as RUN does
    #[arg(short, long, value_name = "TEXT", conflicts_with = "program")]
    pub(crate) command: Option<String>,
    /// Secret for a mount of the step: id=ID,src=FILE or id=ID,env=NAME (repeatable)
    #[arg(long, value_name = "SPEC", value_parser = secrets::parse)]
    pub(crate) secret: Vec<SecretArg>,
    /// Agent for a mount of the step: default for this environment's, or ID=SOCKET (repeatable)
    #[arg(long, value_name = "SPEC", value_parser = ssh::parse)]
    pub(crate) ssh: Vec<SshArg>,
    /// Proxy variable, as for a build; without a value, this environment's
    /// (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = super::args::named_value)]
    pub(crate) build_arg: Vec<(String, Option<String>)>,
    /// Let the step do what it was allowed to do: network.host, security.insecure, device
    /// (repeatable)
    #[arg(long, value_name = "ENTITLEMENT", value_parser = Entitlement::parse)]
    pub(crate) allow: Vec<Entitlement>,
}

/// Enters the step and passes on the exit code of what ran there.
pub(super) async fn shell(
    args: ShellArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    let proxies = build::given_args(&args.build_arg, environment);
    if let Some(name) = proxies.keys().find(|name| !PROXY_NAMES.contains(&name.as_str())) {
        return Err(Fault::user(format!(
            "--build-arg {name} cannot be given to a step that was run"
        ))
        .with_help("only proxies can: the others are in the step's environment"));
    }
    let command = match (args.command, args.program) {
        (Some(text), _) => ShellCommand::Text(text),
        (None, program) if program.is_empty() => ShellCommand::Interactive,
        (None, program) => ShellCommand::Program(program),
    };
    let has_terminal = isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout());
    let secrets = secrets::read(&args.secret, environment).await?;
    let ssh = ssh::resolve(&args.ssh, environment)?;
    let builder = open_local(
        settings,
        "shell",
        Why {
            reason: "the step is entered where its files are",
            instead: "run it on the machine of the service",
        },
    )
    .await?;
    let prefix = if args.id == "last" { String::new() } else { args.id };
    let record = Engine::Local(builder.clone()).build(&prefix).await?;
    let request = ShellRequest {
        build: record.id,
        step: args.step,
        is_before: args.before,
        command,
        has_terminal,
        secrets,
        ssh,
        proxies,
        allow: args.allow.into_iter().collect(),
    };
    let cancel = CancellationToken::new();
    let (_watch, passed) = signals::pass_on(&cancel, signals::STOP_GRACE)
        .map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    let (events, seen) = Events::channel();
    let shown = progress::show(Mode::Auto, seen);
    let work = async {
        let code = builder.shell(request, &events, passed, cancel.clone()).await;
        drop(events);
        code
    };
    let (code, ()) = tokio::join!(work, shown);
    if cancel.is_cancelled() {
        return Ok(ExitCode::from(exit_code(ErrorKind::Cancelled)));
    }
    let code = match code {
        Err(ShellError::Sandbox(error)) if error.exit_code().is_some() => {
            let code = error.exit_code().unwrap_or_default();
            drop(write!(io::stderr(), "{}", Fault::from(ShellError::Sandbox(error))));
            code
        }
        code => code?,
    };
    // Exit codes and signals are 0 to 255.
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

impl From<ShellError> for Fault {
    fn from(error: ShellError) -> Self {
        Self { help: error.help(), ..Self::of(error.kind(), &error) }
    }
}
