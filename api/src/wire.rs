//! The documents of Docker's Engine API about images: what the service answers, and what the
//! command line lists and prints, embedded and as a client alike.

use std::collections::BTreeMap;

use builder::{HistoryRow, ImageDetails, ImageSummary, Removed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One row of `GET /images/json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ImageItem {
    /// `sha256:<hex>` of the config.
    pub(crate) id: String,
    /// Always empty: images have no parents here.
    #[serde(default)]
    pub(crate) parent_id: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) repo_digests: Vec<String>,
    /// Unix seconds.
    pub(crate) created: i64,
    /// Bytes.
    pub(crate) size: u64,
    /// -1: not known.
    pub(crate) shared_size: i64,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// -1: not known.
    pub(crate) containers: i64,
}

impl From<ImageSummary> for ImageItem {
    fn from(image: ImageSummary) -> Self {
        Self {
            id: image.id,
            parent_id: String::new(),
            repo_tags: image.tags,
            repo_digests: image.digests,
            created: image.created,
            size: image.size,
            shared_size: -1,
            labels: image.labels,
            containers: -1,
        }
    }
}

/// One row of `GET /images/{name}/history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HistoryItem {
    /// `<missing>` where a row is no image of its own.
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) created_by: String,
    /// Bytes.
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) tags: Vec<String>,
    pub(crate) comment: String,
}

impl From<HistoryRow> for HistoryItem {
    fn from(row: HistoryRow) -> Self {
        Self {
            id: row.id.unwrap_or_else(|| "<missing>".to_owned()),
            created: row.created,
            created_by: row.created_by,
            size: row.size,
            tags: row.tags,
            comment: row.comment,
        }
    }
}

/// One row of the answer to `DELETE /images/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RemovedItem {
    /// A name that is gone.
    Untagged(String),
    /// An image that is gone.
    Deleted(String),
}

/// Lists what was taken away in Docker's order: names, then images.
pub(crate) fn removed(removed: Removed) -> Vec<RemovedItem> {
    let untagged = removed.untagged.into_iter().map(RemovedItem::Untagged);
    untagged.chain(removed.deleted.into_iter().map(RemovedItem::Deleted)).collect()
}

/// Returns the answer to `GET /images/{name}/json`, which is also what `inspect` prints.
pub(crate) fn inspect(image: ImageDetails) -> Value {
    let summary = image.summary;
    let config = image.config;
    let last_comment = config.history.last().and_then(|entry| entry.comment.clone());
    let mut document = json!({
        "Id": summary.id,
        "RepoTags": summary.tags,
        "RepoDigests": summary.digests,
        "Parent": "",
        "Comment": last_comment.unwrap_or_default(),
        "Created": config.created,
        "DockerVersion": "",
        "Author": config.author.unwrap_or_default(),
        "Config": config.config,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": summary.size,
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Descriptor": {
            "mediaType": image.descriptor.media_type,
            "digest": image.descriptor.digest.to_string(),
            "size": image.descriptor.size,
        },
    });
    if let (Some(variant), Some(object)) = (config.variant, document.as_object_mut()) {
        object.insert("Variant".to_owned(), variant.into());
    }
    document
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_dockers_names() {
        let item = ImageItem::from(ImageSummary {
            id: "sha256:01".into(),
            tags: vec!["a:1".into()],
            digests: Vec::new(),
            created: 5,
            size: 6,
            labels: BTreeMap::new(),
        });
        let want = json!({
            "Id": "sha256:01", "ParentId": "", "RepoTags": ["a:1"], "RepoDigests": [],
            "Created": 5, "Size": 6, "SharedSize": -1, "Labels": {}, "Containers": -1,
        });
        assert_eq!(serde_json::to_value(&item).unwrap(), want);
        let mut from_docker = want;
        from_docker["RepoDigests"] = Value::Null;
        from_docker["Labels"] = Value::Null;
        assert_eq!(serde_json::from_value::<ImageItem>(from_docker).unwrap(), item);

        let rows =
            removed(Removed { untagged: vec!["a:1".into()], deleted: vec!["sha256:01".into()] });
        let want = json!([{"Untagged": "a:1"}, {"Deleted": "sha256:01"}]);
        assert_eq!(serde_json::to_value(rows).unwrap(), want);
    }

    #[test]
    fn a_config_is_shown_as_docker_shows_it() {
        let config = serde_json::from_value(json!({
            "created": "2026-01-02T03:04:05Z", "architecture": "arm", "variant": "v7", "os": "linux",
            "config": { "Cmd": ["sh"], "WorkingDir": "/x" },
            "rootfs": { "type": "layers", "diff_ids": ["sha256:aa"] },
            "history": [{ "created_by": "CMD sh", "comment": "buildkit.dockerfile.v0", "empty_layer": true }],
        }))
        .unwrap();
        let summary = ImageSummary {
            id: "sha256:01".into(),
            tags: vec!["a:1".into()],
            digests: Vec::new(),
            created: 5,
            size: 6,
            labels: BTreeMap::new(),
        };
        let descriptor = cache::Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            digest: cache::Digest::of(b"index"),
            size: 7,
        };
        let got = inspect(ImageDetails { summary, descriptor, config });
        assert_eq!(got["Descriptor"]["size"], 7);
        assert_eq!(got["Config"], json!({ "Cmd": ["sh"], "WorkingDir": "/x" }));
        assert_eq!(got["RootFS"], json!({ "Type": "layers", "Layers": ["sha256:aa"] }));
        assert_eq!(got["Variant"], "v7");
        assert_eq!(got["Comment"], "buildkit.dockerfile.v0");
        assert_eq!(got["Created"], "2026-01-02T03:04:05Z");
    }
}
