//! `rbuild serve`.

use std::io::{self, Write as _};
use std::sync::Arc;

use builder::{ErrorKind, blocking};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::{certs, open_local};
use crate::address::Address;
use crate::config::{Environment, Settings};
use crate::fault::Fault;
use crate::server::{self, Access, BuildDefaults, Exposure, Listener, Port, Service};
use crate::signals;
use crate::tls::{self, Identity};

/// Answers requests until SIGTERM or SIGINT; a second one ends it at once.
pub(super) async fn serve(
    args: ServeArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<(), Fault> {
    let address = match args.listen.clone() {
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
    let (access, port) = guard(&args, environment).await?;
    let listener = Listener::bind(&address, port).await?;
    let is_plain = matches!(listener.address(), Address::Tcp { .. });
    if is_plain && listener.exposure() == Exposure::Network {
        tracing::warn!("tokens and contexts cross the network in the clear; see --tls-cert");
    }
    let shutdown = CancellationToken::new();
    let _watch =
        signals::cancel_on_signal(&shutdown).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    // Scripts wait for this line, and read the port from it. Nobody may be listening to it.
    drop(writeln!(io::stderr(), "rbuild listens on {}", listener.address()));
    let service = Service::new(builder, root, defaults, listener.exposure(), access);
    server::serve(listener, service, shutdown).await;
    Ok(())
}

/// Reads what decides who may ask: tokens, a certificate, an authority for the clients'.
async fn guard(args: &ServeArgs, environment: &Environment) -> Result<(Access, Port), Fault> {
    let token = environment.text("RBUILD_TOKEN").filter(|token| !token.is_empty());
    let token = token.map(str::to_owned);
    let (file, client_ca) = (args.token_file.clone(), args.tls_client_ca.clone());
    let identity = args.tls_cert.clone().zip(args.tls_key.clone());
    blocking::run(move || {
        let mut access = file.as_deref().map(Access::read).transpose()?.unwrap_or_default();
        if let Some(token) = token {
            access = access.with_token(&token)?;
        }
        let is_guarded = access.is_guarded() || client_ca.is_some();
        let tls = identity
            .map(|(cert, key)| tls::server(&Identity { cert, key }, client_ca.as_deref()))
            .transpose()?
            .map(|config| TlsAcceptor::from(Arc::new(config)));
        Ok((access, Port { tls, is_guarded }))
    })
    .await
}
