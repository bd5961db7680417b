//! How much a registry is asked, by how many at once, through whom, and what is done when it has no
//! room.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use builder::{Credentials, DockerfileInput, Events, RegistryConfig, push};
use cache::Digest;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::edits::{open, request};
use crate::registry_support::*;

/// How many are at something, and how many were at most.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Answers with `bytes` after a while, counted by `gauge` until they are sent.
fn slow(bytes: Vec<u8>, gauge: &Arc<Gauge>) -> Response {
    let gauge = Arc::clone(gauge);
    let length = bytes.len();
    let stream = futures_util::stream::once(async move {
        gauge.enter();
        tokio::time::sleep(Duration::from_millis(60)).await;
        gauge.leave();
        Ok::<_, std::io::Error>(bytes::Bytes::from(bytes))
    });
    Response::builder().header("content-length", length).body(Body::from_stream(stream)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_images_of_a_process_share_what_a_registry_is_given() {
    let images: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(TinyImage::new).into_iter().collect();
    let (down, up) = (Arc::new(Gauge::default()), Arc::new(Gauge::default()));
    let (there, downs, ups) = (images.clone(), Arc::clone(&down), Arc::clone(&up));
    let layers: Vec<_> = images.iter().map(|image| image.layer_digest().to_string()).collect();
    let fake = FakeRegistry::start(move |seen, _| {
        let of = |image: &&TinyImage| seen.path.contains(&image.layer_digest().to_string());
        match (seen.method.as_str(), there.iter().find(of)) {
            ("GET", Some(image)) => slow(image.layer.clone(), &downs),
            ("HEAD", _) if seen.is_blob() => status(404, ""),
            ("POST", _) => with_header(202, "location", "/upload/1"),
            ("PUT", _) if seen.path.starts_with("/upload/") => {
                let is_layer =
                    layers.iter().any(|layer| seen.query.contains(&layer.replace(':', "%3A")));
                if is_layer {
                    ups.enter();
                    std::thread::sleep(Duration::from_millis(30));
                    ups.leave();
                }
                status(201, "")
            }
            ("PUT", _) => status(201, ""),
            _ => {
                let name = seen.path.split('/').nth(2).unwrap_or_default();
                there["abcdef".find(name).unwrap_or(0)].answer(seen)
            }
        }
    })
    .await;
    let transfers = NonZeroUsize::new(2);
    let bench = Bench::new(RegistryConfig { transfers, ..RegistryConfig::default() });
    let login =
        Credentials { username: "me".to_owned(), password: "p".to_owned(), identity_token: None };
    // A build with credentials of its own is one of the same process.
    let other = [("elsewhere.example".to_owned(), login)].into_iter().collect();
    let other = bench.sources.registry().with_credentials(other);
    let each = ["a", "b", "c", "d", "e", "f"].map(|name| {
        let sources = match name {
            "a" | "b" => bench.sources.with_registry(other.clone()),
            _ => bench.sources.clone(),
        };
        let from = reference(&format!("{}/{name}:1", fake.host()));
        let (events, _) = Events::channel();
        async move { (sources.pull(&from, &amd64(), &events).await.unwrap().0, sources) }
    });
    let pulled = join_all(each).await;
    assert_eq!(down.most(), 2, "side by side, and no more");
    let pushes = pulled.iter().zip('a'..).map(|((image, sources), name)| {
        let to = reference(&format!("{}/{name}:2", fake.host()));
        let (events, _) = Events::channel();
        async move { push(sources, image, &to, &events).await.unwrap() }
    });
    join_all(pushes).await;
    assert!(up.most() <= 2, "{}", up.most());
}

/// Builds `text` in the store at `root`.
async fn build(builder: &builder::Builder, text: &str, pull: bool) {
    let context = tempfile::tempdir().unwrap();
    let mut request = request(context.path());
    request.dockerfile = DockerfileInput::Inline(text.to_owned());
    request.pull = pull;
    let (events, mut seen) = Events::channel();
    let work = builder.build(request, events, CancellationToken::new());
    let drain = async { while seen.recv().await.is_some() {} };
    let (built, ()) = tokio::join!(work, drain);
    built.unwrap_or_else(|failure| panic!("{failure:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_asks_once_for_each_name_and_never_for_a_digest_that_is_here() {
    let image = TinyImage::new("a");
    let digest = Digest::of(&image.manifest);
    let there = image.clone();
    let fake = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let host = fake.host();
    let store = tempfile::tempdir().unwrap();
    let builder = open(store.path());
    let text = format!(
        "FROM {host}/x/y:1 AS one\nCOPY --from={host}/x/y:1 /a /b\n\
         FROM {host}/x/y:1\nCOPY --from=one /b /c\n"
    );
    let count = |what: &str| (fake.count("HEAD", what), fake.count("GET", what));
    build(&builder, &text, false).await;
    assert_eq!(count("/manifests/"), (1, 1));
    assert_eq!(count("/blobs/"), (0, 2), "config and layer");
    build(&builder, &text, false).await;
    assert_eq!(fake.seen().len(), 4, "what is here is not asked for");
    build(&builder, &text, true).await;
    assert_eq!(count("/manifests/"), (2, 1), "whether it is new, and no more");
    assert_eq!(fake.seen().len(), 5);
    for name in [format!("{host}/x/y@{digest}"), format!("{host}/x/y:1@{digest}")] {
        build(&builder, &text.replace(&format!("{host}/x/y:1"), &name), true).await;
    }
    assert_eq!(fake.seen().len(), 5, "a digest cannot change");
}

/// Pulls `base.example/x/y:1` in a process of its own whose environment is `variables`; returns
/// what it said.
async fn pull_behind(variables: &[(&str, String)], name: &str) -> String {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", "registry_traffic::behind_a_proxy"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        child.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    child.env("PULLED", name).envs(variables.iter().map(|(name, value)| (name, value)));
    let output = child.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by `proxies_of_the_environment_are_used` with an environment of its own"]
async fn behind_a_proxy() {
    let name = std::env::var("PULLED").unwrap();
    let insecure = vec!["base.example".to_owned()];
    let bench = Bench::new(RegistryConfig { insecure, ..RegistryConfig::default() });
    match bench.sources.pull(&reference(&name), &amd64(), &bench.events).await {
        Ok(_) => println!("pulled"),
        Err(error) => println!("failed: {}", told(&error)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_used() {
    let image = TinyImage::new("a");
    let there = image.clone();
    // A request to a proxy names the host.
    let answer = move |seen: &Seen, _| match seen.method.as_str() {
        "CONNECT" => status(502, ""),
        _ => there.answer(seen),
    };
    let plain = "base.example/x/y:1";
    let tls = "tls.example/x/y:1";
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str, &str, &str); 7] = [
        ("plain HTTP",        &["HTTP_PROXY"],               "",                   plain, "GET"),
        ("lower case",        &["http_proxy"],               "",                   plain, "GET"),
        ("all",               &["ALL_PROXY"],                "",                   plain, "GET"),
        ("TLS",               &["HTTPS_PROXY"],              "",                   tls,   "CONNECT"),
        ("of the other kind", &["HTTPS_PROXY"],              "",                   plain, ""),
        ("exempted",          &["HTTP_PROXY", "HTTPS_PROXY"], "x.com,base.example", plain, ""),
        ("a domain exempted", &["HTTP_PROXY", "HTTPS_PROXY"], ".example",           tls,   ""),
    ];
    for (case, proxies, exempt, name, want) in cases {
        let proxy = FakeRegistry::start(answer.clone()).await;
        let url = format!("http://{}", proxy.host());
        let mut variables: Vec<_> = proxies.iter().map(|name| (*name, url.clone())).collect();
        variables.push(("NO_PROXY", exempt.to_owned()));
        let said = pull_behind(&variables, name).await;
        let seen = proxy.seen();
        assert_eq!(said.contains("pulled"), want == "GET", "{case}: {said}");
        assert_eq!(!seen.is_empty(), !want.is_empty(), "{case}: {said}");
        if want == "CONNECT" {
            assert!(seen.iter().all(|seen| seen.method == want), "{case}: nothing in the clear");
        }
    }
    // What is on this machine is never asked for through somebody else.
    let there = image.clone();
    let registry = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let proxy = FakeRegistry::start(|_, _| status(502, "")).await;
    let url = format!("http://{}", proxy.host());
    let variables = [("HTTP_PROXY", url.clone()), ("ALL_PROXY", url)];
    let said = pull_behind(&variables, &format!("{}/x/y:1", registry.host())).await;
    assert!(said.contains("pulled") && proxy.seen().is_empty(), "{said}");
}

/// A registry that takes uploads, but for those that `refuse` answers.
async fn taking(
    refuse: impl Fn(&Seen, usize) -> Option<Response> + Send + Sync + 'static,
) -> FakeRegistry {
    FakeRegistry::start(move |seen, before| {
        refuse(seen, before).unwrap_or_else(|| match seen.method.as_str() {
            "HEAD" => status(404, ""),
            "POST" | "PATCH" => with_header(202, "location", "/upload/1"),
            _ => status(201, ""),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_registry_gets_no_tag() {
    let image = TinyImage::new("a");
    let there = image.clone();
    let origin = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let bench = Bench::new(RegistryConfig::default());
    let from = reference(&format!("{}/x/y:1", origin.host()));
    let (pulled, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
    let full = r#"{"errors":[{"code":"DENIED","message":"no space left on device"}]}"#;
    // Method, status, tries at most, what is said.
    #[rustfmt::skip]
    let cases = [
        ("at the start",   "POST", 507, 1, "507 Insufficient Storage to POST"),
        ("at the end",     "PUT",  507, 1, "507 Insufficient Storage to PUT"),
        ("a broken one",   "PUT",  500, 5, "500 Internal Server Error to PUT"),
        ("a quota",        "PUT",  403, 1, "push access"),
    ];
    for (case, method, code, tries, want) in cases {
        let fake = taking(move |seen, _| {
            let is_upload = seen.is_blob() || seen.path.starts_with("/upload/");
            (is_upload && seen.method == method).then(|| status(code, full))
        })
        .await;
        let to = reference(&format!("{}/x/z:1", fake.host()));
        let error = push(&bench.sources, &pulled, &to, &bench.events).await.expect_err(case);
        let text = told(&error);
        assert!(text.contains(want) && text.contains("no space left on device"), "{case}: {text}");
        assert_eq!(fake.count("PUT", "/manifests/"), 0, "{case}: nothing that is not whole");
        let blob = if method == "POST" { "/blobs/" } else { "/upload/" };
        assert!(fake.count(method, blob) <= tries, "{case}: {}", fake.count(method, blob));
    }
}

fn later(code: u16) -> Response {
    with_header(code, "retry-after", "0")
}

/// What docker-registry says of a manifest while others push the same blob.
fn lost() -> Response {
    status(400, r#"{"errors":[{"code":"DIGEST_INVALID"},{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_is_pushed_to_later() {
    let image = TinyImage::new("a");
    let there = image.clone();
    let origin = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let bench = Bench::new(RegistryConfig::default());
    let from = reference(&format!("{}/x/y:1", origin.host()));
    let (pulled, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
    for (code, method, path) in [
        (429, "HEAD", "/blobs/"),
        (429, "POST", "/blobs/"),
        (503, "PUT", "/upload/"),
        (429, "PUT", "/manifests/"),
        (503, "PUT", "/manifests/"),
        (400, "PUT", "/manifests/"),
    ] {
        let fake = taking(move |seen, before| {
            let is_it = seen.method == method && seen.path.contains(path) && before < 2;
            is_it.then(|| if code == 400 { lost() } else { later(code) })
        })
        .await;
        let to = reference(&format!("{}/x/z:1", fake.host()));
        push(&bench.sources, &pulled, &to, &bench.events).await.unwrap_or_else(|error| {
            panic!("{code} to {method} {path}: {}", told(&error));
        });
        assert_eq!(fake.count("PUT", "/manifests/"), if path == "/manifests/" { 3 } else { 1 });
    }
}

/// `image` whose layer has a media type of those that registries do not hand out, and is said to be
/// at `url`.
fn foreign(image: &TinyImage, url: &str) -> TinyImage {
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip\"";
    let text = text.replace(
        "application/vnd.oci.image.layer.v1.tar+gzip\"",
        &format!(r#"{kind},"urls":["{url}/layer"]"#),
    );
    TinyImage { manifest: text.into_bytes(), ..image.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_are_neither_followed_nor_passed_on() {
    let image = TinyImage::new("a");
    let layer = image.layer.clone();
    let elsewhere = FakeRegistry::start(move |_, _| blob_response(&layer, None)).await;
    let image = foreign(&image, &format!("http://{}", elsewhere.host()));
    let digest = image.layer_digest().to_string();

    let there = image.clone();
    let missing = digest.clone();
    let without = FakeRegistry::start(move |seen, _| {
        if seen.path.contains(&missing) { status(404, "") } else { there.answer(seen) }
    })
    .await;
    let bench = Bench::new(RegistryConfig::default());
    let from = reference(&format!("{}/x/y:1", without.host()));
    let error = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap_err();
    assert!(told(&error).contains("not handed out by registries"), "{}", told(&error));
    assert!(elsewhere.seen().is_empty());

    // A registry of one's own may hold it all the same.
    let there = image.clone();
    let with = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let from = reference(&format!("{}/x/y:1", with.host()));
    let (pulled, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
    let to = taking(|_, _| None).await;
    let name = reference(&format!("{}/x/z:1", to.host()));
    let pushed = push(&bench.sources, &pulled, &name, &bench.events).await.unwrap();
    assert_eq!(pushed.digest, Digest::of(&image.manifest), "it stays as it came");
    let is_of_layer = |seen: &Seen| (seen.path.clone() + &seen.query).contains(&digest[7..]);
    assert!(!to.seen().iter().any(is_of_layer), "{:?}", to.seen());
    assert_eq!(to.count("PUT", "/upload/"), 1, "the config");
}
