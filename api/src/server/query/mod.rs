//! The query of `POST /build`, both ways: the service reads it, the client writes it.
//!
//! Every parameter that Docker knows works or is refused by name; none is parsed and ignored. A
//! value that asks for nothing (`0`, `null`, `[]`, empty) is what clients send for "not set".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use builder::{
    Annotations, BuildRequest, CacheFrom, CachePlace, CacheTo, ContextInput, Credentials, Dns,
    DockerfileInput, Entitlement, Entitlements, Limits,
};
use frontend::{Platform, RunNetwork};

mod value;

use self::value::{
    asks_for_something, extra_host, json_map, list, network, non_empty, parsed, seconds,
};
pub(crate) use self::value::{boolean, parse_extra_host, parse_word, platform};
use super::classic::Removal;
use super::error::ApiError;
use crate::cli::no_new_privileges;
use crate::config::NetworkMode;
use crate::limits;

/// A query, decoded.
pub(crate) type Pairs = Vec<(String, String)>;

/// Decodes a query string.
pub(crate) fn pairs(query: Option<&str>) -> Pairs {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// What `POST /build` is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a parameter of its own")]
pub(crate) struct BuildQuery {
    pub(crate) tags: Vec<String>,
    /// Path inside the context.
    pub(crate) dockerfile: Option<String>,
    /// URL of the context, fetched by the service in the place of a body.
    pub(crate) remote: Option<String>,
    /// Values of `--build-arg`; `None` is an argument named without a value.
    pub(crate) build_args: BTreeMap<String, Option<String>>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) platform: Option<Platform>,
    /// `None` leaves it to the service's settings.
    pub(crate) network: Option<NetworkMode>,
    pub(crate) extra_hosts: Vec<(String, String)>,
    /// How steps resolve names.
    pub(crate) dns: Dns,
    /// What each step may use up.
    pub(crate) limits: Limits,
    /// `securityopt=no-new-privileges`.
    pub(crate) no_new_privs: bool,
    /// `squash`: one layer for all that the build adds.
    pub(crate) squash: bool,
    pub(crate) no_cache: bool,
    /// `nocachefilter`, separated by commas: rbuild's own.
    pub(crate) no_cache_filter: Vec<String>,
    /// `cachettl`, in seconds: rbuild's own.
    pub(crate) cache_ttl: Option<Duration>,
    /// `cachefrom`: a list of names, as from Docker, or of what `--cache-from` takes.
    pub(crate) cache_from: Vec<CacheFrom>,
    /// `cacheto`, of what `--cache-to` takes: rbuild's own.
    pub(crate) cache_to: Vec<CacheTo>,
    /// `cachescope`: rbuild's own.
    pub(crate) cache_scopes: Vec<String>,
    pub(crate) pull: bool,
    /// Answer with nothing but the image ID.
    pub(crate) quiet: bool,
    /// `rm=0`: say nothing of the removal of what a RUN ran in.
    pub(crate) keeps_containers: bool,
    /// `forcerm`: say so also where it failed.
    pub(crate) force_rm: bool,
    /// What the client may cancel the build by.
    pub(crate) build_id: Option<String>,
    /// What steps may do beyond the sandbox; rbuild's clients only.
    pub(crate) allow: Entitlements,
}

/// What the service adds to every build.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildDefaults {
    /// PEM, for RUN steps.
    pub(crate) ca_certs: Vec<u8>,
    /// The network of builds that choose none.
    pub(crate) network: RunNetwork,
}

