//! Stores with something in them.

use std::fs;
use std::path::{Path, PathBuf};

use cache::{
    CacheKey, Descriptor, DiffId, Digest, ImageRecord, KeyHasher, LayerBlob, Record, Snapshot,
    SnapshotId, Store,
};

/// What tests return: every failure has its own words.
pub(crate) type Done = Result<(), Box<dyn std::error::Error>>;

/// A store of its own, gone at the end of the test.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("the machine has room for temporary files");
        let store = open(&dir.path().join("store"));
        Self { store, dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.store.root().to_owned()
    }

    /// Another handle, as another process has one: nothing is known or held by it.
    pub(crate) fn other(&self) -> Store {
        open(self.store.root())
    }

    /// Closes and opens the store: nothing is held any more.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, dir } = self;
        let root = store.root().to_owned();
        drop(store);
        Self { store: open(&root), dir }
    }
}

pub(crate) fn open(root: &Path) -> Store {
    Store::open(root).expect("a new or healthy store opens")
}

/// Commits a snapshot with one file.
pub(crate) fn commit(store: &Store, parent: Option<&SnapshotId>, file: &str) -> Snapshot {
    let active = store.snapshots().prepare(parent).expect("the parent is there");
    fs::write(active.upper().join(file), file).expect("the upper directory is writable");
    active.commit(None).expect("a commit on a healthy disk works")
}

pub(crate) fn key(name: &str) -> CacheKey {
    KeyHasher::new("test", 1).field("name", name.as_bytes()).finish()
}

pub(crate) fn diff_id(name: &str) -> DiffId {
    DiffId(Digest::of(name.as_bytes()))
}

pub(crate) fn record(name: &str, snapshot: &Snapshot) -> Record {
    let (key, components) =
        KeyHasher::new("test", 1).field("name", name.as_bytes()).finish_with_components();
    Record {
        key,
        snapshot: snapshot.id.clone(),
        diff_id: diff_id(name),
        size: 1024,
        latest: None,
        created: 1_700_000_000,
        duration_ms: 12,
        inputs: Vec::new(),
        components,
        step: format!("RUN {name}"),
    }
}

/// Ingests bytes that are theirs alone.
pub(crate) fn ingest(store: &Store, bytes: &[u8]) -> Digest {
    store.content().ingest(bytes, 1 << 20, None).expect("a healthy store takes a blob").digest
}

/// Ingests config, layer blob and manifest of a one-layer image, and knows its layer.
///
/// Returns what [`cache::Images::put`] needs to name it.
pub(crate) fn image(store: &Store, reference: Option<&str>, layer: &str) -> ImageRecord {
    let content = store.content();
    let layer_id = diff_id(layer);
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": [layer_id] } });
    let config = ingest(store, config.to_string().as_bytes());
    let blob = content.ingest(format!("blob of {layer}").as_bytes(), 1 << 20, None);
    let blob = blob.expect("a healthy store takes a blob");
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
    let known = LayerBlob { digest: blob.digest, size: blob.size, media_type, checked: true };
    store
        .layers()
        .update(&layer_id, |layer| layer.blobs.push(known))
        .expect("a healthy store takes a layer");
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": { "digest": config },
        "layers": [{ "digest": blob.digest, "size": blob.size }],
    });
    let manifest = content.ingest(manifest.to_string().as_bytes(), 1 << 20, None);
    let manifest = manifest.expect("a healthy store takes a manifest");
    ImageRecord {
        reference: reference.map(str::to_owned),
        manifest: Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: manifest.digest,
            size: manifest.size,
        },
        config,
        created: 1_700_000_000,
        updated: 1_700_000_000,
    }
}

/// Returns the names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory is readable");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Returns all regular files below `dir`.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in names(dir) {
        let path = dir.join(name);
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}
