//! Reclaiming by request: `POST /images/prune` and `POST /build/prune`.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use builder::{Builder, ImageSummary, blocking};
use cache::PruneOptions;
use serde_json::json;

use super::Call;
use super::error::ApiError;
use super::events::EngineEvent;
use super::filters::{self, FilterMap};
use super::moment::{self, Nanos};
use super::query::boolean;
use crate::wire;

/// Which images go.
#[derive(Debug)]
struct Doomed {
    /// Only those without a tag.
    dangling: bool,
    /// Only those made before this.
    until: Option<Nanos>,
    labels: Vec<String>,
    without_labels: Vec<String>,
}

impl Doomed {
    fn parse(filters: FilterMap) -> Result<Self, ApiError> {
        let mut doomed =
            Self { dangling: true, until: None, labels: Vec::new(), without_labels: Vec::new() };
        for (name, values) in filters {
            match name.as_str() {
                "dangling" => doomed.dangling = values.last().is_none_or(|value| boolean(value)),
                "until" => {
                    let last = values.last().map_or("", String::as_str);
                    doomed.until = Some(moment::parse("filters.until", last, moment::now())?);
                }
                "label" => doomed.labels.extend(values),
                "label!" => doomed.without_labels.extend(values),
                _ => return filters::unsupported(&name),
            }
        }
        Ok(doomed)
    }

    fn admits(&self, image: &ImageSummary) -> bool {
        let has = |label: &String| filters::has_label(&image.labels, label);
        (!self.dangling || image.tags.is_empty())
            && self.until.is_none_or(|until| Nanos::from(image.created) * 1_000_000_000 < until)
            && self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
    }
}

/// `POST /images/prune?filters=`. No container uses an image here, so without `dangling` every
/// image goes.
pub(super) async fn images(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["filters"])?;
    let filters = call.parameter("filters").map(str::to_owned);
    let builder = call.service.builder().clone();
    let (removed, bytes) =
        blocking::run(move || prune_images(&builder, filters.as_deref())).await?;
    call.service.0.events.tell(EngineEvent::prune("image", bytes));
    let removed = (!removed.is_empty()).then_some(removed);
    Ok(Json(json!({ "ImagesDeleted": removed, "SpaceReclaimed": bytes })).into_response())
}

/// Removes the images that pass `filters`; returns what went, and the bytes freed. Blocking.
///
/// # Errors
///
/// [`ApiError::Parameter`] and [`ApiError::Unsupported`] for filters of another form.
pub(crate) fn prune_images(
    builder: &Builder,
    filters: Option<&str>,
) -> Result<(Vec<wire::RemovedItem>, u64), ApiError> {
    let doomed = Doomed::parse(filters::parse(filters)?)?;
    let mut removed = Vec::new();
    for image in builder.images()?.iter().filter(|image| doomed.admits(image)) {
        removed.extend(wire::removed(builder.remove(&image.id, true)?));
    }
    let pruned = builder.prune(&PruneOptions::default()).map_err(ApiError::from)?;
    Ok((removed, pruned.bytes))
}

/// `POST /build/prune?all=&keep-storage=&filters=`.
pub(super) async fn builds(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["all", "keep-storage", "reserved-space", "filters"])?;
    let number = |name| {
        let parse = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| ApiError::parameter(name, "it is not a number of bytes"))
        };
        call.parameter(name).map(parse).transpose()
    };
    let mut options = PruneOptions {
        all: call.parameter("all").is_some_and(boolean),
        keep_bytes: number("reserved-space")?.or(number("keep-storage")?).filter(|&n| n > 0),
        ..PruneOptions::default()
    };
    let filters: BTreeMap<_, _> = filters::parse(call.parameter("filters"))?;
    for (name, values) in filters {
        match name.as_str() {
            "until" | "unused-for" => {
                let last = values.last().map_or("", String::as_str);
                let ago = moment::duration(last).ok_or_else(|| {
                    ApiError::parameter("filters.until", format!("`{last}` is not a duration"))
                })?;
                options.older_than = Some(ago);
            }
            _ => return filters::unsupported(&name),
        }
    }
    let builder = call.service.builder().clone();
    let pruned = blocking::run(move || builder.prune(&options).map_err(ApiError::from)).await?;
    call.service.0.events.tell(EngineEvent::prune("builder", pruned.bytes));
    Ok(Json(json!({ "CachesDeleted": null, "SpaceReclaimed": pruned.bytes })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_who_goes() {
        let image = |tags: &[&str], created| ImageSummary {
            id: "sha256:01".into(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            digests: Vec::new(),
            created,
            size: 0,
            labels: [("k".into(), "v".into())].into(),
        };
        let (tagged, untagged) = (image(&["a:1"], 100), image(&[], 100));
        #[rustfmt::skip]
        let cases = [
            ("by default",    "{}",                                    false, true),
            ("dangling",      r#"{"dangling":{"true":true}}"#,         false, true),
            ("all",           r#"{"dangling":{"false":true}}"#,        true,  true),
            ("until",         r#"{"until":["101"]}"#,                  false, true),
            ("too young",     r#"{"until":["100"]}"#,                  false, false),
            ("label",         r#"{"label":["k=v"]}"#,                  false, true),
            ("other label",   r#"{"label":["x"]}"#,                    false, false),
            ("without label", r#"{"label!":["k"]}"#,                   false, false),
        ];
        for (name, text, of_tagged, of_untagged) in cases {
            let doomed = Doomed::parse(filters::parse(Some(text)).unwrap()).unwrap();
            assert_eq!(doomed.admits(&tagged), of_tagged, "{name}, tagged");
            assert_eq!(doomed.admits(&untagged), of_untagged, "{name}, untagged");
        }
        assert!(Doomed::parse(filters::parse(Some(r#"{"colour":["x"]}"#)).unwrap()).is_err());
    }
}
