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

/// Reads a list of texts in JSON.
fn list<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ApiError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |reason: String| ApiError::parameter(name, reason);
    let texts: Option<Vec<String>> =
        serde_json::from_str(value).map_err(|error| refuse(error.to_string()))?;
    texts.iter().flatten().map(|text| parse(text).map_err(refuse)).collect()
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

/// Reads a flag as Docker's daemon does.
pub(crate) fn boolean(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

fn asks_for_something(value: &str) -> bool {
    boolean(value) && !matches!(value.trim(), "null" | "[]" | "{}")
}

fn non_empty(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn json_map<V>(name: &str, value: &str) -> Result<BTreeMap<String, V>, ApiError>
where
    V: serde::de::DeserializeOwned,
{
    if value.is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: Option<BTreeMap<String, V>> = serde_json::from_str(value)
        .map_err(|error| ApiError::parameter(name, error.to_string()))?;
    Ok(map.unwrap_or_default())
}

/// Reads a platform as Docker writes it in `/build` and `/images/create`: plain text.
pub(crate) fn platform(name: &str, value: &str) -> Result<Option<Platform>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    let platform = Platform::parse(value);
    platform.map(Some).map_err(|error| ApiError::parameter(name, error.to_string()))
}

fn seconds(name: &str, value: &str) -> Result<Option<Duration>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    let seconds = value.parse().map_err(|_| {
        ApiError::parameter(name, format!("`{value}` is not a whole number of seconds"))
    })?;
    Ok(Some(Duration::from_secs(seconds)))
}

fn network(value: &str) -> Result<Option<NetworkMode>, ApiError> {
    match value {
        "" => Ok(None),
        // Docker's name of its own default.
        "default" | "bridge" => Ok(Some(NetworkMode::Default)),
        "none" => Ok(Some(NetworkMode::None)),
        "host" => Ok(Some(NetworkMode::Host)),
        _ => Err(ApiError::parameter(
            "networkmode",
            format!("`{value}` is not default, none or host"),
        )),
    }
}

fn extra_host(value: &str) -> Result<Option<(String, String)>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_extra_host(value).map(Some).map_err(|reason| ApiError::parameter("extrahosts", reason))
}

/// Parses a value that may be empty, which asks for nothing.
fn parsed<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).map_err(|reason| ApiError::parameter(name, reason))
}

/// Takes one word of a line of resolv.conf(5).
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_word(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    is_word.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not one word"))
}

