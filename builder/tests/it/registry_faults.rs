//! A hostile registry: it lies, stalls, breaks off, throttles, and fishes for passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use builder::{Credentials, ErrorKind, PullPolicy, RegistryConfig};
use cache::Digest;

use crate::registry_support::*;

/// Answers in place of the image; the number is half the length of its layer.
type Trouble = fn(&TinyImage, usize) -> Response;
type Answer = Box<dyn Fn(&Seen, usize) -> Response + Send + Sync>;

/// Pulls `x/y:1` from a registry that answers by `answer`.
async fn pull_from(answer: Answer) -> (FakeRegistry, Bench, Result<bool, String>) {
    let fake = FakeRegistry::start(answer).await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x/y:1", fake.host()));
    let pulled = bench.sources.pull(&name, &amd64(), &bench.events).await;
    let outcome = pulled.map(|(_, is_same)| is_same).map_err(|error| told(&error));
    (fake, bench, outcome)
}

fn honest(image: &TinyImage) -> Answer {
    let image = image.clone();
    Box::new(move |seen, _| image.answer(seen))
}

/// Answers requests whose path holds `part` by `lie`, all others honestly.
fn lying(
    image: &TinyImage,
    part: &str,
    lie: impl Fn(&Seen, usize) -> Response + Send + Sync + 'static,
) -> Answer {
    let (image, part) = (image.clone(), part.to_owned());
    Box::new(
        move |seen, before| {
            if seen.path.contains(&part) { lie(seen, before) } else { image.answer(seen) }
        },
    )
}

fn reply(bytes: &[u8]) -> impl Fn(&Seen, usize) -> Response + Send + Sync + 'static {
    let bytes = bytes.to_vec();
    move |_, _| blob_response(&bytes, None)
}

fn reply_document(
    bytes: impl Into<Vec<u8>>,
    media_type: &'static str,
) -> impl Fn(&Seen, usize) -> Response + Send + Sync + 'static {
    let bytes = bytes.into();
    move |_, _| document(&bytes, media_type)
}

