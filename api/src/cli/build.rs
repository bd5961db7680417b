//! `rbuild build`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use builder::{
    BuildRequest, DockerfileInput, Events, Failure, Finished, OutputKind, OutputSpec, SshAgents,
    blocking,
};
use tokio_util::sync::CancellationToken;

use super::args::BuildArgs;
use super::{certs, check, context, engine::Engine, secrets, source, ssh, transfer};
use crate::client::Client;
use crate::config::{Environment, NetworkMode, Settings};
use crate::fault::{Fault, exit_code};
use crate::progress::{self, Mode};
use crate::signals;

/// Builds, here or at a service, and shows how it goes.
pub(super) async fn build(
    args: Box<BuildArgs>,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    if let Some(call) = args.call.asked() {
        return check::call(&args, call, settings, environment).await;
    }
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    check_outputs(&args.output, mode)?;
    let cancel = CancellationToken::new();
    let _watch = signals::cancel_on_signal(&cancel)
        .map_err(|error| Fault::of(builder::ErrorKind::Host, &error))?;
    let request = request(&args, &settings, environment).await?;
    let engine = Engine::open(&settings).await?;
    let (events, seen) = Events::channel();
    let shown = progress::show(mode, seen);
    let ended = async {
        match &engine {
            Engine::Local(builder) => Ok(builder.build(request, events, cancel).await),
            Engine::Remote(client) => {
                build_remote(client, &args, request, args.network, events, &cancel).await
            }
        }
    };
    let (ended, ()) = tokio::join!(ended, shown);
    match ended? {
        Ok(finished) => {
            write_results(&args, &finished)?;
            Ok(ExitCode::SUCCESS)
        }
        // Why was shown with the progress.
        Err(failure) => Ok(ExitCode::from(exit_code(failure.kind))),
    }
}

pub(super) async fn request(
    args: &BuildArgs,
    settings: &Settings,
    environment: &Environment,
) -> Result<BuildRequest, Fault> {
    let (path, files) = (args.context.clone(), args.file.clone());
    let (context, dockerfile) = blocking::run(move || match files.as_slice() {
        [] => context::open(&path, None),
        [file] => context::open(&path, Some(file)),
        files => {
            let text = source::join(&path, files)?;
            let (context, _) = context::open(&path, None)?;
            Ok((context, DockerfileInput::Inline(text)))
        }
    })
    .await?;
    let is_remote = settings.host.is_some();
    if is_remote {
        refuse_with_host(args)?;
    }
    // A service has certificates of its own; those of this machine's settings are for builds here.
    let ca_certs = if is_remote { Vec::new() } else { settings.ca_certs.clone() };
    let mut request = BuildRequest {
        context,
        named_contexts: args.build_context.iter().cloned().collect(),
        dockerfile,
        ignore_file: args.ignorefile.clone(),
        tags: args.tag.clone(),
        target: args.target.clone(),
        build_args: build_args(&args.build_arg, environment),
        labels: args
            .label
            .iter()
            .map(|(k, v)| (k.clone(), v.clone().unwrap_or_default()))
            .collect(),
        platform: args.platform.clone(),
        network: settings.network.into(),
        extra_hosts: args.add_host.clone(),
        dns: args.dns.dns(),
        limits: args.limits.limits(),
        no_new_privs: args.security.no_new_privs(),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        cache_ttl: args.cache_ttl,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        cache_scopes: Vec::new(),
        pull: args.pull,
        outputs: if is_remote { Vec::new() } else { args.output.clone() },
        secrets: secrets::read(&args.secret, environment).await?,
        ssh: agents(args, is_remote, environment)?,
        allow: args.allow.iter().copied().collect(),
        ca_certs: certs::read(ca_certs).await?,
        credentials: BTreeMap::new(),
    };
    args.cache.apply(&mut request);
    Ok(request)
}

/// Finds the ssh agents. A context that is a repository by ssh is fetched with the user's own, as by
/// docker, unless another is named.
fn agents(
    args: &BuildArgs,
    is_remote: bool,
    environment: &Environment,
) -> Result<SshAgents, Fault> {
    let mut agents = ssh::resolve(&args.ssh, environment)?;
    let context = args.context.to_string_lossy();
    let is_ssh = context.starts_with("ssh://")
        || (!context.contains("://")
            && frontend::parse_git_source(&context).is_ok_and(|git| git.is_some()));
    if let Some(socket) = environment.path("SSH_AUTH_SOCK").filter(|_| is_ssh && !is_remote) {
        agents.entry("default".to_owned()).or_insert(socket);
    }
    Ok(agents)
}

/// An argument without a value takes this environment's; one that has none here is left out, so
/// that the Dockerfile's default holds.
pub(super) fn build_args(
    given: &[(String, Option<String>)],
    environment: &Environment,
) -> BTreeMap<String, String> {
    let value = |(name, value): &(String, Option<String>)| {
        let value = value.as_deref().or_else(|| environment.text(name))?;
        Some((name.clone(), value.to_owned()))
    };
    given.iter().filter_map(value).collect()
}

