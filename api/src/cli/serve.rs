//! `rbuild serve`.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use builder::{ErrorKind, blocking};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::{Why, certs, open_local};
use crate::address::Address;
use crate::config::{Environment, Settings, server_limits};
use crate::fault::Fault;
use crate::server::{self, Access, BuildDefaults, Exposure, Listener, Port, Service};
use crate::signals;
use crate::systemd::Manager;
use crate::tls::{self, Identity};

/// How often the service's manager hears how many builds run, if that has changed.
const STATUS_PERIOD: Duration = Duration::from_secs(2);

/// Answers requests until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reads tokens,
/// certificates and limits anew.
pub(super) async fn serve(
    args: ServeArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<(), Fault> {
    let defaults = BuildDefaults {
        ca_certs: certs::read(settings.ca_certs.clone()).await?,
        network: settings.network.into(),
    };
    let (root, limits) = (settings.builder.root.clone(), settings.server);
    let builder = open_local(
        settings,
        "serve",
        Why { reason: "a service is of the machine that it runs on", instead: "start it" },
    )
    .await?;
    let Guard { access, tls, is_guarded } = guard(&args, environment).await?;
    let (certificate, tls) = tls.map(watch::channel).unzip();
    let listener = listen(&args, environment, Port { tls, is_guarded }).await?;
    let is_plain = matches!(listener.address(), Address::Tcp { .. });
    if is_plain && listener.exposure() == Exposure::Network {
        tracing::warn!("tokens and contexts cross the network in the clear; see --tls-cert");
    }
    let shutdown = CancellationToken::new();
    let _watch =
        signals::cancel_on_signal(&shutdown).map_err(|error| Fault::of(ErrorKind::Host, &error))?;
    let hangup = signal(SignalKind::hangup()).map_err(|it| Fault::of(ErrorKind::Host, &it))?;
    // Scripts wait for this line, and read the port from it. Nobody may be listening to it.
    drop(writeln!(io::stderr(), "rbuild listens on {}", listener.address()));
    let service = Service::new(builder, root, defaults, listener.exposure(), access, limits);
    let manager = Manager::of(environment);
    manager.ready(&status(&service));
    let stopping = async {
        shutdown.cancelled().await;
        manager.stopping();
    };
    let reloads = Reloads { args: &args, environment, service: &service, certificate, hangup };
    let beside = async {
        tokio::join!(
            stopping,
            reloads.run(&manager, &shutdown),
            report(&service, &manager, &shutdown)
        )
    };
    tokio::join!(server::serve(listener, service.clone(), shutdown.clone()), beside);
    Ok(())
}

/// Takes the socket of the service's manager, unless another is asked for.
async fn listen(
    args: &ServeArgs,
    environment: &Environment,
    port: Port,
) -> Result<Listener, Fault> {
    if let Some(address) = &args.listen {
        return Listener::bind(address, port).await;
    }
    if let Some(listener) = Listener::inherited(&port)? {
        return Ok(listener);
    }
    let socket = environment.default_socket().ok_or_else(|| {
        Fault::user("there is no place for the socket: XDG_RUNTIME_DIR is not set")
            .with_help("name one with --listen unix://PATH")
    })?;
    Listener::bind(&Address::Unix(socket), port).await
}

/// What decides who may ask.
struct Guard {
    access: Access,
    tls: Option<TlsAcceptor>,
    is_guarded: bool,
}

/// Reads tokens, a certificate, an authority for the clients'.
async fn guard(args: &ServeArgs, environment: &Environment) -> Result<Guard, Fault> {
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
        Ok(Guard { access, tls, is_guarded })
    })
    .await
}

/// What SIGHUP reads anew.
struct Reloads<'a> {
    args: &'a ServeArgs,
    environment: &'a Environment,
    service: &'a Service,
    certificate: Option<watch::Sender<TlsAcceptor>>,
    hangup: tokio::signal::unix::Signal,
}

impl Reloads<'_> {
    async fn run(mut self, manager: &Manager, shutdown: &CancellationToken) {
        while let Some(Some(())) = shutdown.run_until_cancelled(self.hangup.recv()).await {
            manager.reloading();
            match self.reload().await {
                Ok(()) => tracing::info!("the configuration was read anew"),
                Err(fault) => {
                    tracing::error!(
                        "the configuration stays as it was: {}",
                        fault.causes.join(": ")
                    );
                }
            }
            manager.ready(&status(self.service));
        }
    }

    /// Takes all of it or, where some cannot be read, nothing.
    async fn reload(&self) -> Result<(), Fault> {
        let limits = server_limits(self.environment)?;
        let guard = guard(self.args, self.environment).await?;
        if let (Some(sender), Some(tls)) = (&self.certificate, guard.tls) {
            sender.send_replace(tls);
        }
        self.service.reload(guard.access, limits);
        Ok(())
    }
}

fn status(service: &Service) -> String {
    let (running, waiting) = service.builds();
    format!("{running} builds run, {waiting} wait")
}

/// Keeps the service's manager informed.
async fn report(service: &Service, manager: &Manager, shutdown: &CancellationToken) {
    // Nothing ran when the manager heard that the service is ready.
    let mut told = (0, 0);
    while manager.is_there()
        && shutdown.run_until_cancelled(tokio::time::sleep(STATUS_PERIOD)).await.is_some()
    {
        let now = service.builds();
        if now != told {
            told = now;
            manager.status(&status(service));
        }
    }
}
