//! `rbuild run`.

use std::process::ExitCode;

use builder::{ErrorKind, Events, RunRequest};
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::{certs, open_local};
use crate::config::Settings;
use crate::fault::{Fault, exit_code};
use crate::progress::{self, Mode};
use crate::signals;

/// Runs an image's command and passes on its exit code.
pub(super) async fn run(args: Box<RunArgs>, settings: Settings) -> Result<ExitCode, Fault> {
    let env = args.env.into_iter().filter_map(|(name, value)| {
        let value = value.or_else(|| std::env::var(&name).ok())?;
        Some((name, value))
    });
    let request = RunRequest {
        image: args.name,
        command: args.command,
        env: env.collect(),
        ports: args.publish,
        network: settings.network.into(),
        dns: args.dns.dns(),
        limits: args.limits.limits(),
        ca_certs: certs::read(settings.ca_certs.clone()).await?,
    };
    let builder = open_local(settings, "run").await?;
    let cancel = CancellationToken::new();
    let _watch =
        signals::cancel_on_signal(&cancel).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    let (events, seen) = Events::channel();
    // Only a pull has something to show; the command has the standard streams for itself.
    let shown = progress::show(Mode::Auto, seen);
    let work = async {
        let code = builder.run(request, &events, cancel.clone()).await;
        drop(events);
        code
    };
    let (code, ()) = tokio::join!(work, shown);
    if cancel.is_cancelled() {
        return Ok(ExitCode::from(exit_code(ErrorKind::Cancelled)));
    }
    // Exit codes and signals are 0 to 255.
    Ok(ExitCode::from(u8::try_from(code?).unwrap_or(u8::MAX)))
}
