//! `rbuild build`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use builder::{BuildRequest, DockerfileInput, Events, SshAgents, blocking};
use tokio_util::sync::CancellationToken;

use super::args::BuildArgs;
use super::outputs::{self, Targets};
use super::{certs, check, context, engine::Engine, print, run, secrets, source, ssh};
use crate::config::{Environment, Settings};
use crate::fault::{Fault, exit_code};
use crate::progress::{self, Mode};
use crate::{signals, telemetry};

/// A build argument that this environment gives where nothing else does.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

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
    let outputs = outputs::asked(&args);
    outputs::check(&outputs, mode)?;
    let cancel = CancellationToken::new();
    let _watch = signals::cancel_on_signal(&cancel)
        .map_err(|error| Fault::of(builder::ErrorKind::Host, &error))?;
    let request = request(&args, &settings, environment).await?;
    let engine = Engine::open(&settings).await?;
    if args.detach {
        if outputs.iter().any(outputs::is_for_engine) {
            return Err(Fault::user("--load cannot be used with --detach")
                .with_help("it needs this machine until the build is over"));
        }
        let Engine::Remote(client) = &engine else {
            return Err(Fault::user("--detach needs a service that goes on with the build")
                .with_help("name it with --host"));
        };
        let id = client.start_build(request, args.network, &cancel).await?;
        print(&(id + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (events, seen) = Events::channel();
    let shown = progress::show(mode, seen);
    let ended = async {
        match &engine {
            Engine::Local(builder) => Ok(builder.build(request, events, cancel).await),
            Engine::Remote(client) => client.build(request, args.network, events, &cancel).await,
        }
    };
    let (ended, ()) = tokio::join!(ended, shown);
    let finish = async {
        match ended? {
            Ok(finished) => {
                outputs::finish(&engine, &outputs, &finished, environment).await?;
                outputs::write_results(&args, &finished)?;
                Ok(ExitCode::SUCCESS)
            }
            // Why was shown with the progress.
            Err(failure) => Ok(ExitCode::from(exit_code(failure.kind))),
        }
    };
    let result = finish.await;
    if let Engine::Local(builder) = &engine {
        builder.flush_telemetry().await;
    }
    result
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
    let targets = Targets::of(args)?;
    let outputs = outputs::asked(args);
    let outputs = outputs.into_iter().filter(|it| !outputs::is_for_engine(it));
    // A service has certificates of its own; those of this machine's settings are for builds here.
    let ca_certs = if is_remote { Vec::new() } else { settings.ca_certs.clone() };
    let mut request = BuildRequest {
        context,
        named_contexts: args.build_context.iter().cloned().collect(),
        dockerfile,
        ignore_file: args.ignorefile.clone(),
        tags: targets.tags,
        target: targets.first,
        more_targets: targets.more,
        build_args: arguments(args, environment).await?,
        labels: args
            .label
            .iter()
            .map(|(k, v)| (k.clone(), v.clone().unwrap_or_default()))
            .collect(),
        platforms: args.platform.clone(),
        annotations: outputs::annotations(args)?,
        network: settings.network.into(),
        extra_hosts: args.add_host.clone(),
        dns: args.dns.dns(),
        limits: args.limits.limits(),
        no_new_privs: args.security.no_new_privs(),
        squash: args.squash,
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        cache_ttl: args.cache_ttl,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        cache_scopes: Vec::new(),
        pull: args.pull,
        outputs: outputs.collect(),
        secrets: secrets::read(&args.secret, environment).await?,
        ssh: agents(args, environment)?,
        allow: args.allow.iter().cloned().collect(),
        ca_certs: certs::read(ca_certs).await?,
        credentials: BTreeMap::new(),
        trace_parent: telemetry::parent(environment),
    };
    args.cache.apply(&mut request);
    Ok(request)
}

/// Finds the ssh agents. A context that is a repository by ssh is fetched with the user's own, as by
/// docker, unless another is named.
fn agents(args: &BuildArgs, environment: &Environment) -> Result<SshAgents, Fault> {
    let mut agents = ssh::resolve(&args.ssh, environment)?;
    let context = args.context.to_string_lossy();
    let is_ssh = context.starts_with("ssh://")
        || (!context.contains("://")
            && frontend::parse_git_source(&context).is_ok_and(|git| git.is_some()));
    if let Some(socket) = environment.path("SSH_AUTH_SOCK").filter(|_| is_ssh) {
        agents.entry("default".to_owned()).or_insert(socket);
    }
    Ok(agents)
}

/// Returns all arguments of a build: those of files first, so that the others win.
pub(super) async fn arguments(
    args: &BuildArgs,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, Fault> {
    let mut all = BTreeMap::new();
    for path in &args.build_arg_file {
        all.extend(run::read_env_file(path, environment).await?);
    }
    all.extend(build_args(&args.build_arg, environment));
    if let Some(seconds) = args.timestamp
        && let Some(given) = all.insert("SOURCE_DATE_EPOCH".to_owned(), seconds.to_string())
        && given != seconds.to_string()
    {
        let what = format!("--timestamp {seconds}, but SOURCE_DATE_EPOCH is `{given}`");
        return Err(Fault::user(what).with_help("give one of them"));
    }
    Ok(all)
}

/// Returns the arguments of a build, [`EPOCH`] among them.
pub(super) fn build_args(
    given: &[(String, Option<String>)],
    environment: &Environment,
) -> BTreeMap<String, String> {
    // As buildx does, so that every tool of one script goes by one time.
    let epoch = environment.text(EPOCH).filter(|epoch| !epoch.is_empty());
    let epoch = epoch.map(|epoch| (EPOCH.to_owned(), epoch.to_owned()));
    epoch.into_iter().chain(given_args(given, environment)).collect()
}

/// An argument without a value takes this environment's; one that has none here is left out, so
/// that the Dockerfile's default holds.
pub(super) fn given_args(
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
        ("--ca-cert", !args.ca_cert.is_empty(), "give it to `rbuild serve`, for all its builds"),
        ("--jobs", args.jobs.is_some(), "give it to `rbuild serve`, whose processors they are"),
        ("--gc-...", args.gc.is_given(), "give it to `rbuild serve`, whose store it is"),
    ];
    match refused.iter().find(|(_, is_given, _)| *is_given) {
        None => Ok(()),
        Some((option, _, help)) => {
            Err(Fault::user(format!("{option} cannot be used with --host")).with_help(*help))
        }
    }
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
}
