//! Registries that lie about a cache: the build goes on without it, and says why.

use axum::response::Response;
use builder::{CacheFrom, Event, Events};
use cache::Digest;
use tokio_util::sync::CancellationToken;

use crate::edits::{open, request};
use crate::registry_support::{
    FakeRegistry, INDEX, MANIFEST, Seen, TinyImage, blob_response, document, status, with_header,
};

const ENTRIES: &str = "application/vnd.rbuild.cache.index.v1+json";

/// A name, how the registry answers, and what is said.
type Case = (&'static str, Box<dyn Fn(&Seen) -> Response + Send + Sync>, &'static str);

/// A manifest whose entries are in a blob of this digest and size.
fn manifest(media_type: &str, digest: &Digest, size: u64) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}},"layers":[]}}"#
    )
    .into_bytes()
}

/// Answers with the manifest of `entries`, and with `sent` where they are asked for.
fn serves(entries: &[u8], sent: &[u8]) -> Box<dyn Fn(&Seen) -> Response + Send + Sync> {
    let manifest = manifest(ENTRIES, &Digest::of(entries), entries.len() as u64);
    let sent = sent.to_vec();
    Box::new(move |seen| {
        if seen.path.contains("/manifests/") {
            document(&manifest, MANIFEST)
        } else {
            blob_response(&sent, None)
        }
    })
}

fn always(
    bytes: Vec<u8>,
    media_type: &'static str,
) -> Box<dyn Fn(&Seen) -> Response + Send + Sync> {
    Box::new(move |_| document(&bytes, media_type))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_survives_every_cache() {
    let digest = Digest::of(b"");
    let both =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[],"manifests":[]}}"#);
    let nested = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{INDEX}","digest":"{digest}","size":0}}]}}"#
    );
    let hostile = format!(
        r#"{{"version":1,"entries":[{{"key":"{digest}","diffId":"{digest}","size":18446744073709551615,"created":1,"blob":{{"mediaType":"x","digest":"{digest}","size":18446744073709551615}}}},{{"key":"../x"}}]}}"#
    );
    let image = TinyImage::new("a");
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("nothing there",    Box::new(|_| status(404, "{}")),                              "0 of 0 results"),
        ("an image",         Box::new(move |seen| image.answer(seen)),                     "0 of 0 results"),
        ("both kinds",       always(both.into_bytes(), MANIFEST),                          "both a manifest and an index"),
        ("a page",           always(b"<html>".to_vec(), "text/html"),                      "is not used"),
        ("index of indexes", always(nested.into_bytes(), INDEX),                           "is not used"),
        ("later version",    always(manifest("application/vnd.rbuild.cache.index.v7+json", &digest, 0), MANIFEST), "another version"),
        ("BuildKit's",       always(manifest("application/vnd.buildkit.cacheconfig.v0", &digest, 0), MANIFEST),    "a cache of BuildKit"),
        ("endless entries",  always(manifest(ENTRIES, &digest, 1 << 50), MANIFEST),        "more than"),
        ("another digest",   serves(b"{\"version\":1,\"entries\":[]}", b"{\"version\":1,\"entries\":[ ]"), "is not used"),
        ("no entries",       serves(b"[]", b"[]"),                                         "is not used"),
        ("hostile entries",  serves(hostile.as_bytes(), hostile.as_bytes()),               "1 of 1 results"),
        ("endless redirect", Box::new(|seen| with_header(307, "location", &seen.path)),    "too many redirects"),
        ("redirect away",    Box::new(|_| with_header(307, "location", "http://169.254.169.254/x")), "is refused"),
        ("access denied",    Box::new(|_| status(403, "{}")),                              "is not used"),
    ];
    for (name, answer, said) in cases {
        let registry = FakeRegistry::start(move |seen, _| answer(seen)).await;
        let (store, context) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(context.path().join("a"), "a").unwrap();
        let builder = open(store.path());
        let mut request = request(context.path());
        let from = format!("type=registry,ref={}/cache:x", registry.host());
        request.cache_from = vec![CacheFrom::parse(&from).unwrap()];
        let (events, mut seen) = Events::channel();
        let work = builder.build(request, events, CancellationToken::new());
        let notes = async {
            let mut notes = String::new();
            while let Some(event) = seen.recv().await {
                if let Event::Note { text } = event {
                    notes += &(text + "\n");
                }
            }
            notes
        };
        let (built, notes) = tokio::join!(work, notes);
        built.unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
        assert!(notes.contains(said), "{name}: {notes}");
    }
}
