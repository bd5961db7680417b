//! Credentials for registries that the service may use for what it is asked to do, in the headers that
//! Docker's clients send.
//!
//! Invariant: they go only where nobody between can read them.

use std::collections::BTreeMap;

use axum::http::HeaderName;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use builder::Credentials;
use frontend::Reference;
use serde_json::{Value, json};

use super::Client;

impl Client {
    /// Returns `X-Registry-Config` for a build: those of all registries.
    pub(super) async fn registry_config(&self) -> Option<(HeaderName, String)> {
        let found = self.stored(None).await;
        let configs: BTreeMap<_, _> =
            found.iter().map(|(host, it)| (host.as_str(), config(host, it))).collect();
        let header = HeaderName::from_static("x-registry-config");
        (!configs.is_empty()).then(|| (header, encode(&json!(configs))))
    }

    /// Returns `X-Registry-Auth` for the image `name`: that of its registry.
    pub(super) async fn registry_auth(&self, name: &str) -> Option<(HeaderName, String)> {
        let host = Reference::parse_normalized(name).ok()?.registry;
        let found = self.stored(Some(&host)).await;
        let (host, found) = found.first_key_value()?;
        Some((HeaderName::from_static("x-registry-auth"), encode(&config(host, found))))
    }

    async fn stored(&self, host: Option<&str>) -> BTreeMap<String, Credentials> {
        let Some(file) = &self.auth_file else { return BTreeMap::new() };
        let (found, faults) = builder::stored_credentials(file, host).await;
        for error in faults {
            tracing::warn!(error = &error as &dyn std::error::Error, "credentials are left out");
        }
        if !found.is_empty() && !self.address.is_private() {
            tracing::warn!(
                "credentials are not sent to {}: others may listen; the service uses its own",
                self.address
            );
            return BTreeMap::new();
        }
        found
    }
}

/// Docker's `AuthConfig`.
fn config(host: &str, credentials: &Credentials) -> Value {
    let Credentials { username, password, identity_token } = credentials;
    let mut config = json!({ "username": username, "password": password, "serveraddress": host });
    if let Some(token) = identity_token {
        config["identitytoken"] = token.as_str().into();
    }
    config
}

fn encode(value: &Value) -> String {
    URL_SAFE.encode(value.to_string())
}