fn refuse_with_host(args: &BuildArgs) -> Result<(), Fault> {
    let refused = [
        ("--ca-cert", !args.ca_cert.is_empty(), "give it to `rbuild serve`"),
        ("--jobs", args.jobs.is_some(), "give it to `rbuild serve`"),
        ("--gc-...", args.gc.is_given(), "give it to `rbuild serve`"),
        ("--secret", !args.secret.is_empty(), "values are not sent to services yet"),
        ("--ssh", !args.ssh.is_empty(), "the agent is on this machine"),
        (
            "--cache-... of type=local",
            args.cache.has_local(),
            "its directory is on this machine; use type=registry",
        ),
        ("--build-context", !args.build_context.is_empty(), "only the main context is sent"),
        (
            "--output of this type",
            args.output.iter().any(|output| output.kind != OutputKind::Docker),
            "a service writes type=docker only",
        ),
    ];
    match refused.iter().find(|(_, is_given, _)| *is_given) {
        None => Ok(()),
        Some((option, _, help)) => {
            Err(Fault::user(format!("{option} cannot be used with --host")).with_help(*help))
        }
    }
}

/// Standard output can take one thing only, and a terminal takes no archive.
fn check_outputs(outputs: &[OutputSpec], mode: Mode) -> Result<(), Fault> {
    let to_stdout = outputs.iter().filter(|output| output.dest.is_none()).count();
    if to_stdout == 0 {
        return Ok(());
    }
    if to_stdout > 1 {
        return Err(Fault::user("only one output can go to standard output"));
    }
    if matches!(mode, Mode::Json | Mode::Quiet) {
        let what = "the output and this form of progress cannot both go to standard output";
        return Err(Fault::user(what).with_help("name a file with dest=, or use --progress plain"));
    }
    if io::stdout().is_terminal() {
        return Err(Fault::user("standard output is a terminal, which cannot take an archive")
            .with_help("redirect it, or name a file with dest="));
    }
    Ok(())
}

async fn build_remote(
    client: &Client,
    args: &BuildArgs,
    request: BuildRequest,
    network: Option<NetworkMode>,
    events: Events,
    cancel: &CancellationToken,
) -> Result<Result<Finished, Box<Failure>>, Fault> {
    let ended = client.build(request, network, events, cancel).await?;
    if let Ok(finished) = &ended {
        let names = match finished.tags.as_slice() {
            [] => vec![finished.image_id.clone()],
            tags => tags.to_vec(),
        };
        for output in &args.output {
            transfer::save_remote(client, &names, output.dest.as_deref()).await?;
        }
    }
    Ok(ended)
}

fn write_results(args: &BuildArgs, finished: &Finished) -> Result<(), Fault> {
    if let Some(path) = &args.iidfile {
        write_file(path, &finished.image_id)?;
    }
    if let Some(path) = &args.metadata_file {
        let document = serde_json::json!({
            "containerimage.config.digest": finished.image_id,
            "containerimage.digest": finished.manifest_digest,
            "image.name": finished.tags.join(","),
        });
        write_file(path, &format!("{document:#}\n"))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text).map_err(|error| Fault::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_without_a_value_come_from_the_environment() {
        let environment = Environment::new(false, &[("A", "of env"), ("EMPTY", "")]);
        let given = [
            ("A".to_owned(), None),
            ("B".to_owned(), Some("given".to_owned())),
            ("EMPTY".to_owned(), None),
            ("MISSING".to_owned(), None),
        ];
        let want = [("A", "of env"), ("B", "given"), ("EMPTY", "")];
        let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(build_args(&given, &environment), want.into());
    }

    #[test]
    fn standard_output_takes_one_thing() {
        let to =
            |dest: Option<&str>| OutputSpec { kind: OutputKind::Tar, dest: dest.map(Into::into) };
        assert!(check_outputs(&[to(Some("a")), to(Some("b"))], Mode::Json).is_ok());
        assert!(check_outputs(&[to(None), to(None)], Mode::Plain).is_err());
        assert!(check_outputs(&[to(None)], Mode::Quiet).is_err());
        assert!(check_outputs(&[to(None)], Mode::Json).is_err());
    }

    #[test]
    fn results_are_written_for_scripts() {
        use clap::Parser as _;

        let dir = tempfile::tempdir().unwrap();
        let (iid, metadata) = (dir.path().join("iid"), dir.path().join("metadata"));
        let (iid, metadata) = (iid.to_str().unwrap(), metadata.to_str().unwrap());
        let line = ["rbuild", "build", "--iidfile", iid, "--metadata-file", metadata, "."];
        let super::super::Command::Build(args) =
            super::super::Cli::try_parse_from(line).unwrap().command
        else {
            panic!("not a build");
        };
        let finished = Finished {
            image_id: "sha256:aa".to_owned(),
            manifest_digest: "sha256:bb".to_owned(),
            tags: vec!["a:1".to_owned(), "b:2".to_owned()],
            ..Finished::default()
        };
        write_results(&args, &finished).unwrap();
        assert_eq!(std::fs::read_to_string(iid).unwrap(), "sha256:aa");
        let text = std::fs::read_to_string(metadata).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["containerimage.config.digest"], "sha256:aa");
        assert_eq!(document["containerimage.digest"], "sha256:bb");
        assert_eq!(document["image.name"], "a:1,b:2");
    }
}
