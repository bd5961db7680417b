//! Listing, looking at, naming and removing images.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use builder::{Builder, ImageSummary, blocking};
use frontend::{Platform, Reference};
use serde_json::json;

use super::Call;
use super::error::ApiError;
use super::events::EngineEvent;
use super::moment::{self, Nanos};
use super::query::boolean;
use super::{auth, filters};
use crate::wire::{self, HistoryItem, ImageItem};

/// `GET /images/json`.
pub(super) async fn list(call: &Call) -> Result<Response, ApiError> {
    // `all` adds intermediate images, of which there are none; the sizes shared are never known,
    // and which platforms' manifests are here is not told.
    call.expect_only(&["all", "digests", "filters", "shared-size", "manifests", "identity"])?;
    let filters = call.parameter("filters").map(str::to_owned);
    let builder = call.service.builder().clone();
    let images = blocking::run(move || list_images(&builder, filters.as_deref())).await?;
    Ok(Json(images.into_iter().map(ImageItem::from).collect::<Vec<_>>()).into_response())
}

/// Lists the images that pass `filters`, newest first. Blocking.
///
/// # Errors
///
/// [`ApiError::Parameter`] and [`ApiError::Unsupported`] for filters of another form, and
/// [`ApiError::NotFound`] for one that compares with an image that is not here.
pub(crate) fn list_images(
    builder: &Builder,
    filters: Option<&str>,
) -> Result<Vec<ImageSummary>, ApiError> {
    let mut filters = Filters::parse(filters)?;
    for (name, bound, is_before) in [
        (filters.before.take(), &mut filters.created_before, true),
        (filters.since.take(), &mut filters.created_since, false),
    ] {
        if let Some(name) = name {
            let created = Nanos::from(builder.inspect(&name)?.summary.created) * 1_000_000_000;
            let nearer = if is_before { Nanos::min } else { Nanos::max };
            *bound = Some(bound.map_or(created, |bound| nearer(bound, created)));
        }
    }
    let images = builder.images()?;
    Ok(images.into_iter().filter(|image| filters.admit(image)).collect())
}

/// `GET /images/{name}/json`.
pub(super) async fn inspect(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&["platform", "manifests"])?;
    let platform = wanted_platforms(call, "platform")?.into_iter().next();
    let builder = call.service.builder().clone();
    let image = blocking::run(move || match platform {
        None => builder.inspect(&name),
        Some(platform) => builder.inspect_for(&name, &platform),
    });
    let image = image.await?;
    Ok(Json(wire::inspect(image)).into_response())
}

/// `GET /images/{name}/history`.
pub(super) async fn history(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&["platform"])?;
    check_platform(call, &name, "platform").await?;
    let builder = call.service.builder().clone();
    let rows = blocking::run(move || builder.history(&name).map_err(ApiError::from)).await?;
    Ok(Json(rows.into_iter().map(HistoryItem::from).collect::<Vec<_>>()).into_response())
}

/// `POST /images/{name}/tag?repo=&tag=`.
pub(super) async fn tag(call: &Call, name: String) -> Result<Response, ApiError> {
    call.expect_only(&["repo", "tag", "force"])?;
    let repository =
        call.parameter("repo").ok_or_else(|| ApiError::parameter("repo", "it is missing"))?;
    let target = with_tag(repository, call.parameter("tag"));
    let builder = call.service.builder().clone();
    // Some clients write names in full.
    let familiar = Reference::parse_normalized(&target).map(|reference| reference.familiar());
    let tagged = familiar.unwrap_or_else(|_| target.clone());
    let image = blocking::run(move || {
        builder.tag(&name, &target)?;
        builder.inspect(&target).map_err(ApiError::from)
    })
    .await?;
    call.service.0.events.tell(EngineEvent::image("tag", image.summary.id, &tagged));
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(call: &Call, name: String) -> Result<Response, ApiError> {
    // `noprune` keeps untagged parents, of which there are none.
    call.expect_only(&["force", "noprune", "platforms"])?;
    check_platform(call, &name, "platforms").await?;
    let force = call.parameter("force").is_some_and(boolean);
    let builder = call.service.builder().clone();
    let (id, removed) = blocking::run(move || {
        let id = builder.inspect(&name)?.summary.id;
        Ok::<_, ApiError>((id, builder.remove(&name, force)?))
    })
    .await?;
    let events = &call.service.0.events;
    for name in &removed.untagged {
        events.tell(EngineEvent::image("untag", id.as_str(), name));
    }
    for id in &removed.deleted {
        events.tell(EngineEvent::image("delete", id.as_str(), id));
    }
    Ok(Json(wire::removed(removed)).into_response())
}

/// `GET /distribution/{name}/json`.
pub(super) async fn distribution(call: &Call, name: &str) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let credentials = auth::for_image(&call.headers, name)?;
    let found = call.service.builder().distribution(name, &credentials).await?;
    let platforms = found.platforms.iter().map(|platform| {
        let mut document = json!({
            "os": platform.os, "architecture": platform.architecture,
        });
        if let Some(variant) = &platform.variant {
            document["variant"] = variant.as_str().into();
        }
        document
    });
    Ok(Json(json!({
        "Descriptor": {
            "mediaType": found.descriptor.media_type,
            "digest": found.descriptor.digest.to_string(),
            "size": found.descriptor.size,
        },
        "Platforms": platforms.collect::<Vec<_>>(),
    }))
    .into_response())
}