/// Parses `name:address` or `name=address`; the address may be in brackets.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_extra_host(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = pair.ok_or_else(|| format!("`{text}` is not HOST:ADDRESS"))?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{name}` is not a host name"));
    }
    if address == "host-gateway" {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let parsed: IpAddr = bare.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
    Ok((name.to_owned(), parsed.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<BuildQuery, ApiError> {
        BuildQuery::parse(&pairs(Some(query)))
    }

    #[test]
    fn what_docker_sends_is_understood() {
        let args = |pairs: &[(&str, Option<&str>)]| {
            pairs.iter().map(|&(k, v)| (k.into(), v.map(Into::into))).collect()
        };
        let none = BuildQuery::default;
        #[rustfmt::skip]
        let cases = [
            ("nothing set",  "dockerfile=Dockerfile&version=1", BuildQuery { dockerfile: Some("Dockerfile".into()), ..none() }),
            ("tags",         "t=a&t=b%3A1",                     BuildQuery { tags: vec!["a".into(), "b:1".into()], ..none() }),
            ("arguments",    "buildargs=%7B%22Q%22%3A%221%22%2C%22V%22%3Anull%7D",
                                                                BuildQuery { build_args: args(&[("Q", Some("1")), ("V", None)]), ..none() }),
            ("null maps",    "buildargs=null&labels=",          none()),
            ("labels",       "labels=%7B%22k%22%3A%22v+w%22%7D", BuildQuery { labels: [("k".into(), "v w".into())].into(), ..none() }),
            ("hosts",        "extrahosts=a:1.2.3.4&extrahosts=b:::1", BuildQuery {
                extra_hosts: vec![("a".into(), "1.2.3.4".into()), ("b".into(), "::1".into())], ..none() }),
            ("host gateway", "extrahosts=h:host-gateway",       BuildQuery { extra_hosts: vec![("h".into(), "host-gateway".into())], ..none() }),
            ("network",      "networkmode=none",                BuildQuery { network: Some(NetworkMode::None), ..none() }),
            ("bridge",       "networkmode=bridge",              BuildQuery { network: Some(NetworkMode::Default), ..none() }),
            ("platform",     "platform=linux/arm64",            BuildQuery { platform: Some(Platform::parse("linux/arm64").unwrap()), ..none() }),
            ("target",       "target=base&nocache=1&pull=true&q=1", BuildQuery {
                target: Some("base".into()), no_cache: true, pull: true, quiet: true, ..none() }),
            ("false flags",  "nocache=0&pull=false&q=",         none()),
            ("clean-up",     "rm=0&forcerm=1",                  BuildQuery { keeps_containers: true, force_rm: true, ..none() }),
            ("no clean-up",  "rm=&forcerm=",                    none()),
            ("squash",       "squash=1",                        BuildQuery { squash: true, ..none() }),
            ("limits",       "memory=1048576&cpuquota=5000&shmsize=2", BuildQuery { limits: Limits {
                memory: Some(builder::Bound::At(1 << 20)), shm_bytes: Some(2),
                cpu: Some(builder::CpuTime { quota_micros: 5000, period_micros: 100_000 }), ..Limits::default() }, ..none() }),
            ("cache",        "cachefrom=%5B%22a%3Ab%22%5D",     BuildQuery { cache_from: vec![CacheFrom::parse("a:b").unwrap()], ..none() }),
            ("unset limits", "memory=0&memswap=0&cpusetcpus=&shmsize=0&ulimits=null&cachefrom=%5B%5D&squash=0&remote=&isolation=default", none()),
        ];
        for (name, query, want) in cases {
            assert_eq!(parse(query).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        #[rustfmt::skip]
        let cases = [
            ("unknown",       "colour=red",             "invalid parameter `colour`: there is no such parameter"),
            ("memory",        "memory=much",            "invalid parameter `memory`: `much` is not a number"),
            ("ulimits",       "ulimits=%5B%7B%22Name%22%3A%22x%22%2C%22Soft%22%3A1%2C%22Hard%22%3A1%7D%5D",
                              "invalid parameter `ulimits`: there is no ulimit `x`; there are as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, stack"),
            ("local cache",   "cacheto=%5B%22type%3Dlocal%2Cdest%3D%2Fd%22%5D", "invalid parameter `cacheto`: a service keeps no cache in a directory: use type=registry"),
            ("other cache",   "cachefrom=%5B%22type%3Dgha%22%5D", "invalid parameter `cachefrom`: caches of type `gha` are not supported; those that are: registry and local"),
            ("buildkit",      "version=2",              "parameter `version` is not supported by rbuild: only the classic builder's 1 is spoken"),
            ("parent",        "cgroupparent=a",         "parameter `cgroupparent` is not supported by rbuild"),
            ("container net", "networkmode=container:x", "invalid parameter `networkmode`: `container:x` is not default, none or host"),
            ("bad platform",  "platform=a/b/c/d",       "invalid parameter `platform`: `a/b/c/d` is not a platform: expected os[/architecture[/variant]], such as linux/amd64"),
            ("bad resolver",  "dns=x",                  "invalid parameter `dns`: `x` is not an IP address"),
            ("bad domain",    "dnssearch=a%20b",        "invalid parameter `dnssearch`: `a b` is not one word"),
            ("bad host",      "extrahosts=h:x",         "invalid parameter `extrahosts`: `x` is not an IP address"),
            ("bad seconds",   "cachettl=1h",            "invalid parameter `cachettl`: `1h` is not a whole number of seconds"),
            ("bad json",      "labels=%7B",             "invalid parameter `labels`: EOF while parsing an object at line 1 column 1"),
        ];
        for (name, query, want) in cases {
            assert_eq!(parse(query).unwrap_err().to_string(), want, "{name}");
        }
    }

    #[test]
    fn what_the_client_writes_is_read_back() {
        let query = BuildQuery {
            tags: vec!["reg.local:5000/a b/c:1".into(), "ü".into()],
            dockerfile: Some("a&b=c".into()),
            remote: Some("https://u:p@a.b/c.git?ref=x#y:z".into()),
            build_args: [("K".into(), Some("v\n&".into())), ("N".into(), None)].into(),
            labels: [("l".into(), "\"".into())].into(),
            target: Some("x".into()),
            platform: Some(Platform::parse("linux/arm/v6").unwrap()),
            network: Some(NetworkMode::Host),
            extra_hosts: vec![("h".into(), "::1".into())],
            dns: Dns {
                servers: vec!["192.0.2.1".parse().unwrap()],
                search: vec!["a.test".into()],
                options: vec!["ndots:2".into()],
            },
            limits: Limits { memory: Some(builder::Bound::At(5)), ..Limits::default() },
            no_new_privs: true,
            squash: true,
            no_cache: true,
            no_cache_filter: vec!["base".into(), "2".into()],
            cache_ttl: Some(Duration::from_secs(3600)),
            cache_from: vec![
                CacheFrom::parse("type=registry,ref=h.x/a:c,require-signed=true").unwrap(),
            ],
            cache_to: vec![CacheTo::parse("type=registry,ref=h.x/a:c,mode=auto").unwrap()],
            cache_scopes: vec!["feature/x".into()],
            pull: true,
            quiet: true,
            keeps_containers: true,
            force_rm: true,
            build_id: Some("b 1".into()),
            allow: Entitlements::all(),
        };
        assert_eq!(parse(&query.encode()).unwrap(), query);
        assert_eq!(BuildQuery::default().encode(), "");
    }

    #[test]
    fn arguments_without_a_value_are_left_out() {
        let query = parse("buildargs=%7B%22Q%22%3A%221%22%2C%22V%22%3Anull%7D").unwrap();
        let request =
            query.into_request(ContextInput::Empty, BTreeMap::new(), &BuildDefaults::default());
        assert_eq!(request.build_args, [("Q".to_owned(), "1".to_owned())].into());
    }
}
