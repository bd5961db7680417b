//! From method and path to what is asked for. Image names contain slashes, and every path may
//! begin with a version, so the table is a function.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use super::access::Scope;
use super::error::ApiError;
use super::native::Native;

/// A version of Docker's Engine API: major and minor.
pub(crate) type Version = (u32, u32);

/// The newest version of Docker's Engine API that is spoken.
pub(crate) const API_VERSION: Version = (1, 52);

/// The oldest one.
pub(crate) const MIN_API_VERSION: Version = (1, 24);

/// What is asked for. Names are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET` and `HEAD /_ping`
    Ping,
    /// `GET /healthz`
    Health,
    /// `GET /readyz`
    Ready,
    /// `GET /metrics`
    Metrics,
    /// `GET /version`
    Version,
    /// `GET /info`
    Info,
    /// `GET /system/df`
    DiskUsage,
    /// `GET /events`
    Events,
    /// `POST /auth`
    Login,
    /// `POST /build/cancel`
    CancelBuild,
    /// `POST /build/prune`
    PruneBuilds,
    /// `POST /images/prune`
    PruneImages,
    /// `GET /distribution/{name}/json`
    Distribution(String),
    /// `POST /build`
    Build,
    /// rbuild's own API
    Native(Native),
    /// `GET /images/json`
    Images,
    /// `GET /images/get`
    SaveImages,
    /// `POST /images/load`
    LoadImages,
    /// `POST /images/create`
    Pull,
    /// `GET /images/{name}/json`
    Image(String),
    /// `GET /images/{name}/history`
    History(String),
    /// `GET /images/{name}/get`
    SaveImage(String),
    /// `POST /images/{name}/tag`
    Tag(String),
    /// `POST /images/{name}/push`
    Push(String),
    /// `DELETE /images/{name}`
    RemoveImage(String),
    /// What Docker has beside images, where this service has none of it.
    Absent(Absent),
}

/// Things that this service never holds: lists of them are empty, and none has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// `GET /containers/json`, `GET /networks`, `GET /plugins`
    List,
    /// `GET /volumes`
    Volumes,
    /// `/containers/{name}` and whatever is to be done with it
    Container(String),
    /// `/networks/{name}` and whatever is to be done with it
    Network(String),
    /// `/volumes/{name}` and whatever is to be done with it
    Volume(String),
    /// `POST /containers/prune`, `/networks/prune` and `/volumes/prune`: the name of the list in
    /// the answer.
    Pruned(&'static str),
    /// `POST /containers/create`, `POST /commit`, `/exec`
    CreateContainer,
    /// `POST /networks/create`
    CreateNetwork,
    /// `POST /volumes/create`
    CreateVolume,
    /// `/swarm`, `/nodes`, `/services`, `/tasks`, `/secrets`, `/configs`
    Swarm,
    /// `/plugins/..`
    Plugin,
    /// `GET /images/search`
    Search,
}

impl Route {
    /// Returns what a token must be for; nothing for what everybody may ask.
    pub(crate) const fn scope(&self) -> Option<Scope> {
        match self {
            Self::Ping | Self::Health | Self::Ready => None,
            Self::Metrics
            | Self::Version
            | Self::Info
            | Self::DiskUsage
            | Self::Events
            | Self::Login
            | Self::Images
            | Self::Image(_)
            | Self::History(_)
            | Self::SaveImages
            | Self::SaveImage(_)
            | Self::Distribution(_)
            | Self::Absent(_) => Some(Scope::Read),
            Self::Native(native) => Some(native.scope()),
            Self::Build | Self::CancelBuild | Self::LoadImages | Self::Pull | Self::Tag(_) => {
                Some(Scope::Build)
            }
            Self::Push(_) => Some(Scope::Push),
            Self::PruneBuilds | Self::PruneImages | Self::RemoveImage(_) => Some(Scope::Admin),
        }
    }

