//! Pull, export and load against real peers: docker-registry, skopeo, umoci.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use builder::{
    ArchiveDest, ArchiveKind, ExportImage, PullPolicy, PushForm, RegistryConfig, ResolvedImage,
    export, load, push, push_target, read_target,
};

use crate::registry_support::*;

/// Finds a file of a materialized image.
pub(super) async fn read_file(bench: &Bench, image: &ResolvedImage, path: &str) -> Vec<u8> {
    let id = bench.sources.materialize(image, &bench.events).await.unwrap().unwrap();
    let lowers = bench.store().snapshots().lowers(&id).unwrap();
    let found = lowers.iter().map(|lower| lower.join(path)).find(|path| path.exists());
    std::fs::read(found.unwrap_or_else(|| panic!("`{path}` is in none of {lowers:?}"))).unwrap()
}

pub(super) async fn write(
    bench: &Bench,
    images: &[(&ResolvedImage, &[&str])],
    kind: ArchiveKind,
    path: &Path,
) {
    let images = images.iter().map(|(image, names)| ExportImage {
        target: (*image).clone().into(),
        names: names.iter().map(|name| reference(name)).collect(),
    });
    let dest = ArchiveDest::File(path.to_owned());
    export(&bench.sources, images.collect(), kind, dest, &bench.events).await.unwrap();
}

