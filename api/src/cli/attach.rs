//! `attach`: follows a build of a service.

use std::process::ExitCode;

use builder::{ErrorKind, Events};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::note;
use crate::config::Settings;
use crate::fault::{EXIT_CODES, Fault, exit_code};
use crate::progress::{self, Mode};
use crate::signals;

/// Follow a build of a service from its beginning to its end, with its exit code
///
/// Needs --host. Ctrl-C ends the following and not the build; --cancel ends the build.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct AttachArgs {
    /// ID or the beginning of one [default: the last build]
    #[arg(value_name = "BUILD", default_value = "")]
    pub(crate) id: String,
    /// Cancel the build, and follow it to its end
    #[arg(long)]
    pub(crate) cancel: bool,
    /// How progress is shown
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(crate) progress: Mode,
}

/// `rbuild attach`.
pub(super) async fn attach(args: AttachArgs, settings: &Settings) -> Result<ExitCode, Fault> {
    if settings.host.is_none() {
        let what = "a build can be followed at a service only";
        return Err(Fault::user(what).with_help("name the service with --host"));
    }
    let engine = Engine::open(settings).await?;
    let id = engine.build(&args.id).await?.id;
    let Engine::Remote(client) = engine else { unreachable!("a host was given") };
    let cancel = CancellationToken::new();
    let _watch =
        signals::cancel_on_signal(&cancel).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    if args.cancel {
        client.cancel_build(&id).await?;
    }
    let (events, seen) = Events::channel();
    let shown = progress::show(args.progress, seen);
    let followed = async {
        let followed = client.follow_to_end(&id, &events, &cancel).await;
        drop(events);
        followed
    };
    let (followed, ()) = tokio::join!(followed, shown);
    if cancel.is_cancelled() {
        note(&format!("build {id} goes on; `rbuild attach {id}` follows it again\n"));
    }
    Ok(match followed? {
        Ok(_) => ExitCode::SUCCESS,
        // Why was shown with the progress.
        Err(failure) => ExitCode::from(exit_code(failure.kind)),
    })
}