    /// Finds the route of `path`, versioned or not, and the version that its answer must have.
    ///
    /// # Errors
    ///
    /// [`ApiError::Version`], [`ApiError::NoRoute`], [`ApiError::Method`], or
    /// [`ApiError::Parameter`] for a name that is not UTF-8.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<(Version, Self), ApiError> {
        if let Some(native) = Native::parse(method, path)? {
            return Ok((API_VERSION, Self::Native(native)));
        }
        let (version, path) = split_version(path)?;
        let parts = path.strip_prefix('/').ok_or(ApiError::NoRoute)?;
        let (want, route) = match parts {
            "_ping" if method == Method::HEAD => (Method::HEAD, Self::Ping),
            "_ping" => (Method::GET, Self::Ping),
            "healthz" => (Method::GET, Self::Health),
            "readyz" => (Method::GET, Self::Ready),
            "metrics" => (Method::GET, Self::Metrics),
            "version" => (Method::GET, Self::Version),
            "info" => (Method::GET, Self::Info),
            "system/df" => (Method::GET, Self::DiskUsage),
            "build" => (Method::POST, Self::Build),
            "images/json" => (Method::GET, Self::Images),
            "images/get" => (Method::GET, Self::SaveImages),
            "images/load" => (Method::POST, Self::LoadImages),
            "images/create" => (Method::POST, Self::Pull),
            "events" => (Method::GET, Self::Events),
            "auth" => (Method::POST, Self::Login),
            "build/cancel" => (Method::POST, Self::CancelBuild),
            "build/prune" => (Method::POST, Self::PruneBuilds),
            "images/prune" => (Method::POST, Self::PruneImages),
            "containers/json" | "networks" | "plugins" => (Method::GET, Self::Absent(Absent::List)),
            "volumes" => (Method::GET, Self::Absent(Absent::Volumes)),
            "containers/prune" => (Method::POST, Self::Absent(Absent::Pruned("ContainersDeleted"))),
            "networks/prune" => (Method::POST, Self::Absent(Absent::Pruned("NetworksDeleted"))),
            "volumes/prune" => (Method::POST, Self::Absent(Absent::Pruned("VolumesDeleted"))),
            "containers/create" | "commit" => (Method::POST, Self::Absent(Absent::CreateContainer)),
            "networks/create" => (Method::POST, Self::Absent(Absent::CreateNetwork)),
            "volumes/create" => (Method::POST, Self::Absent(Absent::CreateVolume)),
            "images/search" => (Method::GET, Self::Absent(Absent::Search)),
            other => named(method, other)?,
        };
        if *method == want {
            return Ok((version, route));
        }
        Err(ApiError::Method(want.to_string()))
    }
}

/// Finds what Docker has and this service does not, whatever is to be done with it.
fn absent(parts: &str) -> Result<Option<Absent>, ApiError> {
    let (kind, rest) = parts.split_once('/').unwrap_or((parts, ""));
    let name = rest.split('/').next().filter(|name| !name.is_empty());
    Ok(match (kind, name) {
        ("containers", Some(name)) => Some(Absent::Container(decode(name)?)),
        ("networks", Some(name)) => Some(Absent::Network(decode(name)?)),
        ("volumes", Some(name)) => Some(Absent::Volume(decode(name)?)),
        ("swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", _) => {
            Some(Absent::Swarm)
        }
        ("plugins", Some(_)) => Some(Absent::Plugin),
        ("exec", Some(_)) => Some(Absent::CreateContainer),
        _ => None,
    })
}

fn named(method: &Method, parts: &str) -> Result<(Method, Route), ApiError> {
    let between = |prefix, suffix| parts.strip_prefix(prefix)?.strip_suffix(suffix);
    if let Some(absent) = absent(parts)? {
        return Ok((method.clone(), Route::Absent(absent)));
    }
    if let Some(name) = between("distribution/", "/json") {
        return Ok((Method::GET, Route::Distribution(decode(name)?)));
    }
    let rest = parts.strip_prefix("images/").filter(|rest| !rest.is_empty());
    let rest = rest.ok_or(ApiError::NoRoute)?;
    if method == Method::DELETE {
        return Ok((Method::DELETE, Route::RemoveImage(decode(rest)?)));
    }
    let (name, verb) = rest.rsplit_once('/').ok_or(ApiError::NoRoute)?;
    let name = decode(name)?;
    if name.is_empty() {
        return Err(ApiError::NoRoute);
    }
    match verb {
        "json" => Ok((Method::GET, Route::Image(name))),
        "history" => Ok((Method::GET, Route::History(name))),
        "get" => Ok((Method::GET, Route::SaveImage(name))),
        "tag" => Ok((Method::POST, Route::Tag(name))),
        "push" => Ok((Method::POST, Route::Push(name))),
        _ => Err(ApiError::NoRoute),
    }
}