/// Refuses a platform in parameter `parameter` that is not the image's. Here the platform is JSON, and `platforms` a list of such texts (Docker Engine
/// API 1.48 to 1.50).
pub(super) async fn check_platform(
    call: &Call,
    name: &str,
    parameter: &'static str,
) -> Result<(), ApiError> {
    let wanted = wanted_platforms(call, parameter)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let (builder, asked) = (call.service.builder().clone(), name.to_owned());
    let image = blocking::run(move || builder.inspect(&asked).map_err(ApiError::from)).await?;
    let (os, architecture) = (&image.config.os, &image.config.architecture);
    let is_wanted = |platform: &Platform| {
        platform.os == *os
            && platform.architecture == *architecture
            && (platform.variant.is_none() || platform.variant == image.config.variant)
    };
    if wanted.iter().any(is_wanted) {
        return Ok(());
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    Err(ApiError::NotFound(format!(
        "image with reference {name} was found but does not provide the specified platform ({})",
        wanted.join(", ")
    )))
}

/// Reads the platforms that parameter `parameter` asks for.
pub(super) fn wanted_platforms(call: &Call, parameter: &str) -> Result<Vec<Platform>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Wire {
        os: String,
        architecture: String,
        #[serde(default)]
        variant: Option<String>,
    }
    let fault = |error: serde_json::Error| ApiError::parameter(parameter, error.to_string());
    let given = call.query.iter().filter(|(name, value)| name == parameter && !value.is_empty());
    given
        .map(|(_, value)| {
            let wire: Wire = serde_json::from_str(value).map_err(fault)?;
            let variant = wire.variant.filter(|variant| !variant.is_empty());
            Ok(Platform { os: wire.os, architecture: wire.architecture, variant })
        })
        .collect()
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
    /// Images that the others must be older or younger than.
    before: Option<String>,
    since: Option<String>,
    /// The same as moments, with `until`.
    created_before: Option<Nanos>,
    created_since: Option<Nanos>,
}

impl Filters {
    fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let mut filters = Self::default();
        for (name, values) in filters::parse(text)? {
            match name.as_str() {
                "reference" => filters.references.extend(values),
                "label" => filters.labels.extend(values),
                "dangling" => filters.dangling = values.last().map(|value| boolean(value)),
                "before" => filters.before = values.last().cloned(),
                "since" => filters.since = values.last().cloned(),
                "until" => {
                    let last = values.last().map_or("", String::as_str);
                    let moment = moment::parse("filters.until", last, moment::now())?;
                    filters.created_before = Some(moment);
                }
                _ => return filters::unsupported(&name),
            }
        }
        Ok(filters)
    }

    fn admit(&self, image: &ImageSummary) -> bool {
        let has_label = |label: &String| filters::has_label(&image.labels, label);
        let created = Nanos::from(image.created) * 1_000_000_000;
        let matches = |pattern: &String| image.tags.iter().any(|tag| fits(pattern, tag));
        self.labels.iter().all(has_label)
            && (self.references.is_empty() || self.references.iter().any(matches))
            && self.dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
            && self.created_before.is_none_or(|bound| created < bound)
            && self.created_since.is_none_or(|bound| created > bound)
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
            ("older",          r#"{"until":["1"]}"#, true),
            ("not older",      r#"{"until":["0"]}"#, false),
            ("dangling",       r#"{"dangling":["true"]}"#, false),
            ("not dangling",   r#"{"dangling":{"false":true}}"#, true),
        ];
        for (name, text, want) in cases {
            assert_eq!(Filters::parse(Some(text)).unwrap().admit(&image), want, "{name}");
        }
        let error = Filters::parse(Some(r#"{"colour":["x"]}"#)).unwrap_err().to_string();
        assert!(error.contains("filters.colour"), "{error}");
    }

    #[test]
    fn tags_and_digests_are_joined() {
        assert_eq!(with_tag("a/b", None), "a/b");
        assert_eq!(with_tag("a/b", Some("1")), "a/b:1");
        assert_eq!(with_tag("a/b", Some("sha256:01")), "a/b@sha256:01");
    }
}