pub(super) fn skopeo(arguments: &[&str]) -> serde_json::Value {
    let mut all = vec!["--insecure-policy"];
    all.extend(arguments);
    let text = run("skopeo", &all);
    serde_json::from_str(&text).unwrap_or(serde_json::Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_leaves_as_it_came() {
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "team/busybox", None);
    let name = format!("{}/team/busybox:1", peer.host);

    let wanted = reference(&name);
    let resolved = bench.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.unwrap();
    assert!(resolved.layers.iter().all(|layer| !bench.store().content().contains(&layer.digest)));
    let (image, is_same) = bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap();
    assert!(!is_same, "the layers had to move");
    assert_eq!(image, resolved);
    let (_, is_same) = bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap();
    assert!(is_same, "nothing had to move the second time");

    let busybox = read_file(&bench, &image, "bin/busybox").await;
    assert!(busybox == std::fs::read("/bin/busybox").unwrap());
    assert_eq!(read_file(&bench, &image, "etc/hostname").await, b"testee\n");

    let (oci, docker) = (bench.path("oci.tar"), bench.path("docker.tar"));
    write(&bench, &[(&image, &[&name])], ArchiveKind::Oci, &oci).await;
    write(&bench, &[(&image, &[&name])], ArchiveKind::Docker, &docker).await;
    let there = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    let here = skopeo(&["inspect", &format!("oci-archive:{}:1", oci.display())]);
    for field in ["Digest", "Layers", "Env", "Architecture", "Os"] {
        assert_eq!(here[field], there[field], "{field}");
    }
    let here = skopeo(&["inspect", &format!("docker-archive:{}", docker.display())]);
    let layers = here["Layers"].as_array().unwrap();
    let diff_ids: Vec<_> = image.diff_ids.iter().map(ToString::to_string).collect();
    assert_eq!(layers.iter().map(|layer| layer.as_str().unwrap()).collect::<Vec<_>>(), diff_ids);
    // skopeo reads every byte here and checks it against the diff_ids.
    let copy = format!("oci:{}:1", bench.path("copy").display());
    skopeo(&["copy", "-q", &format!("docker-archive:{}", docker.display()), &copy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_images_give_the_same_archive() {
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "a", None);
    let wanted = reference(&format!("{}/a:1", peer.host));
    let (image, _) = bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap();
    for (name, kind) in [("oci", ArchiveKind::Oci), ("docker", ArchiveKind::Docker)] {
        let files = ["first", "second"].map(|turn| bench.path(&format!("{turn}-{name}.tar")));
        for file in &files {
            let images: [(&ResolvedImage, &[&str]); 2] =
                [(&image, &["one:1", "quay.io/two:2"]), (&image, &["three:3"])];
            write(&bench, &images, kind, file).await;
        }
        let [first, second] = files.map(|file| std::fs::read(file).unwrap());
        assert!(first == second, "{name}");
        let once = first.len() as u64;
        let layers: u64 = image.layers.iter().map(|layer| layer.size).sum();
        assert!(once < 2 * layers.max(2_500_000), "{name}: shared layers are written once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lead_to_mirrors_and_unknown_ones_to_known_words() {
    let peer = DockerRegistry::start();
    let url = format!("http://{}", peer.host);
    let bench = Bench::new(hub_mirror(&url));
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "library/busybox", None);
    let resolve = |name: &'static str| {
        let sources = bench.sources.clone();
        async move { sources.resolve(&reference(name), &amd64(), PullPolicy::Missing).await }
    };
    let image = resolve("busybox:1").await.unwrap();
    assert_eq!(image.reference, "docker.io/library/busybox:1");
    #[rustfmt::skip]
    let cases = [
        ("no such tag",        "busybox:2",   "manifest for busybox:2 not found"),
        ("no such repository", "nonesuch:1",  "pull access denied for nonesuch, repository does not exist or may require 'docker login'"),
        ("no such digest",     "busybox@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                               "manifest for busybox@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 not found"),
    ];
    for (case, name, want) in cases {
        let error = resolve(name).await.expect_err(case);
        assert_eq!(error.to_string(), want, "{case}");
        assert_eq!(error.kind(), builder::ErrorKind::User, "{case}");
    }
    // The registry is gone, the name is still here.
    drop(peer);
    assert_eq!(resolve("busybox:1").await.unwrap(), image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mirror_is_passed_over() {
    let peer = DockerRegistry::start();
    let mut config = hub_mirror("http://127.0.0.1:1");
    config.mirrors.get_mut("docker.io").unwrap().push(format!("http://{}", peer.host));
    let bench = Bench::new(config);
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "library/busybox", None);
    bench.sources.pull(&reference("busybox:1"), &amd64(), &bench.events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_places_that_failed_are_named() {
    let mirrors = BTreeMap::from([("127.0.0.1:1".into(), vec!["http://127.0.0.1:2".into()])]);
    let bench = Bench::new(RegistryConfig { mirrors, ..RegistryConfig::default() });
    let wanted = reference("127.0.0.1:1/x");
    let error = bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap_err();
    assert_eq!(error.kind(), builder::ErrorKind::Remote);
    let text = told(&error);
    for want in ["mirror `127.0.0.1:2`: could not reach", "reach registry `127.0.0.1:1`", "refused"]
    {
        assert!(text.contains(want), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_dockers_config() {
    let peer = DockerRegistry::start_protected("me", "s3cret");
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "private", Some("me:s3cret"));
    let wanted = reference(&format!("{}/private:1", peer.host));
    let denied = format!("pull access denied for {}/private, repository", peer.host);
    let key = peer.host.clone();
    #[rustfmt::skip]
    let cases = [
        ("right",           format!(r#"{{"auths":{{"{key}":{{"auth":"bWU6czNjcmV0"}}}}}}"#),         true),
        ("with a scheme",   format!(r#"{{"auths":{{"http://{key}/v2/":{{"auth":"bWU6czNjcmV0"}}}}}}"#), true),
        ("wrong",           format!(r#"{{"auths":{{"{key}":{{"auth":"bWU6d3Jvbmc="}}}}}}"#),         false),
        ("other host",      r#"{"auths":{"docker.io":{"auth":"bWU6czNjcmV0"}}}"#.to_owned(),         false),
        ("none",            "{}".to_owned(),                                                         false),
    ];
    for (case, text, want) in cases {
        let file = bench.path("config.json");
        std::fs::write(&file, text).unwrap();
        let bench =
            Bench::new(RegistryConfig { auth_file: Some(file), ..RegistryConfig::default() });
        let outcome = bench.sources.pull(&wanted, &amd64(), &bench.events).await;
        match outcome {
            Ok((image, _)) => {
                assert!(want, "{case}");
                let to = reference(&format!("{}/pushed:1", peer.host));
                push(&bench.sources, &image, &to, &bench.events).await.expect(case);
            }
            Err(error) => {
                assert!(!want, "{case}: {}", told(&error));
                assert!(error.to_string().starts_with(&denied), "{case}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_read_by_platform() {
    let image = TinyImage::new("a");
    let other = TinyImage::new("b");
    let digest = |bytes: &[u8]| cache::Digest::of(bytes).to_string();
    let entry = |image: &TinyImage, architecture: &str| {
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            digest(&image.manifest),
            image.manifest.len()
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        entry(&other, "s390x"),
        entry(&image, "amd64")
    );
    let (index_there, image_there) = (index.clone(), image.clone());
    let fake = FakeRegistry::start(move |seen, _| {
        if seen.path.ends_with("/manifests/1") {
            document(index_there.as_bytes(), INDEX)
        } else if seen.path.ends_with(&digest(&other.manifest)) {
            document(&other.manifest, MANIFEST)
        } else {
            image_there.answer(seen)
        }
    })
    .await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x:1", fake.host()));
    let found = bench.sources.resolve(&name, &amd64(), PullPolicy::Missing).await.unwrap();
    assert_eq!(found.manifest.digest, cache::Digest::of(&image.manifest));
    assert_eq!(found.target.digest, cache::Digest::of(index.as_bytes()));
    let arm = frontend::Platform::parse("linux/arm64").unwrap();
    let error = bench.sources.resolve(&name, &arm, PullPolicy::Missing).await.unwrap_err();
    assert!(told(&error).contains("there are linux/s390x, linux/amd64"), "{}", told(&error));
    // Known by its digest, nothing but that digest is asked for again.
    bench.sources.resolve(&name, &amd64(), PullPolicy::Always).await.unwrap();
    assert_eq!(fake.count("GET", "/manifests/1"), 1);
}

/// An index of images for amd64 and arm64, annotated, and, with `is_attested`, of something that is
/// no image.
fn annotated_index(amd: &TinyImage, arm: &TinyImage, is_attested: bool) -> Vec<u8> {
    let entry = |manifest: &[u8], platform: &str, note: &str| {
        serde_json::json!({
            "mediaType": MANIFEST,
            "digest": cache::Digest::of(manifest),
            "size": manifest.len(),
            "platform": { "os": "linux", "architecture": platform, "os.version": "7" },
            "annotations": { "org.example.note": note },
        })
    };
    let mut entries =
        vec![entry(&amd.manifest, "amd64", "first"), entry(&arm.manifest, "arm64", "second")];
    if is_attested {
        entries.push(entry(b"{}", "unknown", "attestation"));
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": entries,
        "annotations": { "org.example.all": "yes" },
    });
    index.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn pulling_for_two_platforms_keeps_both() {
    let arm = TinyImage::new("b");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let config = text(&arm.config).replace("amd64", "arm64").into_bytes();
    let manifest = text(&arm.manifest)
        .replace(
            &cache::Digest::of(&arm.config).to_string(),
            &cache::Digest::of(&config).to_string(),
        )
        .into_bytes();
    let arm = TinyImage { config, manifest, ..arm };
    let amd = TinyImage::new("a");
    let peer = DockerRegistry::start();
    for is_attested in [false, true] {
        let index = annotated_index(&amd, &arm, is_attested);
        let (there, both) = (index.clone(), [amd.clone(), arm.clone()]);
        let fake = FakeRegistry::start(move |seen, _| {
            if seen.path.ends_with("/manifests/1") {
                return document(&there, INDEX);
            }
            let is_of = |bytes: &[u8]| seen.path.contains(&cache::Digest::of(bytes).to_string());
            let owner = |it: &&TinyImage| {
                [&it.manifest, &it.config, &it.layer].into_iter().any(|bytes| is_of(bytes))
            };
            both.iter().find(owner).unwrap().answer(seen)
        })
        .await;
        let bench = Bench::new(RegistryConfig::default());
        let name = reference(&format!("{}/x:1", fake.host()));
        let record = || bench.store().images().get(&name.to_string()).unwrap().unwrap();
        let known = || read_target(bench.store(), "x", &record().manifest).unwrap().unwrap();
        let [amd64, arm64] =
            ["amd64", "arm64"].map(|it| frontend::Platform::parse(&format!("linux/{it}")).unwrap());

        bench.sources.pull(&name, &amd64, &bench.events).await.unwrap();
        let to = |tag: &str| reference(&format!("{}/x:{is_attested}-{tag}", peer.host));
        let form = PushForm::default();
        let pushed = push_target(&bench.sources, &known(), &to("one"), &form, &bench.events).await;
        assert_eq!(pushed.unwrap().digest, cache::Digest::of(&amd.manifest), "all that is here");

        bench.sources.pull(&name, &arm64, &bench.events).await.unwrap();
        let before = fake.seen().len();
        for (platform, image) in [(&amd64, &amd), (&arm64, &arm)] {
            let found = bench.sources.resolve(&name, platform, PullPolicy::Missing).await.unwrap();
            assert_eq!(found.manifest.digest, cache::Digest::of(&image.manifest));
            let pinned = format!("{}/x@{}", fake.host(), found.manifest.digest);
            let pinned = reference(&pinned);
            let found = bench.sources.resolve(&pinned, platform, PullPolicy::Missing).await;
            assert_eq!(found.unwrap().manifest.digest, cache::Digest::of(&image.manifest));
        }
        assert_eq!(fake.seen().len(), before, "both are here");
        assert_eq!(known().images.len(), 2);

        let pushed = push_target(&bench.sources, &known(), &to("both"), &form, &bench.events).await;
        let is_same = pushed.unwrap().digest == cache::Digest::of(&index);
        assert_eq!(is_same, !is_attested, "what is whole stays as it came");
        let raw = format!("docker://{}", to("both").familiar());
        let there = skopeo(&["inspect", "--raw", "--tls-verify=false", &raw]);
        assert_eq!(there["annotations"]["org.example.all"], "yes", "{there}");
        let entries = there["manifests"].as_array().unwrap();
        let notes: Vec<_> =
            entries.iter().map(|it| &it["annotations"]["org.example.note"]).collect();
        assert_eq!(notes, ["first", "second"], "{there}");
        assert!(entries.iter().all(|it| it["platform"]["os.version"] == "7"), "{there}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_of_a_name_are_of_one_index() {
    let (amd, arm) = (TinyImage::new("a"), TinyImage::new("b"));
    let [old, new] = [(&amd, &arm), (&arm, &amd)].map(|(a, b)| annotated_index(a, b, false));
    let first = old.clone();
    let both = [amd.clone(), arm.clone()];
    // The tag moves after it was asked for once.
    let fake = FakeRegistry::start(move |seen, before| {
        if seen.path.ends_with("/manifests/1") {
            return document(if before == 0 { &first } else { &new }, INDEX);
        }
        let owner = |it: &&TinyImage| {
            let all = [&it.manifest, &it.config, &it.layer];
            all.into_iter().any(|it| seen.path.contains(&cache::Digest::of(it).to_string()))
        };
        both.iter().find(owner).unwrap().answer(seen)
    })
    .await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x:1", fake.host()));
    for (platform, image) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
        let platform = frontend::Platform::parse(platform).unwrap();
        let found = bench.sources.resolve(&name, &platform, PullPolicy::Missing).await.unwrap();
        assert_eq!(found.manifest.digest, cache::Digest::of(&image.manifest));
        assert_eq!(found.target.digest, cache::Digest::of(&old));
    }
    assert_eq!(fake.count("GET", "/manifests/1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_other_tools_are_loaded() {
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    let from = format!("oci:{}:1", layout.display());
    let path = |name: &str| bench.path(name).display().to_string();
    skopeo(&["copy", "-q", &from, &format!("docker-archive:{}:team/app:7", path("docker.tar"))]);
    skopeo(&["copy", "-q", &from, &format!("oci-archive:{}:quay.io/team/app:8", path("oci.tar"))]);
    std::fs::write(path("docker.tar.gz"), gzip(&std::fs::read(path("docker.tar")).unwrap()))
        .unwrap();
    #[rustfmt::skip]
    let cases = [
        ("docker",         "docker.tar",     "team/app:7"),
        ("docker, gzip",   "docker.tar.gz",  "team/app:7"),
        ("oci",            "oci.tar",        "quay.io/team/app:8"),
    ];
    for (case, file, name) in cases {
        let bench = Bench::new(RegistryConfig::default());
        let archive = Box::new(std::fs::File::open(path(file)).unwrap());
        let names = load(bench.store(), archive, &amd64()).await.expect(case);
        assert_eq!(names, [name], "{case}");
        let wanted = reference(name);
        let image =
            bench.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.expect(case);
        assert_eq!(read_file(&bench, &image, "etc/hostname").await, b"testee\n", "{case}");
        // And out again, through both forms.
        for kind in [ArchiveKind::Oci, ArchiveKind::Docker] {
            let out = bench.path("again.tar");
            write(&bench, &[(&image, &[name])], kind, &out).await;
            let second = Bench::new(RegistryConfig::default());
            let archive = Box::new(std::fs::File::open(&out).unwrap());
            assert_eq!(
                load(second.store(), archive, &amd64()).await.expect(case),
                [name],
                "{case}"
            );
            let again =
                second.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.expect(case);
            assert_eq!(again.config_digest, image.config_digest, "{case} {kind:?}");
        }
    }
}

/// Paths and contents of an archive.
type Files<'a> = Vec<(&'a str, &'a [u8])>;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_are_refused() {
    let image = TinyImage::new("a");
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", cache::Digest::of(bytes).hex());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}]}}"#,
        cache::Digest::of(&image.manifest),
        image.manifest.len()
    );
    let (layer, config, manifest) =
        (path(&image.layer), path(&image.config), path(&image.manifest));
    let whole: Files<'_> = vec![
        ("index.json", index.as_bytes()),
        (&manifest, &image.manifest),
        (&config, &image.config),
        (&layer, &image.layer),
    ];
    let without = |left_out: &str| -> Files<'_> {
        whole.iter().copied().filter(|(path, _)| *path != left_out).collect()
    };
    let mut swapped = without(&layer);
    swapped.push((&layer, b"other bytes"));
    let wrong = TinyImage::of_layer(image.layer.clone(), cache::Digest::of(b"x"));
    let (wrong_config, docker) =
        ("c.json", r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]"#);
    let escaping = r#"[{"Config":"../../../etc/passwd","RepoTags":["x:1"],"Layers":[]}]"#;
    let bad_name = docker.replace("x:1", "UPPER:1");
    #[rustfmt::skip]
    let cases: Vec<(&str, Files<'_>, &str)> = vec![
        ("whole",            whole.clone(),                                            ""),
        ("no layer",         without(&layer),                                          "does not hold it"),
        ("no config",        without(&config),                                         "does not hold it"),
        ("no manifest",      without(&manifest),                                       "does not hold it"),
        ("other bytes",      swapped,                                                  "could not take in"),
        ("no index",         without("index.json"),                                    "neither an OCI image layout nor"),
        ("wrong diff_id",    vec![("manifest.json", docker.as_bytes()), (wrong_config, &wrong.config), ("l.tar", &image.layer)], "where the config says"),
        ("escaping path",    vec![("manifest.json", escaping.as_bytes())],             "does not hold it"),
        ("bad name",         vec![("manifest.json", bad_name.as_bytes()), ("c.json", &image.config), ("l.tar", &image.layer)], "not a valid name"),
        ("damaged json",     vec![("manifest.json", b"[{")],                           "has not the form"),
        ("nothing",          vec![],                                                   "neither an OCI image layout nor"),
    ];
    for (case, files, want) in cases {
        let bench = Bench::new(RegistryConfig::default());
        let archive = Box::new(std::io::Cursor::new(tar_of(&files)));
        match load(bench.store(), archive, &amd64()).await {
            Ok(names) => assert!(want.is_empty(), "{case}: {names:?}"),
            Err(error) => {
                let text = told(&error);
                assert!(!want.is_empty() && text.contains(want), "{case}: {text}");
                assert!(bench.store().images().list().unwrap().is_empty(), "{case}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_may_unpack_one_layer() {
    let image = Arc::new(TinyImage::new("a"));
    let there = Arc::clone(&image);
    let fake = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let bench = Bench::new(RegistryConfig::default());
    // Sources of their own share nothing but the store, as two processes do.
    let other = builder::Sources::new(bench.store().clone(), bench.sources.registry().clone());
    let name = reference(&format!("{}/x/y:1", fake.host()));
    let resolved = bench.sources.resolve(&name, &amd64(), PullPolicy::Missing).await.unwrap();
    let (one, two) = tokio::join!(
        bench.sources.materialize(&resolved, &bench.events),
        other.materialize(&resolved, &bench.events),
    );
    assert_eq!(one.unwrap(), two.unwrap());
}
