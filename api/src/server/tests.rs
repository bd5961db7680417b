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
    ask_with(Access::default(), exposure, method, uri, headers).await
}

async fn ask_with(
    access: Access,
    exposure: Exposure,
    method: &str,
    uri: &str,
    headers: Headers<'_>,
) -> Answer {
    let dir = tempfile::tempdir().unwrap();
    let router = router(service(dir.path(), exposure, access).await);
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

async fn service(dir: &std::path::Path, exposure: Exposure, access: Access) -> Service {
    let root = dir.join("store");
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
    Service::new(builder, root, defaults, exposure, access, limits)
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
            ("docker-experimental", "true"),
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
    let cases: [(&str, &str, Headers<'_>, u16, &str); 28] = [
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
        ("POST",   "/containers/x/start",     &[],    404, "No such container: x"),
        ("POST",   "/swarm/init",             &[],    501, "swarms are not supported by rbuild"),
        ("GET",    "/services",               &[],    501, "swarms are not supported by rbuild"),
        ("GET",    "/images/search?term=x",   &[],    501, "searching a registry is not supported by rbuild"),
        ("POST",   "/plugins/pull",           &[],    501, "plugins are not supported by rbuild"),
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
async fn whoever_shows_no_token_may_ask_whether_it_lives_and_no_more() {
    #[rustfmt::skip]
    let cases = [
        ("HEAD",   "/_ping", 200), ("GET", "/_ping", 200), ("GET", "/v1.41/_ping", 200),
        ("GET",    "/healthz", 200), ("GET", "/readyz", 200),
        ("GET",    "/metrics", 401), ("GET", "/version", 401), ("GET", "/info", 401),
        ("GET",    "/events", 401), ("POST", "/auth", 401), ("GET", "/system/df", 401),
        ("POST",   "/build", 401), ("POST", "/build/cancel?id=x", 401), ("POST", "/build/prune", 401),
        ("GET",    "/images/json", 401), ("GET", "/images/x/json", 401), ("GET", "/images/get", 401),
        ("POST",   "/images/load", 401), ("POST", "/images/create?fromImage=x", 401),
        ("POST",   "/images/x/push", 401), ("POST", "/images/x/tag?repo=y", 401),
        ("DELETE", "/images/x", 401), ("POST", "/images/prune", 401),
        ("GET",    "/distribution/x/json", 401), ("GET", "/containers/json", 401),
        ("POST",   "/swarm/init", 401), ("GET", "/v1/openapi.json", 401),
        ("POST",   "/v1/builds", 401), ("GET", "/v1/builds", 401), ("GET", "/v1/builds/x", 401),
        ("DELETE", "/v1/builds/x", 401), ("GET", "/v1/builds/x/events", 401),
        ("GET",    "/v1/store", 401), ("POST", "/v1/store/prune", 401),
        ("POST",   "/v1/contexts", 401), ("PUT", "/v1/contexts/x", 401),
        // What is not there is nobody's secret.
        ("GET",    "/nothing", 404),
    ];
    for (method, uri, status) in cases {
        let access = Access::default().with_token("0123456789abcdef").unwrap();
        let answer = ask_with(access, Exposure::Network, method, uri, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {uri}: {}", answer.body);
    }
}

#[tokio::test]
async fn no_page_is_told_that_it_may_ask() {
    let origin = ("origin", "http://evil.example");
    let asks = ("access-control-request-method", "POST");
    for method in ["OPTIONS", "GET", "POST"] {
        for uri in ["/_ping", "/build", "/v1/builds", "/images/json"] {
            for headers in [&[("host", "localhost")][..], &[("host", "localhost"), origin, asks]] {
                let answer = ask_at(Exposure::Loopback, method, uri, headers).await;
                let told = answer.headers.keys().find(|name| name.as_str().starts_with("access-"));
                assert_eq!(told, None, "{method} {uri}");
            }
        }
    }
}

#[tokio::test]
async fn a_panic_ends_the_work_that_panicked_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path(), Exposure::Socket, Access::default()).await;
    let (done, waits) = tokio::sync::oneshot::channel();
    service.spawn(async { panic!("a bug") });
    service.spawn(async { done.send(()).unwrap() });
    waits.await.unwrap();
    service.0.tasks.close();
    service.0.tasks.wait().await;
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
