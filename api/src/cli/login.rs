//! `login` and `logout`: credentials of registries, where docker keeps them.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use builder::{Credentials, ErrorKind, Keeper, Registry, blocking};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{note, print};
use crate::config::Settings;
use crate::fault::Fault;

/// The registry that is meant when none is named.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Longest password that is read, bytes.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// Keep a registry's credentials, after it has taken them
///
/// They go where docker keeps its own: into the credential helper that its config.json names, or
/// else, unencrypted, into that file. Where the registry gives a token for them, that is kept and the
/// password is not.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Registry, such as registry.example:5000
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
    /// User name [default: asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password, or an access token, from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Forget a registry's credentials
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Registry, such as registry.example:5000
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
}

/// `rbuild login`.
pub(super) async fn login(args: LoginArgs, settings: Settings) -> Result<(), Fault> {
    let file = config_file(&settings)?;
    let host = builder::registry_host(&args.registry);
    let (username, from_stdin) = (args.username, args.password_stdin);
    let (username, password) = blocking::run(move || ask(username, from_stdin)).await?;
    let mut credentials = Credentials { username, password, identity_token: None };
    let registry = Registry::new(settings.builder.registries.clone());
    let given = BTreeMap::from([(host.clone(), credentials.clone())]);
    let asked = registry.with_credentials(given).login(&host).await;
    credentials.identity_token = asked.map_err(|error| {
        let kind = if error.is_refusal() { ErrorKind::User } else { error.kind() };
        Fault::of(kind, &error)
    })?;
    let kept = builder::keep_credentials(&file, &host, &credentials).await;
    match kept.map_err(|error| Fault::of(ErrorKind::Host, &error))? {
        Keeper::Helper(name) => note(&format!("kept by docker-credential-{name}\n")),
        Keeper::File(path) => note(&format!(
            "warning: the {} is kept unencrypted in `{}`; a credential helper keeps it safe\n",
            if credentials.identity_token.is_some() { "registry's token" } else { "password" },
            path.display()
        )),
    }
    print(&format!("Login Succeeded: {host}\n"))
}

/// `rbuild logout`.
pub(super) async fn logout(args: LogoutArgs, settings: Settings) -> Result<(), Fault> {
    let file = config_file(&settings)?;
    let host = builder::registry_host(&args.registry);
    let found = builder::forget_credentials(&file, &host).await;
    let text = if found.map_err(|error| Fault::of(ErrorKind::Host, &error))? {
        format!("Removed the credentials of {host}\n")
    } else {
        format!("Not logged in to {host}\n")
    };
    print(&text)
}

fn config_file(settings: &Settings) -> Result<PathBuf, Fault> {
    settings.builder.registries.auth_file.clone().ok_or_else(|| {
        Fault::user("there is no place for credentials: HOME is not set")
            .with_help("name docker's directory with DOCKER_CONFIG")
    })
}

/// Gets the name and the password.
fn ask(username: Option<String>, from_stdin: bool) -> Result<(String, String), Fault> {
    let failed = |error: io::Error| Fault::of(ErrorKind::Host, &error);
    if from_stdin {
        let help = "--password-stdin needs a user name";
        let username = username.ok_or_else(|| Fault::user(help).with_help("give it with -u"))?;
        let mut password = String::new();
        io::stdin().take(PASSWORD_LIMIT).read_to_string(&mut password).map_err(failed)?;
        return filled(username, password.trim_end_matches(['\r', '\n']).to_owned());
    }
    if !io::stdin().is_terminal() {
        let fault = Fault::user("there is no terminal to ask for a password");
        return Err(fault.with_help("hand it over by --password-stdin"));
    }
    let username = match username {
        Some(username) => username,
        None => prompt("Username: ").map_err(failed)?,
    };
    let password = hidden(|| prompt("Password: ")).map_err(failed)?;
    note("\n");
    filled(username, password)
}

fn filled(username: String, password: String) -> Result<(String, String), Fault> {
    if username.is_empty() || username.contains(':') {
        return Err(Fault::user("a user name is not empty and holds no `:`"));
    }
    if password.is_empty() {
        return Err(Fault::user("the password is empty"));
    }
    Ok((username, password))
}

fn prompt(text: &str) -> io::Result<String> {
    io::stderr().write_all(text.as_bytes())?;
    let mut line = String::new();
    io::stdin().lock().take(PASSWORD_LIMIT).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads while the terminal does not show what is typed.
fn hidden<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
    let outcome = read();
    tcsetattr(io::stdin(), OptionalActions::Flush, &before)?;
    outcome
}
