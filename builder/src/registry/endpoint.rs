//! Where a repository is asked for: mirrors in order, then the registry itself.

use reqwest::Url;

use super::error::RegistryError;
use super::identity::Identity;
use super::repository::{DOCKER_HUB, Repository};
use super::transport::is_loopback;
use crate::config::RegistryConfig;

/// The host that serves Docker Hub's API.
const HUB_API: &str = "registry-1.docker.io";

/// One place that may hold a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// URL up to and without `/v2/`; its path, if any, ends without a slash.
    pub(super) base: Url,
    /// Host and port as shown to people and as credentials are stored for.
    pub(super) host: String,
    /// Whether plain HTTP is spoken, so that nothing can be kept secret from the network.
    pub(super) is_loopback: bool,
    /// Certificates that were given for this host.
    pub(super) identity: Option<Identity>,
}

impl Endpoint {
    /// Returns the places to ask for `repository`, in order.
    pub(super) fn all(
        config: &RegistryConfig,
        repository: &Repository,
    ) -> Result<Vec<Self>, RegistryError> {
        let mirrors = config.mirrors.get(&repository.registry).into_iter().flatten();
        let mut endpoints: Vec<_> =
            mirrors.map(|text| Self::mirror(config, text)).collect::<Result<_, _>>()?;
        endpoints.push(Self::origin(config, &repository.registry)?);
        Ok(endpoints)
    }

    /// Returns the registry itself: pushes go there and nowhere else.
    pub(super) fn origin(config: &RegistryConfig, registry: &str) -> Result<Self, RegistryError> {
        let authority = if registry == DOCKER_HUB { HUB_API } else { registry };
        let fault = |reason| RegistryError::Address { text: registry.to_owned(), reason };
        let https = Url::parse(&format!("https://{authority}"))
            .map_err(|_| fault("it is no host with an optional port"))?;
        if https.path() != "/" || !https.username().is_empty() || https.query().is_some() {
            return Err(fault("it is no host with an optional port"));
        }
        // Whoever gives certificates for a host wants them checked, on this machine too.
        let identity = Identity::find(config, registry)?;
        let is_plain = identity.is_none() && (is_loopback(&https) || is_insecure(config, registry));
        let base = if is_plain {
            Url::parse(&format!("http://{authority}"))
                .map_err(|_| fault("it is no host with an optional port"))?
        } else {
            https
        };
        Ok(Self { is_loopback: is_loopback(&base), base, host: registry.to_owned(), identity })
    }

    /// Parses a mirror's URL: `http://127.0.0.1:5000`, `https://mirror.example/docker.io`.
    fn mirror(config: &RegistryConfig, text: &str) -> Result<Self, RegistryError> {
        let fault = |reason| RegistryError::Address { text: text.to_owned(), reason };
        let mut base = Url::parse(text).map_err(|_| fault("a mirror is named by a URL"))?;
        let Some(host) = base.host_str().map(|host| match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }) else {
            return Err(fault("the URL names no host"));
        };
        if !base.username().is_empty() || base.password().is_some() {
            return Err(fault("credentials belong into Docker's config.json, not into the URL"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(fault("the URL of a mirror has no query"));
        }
        let is_loopback = is_loopback(&base);
        match base.scheme() {
            "https" => {}
            "http" if is_loopback || is_insecure(config, &host) => {}
            "http" => return Err(fault("plain HTTP needs the host among the insecure registries")),
            _ => return Err(fault("a mirror is spoken to by http or https")),
        }
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(path.strip_suffix("/v2").unwrap_or(&path));
        let identity = if base.scheme() == "https" { Identity::find(config, &host)? } else { None };
        Ok(Self { base, host, is_loopback, identity })
    }

    /// Returns the URL of `tail` (`manifests/1.0`) of `repository`.
    pub(super) fn url(&self, repository: &Repository, tail: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{}/{tail}", repository.name));
        url
    }

    /// Whether `url` has this endpoint's scheme, host and port.
    pub(super) fn is_home_of(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }
}

fn is_insecure(config: &RegistryConfig, host: &str) -> bool {
    config.insecure.iter().any(|entry| entry.eq_ignore_ascii_case(host))
}

/// Returns scheme, host and port of `url`: what an error may show of it.
pub(super) fn origin_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn addresses() {
        let repository = |registry: &str| Repository::new(registry, "library/x");
        #[rustfmt::skip]
        let cases = [
            ("hub",              "docker.io",            "",                         "https://registry-1.docker.io/v2/library/x/t"),
            ("other",            "quay.io",              "",                         "https://quay.io/v2/library/x/t"),
            ("loopback",         "localhost:5000",       "",                         "http://localhost:5000/v2/library/x/t"),
            ("loopback v6",      "[::1]:5000",           "",                         "http://[::1]:5000/v2/library/x/t"),
            ("insecure",         "plain.example:5000",   "",                         "http://plain.example:5000/v2/library/x/t"),
            ("other port",       "plain.example:5001",   "",                         "https://plain.example:5001/v2/library/x/t"),
            ("mirror",           "docker.io",            "http://127.0.0.1:5000",    "http://127.0.0.1:5000/v2/library/x/t"),
            ("mirror with path", "docker.io",            "https://m.example/hub/",   "https://m.example/hub/v2/library/x/t"),
            ("mirror with v2",   "docker.io",            "https://m.example/v2/",    "https://m.example/v2/library/x/t"),
            ("plain mirror",     "docker.io",            "http://m.example",         "insecure registries"),
            ("password",         "docker.io",            "https://u:p@m.example",    "config.json"),
            ("other scheme",     "docker.io",            "ftp://m.example",          "http or https"),
            ("no url",           "docker.io",            "m.example:5000",           "not the address"),
        ];
        for (name, registry, mirror, want) in cases {
            let mirrors = if mirror.is_empty() { vec![] } else { vec![mirror.to_owned()] };
            let config = RegistryConfig {
                mirrors: BTreeMap::from([(registry.to_owned(), mirrors)]),
                insecure: vec!["plain.example:5000".to_owned()],
                ..RegistryConfig::default()
            };
            let got = match Endpoint::all(&config, &repository(registry)) {
                Ok(endpoints) => endpoints[0].url(&repository(registry), "t").to_string(),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(want), "{name}: {got}");
        }
    }
}