impl BuildQuery {
    /// Reads the parameters of `/build` (Docker Engine API 1.47, "Build an image").
    ///
    /// # Errors
    ///
    /// [`ApiError::Parameter`] for values that cannot be used and names that nobody knows,
    /// [`ApiError::Unsupported`] for what Docker has and this service has not.
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let query = Self::parse_any(pairs)?;
        refuse_local("cachefrom", query.cache_from.iter().map(|from| &from.place))?;
        refuse_local("cacheto", query.cache_to.iter().map(|to| &to.place))?;
        Ok(query)
    }

    /// As [`BuildQuery::parse`], with caches that are directories, whatever their names mean.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn parse_any(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for (name, value) in pairs {
            query.set(name, value)?;
        }
        limits::settle(&mut query.limits);
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        match name {
            "t" => self.tags.extend(non_empty(value)),
            "dockerfile" => self.dockerfile = non_empty(value),
            "remote" => self.remote = non_empty(value),
            "buildargs" => self.build_args = json_map(name, value)?,
            "labels" => self.labels = json_map(name, value)?,
            "target" => self.target = non_empty(value),
            "platform" => self.platform = platform(name, value)?,
            "networkmode" => self.network = network(value)?,
            // Ours: Docker's builds take them from its daemon's settings.
            "dns" => self.dns.servers.extend(parsed(name, value, |it| {
                it.parse::<IpAddr>().map_err(|_| format!("`{it}` is not an IP address"))
            })?),
            "dnssearch" => self.dns.search.extend(parsed(name, value, parse_word)?),
            "dnsoption" => self.dns.options.extend(parsed(name, value, parse_word)?),
            "extrahosts" => self.extra_hosts.extend(extra_host(value)?),
            "securityopt" if asks_for_something(value) => {
                let parsed = no_new_privileges(value);
                self.no_new_privs = parsed.map_err(|reason| ApiError::parameter(name, reason))?;
            }
            "squash" => self.squash = boolean(value),
            "nocache" => self.no_cache = boolean(value),
            "nocachefilter" => {
                self.no_cache_filter.extend(value.split(',').filter_map(non_empty));
            }
            "cachettl" => self.cache_ttl = seconds(name, value)?,
            "cachefrom" => self.cache_from = list(name, value, CacheFrom::parse)?,
            "cacheto" => self.cache_to = list(name, value, CacheTo::parse)?,
            "cachescope" => self.cache_scopes = list(name, value, |it| Ok(it.to_owned()))?,
            "pull" => self.pull = boolean(value),
            "q" => self.quiet = boolean(value),
            "buildid" => self.build_id = non_empty(value),
            "allow" if value.is_empty() => {}
            "allow" => self.allow.insert(
                Entitlement::parse(value).map_err(|reason| ApiError::parameter(name, reason))?,
            ),
            "rm" => self.keeps_containers = !value.is_empty() && !boolean(value),
            "forcerm" => self.force_rm = boolean(value),
            "version" => match value {
                "" | "1" => {}
                _ => return unsupported(name, Some("only the classic builder's 1 is spoken")),
            },
            "isolation" if value == "default" => {}
            "cgroupparent" | "isolation" | "securityopt" | "session" | "outputs" => {
                if asks_for_something(value) {
                    return unsupported(name, instead_of(name));
                }
            }
            _ => match limits::set_parameter(&mut self.limits, name, value) {
                Ok(true) => {}
                Ok(false) => return Err(ApiError::parameter(name, "there is no such parameter")),
                Err(reason) => return Err(ApiError::parameter(name, reason)),
            },
        }
        Ok(())
    }

    /// What the client wants to hear of the removal of containers.
    pub(crate) fn removal(&self) -> Removal {
        match (self.force_rm, self.keeps_containers) {
            (true, _) => Removal::Always,
            (false, true) => Removal::Never,
            (false, false) => Removal::AfterSuccess,
        }
    }

    /// Takes asking for the host's network as the client's consent: Docker's classic builder has
    /// no `--allow`. Whether it is granted is the service's to say.
    pub(crate) fn consent_by_asking(&mut self) {
        if self.network == Some(NetworkMode::Host) {
            self.allow.insert(Entitlement::NetworkHost);
        }
    }

    /// What the client consents to; it need not ask for what the service does unasked.
    fn consent(&self, defaults: &BuildDefaults) -> Entitlements {
        let mut allow = self.allow.clone();
        if self.network.is_none() && defaults.network == RunNetwork::Host {
            allow.insert(Entitlement::NetworkHost);
        }
        allow
    }

    /// Makes the request of a build whose context is `context`, unless it has a URL.
    pub(crate) fn into_request(
        self,
        context: ContextInput,
        credentials: BTreeMap<String, Credentials>,
        defaults: &BuildDefaults,
    ) -> BuildRequest {
        // An argument without a value is one that the client has none for: as if not given.
        let given = |(name, value): (String, Option<String>)| Some((name, value?));
        let allow = self.consent(defaults);
        BuildRequest {
            context: self.remote.map_or(context, ContextInput::Url),
            named_contexts: BTreeMap::new(),
            dockerfile: DockerfileInput::InContext(self.dockerfile),
            ignore_file: None,
            tags: self.tags,
            target: self.target,
            build_args: self.build_args.into_iter().filter_map(given).collect(),
            labels: self.labels,
            more_targets: Vec::new(),
            platforms: self.platform.into_iter().collect(),
            annotations: Annotations::default(),
            network: self.network.map_or(defaults.network, RunNetwork::from),
            extra_hosts: self.extra_hosts,
            dns: self.dns,
            limits: self.limits,
            no_new_privs: self.no_new_privs,
            squash: self.squash,
            no_cache: self.no_cache,
            no_cache_filter: self.no_cache_filter,
            cache_ttl: self.cache_ttl,
            cache_from: self.cache_from,
            cache_to: self.cache_to,
            cache_scopes: self.cache_scopes,
            pull: self.pull,
            outputs: Vec::new(),
            secrets: builder::Secrets::new(),
            ssh: builder::SshAgents::new(),
            allow,
            ca_certs: defaults.ca_certs.clone(),
            credentials,
            trace_parent: None,
        }
    }

    /// Writes the query string that [`BuildQuery::parse`] reads back as this.
    pub(crate) fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for tag in &self.tags {
            query.append_pair("t", tag);
        }
        for (name, address) in &self.extra_hosts {
            query.append_pair("extrahosts", &format!("{name}:{address}"));
        }
        for entitlement in self.allow.iter() {
            query.append_pair("allow", &entitlement.to_string());
        }
        if !self.build_args.is_empty() {
            query.append_pair("buildargs", &json(&self.build_args));
        }
        if !self.labels.is_empty() {
            query.append_pair("labels", &json(&self.labels));
        }
        let platform = self.platform.as_ref().map(ToString::to_string);
        let filter = self.no_cache_filter.join(",");
        let ttl = self.cache_ttl.map(|ttl| ttl.as_secs().to_string());
        let texts = [
            ("nocachefilter", Some(filter.as_str()).filter(|filter| !filter.is_empty())),
            ("cachettl", ttl.as_deref()),
            ("dockerfile", self.dockerfile.as_deref()),
            ("remote", self.remote.as_deref()),
            ("target", self.target.as_deref()),
            ("buildid", self.build_id.as_deref()),
            ("platform", platform.as_deref()),
            ("networkmode", self.network.map(NetworkMode::word)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                query.append_pair(name, text);
            }
        }
        for server in &self.dns.servers {
            query.append_pair("dns", &server.to_string());
        }
        for (name, words) in [("dnssearch", &self.dns.search), ("dnsoption", &self.dns.options)] {
            for word in words {
                query.append_pair(name, word);
            }
        }
        for (name, texts) in [
            ("cachefrom", spelled(&self.cache_from)),
            ("cacheto", spelled(&self.cache_to)),
            ("cachescope", spelled(&self.cache_scopes)),
        ] {
            if !texts.is_empty() {
                query.append_pair(name, &json(&texts));
            }
        }
        for (name, value) in limits::parameters(&self.limits) {
            query.append_pair(name, &value);
        }
        if self.no_new_privs {
            query.append_pair("securityopt", "no-new-privileges");
        }
        if self.keeps_containers {
            query.append_pair("rm", "0");
        }
        for (name, is_set) in [
            ("squash", self.squash),
            ("nocache", self.no_cache),
            ("pull", self.pull),
            ("q", self.quiet),
            ("forcerm", self.force_rm),
        ] {
            if is_set {
                query.append_pair(name, "1");
            }
        }
        query.finish()
    }
}

fn json(map: &impl serde::Serialize) -> String {
    serde_json::to_string(map).expect("maps of texts are JSON")
}

fn spelled(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A client names no directory of this machine.
fn refuse_local<'a>(
    name: &str,
    mut places: impl Iterator<Item = &'a CachePlace>,
) -> Result<(), ApiError> {
    if places.any(CachePlace::is_local) {
        let reason = "a service keeps no cache in a directory: use type=registry";
        return Err(ApiError::parameter(name, reason));
    }
    Ok(())
}

fn unsupported<T>(name: &str, instead: Option<&'static str>) -> Result<T, ApiError> {
    Err(ApiError::Unsupported { name: name.to_owned(), instead })
}

fn instead_of(name: &str) -> Option<&'static str> {
    match name {
        "session" | "outputs" => Some("they belong to BuildKit's protocol"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
