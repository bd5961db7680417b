//! The command line: what was typed, then what it means, then doing it.

mod args;
mod attach;
mod build;
mod builds;
mod cache;
mod certs;
mod check;
mod contents;
mod context;
mod context_list;
mod debug;
mod dns;
mod docker;
mod doctor;
mod duration;
mod engine;
mod explain;
mod fmt;
mod foreign;
mod history;
mod image;
mod index;
mod limits;
mod login;
mod outputs;
mod pages;
mod referrers;
mod run;
mod secrets;
mod security;
mod serve;
mod shell;
mod shorthand;
mod source;
mod ssh;
mod store;
mod transfer;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use builder::{Builder, ErrorKind, IdMapping, UsernsError};
use clap::Parser as _;
use tokio::runtime::{self, Runtime};
use tracing_subscriber::EnvFilter;

use crate::client::Client;
use crate::config::{Environment, Flags, Settings};
use crate::fault::{self, Fault};
use crate::upkeep::GcArgs;
use args::{Cli, Command, ImageCommand, StoreCommand};
use engine::Engine;

pub(crate) use security::no_new_privileges;

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(shorthand::expand(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Where even this cannot be written, the exit code still tells.
            match foreign::explain(&error) {
                Some(told) => note(&told),
                None => drop(error.print()),
            }
            return ExitCode::from(if error.use_stderr() { fault::USAGE } else { 0 });
        }
    };
    start_log();
    let is_run = matches!(cli.command, Command::Run(_) | Command::Shell(_));
    match start(cli) {
        Ok(code) => code,
        Err(fault) => {
            drop(write!(io::stderr(), "{fault}"));
            ExitCode::from(if is_run { fault::RUN_FAILED } else { fault::exit_code(fault.kind) })
        }
    }
}

