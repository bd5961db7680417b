//! What the service tells of itself.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use builder::blocking;
use cache::{Item, ItemKind};
use serde_json::{Value, json};

use super::Call;
use super::error::ApiError;
use super::query::boolean;
use super::route::{API_VERSION, MIN_API_VERSION};
use crate::wire::ImageItem;

/// Whether what Docker calls experimental can be asked for.
const EXPERIMENTAL: bool = true;

/// What stands where Docker's daemon tells the version of its compiler.
const NO_GO: &str = "none (Rust)";

/// The commit that this program was made from, if whoever made it has told it to the compiler.
const COMMIT: &str = match option_env!("RBUILD_GIT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// `/_ping`: what Docker's clients decide their dialect by.
pub(super) fn ping() -> Response {
    let (major, minor) = API_VERSION;
    let headers = [
        ("Api-Version", format!("{major}.{minor}")),
        // 2 would promise BuildKit's protocol.
        ("Builder-Version", "1".to_owned()),
        // Without it docker's command line does not offer `build --squash`.
        ("Docker-Experimental", EXPERIMENTAL.to_string()),
        ("Ostype", "linux".to_owned()),
        ("Server", concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned()),
        (CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate".to_owned()),
        (CONTENT_TYPE.as_str(), "text/plain; charset=utf-8".to_owned()),
    ];
    (headers, "OK").into_response()
}

/// `GET /version`.
pub(super) fn version() -> Response {
    let text = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let version = env!("CARGO_PKG_VERSION");
    let uname = rustix::system::uname();
    let built = built().unwrap_or_default();
    Json(json!({
        "Platform": { "Name": "rbuild" },
        "Components": [{ "Name": "Engine", "Version": version, "Details": {
            "ApiVersion": text(API_VERSION),
            "MinAPIVersion": text(MIN_API_VERSION),
            "Arch": frontend::Platform::host().architecture,
            "Os": "linux",
            "KernelVersion": uname.release().to_string_lossy(),
            "Experimental": EXPERIMENTAL.to_string(),
            "GoVersion": NO_GO,
            "GitCommit": COMMIT,
            "BuildTime": built,
        }}],
        "Version": version,
        "ApiVersion": text(API_VERSION),
        "MinAPIVersion": text(MIN_API_VERSION),
        "Os": "linux",
        "Arch": frontend::Platform::host().architecture,
        "KernelVersion": uname.release().to_string_lossy(),
        "Experimental": EXPERIMENTAL,
        "GoVersion": NO_GO,
        "GitCommit": COMMIT,
        "BuildTime": built,
    }))
    .into_response()
}

/// Tells when this program was made: its file is as old. It may be gone by now.
fn built() -> Option<String> {
    let made = std::env::current_exe().and_then(std::fs::metadata).and_then(|it| it.modified());
    made.ok().and_then(|made| jiff::Timestamp::try_from(made).ok()).map(|made| made.to_string())
}

/// `GET /info`.
pub(super) async fn info(call: &Call) -> Result<Response, ApiError> {
    let builder = call.service.builder().clone();
    let images = blocking::run(move || builder.images().map_err(ApiError::from)).await?;
    let uname = rustix::system::uname();
    let cores = builder::processors().get();
    let memory = rustix::system::sysinfo();
    Ok(Json(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Name": uname.nodename().to_string_lossy(),
        "OperatingSystem": "Linux",
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "KernelVersion": uname.release().to_string_lossy(),
        "NCPU": cores,
        "MemTotal": u64::from(memory.mem_unit).saturating_mul(memory.totalram),
        "DockerRootDir": call.service.0.root.to_string_lossy(),
        "Driver": "overlay",
        "Images": images.len(),
        "Containers": 0,
        "ContainersRunning": 0,
        "ContainersPaused": 0,
        "ContainersStopped": 0,
        "Swarm": { "LocalNodeState": "inactive" },
        "IndexServerAddress": "https://index.docker.io/v1/",
        "SecurityOptions": [],
        "Warnings": [],
        "ExperimentalBuild": EXPERIMENTAL,
    }))
    .into_response())
}

/// Kinds of things that `type=` of a disk usage can ask for.
const USAGE_TYPES: [&str; 4] = ["image", "container", "volume", "build-cache"];

