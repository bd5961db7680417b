//! Listing, looking at, naming and removing images.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use builder::{ImageSummary, blocking};
use serde::Deserialize;

use super::Call;
use super::error::ApiError;
use super::query::boolean;
use crate::wire::{self, HistoryItem, ImageItem};

/// `GET /images/json`.
pub(super) async fn list(call: &Call) -> Result<Response, ApiError> {
    // `all` adds intermediate images, of which there are none; the sizes shared are never known.
    call.expect_only(&["all", "digests", "filters", "shared-size"])?;
    let filters = Filters::parse(call.parameter("filters"))?;
    let builder = call.service.builder().clone();
    let images = blocking::run(move || builder.images().map_err(ApiError::from)).await?;
    let rows = images.into_iter().filter(|image| filters.admit(image)).map(ImageItem::from);
    Ok(Json(rows.collect::<Vec<_>>()).into_response())
}

/// `GET /images/{name}/json`.
pub(super) async fn inspect(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let builder = call.service.builder().clone();
    let image = blocking::run(move || builder.inspect(&name).map_err(ApiError::from)).await?;
    Ok(Json(wire::inspect(image)).into_response())
}

/// `GET /images/{name}/history`.
pub(super) async fn history(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let builder = call.service.builder().clone();
    let rows = blocking::run(move || builder.history(&name).map_err(ApiError::from)).await?;
    Ok(Json(rows.into_iter().map(HistoryItem::from).collect::<Vec<_>>()).into_response())
}

/// `POST /images/{name}/tag?repo=&tag=`.
pub(super) async fn tag(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&["repo", "tag"])?;
    let repository =
        call.parameter("repo").ok_or_else(|| ApiError::parameter("repo", "it is missing"))?;
    let target = with_tag(repository, call.parameter("tag"));
    let builder = call.service.builder().clone();
    blocking::run(move || builder.tag(&name, &target).map_err(ApiError::from)).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(call: &Call, name: String) -> Result<Response, ApiError> {
    // `noprune` keeps untagged parents, of which there are none.
    call.expect_only(&["force", "noprune"])?;
    let force = call.parameter("force").is_some_and(boolean);
    let builder = call.service.builder().clone();
    let removed =
        blocking::run(move || builder.remove(&name, force).map_err(ApiError::from)).await?;
    Ok(Json(wire::removed(removed)).into_response())
}

/// Joins a repository and a tag or digest, as clients hand them over.
pub(super) fn with_tag(repository: &str, tag: Option<&str>) -> String {
    match tag {
        None => repository.to_owned(),
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
    }
}

/// The `filters` of a list: `{"reference":{"app-*":true},"dangling":["false"]}`.
#[derive(Debug, Default)]
struct Filters {
    references: Vec<String>,
    labels: Vec<String>,
    dangling: Option<bool>,
}

/// Both forms that clients send.
#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    Set(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let mut filters = Self::default();
        let Some(text) = text else { return Ok(filters) };
        let map: BTreeMap<String, FilterValues> = serde_json::from_str(text)
            .map_err(|error| ApiError::parameter("filters", error.to_string()))?;
        for (name, values) in map {
            let values = match values {
                FilterValues::Set(set) => {
                    set.into_iter().filter(|(_, on)| *on).map(|(v, _)| v).collect()
                }
                FilterValues::List(list) => list,
            };
            match name.as_str() {
                "reference" => filters.references.extend(values),
                "label" => filters.labels.extend(values),
                "dangling" => filters.dangling = values.last().map(|value| boolean(value)),
                _ => {
                    return Err(ApiError::Unsupported {
                        name: format!("filters.{name}"),
                        instead: None,
                    });
                }
            }
        }
        Ok(filters)
    }

    fn admit(&self, image: &ImageSummary) -> bool {
        let has_label = |label: &String| match label.split_once('=') {
            Some((name, value)) => image.labels.get(name).is_some_and(|have| have == value),
            None => image.labels.contains_key(label),
        };
        let matches = |pattern: &String| image.tags.iter().any(|tag| fits(pattern, tag));
        self.labels.iter().all(has_label)
            && (self.references.is_empty() || self.references.iter().any(matches))
            && self.dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
    }
}

/// Tells whether `pattern` names `tag` (`app-node:1`): whole, without its tag, or with wildcards.
fn fits(pattern: &str, tag: &str) -> bool {
    let repository = match tag.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => tag,
    };
    wildcard(pattern.as_bytes(), tag.as_bytes())
        || wildcard(pattern.as_bytes(), repository.as_bytes())
}

/// Matches `*` (anything but `/`) and `?`. Linear but for the stars, and names are short.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let reach = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            (0..=reach).any(|skip| wildcard(rest, &text[skip..]))
        }
        (Some((b'?', rest)), Some((byte, text))) => *byte != b'/' && wildcard(rest, text),
        (Some((want, rest)), Some((byte, text))) => want == byte && wildcard(rest, text),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose() {
        let image = ImageSummary {
            id: "sha256:01".into(),
            tags: vec!["me/app-node:1".into()],
            digests: Vec::new(),
            created: 0,
            size: 0,
            labels: [("k".into(), "v".into())].into(),
        };
        #[rustfmt::skip]
        let cases = [
            ("none",           "{}", true),
            ("whole",          r#"{"reference":{"me/app-node:1":true}}"#, true),
            ("repository",     r#"{"reference":["me/app-node"]}"#, true),
            ("wildcard",       r#"{"reference":["*/app-*:1"]}"#, true),
            ("star and slash", r#"{"reference":["*:1"]}"#, false),
            ("one of two",     r#"{"reference":["x","me/app-nod?"]}"#, true),
            ("switched off",   r#"{"reference":{"x":false}}"#, true),
            ("other",          r#"{"reference":["app-node"]}"#, false),
            ("label",          r#"{"label":["k=v"]}"#, true),
            ("label name",     r#"{"label":["k"]}"#, true),
            ("other label",    r#"{"label":["k=w"]}"#, false),
            ("dangling",       r#"{"dangling":["true"]}"#, false),
            ("not dangling",   r#"{"dangling":{"false":true}}"#, true),
        ];
        for (name, text, want) in cases {
            assert_eq!(Filters::parse(Some(text)).unwrap().admit(&image), want, "{name}");
        }
        let error = Filters::parse(Some(r#"{"before":["x"]}"#)).unwrap_err().to_string();
        assert!(error.contains("filters.before"), "{error}");
    }

    #[test]
    fn tags_and_digests_are_joined() {
        assert_eq!(with_tag("a/b", None), "a/b");
        assert_eq!(with_tag("a/b", Some("1")), "a/b:1");
        assert_eq!(with_tag("a/b", Some("sha256:01")), "a/b@sha256:01");
    }
}