/// Warnings and worse go to standard error; `RBUILD_LOG` asks for more (`debug`, `api=trace`), and
/// `RBUILD_LOG_FORMAT=json` for one JSON object a line.
fn start_log() {
    let filter = EnvFilter::try_from_env("RBUILD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogOutput(io::stderr()))
        .with_ansi(false);
    if std::env::var_os("RBUILD_LOG_FORMAT").is_some_and(|format| format == "json") {
        log.json().flatten_event(true).init();
    } else {
        log.without_time().init();
    }
}

fn start(cli: Cli) -> Result<ExitCode, Fault> {
    let environment = Environment::of_process();
    let settings = Settings::resolve(&flags(&cli), &environment)?;
    let is_local = settings.host.is_none();
    let mut mapping = None;
    if is_local && builder::lacks_privilege() {
        if matches!(cli.command, Command::Doctor(_)) {
            mapping = Some(builder::enter_user_namespace());
        } else if cli.command.uses_store() {
            enter_user_namespace(environment.is_root)?;
        }
    }
    let runtime = runtime(&cli.command).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    let result = runtime.block_on(execute(cli, settings, environment, mapping));
    // A read of standard input that nobody waits for any more cannot be ended; it must not keep
    // the process alive.
    runtime.shutdown_background();
    result
}

/// Makes what runs async code. Except in the service, which answers many at once, that only waits
/// and tells others what to do: one thread does it sooner than several that wake each other.
fn runtime(command: &Command) -> io::Result<Runtime> {
    let mut runtime = if matches!(command, Command::Serve(_)) {
        let mut runtime = runtime::Builder::new_multi_thread();
        runtime.worker_threads(builder::processors().get());
        runtime
    } else {
        runtime::Builder::new_current_thread()
    };
    runtime.enable_all().build()
}

/// Becomes root of a namespace of our own: the store and its sandboxes need to own files and make
/// mounts. Must happen while the process has one thread.
///
/// Root may own files without one: what works without a sandbox then works.
fn enter_user_namespace(is_root: bool) -> Result<(), Fault> {
    match builder::enter_user_namespace() {
        Ok(IdMapping::Ranges) => Ok(()),
        Ok(IdMapping::Single { reason }) => {
            tracing::info!(%reason, "only one user id is mapped");
            Ok(())
        }
        Err(error @ UsernsError::Refused { .. }) if is_root => {
            tracing::info!(error = &error as &dyn std::error::Error, "no user namespace");
            Ok(())
        }
        Err(error) => Err(Fault::of(ErrorKind::Host, &error)),
    }
}

fn flags(cli: &Cli) -> Flags {
    let global = &cli.global;
    let (ca_certs, network, jobs) = match &cli.command {
        Command::Build(args) => (args.ca_cert.clone(), args.network, args.jobs),
        Command::Verify(args) => (args.build.ca_cert.clone(), args.build.network, args.build.jobs),
        Command::Run(args) => (args.ca_cert.clone(), args.network, None),
        Command::Serve(args) => (args.ca_cert.clone(), None, args.jobs),
        _ => (Vec::new(), None, None),
    };
    Flags {
        store: global.store.clone(),
        host: global.host.clone(),
        mirrors: global.registry_mirror.clone(),
        ca_certs,
        network,
        jobs,
        gc: match &cli.command {
            Command::Build(args) => args.gc,
            Command::Serve(args) => args.gc,
            _ => GcArgs::default(),
        },
        serve_allow: match &cli.command {
            Command::Serve(args) => Some(args.allow.clone()),
            _ => None,
        },
    }
}

async fn execute(
    cli: Cli,
    settings: Settings,
    environment: Environment,
    mapping: doctor::Mapping,
) -> Result<ExitCode, Fault> {
    match cli.command {
        Command::Build(args) => {
            return Box::pin(build::build(args, settings, &environment)).await;
        }
        Command::Verify(args) => {
            return Box::pin(verify::verify(*args, settings, &environment)).await;
        }
        Command::Check(args) => return check::check(*args, settings, &environment).await,
        Command::Doctor(args) => return doctor::doctor(args, settings, mapping).await,
        Command::Serve(args) => serve::serve(args, settings, &environment).await,
        Command::Run(args) => return run::run(args, settings, &environment).await,
        Command::Shell(args) => return shell::shell(*args, settings, &environment).await,
        Command::Images(args) => image::images(args, &Engine::open(&settings).await?).await,
        Command::History(args) => image::history(args, &Engine::open(&settings).await?).await,
        Command::Inspect(args) => image::inspect(args, &Engine::open(&settings).await?).await,
        Command::Tag(args) => image::tag(args, &Engine::open(&settings).await?).await,
        Command::Rmi(args) => image::remove(args, &Engine::open(&settings).await?).await,
        Command::Pull(args) => transfer::pull(args, &Engine::open(&settings).await?).await,
        Command::Push(args) => transfer::push(args, &Engine::open(&settings).await?).await,
        Command::Save(args) => transfer::save(args, &Engine::open(&settings).await?).await,
        Command::Load(args) => transfer::load(args, &Engine::open(&settings).await?).await,
        Command::Import(args) => transfer::import(args, &Engine::open(&settings).await?).await,
        Command::Image { command } => match command {
            ImageCommand::Tree(args) => contents::tree(args, &Engine::open(&settings).await?).await,
            ImageCommand::Diff(args) => contents::diff(args, &Engine::open(&settings).await?).await,
            ImageCommand::Referrers(args) => {
                referrers::referrers(args, &Engine::open(&settings).await?).await
            }
            ImageCommand::Prune(args) => image::prune(args, &Engine::open(&settings).await?).await,
        },
        Command::Index { command } => index::index(command, Engine::open(&settings).await?).await,
        Command::Login(args) => login::login(args, settings).await,
        Command::Logout(args) => login::logout(args, settings).await,
        Command::Du(args) => store::usage(&args, &settings).await,
        Command::Prune(args) => store::prune(&args, &settings).await,
        Command::Store { command: StoreCommand::Check(args) } => {
            return store::check(args, settings).await;
        }
        Command::Fmt(args) => return builder::blocking::run(move || fmt::fmt(args)).await,
        Command::Context { command } => {
            builder::blocking::run(move || context_list::context(&command)).await
        }
        Command::Debug { command } => {
            builder::blocking::run(move || debug::debug(&command, &environment)).await
        }
        Command::Attach(args) => return attach::attach(args, &settings).await,
        Command::Builds { command } => builds::builds(command, &settings).await,
        Command::Explain(args) => explain::explain(args, settings, &environment).await,
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::manual(dir),
        Command::Version => version(&settings).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Why a command cannot be done by a service, and what can be done in its place.
struct Why {
    reason: &'static str,
    instead: &'static str,
}

async fn version(settings: &Settings) -> Result<(), Fault> {
    let mut text = format!("rbuild {}\n", env!("CARGO_PKG_VERSION"));
    if let Some(address) = &settings.host {
        let remote = Client::open(address, &settings.client).await?.version().await?;
        let field =
            |name: &str| crate::format::printable(remote[name].as_str().unwrap_or("unknown"));
        let (server, api) = (field("Version"), field("ApiVersion"));
        let line = format!("service at {address}: {server}, Docker API {api}\n");
        text += &line;
    }
    print(&text)
}

/// Opens the builder of this process, for commands that cannot be done elsewhere: `why` not, and
/// what to do in their place.
async fn open_local(settings: Settings, command: &str, why: Why) -> Result<Builder, Fault> {
    if let Some(address) = settings.host {
        let Why { reason, instead } = why;
        let what = format!("`rbuild {command}` works on this machine only, not at {address}");
        let fault = Fault::user(format!("{what}: {reason}"));
        return Err(fault.with_help(format!("{instead}, without --host and RBUILD_HOST")));
    }
    Ok(builder::blocking::run(move || Builder::open(settings.builder)).await?)
}

/// Writes a result to standard output. A reader that left has seen what it wanted.
fn print(text: &str) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fault::of(ErrorKind::Host, &error))
        }
        _ => Ok(()),
    }
}

/// Writes a remark to standard error. Nobody needs to be there to read it.
fn note(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}

/// Standard error for logs. A reader that is gone loses lines, and nobody else cares: the
/// subscriber would panic on the error.
struct LogOutput(io::Stderr);

impl io::Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.0.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(self.0.flush());
        Ok(())
    }
}
