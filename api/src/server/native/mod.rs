//! rbuild's own API, beside Docker's: `openapi.json` is its reference, and tests hold the two
//! together.

mod asked;
mod builds;
mod contexts;
mod delivery;
mod events;
mod images;
mod log;
mod options;
mod store;
mod watch;

use axum::body::Body;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};

use super::access::Scope;
use super::error::ApiError;
use super::{Call, agents, build};

/// What is asked for. The texts are ids of builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Native {
    OpenApi,
    StartBuild,
    Builds,
    Build(String),
    CancelBuild(String),
    ForgetBuild(String),
    Events(String),
    Log(String),
    Graph(String),
    Store,
    Prune,
    AnnounceContext,
    SendList(String),
    SendContext(String),
    FetchOutput(String),
    RemoveOutput(String),
    AnnounceAgent,
    LinkAgent(String),
    CheckStore,
    ImageTree,
    ImageDiff,
    Referrers,
    Index,
    CreateIndex,
    AnnotateIndex,
}

/// A method, a path, and what they ask for. `{id}` stands for one part of a path.
type Row = (Method, &'static str, fn(String) -> Native);

#[rustfmt::skip]
const ROUTES: [Row; 25] = [
    (Method::GET,    "/v1/openapi.json",       |_| Native::OpenApi),
    (Method::POST,   "/v1/builds",             |_| Native::StartBuild),
    (Method::GET,    "/v1/builds",             |_| Native::Builds),
    (Method::GET,    "/v1/builds/{id}",        Native::Build),
    (Method::DELETE, "/v1/builds/{id}",        Native::CancelBuild),
    (Method::DELETE, "/v1/builds/{id}/record", Native::ForgetBuild),
    (Method::GET,    "/v1/builds/{id}/events", Native::Events),
    (Method::GET,    "/v1/builds/{id}/log",    Native::Log),
    (Method::GET,    "/v1/builds/{id}/graph",  Native::Graph),
    (Method::GET,    "/v1/store",              |_| Native::Store),
    (Method::POST,   "/v1/store/prune",        |_| Native::Prune),
    (Method::POST,   "/v1/contexts",           |_| Native::AnnounceContext),
    (Method::PUT,    "/v1/contexts/{id}",      Native::SendContext),
    (Method::PUT,    "/v1/contexts/{id}/list", Native::SendList),
    (Method::GET,    "/v1/builds/{id}/output", Native::FetchOutput),
    (Method::DELETE, "/v1/builds/{id}/output", Native::RemoveOutput),
    (Method::POST,   "/v1/agents",             |_| Native::AnnounceAgent),
    (Method::POST,   "/v1/agents/{id}",        Native::LinkAgent),
    (Method::POST,   "/v1/store/check",        |_| Native::CheckStore),
    (Method::GET,    "/v1/images/tree",        |_| Native::ImageTree),
    (Method::GET,    "/v1/images/diff",        |_| Native::ImageDiff),
    (Method::GET,    "/v1/images/referrers",   |_| Native::Referrers),
    (Method::GET,    "/v1/indexes",            |_| Native::Index),
    (Method::POST,   "/v1/indexes",            |_| Native::CreateIndex),
    (Method::POST,   "/v1/indexes/annotate",   |_| Native::AnnotateIndex),
];

impl Native {
    /// Finds what `path` asks for; `None` where the path is not one of these.
    ///
    /// # Errors
    ///
    /// [`ApiError::Method`] where only other methods have the path.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Option<Self>, ApiError> {
        let mut allowed = Vec::new();
        for (of_row, template, make) in &ROUTES {
            if let Some(id) = fill(template, path) {
                if of_row == method {
                    return Ok(Some(make(id.to_owned())));
                }
                allowed.push(of_row.as_str());
            }
        }
        if allowed.is_empty() { Ok(None) } else { Err(ApiError::Method(allowed.join(", "))) }
    }

    /// Returns what a token must be for.
    pub(crate) const fn scope(&self) -> Scope {
        match self {
            Self::OpenApi
            | Self::Builds
            | Self::Build(_)
            | Self::Events(_)
            | Self::Log(_)
            | Self::Graph(_)
            | Self::ImageTree
            | Self::ImageDiff
            | Self::Referrers
            | Self::Index
            | Self::Store => Scope::Read,
            Self::StartBuild
            | Self::CancelBuild(_)
            | Self::AnnounceContext
            | Self::SendList(_)
            | Self::SendContext(_)
            | Self::FetchOutput(_)
            | Self::RemoveOutput(_)
            | Self::AnnounceAgent
            | Self::LinkAgent(_)
            | Self::CreateIndex
            | Self::AnnotateIndex => Scope::Build,
            Self::ForgetBuild(_) | Self::Prune | Self::CheckStore => Scope::Admin,
        }
    }
}

