//! `rbuild serve`.

use std::io::{self, Write as _};

use builder::ErrorKind;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::{certs, open_local};
use crate::address::Address;
use crate::config::{Environment, Settings};
use crate::fault::Fault;
use crate::server::{self, BuildDefaults, Listener, Service};
use crate::signals;

/// Answers requests until SIGTERM or SIGINT; a second one ends it at once.
pub(super) async fn serve(
    args: ServeArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<(), Fault> {
    let address = match args.listen {
        Some(address) => address,
        None => Address::Unix(environment.default_socket().ok_or_else(|| {
            Fault::user("there is no place for the socket: XDG_RUNTIME_DIR is not set")
                .with_help("name one with --listen unix://PATH")
        })?),
    };
    let defaults = BuildDefaults {
        ca_certs: certs::read(settings.ca_certs.clone()).await?,
        network: settings.network.into(),
    };
    let root = settings.builder.root.clone();
    let builder = open_local(settings, "serve").await?;
    let listener = Listener::bind(&address).await?;
    let shutdown = CancellationToken::new();
    let _watch =
        signals::cancel_on_signal(&shutdown).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    // Scripts wait for this line, and read the port from it. Nobody may be listening to it.
    drop(writeln!(io::stderr(), "rbuild listens on {}", listener.address()));
    let service = Service::new(builder, root, defaults, listener.exposure());
    server::serve(listener, service, shutdown).await;
    Ok(())
}