fn decode(name: &str) -> Result<String, ApiError> {
    let name = percent_decode_str(name).decode_utf8();
    name.map(String::from).map_err(|_| ApiError::parameter("name", "it is not UTF-8"))
}

/// Takes `/v1.47` off the front; a path without a version means the newest. `/v1/...` is our own
/// API, which has no minor version.
fn split_version(path: &str) -> Result<(Version, &str), ApiError> {
    let newest = (API_VERSION, path);
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else {
        return Ok(newest);
    };
    let Some((major, minor)) = version.split_once('.') else { return Ok(newest) };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return Err(ApiError::NoRoute);
    };
    let asked = (major, minor);
    if asked > API_VERSION {
        let (max_major, max_minor) = API_VERSION;
        return Err(ApiError::Version(format!(
            "client version {version} is too new. Maximum supported API version is {max_major}.{max_minor}"
        )));
    }
    if asked < MIN_API_VERSION {
        let (min_major, min_minor) = MIN_API_VERSION;
        return Err(ApiError::Version(format!(
            "client version {version} is too old. Minimum supported API version is {min_major}.{min_minor}"
        )));
    }
    Ok((asked, &path["/v".len() + version.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_routed() {
        let name = |name: &str| name.to_owned();
        #[rustfmt::skip]
        let cases = [
            ("GET",    "/_ping",                                 Route::Ping),
            ("HEAD",   "/_ping",                                 Route::Ping),
            ("HEAD",   "/v1.47/_ping",                           Route::Ping),
            ("GET",    "/healthz",                               Route::Health),
            ("GET",    "/readyz",                                Route::Ready),
            ("GET",    "/metrics",                               Route::Metrics),
            ("GET",    "/v1.24/version",                         Route::Version),
            ("GET",    "/info",                                  Route::Info),
            ("POST",   "/build",                                 Route::Build),
            ("POST",   "/v1.41/build",                           Route::Build),
            ("POST",   "/v1/builds",                             Route::Native(Native::StartBuild)),
            ("GET",    "/images/json",                           Route::Images),
            ("GET",    "/v1.47/images/a/json",                   Route::Image(name("a"))),
            ("GET",    "/images/reg.local:5000/a/b:1/json",      Route::Image(name("reg.local:5000/a/b:1"))),
            ("GET",    "/images/a%2Fb/json",                     Route::Image(name("a/b"))),
            ("GET",    "/images/a/b/history",                    Route::History(name("a/b"))),
            ("POST",   "/images/a/b:1/tag",                      Route::Tag(name("a/b:1"))),
            ("POST",   "/images/a/b/push",                       Route::Push(name("a/b"))),
            ("DELETE", "/images/a/b:1",                          Route::RemoveImage(name("a/b:1"))),
            ("DELETE", "/images/a/json",                         Route::RemoveImage(name("a/json"))),
            ("GET",    "/images/get",                            Route::SaveImages),
            ("GET",    "/images/a/b/get",                        Route::SaveImage(name("a/b"))),
            ("POST",   "/images/load",                           Route::LoadImages),
            ("POST",   "/images/create",                         Route::Pull),
            ("GET",    "/containers/json",                       Route::Absent(Absent::List)),
            ("GET",    "/containers/x/json",                     Route::Absent(Absent::Container(name("x")))),
            ("DELETE", "/containers/x",                          Route::Absent(Absent::Container(name("x")))),
            ("GET",    "/plugins",                               Route::Absent(Absent::List)),
            ("GET",    "/networks",                              Route::Absent(Absent::List)),
            ("GET",    "/networks/x",                            Route::Absent(Absent::Network(name("x")))),
            ("GET",    "/v1.41/volumes",                         Route::Absent(Absent::Volumes)),
            ("GET",    "/volumes/x",                             Route::Absent(Absent::Volume(name("x")))),
            ("POST",   "/volumes/prune",                         Route::Absent(Absent::Pruned("VolumesDeleted"))),
            ("POST",   "/containers/create",                     Route::Absent(Absent::CreateContainer)),
            ("POST",   "/containers/x/start",                    Route::Absent(Absent::Container(name("x")))),
            ("HEAD",   "/containers/x/archive",                  Route::Absent(Absent::Container(name("x")))),
            ("POST",   "/commit",                                Route::Absent(Absent::CreateContainer)),
            ("POST",   "/v1.41/exec/x/start",                    Route::Absent(Absent::CreateContainer)),
            ("DELETE", "/networks/x",                            Route::Absent(Absent::Network(name("x")))),
            ("POST",   "/networks/create",                       Route::Absent(Absent::CreateNetwork)),
            ("POST",   "/networks/x/connect",                    Route::Absent(Absent::Network(name("x")))),
            ("POST",   "/volumes/create",                        Route::Absent(Absent::CreateVolume)),
            ("GET",    "/v1.50/swarm",                           Route::Absent(Absent::Swarm)),
            ("POST",   "/swarm/init",                            Route::Absent(Absent::Swarm)),
            ("GET",    "/nodes",                                 Route::Absent(Absent::Swarm)),
            ("POST",   "/services/create",                       Route::Absent(Absent::Swarm)),
            ("GET",    "/configs",                               Route::Absent(Absent::Swarm)),
            ("POST",   "/plugins/pull",                          Route::Absent(Absent::Plugin)),
            ("GET",    "/images/search",                         Route::Absent(Absent::Search)),
            ("GET",    "/v1.50/events",                          Route::Events),
            ("POST",   "/auth",                                  Route::Login),
            ("POST",   "/build/cancel",                          Route::CancelBuild),
            ("POST",   "/build/prune",                           Route::PruneBuilds),
            ("POST",   "/images/prune",                          Route::PruneImages),
            ("GET",    "/distribution/a/b:1/json",               Route::Distribution(name("a/b:1"))),
            ("GET",    "/system/df",                             Route::DiskUsage),
        ];
        for (method, path, want) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Route::parse(&method, path).unwrap().1, want, "{method} {path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        #[rustfmt::skip]
        let cases = [
            ("GET",    "/",                       "page not found"),
            ("GET",    "",                        "page not found"),
            ("GET",    "/images",                 "page not found"),
            ("GET",    "/images/",                "page not found"),
            ("GET",    "/images//json",           "page not found"),
            ("GET",    "/images/a",               "page not found"),
            ("GET",    "/containers/",            "page not found"),
            ("GET",    "/swarms",                 "page not found"),
            ("DELETE", "/images/",                "page not found"),
            ("POST",   "/session",                "page not found"),
            ("GET",    "/v1.x/_ping",             "page not found"),
            ("GET",    "/v1.47",                  "page not found"),
            ("GET",    "/build",                  "method not allowed"),
            ("POST",   "/images/json",            "method not allowed"),
            ("PUT",    "/images/a/json",          "method not allowed"),
            ("POST",   "/_ping",                  "method not allowed"),
            ("GET",    "/images/%ff/json",        "invalid parameter `name`: it is not UTF-8"),
            ("GET",    "/v1.99/info",             "client version 1.99 is too new. Maximum supported API version is 1.52"),
            ("GET",    "/v1.12/info",             "client version 1.12 is too old. Minimum supported API version is 1.24"),
        ];
        for (method, path, want) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let error = Route::parse(&method, path).unwrap_err();
            assert_eq!(error.to_string(), want, "{method} {path}");
        }
    }
}
