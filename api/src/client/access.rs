//! What a client shows of itself, and what it believes of a service.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::Environment;
use crate::fault::Fault;
use crate::tls::Identity;

/// How a service is spoken to.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientAccess {
    /// Bearer token.
    pub(crate) token: Option<String>,
    /// PEM file of the authority that signed the service's certificate; else the system's.
    pub(crate) ca: Option<PathBuf>,
    /// A certificate of the client's own.
    pub(crate) identity: Option<Identity>,
}

impl fmt::Debug for ClientAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, ca, identity } = self;
        f.debug_struct("ClientAccess")
            .field("ca", ca)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

/// `[client]` of rbuild.toml.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClientTable {
    /// PEM file of the authority that signed the services' certificates.
    ca_cert: Option<PathBuf>,
    /// PEM file of our own certificate.
    cert: Option<PathBuf>,
    /// PEM file of its key.
    key: Option<PathBuf>,
}

impl ClientTable {
    /// Takes relative files to be in `dir`.
    pub(crate) fn resolve(&mut self, dir: &Path) {
        let files = [&mut self.ca_cert, &mut self.cert, &mut self.key];
        for path in files.into_iter().flatten() {
            *path = dir.join(&*path);
        }
    }

    /// Joins the table with what the environment says.
    ///
    /// # Errors
    ///
    /// A certificate without its key, or a key alone.
    pub(crate) fn access(self, environment: &Environment) -> Result<ClientAccess, Fault> {
        let token = environment.text("RBUILD_TOKEN").filter(|token| !token.is_empty());
        let file = |name, of_file| environment.path(name).or(of_file);
        let identity = match (file("RBUILD_TLS_CERT", self.cert), file("RBUILD_TLS_KEY", self.key))
        {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            _ => {
                let what = "a client's certificate and its key are needed both";
                return Err(Fault::user(what).with_help("set RBUILD_TLS_CERT and RBUILD_TLS_KEY"));
            }
        };
        let ca = file("RBUILD_TLS_CA", self.ca_cert);
        Ok(ClientAccess { token: token.map(str::to_owned), ca, identity })
    }
}
