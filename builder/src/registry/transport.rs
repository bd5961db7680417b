//! The HTTP clients: TLS roots, time limits, and which addresses may be connected to.
//!
//! Invariant: what a registry names (redirect targets, token realms) is connected to only after
//! the *resolved* address was looked at, in the dialer, so that a name that resolves differently
//! the second time gains nothing.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Url};
use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ConfigBuilder};

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::identity::{self, Identity};

/// Time to establish a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections are kept this long: registries close theirs after a minute or so.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How patient we are with a registry.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A connection that brings no byte for this long is given up.
    pub stall: Duration,
    /// Pause before the second try; it doubles with each further one.
    pub backoff: Duration,
    /// Tries of one request.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), backoff: Duration::from_millis(400), attempts: 5 }
    }
}

/// The clients of all destinations, made when the first is asked for: reading the machine's
/// certificate authorities takes longer than a build that finds everything in the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transport(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    general: OnceLock<Arc<Clients>>,
    /// Host to its clients and the certificates that they were made with.
    hosts: Mutex<HashMap<String, (Identity, Arc<Clients>)>>,
}

/// One client per class of destination.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Registries on this machine: never through a proxy.
    local: Client,
    /// Registries and mirrors that the user named: any address.
    named: Client,
    /// Whatever a registry names: no address of this machine or link.
    guarded: Client,
    /// The registry that a client's certificate is for.
    identified: Option<Client>,
}

impl Clients {
    /// Makes clients that trust `authorities` beside the system's and show `client` to its
    /// registry, wherever that is.
    fn new(
        authorities: Vec<CertificateDer<'static>>,
        client: Option<(identity::Client, bool)>,
    ) -> Result<Self, rustls::Error> {
        let tls = tls_config(authorities);
        let builder = |tls: ClientConfig| {
            ClientBuilder::new()
                .tls_backend_preconfigured(tls)
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        };
        let build = |builder: ClientBuilder| {
            builder.build().expect("a client whose TLS is configured has nothing left to fail")
        };
        let plain = |tls: &RootsChosen| finished(tls.clone().with_no_client_auth());
        let identified = match client {
            None => None,
            Some(((chain, key), is_loopback)) => {
                let builder = builder(finished(tls.clone().with_client_auth_cert(chain, key)?));
                Some(build(if is_loopback { builder.no_proxy() } else { builder }))
            }
        };
        Ok(Self {
            local: build(builder(plain(&tls)).no_proxy()),
            named: build(builder(plain(&tls))),
            guarded: build(builder(plain(&tls)).dns_resolver(Arc::new(GuardedResolver::new()))),
            identified,
        })
    }

    /// Returns the client for a URL under an address that the user named.
    pub(crate) fn named(&self, url: &Url) -> &Client {
        if is_loopback(url) { &self.local } else { &self.named }
    }

    /// Returns the client for the registry itself.
    pub(super) fn home(&self, url: &Url) -> &Client {
        self.identified.as_ref().unwrap_or_else(|| self.named(url))
    }

    /// Returns the client for a URL that a registry named; `None` when it must not be reached.
    ///
    /// A registry on this machine may send us to this machine: it is there already.
    pub(crate) fn foreign(&self, url: &Url, registry_is_loopback: bool) -> Option<&Client> {
        if is_loopback(url) {
            return registry_is_loopback.then_some(&self.local);
        }
        match url.host()? {
            url::Host::Ipv4(address) => is_public(address.into()).then_some(&self.guarded),
            url::Host::Ipv6(address) => is_public(address.into()).then_some(&self.guarded),
            url::Host::Domain(_) => Some(&self.guarded),
        }
    }
}

impl Transport {
    /// Returns the clients of hosts without certificates of their own.
    pub(crate) fn general(&self) -> Arc<Clients> {
        let made = || Clients::new(Vec::new(), None).expect("no certificate, no key to mismatch");
        Arc::clone(self.0.general.get_or_init(|| Arc::new(made())))
    }