/// `GET /system/df?type=&verbose=`.
pub(super) async fn disk_usage(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["type", "verbose"])?;
    let asked: Vec<&str> = call
        .query
        .iter()
        .filter(|(name, value)| name == "type" && !value.is_empty())
        .map(|(_, value)| value.as_str())
        .collect();
    if let Some(unknown) = asked.iter().find(|asked| !USAGE_TYPES.contains(asked)) {
        return Err(ApiError::parameter("type", format!("unknown object type: {unknown}")));
    }
    let wants = |kind| asked.is_empty() || asked.contains(&kind);
    let builder = call.service.builder().clone();
    let wants_cache = wants("build-cache");
    let (images, usage, items) = blocking::run(move || {
        let usage = builder.usage().map_err(ApiError::from)?;
        let items = if wants_cache { builder.items()? } else { Vec::new() };
        Ok::<_, ApiError>((builder.images()?, usage, items))
    })
    .await?;
    let cache: Vec<Value> = items.iter().filter_map(cache_row).collect();
    let images: Vec<ImageItem> = images.into_iter().map(ImageItem::from).collect();
    let layers: u64 = images.iter().map(|image| image.size).sum();
    let mut document = json!({ "BuilderSize": usage.reclaimable });
    if wants("image") {
        document["LayersSize"] = layers.into();
        document["Images"] = json!(images);
    }
    for (kind, name) in [("container", "Containers"), ("volume", "Volumes")] {
        if wants(kind) {
            document[name] = json!([]);
        }
    }
    if wants("build-cache") {
        document["BuildCache"] = json!(cache);
    }
    if call.version >= (1, 52) {
        let is_verbose = call.parameter("verbose").is_some_and(boolean);
        let sum = |count: usize, bytes: u64, reclaimable: u64, items: serde_json::Value| {
            let mut sum = json!({
                "ActiveCount": 0, "TotalCount": count,
                "TotalSize": bytes, "Reclaimable": reclaimable,
            });
            if is_verbose {
                sum["Items"] = items;
            }
            sum
        };
        let rows = [
            ("image", "ImageUsage", sum(images.len(), layers, layers, json!(images))),
            ("container", "ContainerUsage", sum(0, 0, 0, json!([]))),
            ("volume", "VolumeUsage", sum(0, 0, 0, json!([]))),
            (
                "build-cache",
                "BuildCacheUsage",
                sum(usage.records, usage.reclaimable, usage.reclaimable, json!(cache)),
            ),
        ];
        for (kind, name, sum) in rows {
            if wants(kind) {
                document[name] = sum;
            }
        }
    }
    Ok(Json(document).into_response())
}

/// A row of Docker's build cache: what a prune of it may remove. Docker knows when a row was made;
/// here its last use is known, which is not before.
fn cache_row(item: &Item) -> Option<Value> {
    let kind = match item.kind {
        ItemKind::Step => "regular",
        ItemKind::Mount => "exec.cachemount",
        ItemKind::Image
        | ItemKind::Build
        | ItemKind::Note
        | ItemKind::Layer
        | ItemKind::Blob
        | ItemKind::Metadata => return None,
    };
    let used = item.last_used.and_then(|used| i64::try_from(used).ok()).unwrap_or_default();
    let used = jiff::Timestamp::from_second(used).unwrap_or_default().to_string();
    Some(json!({
        "ID": item.id,
        "Type": kind,
        "Description": item.title,
        "InUse": !item.is_reclaimable,
        "Shared": false,
        "Size": item.bytes,
        "CreatedAt": used,
        "LastUsedAt": used,
        "UsageCount": 1,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_mounts_are_dockers_build_cache() {
        let item = |kind| Item {
            kind,
            id: "ab".into(),
            bytes: 5,
            last_used: Some(86400),
            title: "RUN x".into(),
            is_reclaimable: true,
        };
        let row = cache_row(&item(ItemKind::Step)).unwrap();
        assert_eq!((&row["Type"], &row["Size"]), (&json!("regular"), &json!(5)));
        assert_eq!(row["LastUsedAt"], "1970-01-02T00:00:00Z");
        assert_eq!(cache_row(&item(ItemKind::Mount)).unwrap()["Type"], "exec.cachemount");
        assert_eq!(cache_row(&item(ItemKind::Blob)), None);
    }
}
