//! What leaves for registries and archives: images as they came, and layers that were built here.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::sync::{Arc, Mutex};

use builder::{
    ArchiveDest, ArchiveKind, ExportImage, LayerSource, PullPolicy, RegistryConfig, ResolvedImage,
    SourceError, built_layer, export, load, push, write_image,
};
use frontend::Reference;

use crate::registry::{read_file, skopeo, write};
use crate::registry_support::*;

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_and_blobs_mounted() {
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "from", None);
    let name = |repository: &str| reference(&format!("{}/{repository}:1", peer.host));
    let (image, _) = bench.sources.pull(&name("from"), &amd64(), &bench.events).await.unwrap();
    for repository in ["to", "to"] {
        let pushed = push(&bench.sources, &image, &name(repository), &bench.events).await.unwrap();
        assert_eq!(pushed, image.manifest);
    }
    let there = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{}/to:1", peer.host)]);
    assert_eq!(there["Digest"], image.manifest.digest.to_string());
    let copy = format!("dir:{}", bench.path("copy").display());
    skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        &format!("docker://{}/to:1", peer.host),
        &copy,
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_in_pieces_where_they_must() {
    let image = TinyImage::new("a");
    let layer = image.layer_digest().to_string();
    let fake = FakeRegistry::start(|seen, _| match (seen.method.as_str(), seen.path.as_str()) {
        ("HEAD", _) => status(404, ""),
        ("POST", path) => with_header(202, "location", &format!("{path}1?state=x")),
        ("PATCH", path) => with_header(202, "location", path),
        ("PUT", path) if path.contains("/blobs/") && seen.header("content-length") != Some("0") => {
            status(413, "too large")
        }
        _ => status(201, ""),
    })
    .await;
    let bench = Bench::new(RegistryConfig::default());
    let source = image.clone();
    let origin = FakeRegistry::start(move |seen, _| source.answer(seen)).await;
    let from = reference(&format!("{}/x/y:1", origin.host()));
    let (pulled, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
    let to: Reference = reference(&format!("{}/x/z:1", fake.host()));
    push(&bench.sources, &pulled, &to, &bench.events).await.unwrap();
    let last = fake.seen().into_iter().filter(|seen| seen.method == "PUT" && seen.is_blob());
    let digests =
        last.filter(|seen| seen.header("content-length") == Some("0")).map(|seen| seen.query);
    assert!(digests.into_iter().any(|query| query.contains(&layer.replace(':', "%3A"))));
    assert!(fake.count("PATCH", "/blobs/") >= 2, "layer and config");
}

/// Commits a directory with one file as a layer, as a build does, and makes an image of it on top
/// of `base`.
fn build_on(bench: &Bench, base: &ResolvedImage, parent: &cache::SnapshotId) -> ResolvedImage {
    let active = bench.store().snapshots().prepare(Some(parent)).unwrap();
    std::fs::write(active.upper().join("built"), noise(3_000_000)).unwrap();
    let source = LayerSource::Snapshot { upper: active.upper().to_owned(), latest: None };
    let nobody = cache::DiffId(cache::Digest::of(b"nobody"));
    let Err(SourceError::Damaged { found: diff_id, .. }) =
        source.write_tar(nobody, std::io::sink())
    else {
        panic!("no layer has that diff_id");
    };
    let size = source.write_tar(diff_id, std::io::sink()).unwrap();
    let snapshot = active.commit(None).unwrap();
    let id = snapshot.id.clone();
    bench.store().layers().update(&diff_id, |record| record.snapshot = Some(id)).unwrap();
    let mut config = base.config.clone();
    config.rootfs.diff_ids.push(diff_id.to_string());
    let mut layers = base.layers.clone();
    layers.push(built_layer(diff_id, size));
    write_image(bench.store(), "docker.io/library/built:1", &config, &layers, &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn built_layers_leave_compressed_and_come_back_equal() {
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    let layout = busybox_layout(bench.directory.path(), "1");
    peer.fill(&layout, "1", "base", None);
    let wanted = reference(&format!("{}/base:1", peer.host));
    let base = bench.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.unwrap();
    let parent = bench.sources.materialize(&base, &bench.events).await.unwrap().unwrap();
    let image = build_on(&bench, &base, &parent);
    let top = bench.sources.materialize(&image, &bench.events).await.unwrap().unwrap();
    assert_eq!(bench.store().snapshots().get(&top).unwrap().unwrap().parent, Some(parent));

    for (turn, kind) in [ArchiveKind::Oci, ArchiveKind::Docker, ArchiveKind::Oci].iter().enumerate()
    {
        let file = bench.path(&format!("{turn}.tar"));
        write(&bench, &[(&image, &["built:1"])], *kind, &file).await;
        let other = Bench::new(RegistryConfig::default());
        let archive = Box::new(std::fs::File::open(&file).unwrap());
        assert_eq!(load(other.store(), archive, &amd64()).await.unwrap(), ["built:1"]);
        let wanted = reference("built:1");
        let back = other.sources.resolve(&wanted, &amd64(), PullPolicy::Missing).await.unwrap();
        assert_eq!(back.config_digest, image.config_digest);
        assert!(read_file(&other, &back, "built").await == noise(3_000_000));
        assert_eq!(read_file(&other, &back, "etc/hostname").await, b"testee\n");
    }
    let to = reference(&format!("{}/built:1", peer.host));
    let pushed = push(&bench.sources, &image, &to, &bench.events).await.unwrap();
    let other = Bench::new(RegistryConfig::default());
    let (pulled, _) = other.sources.pull(&to, &amd64(), &other.events).await.unwrap();
    assert_eq!(pulled.manifest.digest, pushed.digest);
    assert!(read_file(&other, &pulled, "built").await == noise(3_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_another_image_claims_does_not_stand_for_a_layer() {
    let peer = DockerRegistry::start();
    let bench = Bench::new(RegistryConfig::default());
    let base = TinyImage::new("a");
    let origin = FakeRegistry::start(move |seen, _| base.answer(seen)).await;
    let from = reference(&format!("{}/x/y:1", origin.host()));
    let base = bench.sources.resolve(&from, &amd64(), PullPolicy::Missing).await.unwrap();
    let parent = bench.sources.materialize(&base, &bench.events).await.unwrap().unwrap();
    let image = build_on(&bench, &base, &parent);
    // The blob comes with an image that tells the truth; another one, which nobody unpacks, says
    // that it is the layer built above.
    let evil = tar_of(&[("evil", b"evil")]);
    let truth = TinyImage::of_layer(gzip(&evil), cache::Digest::of(&evil));
    let liar = TinyImage::of_layer(gzip(&evil), image.diff_ids[1].0);
    for image in [truth, liar.clone()] {
        let origin = FakeRegistry::start(move |seen, _| image.answer(seen)).await;
        let from = reference(&format!("{}/evil:1", origin.host()));
        bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
    }
    assert!(bench.store().content().contains(&liar.layer_digest()));

    let to = reference(&format!("{}/honest:1", peer.host));
    push(&bench.sources, &image, &to, &bench.events).await.unwrap();
    let other = Bench::new(RegistryConfig::default());
    let (pulled, _) = other.sources.pull(&to, &amd64(), &other.events).await.unwrap();
    assert!(pulled.layers.iter().all(|layer| layer.digest != liar.layer_digest()));
    assert!(read_file(&other, &pulled, "built").await == noise(3_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_sent_while_it_is_compressed() {
    for takes_streams in [true, false] {
        let base = TinyImage::new("a");
        let origin = FakeRegistry::start(move |seen, _| base.answer(seen)).await;
        let bench = Bench::new(RegistryConfig::default());
        let from = reference(&format!("{}/x/y:1", origin.host()));
        let (base, _) = bench.sources.pull(&from, &amd64(), &bench.events).await.unwrap();
        let parent = bench.sources.materialize(&base, &bench.events).await.unwrap().unwrap();
        let image = build_on(&bench, &base, &parent);
        let there = Arc::new(Mutex::new(Vec::new()));
        let fake = FakeRegistry::start(move |seen, _| {
            let mut there = there.lock().unwrap();
            match (seen.method.as_str(), seen.path.as_str()) {
                ("HEAD", path) => {
                    let digest = path.rsplit(':').next().unwrap_or_default().to_owned();
                    status(if there.contains(&digest) { 200 } else { 404 }, "")
                }
                ("POST", path) => with_header(202, "location", &format!("{path}1")),
                ("PATCH", _) if !takes_streams => status(405, ""),
                ("PATCH", path) => with_header(202, "location", path),
                _ => {
                    there.extend(seen.query.split("%3A").nth(1).map(str::to_owned));
                    status(201, "")
                }
            }
        })
        .await;
        let to = reference(&format!("{}/x/z:1", fake.host()));
        push(&bench.sources, &image, &to, &bench.events).await.unwrap();
        let seen = fake.seen();
        let streams = |seen: &&Seen| {
            seen.method == "PATCH" && seen.header("transfer-encoding") == Some("chunked")
        };
        assert_eq!(seen.iter().filter(streams).count(), 1, "the layer that was built here");
        // Layers and config, but for the one that is there already.
        let whole =
            |seen: &&Seen| seen.method == "PUT" && seen.header("content-length") != Some("0");
        let whole = seen.iter().filter(whole).filter(|seen| seen.is_blob()).count();
        assert_eq!(whole, if takes_streams { 2 } else { 3 }, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_snapshot_is_not_exported() {
    let image = TinyImage::new("a");
    let there = image.clone();
    let fake = FakeRegistry::start(move |seen, _| there.answer(seen)).await;
    let bench = Bench::new(RegistryConfig::default());
    let name = reference(&format!("{}/x:1", fake.host()));
    let base = bench.sources.resolve(&name, &amd64(), PullPolicy::Missing).await.unwrap();
    let parent = bench.sources.materialize(&base, &bench.events).await.unwrap().unwrap();
    let image = build_on(&bench, &base, &parent);
    let id = bench.store().layers().get(&image.diff_ids[1]).unwrap().unwrap().snapshot.unwrap();
    let upper = &bench.store().snapshots().lowers(&id).unwrap()[0];
    std::fs::write(upper.join("built"), noise(2_999_999)).unwrap();
    for kind in [ArchiveKind::Oci, ArchiveKind::Docker] {
        let file = bench.path("out.tar");
        std::fs::write(&file, "before").unwrap();
        let images = vec![ExportImage { target: image.clone().into(), names: vec![name.clone()] }];
        let dest = ArchiveDest::File(file.clone());
        let error = export(&bench.sources, images, kind, dest, &bench.events).await.unwrap_err();
        assert!(told(&error).contains("were changed"), "{kind:?}: {}", told(&error));
        assert_eq!(std::fs::read(&file).unwrap(), b"before", "{kind:?}");
    }
}
