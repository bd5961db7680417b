//! The client of image registries (OCI distribution-spec 1.1).
//!
//! Invariants: a credential goes to the host that it was stored for, or to that owner's token
//! service, and never along a redirect; an address that a registry names is looked at when it is
//! connected to; every size and every wait is bounded; a digest is one that we computed.
//! Deliberately absent: Docker's schema 1, digests other than SHA-256.

mod challenge;
mod credential;
pub(crate) mod document;
mod endpoint;
mod error;
mod exchange;
mod fetch;
mod growing;
mod identity;
mod keep;
mod lanes;
mod login;
mod push;
mod referrers;
mod repository;
mod token;
mod transport;

use std::collections::BTreeMap;
use std::sync::Arc;

use endpoint::Endpoint;
use exchange::Session;

pub use credential::{CredentialError, stored_credentials};
pub use document::DocumentError;
pub use error::RegistryError;
pub use keep::{Keeper, forget_credentials, keep_credentials};
pub use lanes::DEFAULT_TRANSFERS;
pub use referrers::Referrer;
pub use repository::{ManifestName, Repository};
pub use transport::Patience;

/// Returns the host that a registry is known by, however it was written.
#[must_use]
pub fn registry_host(text: &str) -> String {
    credential::normalised(text)
}

pub(crate) use exchange::Route;
pub(crate) use fetch::{Fetched, RawManifest};
pub(crate) use push::Pushed;
pub(crate) use transport::{Transport, is_loopback};

use crate::config::RegistryConfig;
use crate::request::Credentials;
use credential::CredentialSource;

/// A client of all registries, with its connections and tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Session>);

impl Registry {
    /// Sets up the client; nothing is connected to yet.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let credentials = CredentialSource::new(BTreeMap::new(), config.auth_file.clone());
        Self(Arc::new(Session {
            transport: Transport::default(),
            patience: Patience::default(),
            lanes: Arc::default(),
            tokens: token::TokenCache::default(),
            credentials,
            config,
        }))
    }

    /// Returns a client that uses `credentials` before the stored ones, and shares no token with
    /// this one: what came with one request serves that request only.
    #[must_use]
    pub fn with_credentials(&self, credentials: BTreeMap<String, Credentials>) -> Self {
        if credentials.is_empty() {
            return self.clone();
        }
        Self(Arc::new(Session {
            config: self.0.config.clone(),
            transport: self.0.transport.clone(),
            lanes: Arc::clone(&self.0.lanes),
            patience: self.0.patience,
            tokens: token::TokenCache::default(),
            credentials: self.0.credentials.with_explicit(credentials),
        }))
    }

    /// Returns a client with other time limits.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self(Arc::new(Session {
            config: self.0.config.clone(),
            transport: self.0.transport.clone(),
            lanes: Arc::clone(&self.0.lanes),
            patience,
            tokens: token::TokenCache::default(),
            credentials: self.0.credentials.clone(),
        }))
    }

    /// Returns the HTTP clients, for whatever else is fetched.
    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// Returns how long is waited.
    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    /// Returns the places to ask for `repository`: mirrors in order, then the registry itself.
    pub(crate) fn routes(&self, repository: &Repository) -> Result<Vec<Route>, RegistryError> {
        let endpoints = Endpoint::all(&self.0.config, repository)?;
        Ok(endpoints.into_iter().map(|endpoint| self.route(endpoint, repository)).collect())
    }

    /// Returns the registry itself, where pushes go.
    pub(crate) fn origin(&self, repository: &Repository) -> Result<Route, RegistryError> {
        let endpoint = Endpoint::origin(&self.0.config, &repository.registry)?;
        Ok(self.route(endpoint, repository))
    }

    fn route(&self, endpoint: Endpoint, repository: &Repository) -> Route {
        Route { session: Arc::clone(&self.0), endpoint, repository: repository.clone() }
    }

    /// Fetches a manifest or index from the first place that has it.
    pub(crate) async fn manifest(
        &self,
        repository: &Repository,
        name: &ManifestName,
    ) -> Result<Fetched, RegistryError> {
        let mut routes = self.routes(repository)?;
        let origin = routes.pop().expect("the registry itself is the last place to ask");
        let mut failed = Vec::new();
        for mirror in routes {
            match mirror.manifest(name).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failed.push((mirror.host().to_owned(), error)),
            }
        }
        let asked = origin.manifest(name).await;
        asked.map_err(|error| RegistryError::gathered(failed, error))
    }

    /// Asks the first place that knows it for the digest of `name`, without fetching it.
    pub(crate) async fn manifest_digest(
        &self,
        repository: &Repository,
        name: &ManifestName,
    ) -> Result<Option<cache::Digest>, RegistryError> {
        for route in self.routes(repository)? {
            // Whoever fails here fails again in `manifest`, which reports it.
            if let Ok(Some(digest)) = route.manifest_digest(name).await {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }
}

impl Route {
    /// Returns the host, as shown to people.
    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Returns the repository that is asked for there.
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }
}
