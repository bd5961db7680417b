//! `rbuild run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use builder::{ErrorKind, Events, ImageError, RunRequest, Volume, blocking};
use rustix::termios::isatty;
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::{Why, certs, open_local};
use crate::config::{Environment, Settings};
use crate::fault::{Fault, exit_code};
use crate::progress::{self, Mode};
use crate::signals;

/// Bytes of an `--env-file` at most.
const ENV_FILE_LIMIT: u64 = 4 << 20;

/// Runs an image's command and passes on its exit code.
pub(super) async fn run(
    args: Box<RunArgs>,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    let is_interactive = args.interactive;
    if args.tty && is_interactive && !isatty(rustix::stdio::stdin()) {
        return Err(Fault::user("standard input is no terminal")
            .with_help("leave out -t: -i alone hands over standard input as it is"));
    }
    let mut env = Vec::new();
    for path in &args.env_file {
        env.extend(read_env_file(path, environment).await?);
    }
    env.extend(args.env.iter().filter_map(|(name, value)| {
        let value = value.as_deref().or_else(|| environment.text(name))?;
        Some((name.clone(), value.to_owned()))
    }));
    let grace = Duration::from_secs(args.stop_timeout);
    let request = RunRequest {
        image: args.name,
        command: args.command,
        entrypoint: args.entrypoint,
        env,
        cwd: args.workdir,
        user: args.user,
        hostname: args.hostname,
        volumes: volumes(args.volume)?,
        tmpfs: args.tmpfs,
        is_read_only: args.read_only,
        is_interactive,
        has_terminal: args.tty,
        ports: args.publish,
        network: settings.network.into(),
        dns: args.dns.dns(),
        limits: args.limits.limits(),
        no_new_privs: args.security.no_new_privs(),
        ca_certs: certs::read(settings.ca_certs.clone()).await?,
    };
    let builder = open_local(
        settings,
        "run",
        Why {
            reason: "the command gets this terminal, these ports and these directories",
            instead: "bring the image here (`rbuild --host URL save NAME | rbuild load`) and run it",
        },
    )
    .await?;
    let cancel = CancellationToken::new();
    let (_watch, passed) =
        signals::pass_on(&cancel, grace).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    let (events, seen) = Events::channel();
    // Only a pull has something to show; the command has the standard streams for itself.
    let shown = progress::show(Mode::Auto, seen);
    let work = async {
        let code = builder.run(request, &events, passed, cancel.clone()).await;
        drop(events);
        code
    };
    let (code, ()) = tokio::join!(work, shown);
    if cancel.is_cancelled() {
        return Ok(ExitCode::from(exit_code(ErrorKind::Cancelled)));
    }
    let code = match code {
        Err(ImageError::Sandbox(error)) if error.exit_code().is_some() => {
            let code = error.exit_code().unwrap_or_default();
            drop(std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("{}", Fault::from(ImageError::Sandbox(error))),
            ));
            code
        }
        code => code?,
    };
    // Exit codes and signals are 0 to 255.
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Checks that what is to be shown is there: nothing is made for a mistyped path.
fn volumes(given: Vec<Volume>) -> Result<Vec<Volume>, Fault> {
    for volume in &given {
        std::fs::metadata(&volume.source)
            .map_err(|error| Fault::file("use the volume", &volume.source, &error))?;
    }
    Ok(given)
}

/// Parses the value of `-v`.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_volume(text: &str) -> Result<Volume, String> {
    let (source, rest) = text.split_once(':').ok_or("expected HOST:CONTAINER[:ro]")?;
    let (target, is_writable) = match rest.rsplit_once(':') {
        None => (rest, true),
        Some((target, "ro")) => (target, false),
        Some((target, "rw")) => (target, true),
        Some((_, option)) => {
            return Err(format!("there is no option `{option}`; the options are ro and rw"));
        }
    };
    for path in [source, target] {
        if !path.starts_with('/') {
            return Err(format!("`{path}` is not absolute: both paths must be"));
        }
    }
    Ok(Volume { source: PathBuf::from(source), target: target.to_owned(), is_writable })
}

/// Parses the value of `--tmpfs`.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_tmpfs(text: &str) -> Result<(String, Option<u64>), String> {
    let (target, option) = match text.split_once(':') {
        None => (text, None),
        Some((target, option)) => (target, Some(option)),
    };
    if !target.starts_with('/') {
        return Err(format!("`{target}` is not absolute"));
    }
    let size = match option {
        None => None,
        Some(option) => {
            let size = option.strip_prefix("size=").ok_or_else(|| {
                format!("there is no option `{option}`; the option is size=BYTES")
            })?;
            Some(crate::limits::bytes(size)?)
        }
    };
    Ok((target.to_owned(), size))
}

/// Reads variables as `docker run --env-file` does: one a line, nothing quoted; a name alone takes
/// this environment's value.
pub(super) async fn read_env_file(
    path: &Path,
    environment: &Environment,
) -> Result<Vec<(String, String)>, Fault> {
    let file = path.to_owned();
    let read = move || {
        let mut text = String::new();
        let opened = std::fs::File::open(&file)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(opened, ENV_FILE_LIMIT), &mut text)?;
        Ok(text)
    };
    let text = blocking::run(read)
        .await
        .map_err(|error: std::io::Error| Fault::file("read the variables in", path, &error))?;
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, environment.text(line)),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            let place = format!("{}:{}", path.display(), number + 1);
            return Err(Fault::user(format!("{place}: `{name}` is no variable's name")));
        }
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_two_absolute_paths() {
        let volume = |source: &str, target: &str, is_writable| {
            Ok(Volume { source: source.into(), target: target.into(), is_writable })
        };
        #[rustfmt::skip]
        let cases = [
            ("/a:/b",     volume("/a", "/b", true)),
            ("/a:/b:ro",  volume("/a", "/b", false)),
            ("/a:/b:rw",  volume("/a", "/b", true)),
            ("/a",        Err("expected HOST:CONTAINER[:ro]".to_owned())),
            ("a:/b",      Err("`a` is not absolute: both paths must be".to_owned())),
            ("/a:b",      Err("`b` is not absolute: both paths must be".to_owned())),
            ("/a:/b:z",   Err("there is no option `z`; the options are ro and rw".to_owned())),
        ];
        for (text, want) in cases {
            assert_eq!(parse_volume(text), want, "{text}");
        }
    }

    #[test]
    fn tmpfs_has_a_size() {
        assert_eq!(parse_tmpfs("/t"), Ok(("/t".to_owned(), None)));
        assert_eq!(parse_tmpfs("/t:size=64m"), Ok(("/t".to_owned(), Some(64 << 20))));
        assert!(parse_tmpfs("t").unwrap_err().contains("is not absolute"));
        assert!(parse_tmpfs("/t:exec").unwrap_err().contains("there is no option `exec`"));
    }

    #[tokio::test]
    async fn env_files_are_read_as_docker_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1 2\nB=\"q\"=x\n  C=\nFROM_ENV\nMISSING\n").unwrap();
        let environment = Environment::new(false, &[("FROM_ENV", "e")]);
        let got = read_env_file(&file, &environment).await.unwrap();
        let want = [("A", "1 2"), ("B", "\"q\"=x"), ("C", ""), ("FROM_ENV", "e")];
        assert_eq!(got, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        std::fs::write(&file, "A B=1\n").unwrap();
        let error = read_env_file(&file, &environment).await.unwrap_err().to_string();
        assert!(error.contains("env:1: `A B` is no variable's name"), "{error}");
    }
}