/// Returns what stands in `path` for `{id}`, if the rest is as in `template`; ids are never empty.
fn fill<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = template.split_once("{id}") else {
        return (template == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// Answers.
pub(super) async fn answer(call: &Call, native: Native, body: Body) -> Result<Response, ApiError> {
    // Docker's clients send empty values for what is not set; nobody does so here.
    let is_dockers = native == Native::StartBuild;
    if let Some((name, _)) = call.query.iter().find(|(_, value)| !is_dockers && value.is_empty()) {
        return Err(ApiError::parameter(name, "it is empty"));
    }
    match native {
        Native::OpenApi => {
            call.expect_only(&[])?;
            let document = include_str!("openapi.json");
            Ok(([(CONTENT_TYPE, "application/json")], document).into_response())
        }
        Native::StartBuild => build::native(call, body).await,
        Native::Builds => builds::list(call).await,
        Native::Build(id) => builds::show(call, &id).await,
        Native::CancelBuild(id) => builds::cancel(call, &id).await,
        Native::ForgetBuild(id) => builds::forget(call, &id).await,
        Native::Graph(id) => builds::graph(call, &id).await,
        Native::Events(id) => events::stream(call, &id).await,
        Native::Log(id) => log::stream(call, &id).await,
        Native::Store => store::usage(call).await,
        Native::Prune => store::prune(call, body).await,
        Native::CheckStore => store::check(call).await,
        Native::ImageTree => images::tree(call).await,
        Native::ImageDiff => images::diff(call).await,
        Native::Referrers => images::referrers(call).await,
        Native::Index => images::index(call).await,
        Native::CreateIndex => images::create_index(call).await,
        Native::AnnotateIndex => images::annotate_index(call).await,
        Native::AnnounceContext => contexts::announce(call, body).await,
        Native::SendList(id) => contexts::receive_list(call, &id, body).await,
        Native::SendContext(id) => contexts::receive(call, &id, body).await,
        Native::FetchOutput(id) => delivery::fetch(call, &id).await,
        Native::RemoveOutput(id) => delivery::remove(call, &id),
        Native::AnnounceAgent => agents::announce(call).await,
        // The connection itself is needed, which a call does not hold.
        Native::LinkAgent(id) => agents::link(call, &id, None),
    }
}

pub(crate) use asked::{NativeQuery, SENT, SENT_LAYOUT};
pub(super) use contexts::Contexts;
pub(super) use delivery::{Deliveries, Delivery, withdraw};
pub(super) use options::{is_json, read as read_options};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn paths_are_routed() {
        let id = || "0a1b2c3d".to_owned();
        #[rustfmt::skip]
        let cases = [
            ("GET",    "/v1/builds",                 Some(Native::Builds)),
            ("POST",   "/v1/builds",                 Some(Native::StartBuild)),
            ("GET",    "/v1/builds/0a1b2c3d",        Some(Native::Build(id()))),
            ("DELETE", "/v1/builds/0a1b2c3d",        Some(Native::CancelBuild(id()))),
            ("DELETE", "/v1/builds/0a1b2c3d/record", Some(Native::ForgetBuild(id()))),
            ("GET",    "/v1/builds/0a1b2c3d/log",    Some(Native::Log(id()))),
            ("GET",    "/v1/builds/",                None),
            ("GET",    "/v1/builds/a/b/log",         None),
            ("GET",    "/v1/builds/a/other",         None),
            ("GET",    "/v1/build",                  None),
        ];
        for (method, path, want) in cases {
            let method = method.parse().unwrap();
            assert_eq!(Native::parse(&method, path).unwrap(), want, "{method} {path}");
        }
        let error = Native::parse(&Method::PUT, "/v1/builds").unwrap_err();
        assert!(matches!(error, ApiError::Method(allowed) if allowed == "POST, GET"));
    }

    #[test]
    fn the_document_has_all_routes_and_no_other() {
        let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut told = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|&key| key != "parameters") {
                told.insert((method.to_uppercase(), path.clone()));
            }
        }
        let routes =
            ROUTES.iter().map(|(method, path, _)| (method.to_string(), (*path).to_owned()));
        assert_eq!(told, routes.collect());
        for parameter in document["paths"]["/v1/builds"]["post"]["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            let parsed = NativeQuery::parse(&[(name.to_owned(), String::new())]);
            assert!(parsed.is_ok(), "{name}: {parsed:?}");
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