    /// Returns the clients for `endpoint` and for what it names. They are made anew when its
    /// certificates changed: those of a service's life are renewed under it.
    pub(super) fn of(&self, endpoint: &Endpoint) -> Result<Arc<Clients>, RegistryError> {
        let Some(identity) = &endpoint.identity else { return Ok(self.general()) };
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, clients)) = hosts.get(identity.host())
            && of == identity
        {
            return Ok(Arc::clone(clients));
        }
        let client = identity.client()?.map(|client| (client, endpoint.is_loopback));
        let clients = Clients::new(identity.authorities()?, client)
            .map_err(|error| identity.mismatch(&error))?;
        let clients = Arc::new(clients);
        hosts.insert(identity.host().to_owned(), (identity.clone(), Arc::clone(&clients)));
        Ok(clients)
    }
}

/// A configuration of TLS that lacks only who we are.
type RootsChosen = ConfigBuilder<ClientConfig, WantsClientCert>;

/// Trusts the system's roots, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, and `authorities`.
/// Roots that cannot be parsed are left out, as in every other client.
fn tls_config(authorities: Vec<CertificateDer<'static>>) -> RootsChosen {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "could not load a certificate authority");
    }
    roots.add_parsable_certificates(found.certs);
    roots.add_parsable_certificates(authorities);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Whether `url` names this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost")
                || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether a registry may send us to `address`. Private networks are allowed: company registries
/// keep their storage there. This machine, its link (cloud metadata) and multicast are not.
fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local)
}

/// Resolves as the system does and drops addresses that must not be reached.
#[derive(Debug)]
struct GuardedResolver {
    /// Names of the proxies that the user's environment names: they are the user's choice.
    proxies: Arc<BTreeSet<String>>,
}

impl GuardedResolver {
    fn new() -> Self {
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
        let values = names.into_iter().flat_map(|name| {
            [std::env::var(name).ok(), std::env::var(name.to_ascii_lowercase()).ok()]
        });
        let proxies = values
            .flatten()
            .filter_map(|text| Url::parse(&text).ok()?.host_str().map(str::to_owned))
            .collect();
        Self { proxies: Arc::new(proxies) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.proxies.contains(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| is_proxy || is_public(address.ip())).collect();
            if allowed.is_empty() {
                let text = "the name resolves to this machine or its link only, which is refused";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_public_addresses() {
        #[rustfmt::skip]
        let cases = [
            ("name",           "http://localhost:5000/",         true,  None),
            ("sub-name",       "http://x.localhost/",            true,  None),
            ("v4",             "http://127.9.9.9/",              true,  None),
            ("v4 as number",   "http://2130706433/",             true,  None),
            ("v6",             "http://[::1]/",                  true,  None),
            ("v4 in v6",       "http://[::ffff:127.0.0.1]/",     true,  None),
            ("metadata",       "http://169.254.169.254/",        false, Some(false)),
            ("metadata in v6", "http://[::ffff:169.254.169.254]/", false, Some(false)),
            ("any",            "http://0.0.0.0/",                false, Some(false)),
            ("link v6",        "http://[fe80::1]/",              false, Some(false)),
            ("private",        "http://10.0.0.7/",               false, Some(true)),
            ("public",         "https://1.1.1.1/",               false, Some(true)),
            ("a name",         "https://localhost.example.com/", false, Some(true)),
        ];
        let transport = Transport::default().general();
        for (name, text, loopback, public) in cases {
            let url = Url::parse(text).unwrap();
            assert_eq!(is_loopback(&url), loopback, "{name}");
            let want = public.unwrap_or(false);
            assert_eq!(transport.foreign(&url, false).is_some(), want, "{name}");
            assert_eq!(transport.foreign(&url, true).is_some(), want || loopback, "{name}");
        }
    }

    #[tokio::test]
    async fn names_that_lead_home_are_refused_in_the_dialer() {
        let resolver = GuardedResolver { proxies: Arc::default() };
        let name: Name = "localhost".parse().unwrap();
        let error = resolver.resolve(name).await.err().expect("localhost is this machine");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
