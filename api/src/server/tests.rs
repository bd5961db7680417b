//! The router without a socket: what is refused, and what is answered by an empty store.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use builder::{BuilderConfig, Entitlements, RegistryConfig};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;

type Headers<'a> = &'a [(&'a str, &'a str)];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn message(&self) -> String {
        let value: Value = serde_json::from_str(&self.body).unwrap_or_default();
        value["message"].as_str().unwrap_or(&self.body).to_owned()
    }
}

async fn ask_at(exposure: Exposure, method: &str, uri: &str, headers: Headers<'_>) -> Answer {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let config = BuilderConfig {
        root: root.clone(),
        parallel_steps: std::num::NonZeroUsize::MIN,
        limits: builder::Limits::default(),
        no_new_privs: false,
        cdi_dirs: Vec::new(),
        allow: Entitlements::default(),
        cache: builder::CacheConfig::default(),
        registries: RegistryConfig::default(),
        history: builder::HistoryLimits::default(),
        gc: cache::GcPolicy::default(),
        telemetry: None,
    };
    let builder = builder::blocking::run(move || Builder::open(config)).await.unwrap();
    let (defaults, limits) = (BuildDefaults::default(), ServerTable::default().limits());
    let router = router(Service::new(builder, root, defaults, exposure, Access::default(), limits));
    let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: head.status, headers: head.headers, body }
}

async fn ask(method: &str, uri: &str, headers: Headers<'_>) -> Answer {
    ask_at(Exposure::Socket, method, uri, headers).await
}

#[tokio::test]
async fn ping_has_what_dockers_clients_look_for() {
    for method in ["GET", "HEAD"] {
        let answer = ask(method, "/_ping", &[]).await;
        assert_eq!(answer.status, StatusCode::OK);
        for (name, want) in [
            ("api-version", "1.52"),
            ("ostype", "linux"),
            ("docker-experimental", "false"),
            ("builder-version", "1"),
        ] {
            assert_eq!(answer.headers[name], want, "{method} {name}");
        }
    }
}

#[tokio::test]
async fn bad_requests_are_refused_before_their_body() {
    let tar = ("content-type", "application/x-tar");
    #[rustfmt::skip]
    let cases: [(&str, &str, Headers<'_>, u16, &str); 23] = [
        ("POST",   "/build",                  &[],    415, "the body must be a tar"),
        ("POST",   "/build",                  &[("content-type", "text/plain")], 415, "the body must be a tar"),
        ("POST",   "/build?colour=red",       &[tar], 400, "invalid parameter `colour`"),
        ("POST",   "/build?cgroupparent=a",   &[tar], 400, "`cgroupparent` is not supported"),
        ("POST",   "/v1/builds?memory=much",  &[tar], 400, "`much` is not a number"),
        ("POST",   "/build",                  &[tar, ("x-registry-config", "%")], 400, "X-Registry-Config"),
        ("POST",   "/build",                  &[tar, ("origin", "http://evil.example")], 403, "origin"),
        ("GET",    "/images/json?filters=%7B%22x%22%3A%5B%5D%7D", &[], 400, "filters.x"),
        ("GET",    "/images/a/b:1/json",      &[],    404, "a/b:1"),
        ("GET",    "/images/get",             &[],    400, "`names`"),
        ("POST",   "/images/a/tag",           &[],    400, "`repo`"),
        ("POST",   "/images/create?fromSrc=http%3A%2F%2Fx", &[], 400, "`fromSrc` is not supported"),
        ("POST",   "/images/a/push",          &[],    404, "An image does not exist locally"),
        ("POST",   "/containers/create",      &[],    501, "runs no containers"),
        ("GET",    "/networks/n",             &[],    404, "network n not found"),
        ("GET",    "/volumes/v",              &[],    404, "no such volume"),
        ("POST",   "/build/cancel",           &[],    400, "`id`"),
        ("POST",   "/auth",                   &[],    400, "Docker's JSON"),
        ("GET",    "/events?since=soon",      &[],    400, "`since`"),
        ("GET",    "/events?filters=%7B%22x%22%3A%5B%5D%7D", &[], 400, "filters.x"),
        ("GET",    "/system/df?type=x",       &[],    400, "unknown object type"),
        ("POST",   "/images/prune?filters=%7B%22x%22%3A%5B%5D%7D", &[], 400, "filters.x"),
        ("GET",    "/containers/x/json",      &[],    404, "No such container: x"),
    ];
    for (method, uri, headers, status, want) in cases {
        let answer = ask(method, uri, headers).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {uri}: {}", answer.body);
        assert!(answer.message().contains(want), "{method} {uri}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_port_answers_to_names_of_this_machine_only() {
    for (host, status) in [("localhost:2375", 200), ("[::1]:1", 200), ("evil.example:2375", 403)] {
        let answer = ask_at(Exposure::Loopback, "GET", "/_ping", &[("host", host)]).await;
        assert_eq!(answer.status.as_u16(), status, "{host}");
    }
}

#[tokio::test]
async fn an_empty_store_is_described() {
    let json = async |uri: &str| {
        let answer = ask("GET", uri, &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    assert_eq!(json("/v1.41/images/json?all=1").await, serde_json::json!([]));
    assert_eq!(json("/images/json?only_ids=0&all=0").await, serde_json::json!([]));
    assert_eq!(json("/containers/json").await, serde_json::json!([]));
    assert_eq!(json("/networks").await, serde_json::json!([]));
    assert_eq!(json("/v1.52/system/df").await["ImageUsage"]["TotalCount"], 0);
    assert_eq!(json("/v1.47/system/df").await.get("ImageUsage"), None);
    assert_eq!(json("/version").await["ApiVersion"], "1.52");
    assert_eq!(json("/info").await["Images"], 0);
    for (uri, want) in [("/healthz", "ok"), ("/readyz", "ok"), ("/metrics", "rbuild_store_bytes")] {
        let answer = ask("GET", uri, &[]).await;
        assert!(answer.status == StatusCode::OK && answer.body.contains(want), "{uri}");
    }
    assert_eq!(json("/system/df").await["Images"], serde_json::json!([]));
}
