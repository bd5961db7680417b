//! Whether a registry takes a name and a password (distribution-spec, "Determining Support").

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::error::RegistryError;
use super::exchange::Call;
use super::repository::Repository;
use super::token::Access;
use super::{Registry, Route};

impl Registry {
    /// Asks the registry at `host` whether it takes this client's credentials for it. Returns the
    /// token that its token service gives to be kept in the password's place, if it gives one.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Status`] when it, or its token service, says no.
    pub async fn login(&self, host: &str) -> Result<Option<String>, RegistryError> {
        self.origin(&Repository::new(host, ""))?.login().await
    }
}

impl Route {
    async fn login(&self) -> Result<Option<String>, RegistryError> {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("{}/v2/", url.path().trim_end_matches('/')));
        let access =
            Access { repository: String::new(), writes: false, mounts_from: None, is_login: true };
        let call =
            Call { method: Method::GET, url, access: access.clone(), headers: HeaderMap::new() };
        let response = self.send(&call).await?;
        self.session.expect_success(&self.endpoint.host, response).await?;
        Ok(self.session.tokens.identity(&self.endpoint, &access))
    }
}
