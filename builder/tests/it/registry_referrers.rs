//! What refers to an image: lists of registries, and the index that clients keep without one.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use axum::response::{IntoResponse as _, Response};
use builder::{RegistryConfig, push};
use cache::Digest;

use crate::registry_support::*;

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/spdx+json";

type Answer = fn(&Seen) -> Response;
/// What is found of all types, and of SBOMs; or what is said.
type Want = Result<(&'static [&'static str], &'static [&'static str]), &'static str>;

/// Makes an index of referrers, each a type and what tells it from others.
fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(kind, seed): &(&str, &str)| {
        let digest = Digest::of(seed.as_bytes());
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":7,"artifactType":"{kind}","annotations":{{"seed":"{seed}"}}}}"#
        )
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let text = r#"{"schemaVersion":2,"mediaType":"INDEX","manifests":[ALL]}"#;
    text.replace("INDEX", INDEX).replace("ALL", &entries.join(",")).into_bytes()
}

fn page(entries: &[(&str, &str)], next: Option<&str>) -> Response {
    let headers = [("content-type", INDEX.to_owned())];
    let mut response = (headers, index(entries)).into_response();
    if let Some(url) = next {
        let link = format!("<{url}>; rel=\"next\"").parse().unwrap();
        response.headers_mut().insert("link", link);
    }
    response
}

fn two_pages(seen: &Seen) -> Response {
    if seen.query.contains("last") {
        return page(&[(SBOM, "b")], None);
    }
    page(&[(SIGNATURE, "a")], Some("?last=1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page_and_from_the_tag_where_there_is_none() {
    let image = TinyImage::new("x");
    let subject = Digest::of(&image.manifest);
    let tag = format!("/manifests/sha256-{}", subject.to_string().trim_start_matches("sha256:"));
    // What the list answers, then the tag.
    #[rustfmt::skip]
    let cases: [(&str, Answer, Answer, Want); 10] = [
        ("a list",         |_| page(&[(SIGNATURE, "a"), (SBOM, "b")], None),  |_| status(500, ""),                                  Ok((&["a", "b"], &["b"]))),
        ("two pages",      two_pages,                                         |_| status(500, ""),                                  Ok((&["a", "b"], &["b"]))),
        ("empty",          |_| page(&[], None),                               |_| status(500, ""),                                  Ok((&[], &[]))),
        ("a tag",          |_| status(404, ""),                               |_| document(&index(&[(SIGNATURE, "a"), (SBOM, "b")]), INDEX), Ok((&["a", "b"], &["b"]))),
        ("a page",         |_| status(200, "<html>"),                         |_| document(&index(&[(SIGNATURE, "a")]), INDEX),     Ok((&["a"], &[]))),
        ("neither",        |_| status(404, ""),                               |_| status(404, ""),                                  Ok((&[], &[]))),
        ("denied",         |_| status(403, ""),                               |_| status(500, ""),                                  Err("pull access denied")),
        ("no index",       |_| ([("content-type", INDEX)], "[]").into_response(), |_| status(500, ""),                              Err("unusable manifest")),
        ("endless",        |_| page(&[(SBOM, "b")], Some("?last=1")),         |_| status(500, ""),                                  Err("the list of referrers")),
        ("goes elsewhere", |_| page(&[(SBOM, "b")], Some("http://127.0.0.1:1/")), |_| status(500, ""),                              Err("a list goes on where it began")),
    ];
    for (case, list, tagged, want) in cases {
        let (image, tag) = (image.clone(), tag.clone());
        let fake = FakeRegistry::start(move |seen, _| match &*seen.path {
            path if path.contains("/referrers/") => list(seen),
            path if path.ends_with(&tag) => tagged(seen),
            path if path.ends_with("/tags/list") => status(200, "{}"),
            _ => image.answer(seen),
        })
        .await;
        let bench = Bench::new(RegistryConfig::default());
        let name = reference(&format!("{}/team/x:1", fake.host()));
        let mut found = Vec::new();
        for kind in [None, Some(SBOM)] {
            match bench.sources.referrers(&name, kind).await {
                Ok(all) => {
                    let seeds = all.iter().map(|one| one.annotations["seed"].clone());
                    found.push(seeds.collect::<Vec<_>>());
                }
                Err(error) => {
                    let text = told(&error);
                    assert!(want.is_err_and(|want| text.contains(want)), "{case}: {text}");
                }
            }
        }
        if let Ok((all, some)) = want {
            assert_eq!(found, [all, some], "{case}");
        }
        assert!(
            fake.seen()
                .iter()
                .any(|seen| seen.query.contains("artifactType=application%2Fspdx%2Bjson"))
                || want.is_err(),
            "{case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_with_a_subject_is_found_at_it() {
    let subject = TinyImage::new("subject");
    let digest = Digest::of(&subject.manifest);
    let members = format!(
        r#""subject":{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}},"artifactType":"{SBOM}","annotations":{{"seed":"REST"}},"layers":"#,
        subject.manifest.len()
    );
    let about = |rest: &str| {
        let mut image = TinyImage::new(rest);
        let text = String::from_utf8(image.manifest).unwrap();
        image.manifest = text.replace(r#""layers":"#, &members.replace("REST", rest)).into_bytes();
        image
    };
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    for (image, tag) in
        [(subject.clone(), "1"), (about("a"), "a"), (about("b"), "b"), (about("b"), "b")]
    {
        let fake = FakeRegistry::start(move |seen, _| image.answer(seen)).await;
        let from = reference(&format!("{}/team/x:{tag}", fake.host()));
        let (image, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
        let to = reference(&format!("{}/team/x:{tag}", peer.host));
        push(&bench.sources, &image, &to, &bench.events).await.unwrap();
    }
    for name in ["x:1".to_owned(), format!("x@{digest}")] {
        let name = reference(&format!("{}/team/{name}", peer.host));
        let found = bench.sources.referrers(&name, Some(SBOM)).await.unwrap();
        let seeds: Vec<_> = found.iter().map(|one| one.annotations["seed"].as_str()).collect();
        assert_eq!(seeds, ["a", "b"]);
        let wanted = Digest::of(&about("a").manifest).to_string();
        assert_eq!((&found[0].digest, &*found[0].media_type), (&wanted, MANIFEST));
        assert!(bench.sources.referrers(&name, Some(SIGNATURE)).await.unwrap().is_empty());
    }
}