/// Pulls once from each registry, expects its error, and that nothing of its layer was kept.
async fn expect_errors(layer: Digest, cases: Vec<(&str, Answer, &str)>) {
    for (name, answer, want) in cases {
        let (_fake, bench, outcome) = pull_from(answer).await;
        let error = outcome.expect_err(name);
        assert!(error.contains(want), "{name}: {error}");
        assert!(!bench.store().content().contains(&layer), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_lie_are_found_out() {
    let image = TinyImage::new("a");
    let other = TinyImage::new("b");
    let layer = image.layer_digest().to_string();
    let config = Digest::of(&image.config).to_string();
    let bytes = &image.layer;
    let longer = [bytes.as_slice(), b"x"].concat();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let range = |_: &Seen, _| with_header(206, "content-range", "bytes 7-9/10");
    #[rustfmt::skip]
    let cases: Vec<(&str, Answer, &str)> = vec![
        ("another layer",   lying(&image, &layer, reply(&other.layer)),      "sent bytes with digest"),
        ("one bit",         lying(&image, &layer, reply(&flipped)),          "sent bytes with digest"),
        ("longer",          lying(&image, &layer, reply(&longer)),           "size is"),
        ("shorter",         lying(&image, &layer, reply(&bytes[1..])),       "size is"),
        ("endless",         lying(&image, &layer, |_, _| endless()),         "size is"),
        ("another config",  lying(&image, &config, reply(&other.config)),    "digest"),
        ("not there",       lying(&image, &layer, |_, _| status(404, "")),   "does not hold blob"),
        ("unasked range",   lying(&image, &layer, range),                    "206"),
    ];
    expect_errors(image.layer_digest(), cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie_are_found_out() {
    let image = TinyImage::new("a");
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let huge = text.replacen(&format!("\"size\":{}", image.config.len()), "\"size\":99999999", 1);
    let both = text.replacen('{', r#"{"manifests":[],"#, 1);
    let misnamed = {
        let manifest = image.manifest.clone();
        move |_: &Seen, _| {
            let mut response = document(&manifest, MANIFEST);
            let digest = Digest::of(b"x").to_string().parse().unwrap();
            response.headers_mut().insert("docker-content-digest", digest);
            response
        }
    };
    let endless_error = |_: &Seen, _| {
        let mut response = endless();
        *response.status_mut() = axum::http::StatusCode::IM_A_TEAPOT;
        response
    };
    let twice = image.clone().with_another_diff_id();
    #[rustfmt::skip]
    let cases: Vec<(&str, Answer, &str)> = vec![
        ("endless",          lying(&image, "/manifests/", |_, _| endless()),     "larger than the limit"),
        ("endless error",    lying(&image, "/manifests/", endless_error),        "418"),
        ("other digest",     lying(&image, "/manifests/", misnamed),             "sent bytes with digest"),
        ("huge config",      lying(&image, "/manifests/", reply_document(huge, MANIFEST)),              "more than the limit"),
        ("called an index",  lying(&image, "/manifests/", reply_document(image.manifest.clone(), INDEX)), "calls itself"),
        ("both kinds",       lying(&image, "/manifests/", reply_document(both, MANIFEST)),              "both a manifest and an index"),
        ("a page",           lying(&image, "/manifests/", reply_document("<html>", "text/html")),       "media type"),
        ("more diff_ids",    honest(&twice),                                     "lists 2 layers"),
    ];
    expect_errors(image.layer_digest(), cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_lead_to_an_image_or_to_an_error() {
    let image = TinyImage::new("a");
    let index = |kind: &str, below: &[u8], size: usize| {
        let digest = Digest::of(below);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}]}}"#
        )
        .into_bytes()
    };
    let one = index(MANIFEST, &image.manifest, image.manifest.len());
    let two = index(INDEX, &one, one.len());
    let three = index(INDEX, &two, two.len());
    let larger = index(MANIFEST, &image.manifest, image.manifest.len() + 1);
    let renamed = index(INDEX, &image.manifest, image.manifest.len());
    let elsewhere = index(MANIFEST, b"nowhere", 7);
    #[rustfmt::skip]
    let cases = [
        ("an index",             &one,       ""),
        ("an index of it",       &two,       ""),
        ("and one of that",      &three,     "is an index of indexes of indexes"),
        ("another size",         &larger,    "names a manifest of"),
        ("nowhere",              &elsewhere, "not found"),
        ("a manifest as index",  &renamed,   "calls itself"),
    ];
    for (name, top, want) in cases {
        let known = [one.clone(), two.clone(), three.clone()];
        let (image, top) = (image.clone(), top.clone());
        let answer: Answer = Box::new(move |seen, _| {
            if seen.path.ends_with("/manifests/1") {
                return document(&top, INDEX);
            }
            let is_asked = |bytes: &&Vec<u8>| seen.path.ends_with(&Digest::of(bytes).to_string());
            match known.iter().find(is_asked) {
                Some(index) => document(index, INDEX),
                None if seen.is_blob() || is_asked(&&image.manifest) => image.answer(seen),
                None => status(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            }
        });
        let (_fake, _bench, outcome) = pull_from(answer).await;
        match outcome {
            Ok(_) => assert_eq!(want, "", "{name}"),
            Err(error) => assert!(!want.is_empty() && error.contains(want), "{name}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_unpack_to_something_else_make_no_snapshot() {
    let image = TinyImage::new("a");
    #[rustfmt::skip]
    let cases = [
        ("wrong diff_id", TinyImage::of_layer(image.layer.clone(), Digest::of(b"else")),     "where the config says"),
        ("not gzip",      TinyImage::of_layer(vec![0x1f, 0x8b, 0, 0, 0], Digest::of(b"")),   "could not be"),
    ];
    for (name, image, want) in cases {
        let fake = FakeRegistry::start(honest(&image)).await;
        let bench = Bench::new(RegistryConfig::default());
        let wanted = reference(&format!("{}/x/y:1", fake.host()));
        let resolved =
            bench.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.expect(name);
        let error = bench.sources.materialize(&resolved, &bench.events).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Remote, "{name}");
        assert!(told(&error).contains(want), "{name}: {}", told(&error));
        assert_eq!(bench.store().usage().unwrap().snapshots.count, 0, "{name}");
    }
}

fn endless() -> Response {
    let piece = bytes::Bytes::from(vec![b' '; 64 << 10]);
    let stream = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
    Response::new(axum::body::Body::from_stream(stream))
}

#[tokio::test(flavor = "multi_thread")]
async fn troubles_that_pass_are_outlived() {
    let image = TinyImage::new("a");
    let layer = image.layer_digest().to_string();
    let half = image.layer.len() / 2;
    let again = |trouble: Trouble, times: usize| {
        let image = image.clone();
        move |seen: &Seen, before: usize| {
            if before < times { trouble(&image, image.layer.len() / 2) } else { image.answer(seen) }
        }
    };
    #[rustfmt::skip]
    let cases: Vec<(&str, &str, Trouble, usize, bool)> = vec![
        ("503 twice",             "/manifests/", |_, _| status(503, ""),                             2, true),
        ("429, then at once",     "/manifests/", |_, _| with_header(429, "retry-after", "0"),        4, true),
        ("429 for ever",          "/manifests/", |_, _| with_header(429, "retry-after", "0"),        9, false),
        ("502 on a blob",         &layer,        |_, _| status(502, ""),                             4, true),
        ("broken off",            &layer,        |image, half| interrupted(&image.layer, half, false), 1, true),
        ("silent",                &layer,        |image, half| interrupted(&image.layer, half, true),  1, true),
        ("broken off for ever",   &layer,        |image, _| interrupted(&image.layer, 0, false),     9, false),
    ];
    for (name, part, trouble, times, want) in cases {
        let (fake, _bench, outcome) = pull_from(lying(&image, part, again(trouble, times))).await;
        assert_eq!(outcome.is_ok(), want, "{name}: {outcome:?}");
        assert!(fake.count("GET", part) <= 5, "{name}: at most five tries");
        if name == "broken off" || name == "silent" {
            let ranges: Vec<_> = fake
                .seen()
                .iter()
                .filter_map(|seen| seen.header("range").map(str::to_owned))
                .collect();
            assert_eq!(ranges, [format!("bytes={half}-")], "{name}: goes on where it was");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured() {
    let image = TinyImage::new("a");
    let answer = {
        let image = image.clone();
        move |seen: &Seen, before| match before {
            0 => with_header(429, "retry-after", "1"),
            _ => image.answer(seen),
        }
    };
    let layer = image.layer_digest().to_string();
    let begin = Instant::now();
    let (_fake, _bench, outcome) = pull_from(lying(&image, &layer, answer)).await;
    outcome.unwrap();
    assert!(begin.elapsed().as_millis() >= 1000, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_is_given_up() {
    let image = TinyImage::new("a");
    let layer = image.layer_digest().to_string();
    let silent = {
        let image = image.clone();
        move |_: &Seen, _| interrupted(&image.layer, 0, true)
    };
    let (_fake, _bench, outcome) = pull_from(lying(&image, &layer, silent)).await;
    let error = outcome.unwrap_err();
    assert!(error.contains("sent nothing for"), "{error}");
}

fn with_login(host: &str) -> BTreeMap<String, Credentials> {
    let login = Credentials {
        username: "me".to_owned(),
        password: "s3cret".to_owned(),
        identity_token: None,
    };
    BTreeMap::from([(host.to_owned(), login)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_gets_no_password() {
    let image = TinyImage::new("a");
    let storage = FakeRegistry::start(honest(&image)).await;
    let target = format!("http://{}", storage.host());
    let answer: Answer = {
        let image = image.clone();
        Box::new(move |seen, _| match seen.header("authorization") {
            None => with_header(401, "www-authenticate", r#"Basic realm="x""#),
            Some(_) if seen.is_blob() => {
                with_header(307, "location", &format!("{target}{}?signature=x", seen.path))
            }
            Some(_) => image.answer(seen),
        })
    };
    let fake = FakeRegistry::start(answer).await;
    let bench = Bench::new(RegistryConfig::default());
    let registry = bench.sources.registry().with_credentials(with_login(&fake.host()));
    let sources = bench.sources.with_registry(registry);
    let name = reference(&format!("{}/x/y:1", fake.host()));
    sources.pull(&name, &amd64(), &bench.events).await.unwrap();
    assert!(fake.seen().iter().any(|seen| seen.header("authorization").is_some()));
    assert_eq!(storage.count("GET", "/blobs/"), 2, "layer and config");
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_astray_are_refused() {
    let image = TinyImage::new("a");
    let layer = image.layer_digest().to_string();
    #[rustfmt::skip]
    let cases = [
        ("for ever",     "/v2/x/y/blobs/again",                 "too many redirects"),
        ("metadata",     "http://169.254.169.254/latest",       "address of this machine or its link"),
        ("a file",       "file:///etc/passwd",                  "neither HTTP nor HTTPS"),
        ("a user name",  "http://me:pw@127.0.0.1:1/",           "carries a user name"),
    ];
    for (name, location, want) in cases {
        let lie = move |_: &Seen, _| with_header(302, "location", location);
        let answer: Answer = {
            let (image, layer) = (image.clone(), layer.clone());
            Box::new(move |seen, before| {
                if seen.path.contains(&layer) || seen.path.contains("again") {
                    lie(seen, before)
                } else {
                    image.answer(seen)
                }
            })
        };
        let (fake, _bench, outcome) = pull_from(answer).await;
        let error = outcome.expect_err(name);
        assert!(error.contains(want), "{name}: {error}");
        assert!(fake.seen().len() < 20, "{name}");
    }
}

/// A registry with a token service under `/token`, on the same or another address.
fn token_registry(image: &TinyImage, realm: String) -> Answer {
    let image = image.clone();
    Box::new(move |seen, _| {
        if seen.path == "/token" {
            let scope = "scope=repository%3Ax%2Fy%3Apull";
            let is_asked = seen.query.contains(scope) && seen.query.contains("service=fake");
            return if is_asked {
                status(200, r#"{"token":"t0ken","expires_in":300}"#)
            } else {
                status(400, "")
            };
        }
        if seen.header("authorization") == Some("Bearer t0ken") {
            return image.answer(seen);
        }
        let challenge =
            format!(r#"Bearer realm="{realm}",service="fake",scope="repository:x/y:pull""#);
        with_header(401, "www-authenticate", &challenge)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_and_passwords_stay_at_home() {
    let image = TinyImage::new("a");
    let realm = Arc::new(std::sync::Mutex::new(String::new()));
    let answer: Answer = {
        let (image, realm) = (image.clone(), Arc::clone(&realm));
        Box::new(move |seen, before| {
            let realm = realm.lock().unwrap().clone();
            token_registry(&image, realm)(seen, before)
        })
    };
    let fake = FakeRegistry::start(answer).await;
    let name = reference(&format!("{}/x/y:1", fake.host()));

    *realm.lock().unwrap() = format!("http://{}/token", fake.host());
    let bench = Bench::new(RegistryConfig::default());
    let registry = bench.sources.registry().with_credentials(with_login(&fake.host()));
    bench
        .sources
        .with_registry(registry.clone())
        .pull(&name, &amd64(), &bench.events)
        .await
        .unwrap();
    let asked: Vec<_> = fake.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!(asked.len(), 1, "one token serves all requests");
    assert_eq!(asked[0].header("authorization"), Some("Basic bWU6czNjcmV0"));

    let thief = FakeRegistry::start(|_, _| status(200, r#"{"token":"x"}"#)).await;
    // Another loopback address: nothing says that both have one owner.
    let elsewhere = format!("http://127.0.0.2:{}/token", thief.address.port());
    *realm.lock().unwrap() = elsewhere;
    let bench = Bench::new(RegistryConfig::default());
    let registry = bench.sources.registry().with_credentials(with_login(&fake.host()));
    let sources = bench.sources.with_registry(registry);
    let error =
        sources.pull(&name, &amd64(), &bench.events).await.expect_err("the realm is foreign");
    assert!(told(&error).contains("another domain"), "{}", told(&error));
    assert!(thief.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_fetch_a_layer_once() {
    let image = TinyImage::new("a");
    let fake = FakeRegistry::start(honest(&image)).await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x/y:1", fake.host()));
    let resolved = bench.sources.resolve(&name, &amd64(), PullPolicy::Missing).await.unwrap();
    assert!(!bench.store().content().contains(&image.layer_digest()), "resolving pulls no layer");
    let (one, two) = tokio::join!(
        bench.sources.materialize(&resolved, &bench.events),
        bench.sources.materialize(&resolved, &bench.events),
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(fake.count("GET", &image.layer_digest().to_string()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_rotted_on_disk_is_fetched_again() {
    let image = TinyImage::new("a");
    let fake = FakeRegistry::start(honest(&image)).await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x/y:1", fake.host()));
    let (resolved, _) = bench.sources.pull(&name, &amd64(), &bench.events).await.unwrap();
    let path = bench.store().content().path(&image.layer_digest());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    bench.sources.materialize(&resolved, &bench.events).await.unwrap().unwrap();
    assert_eq!(fake.count("GET", &image.layer_digest().to_string()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_in_a_push_is_renewed() {
    let image = TinyImage::new("a");
    let realm = Arc::new(std::sync::Mutex::new(String::new()));
    let answer: Answer = {
        let (image, realm) = (image.clone(), Arc::clone(&realm));
        Box::new(move |seen, before| {
            if seen.path == "/token" {
                return status(200, &format!(r#"{{"token":"t{before}","expires_in":300}}"#));
            }
            let challenge = format!(r#"Bearer realm="{}""#, realm.lock().unwrap());
            let refused = || with_header(401, "www-authenticate", &challenge);
            let is_write = matches!(seen.method.as_str(), "PUT" | "POST");
            match seen.header("authorization") {
                None => refused(),
                // Every body meets a token that has just run out.
                Some(_) if seen.method == "PUT" && before == 0 => refused(),
                Some(_) if seen.method == "POST" => {
                    with_header(202, "location", &format!("/upload/{before}"))
                }
                Some(_) if is_write => status(201, ""),
                Some(_) if seen.method == "HEAD" && seen.is_blob() => status(404, ""),
                Some(_) => image.answer(seen),
            }
        })
    };
    let fake = FakeRegistry::start(answer).await;
    *realm.lock().unwrap() = format!("http://{}/token", fake.host());
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x/y:1", fake.host()));
    let (pulled, _) = bench.sources.pull(&name, &amd64(), &bench.events).await.unwrap();
    let other = reference(&format!("{}/x/z:1", fake.host()));
    builder::push(&bench.sources, &pulled, &other, &bench.events).await.unwrap();
    assert_eq!(fake.count("PUT", "/manifests/"), 2, "refused, then taken");
    assert_eq!(fake.count("PUT", "/upload/"), 4, "layer and config, each refused and taken");
}
