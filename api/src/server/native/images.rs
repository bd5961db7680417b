//! What Docker's API does not tell about images: `/v1/images` and `/v1/indexes`. Names hold slashes, so
//! they are parameters.

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{Annotations, Events, blocking};
use serde_json::json;

use crate::server::error::ApiError;
use crate::server::events::EngineEvent;
use crate::server::{Call, auth};

fn needed<'a>(call: &'a Call, name: &str) -> Result<&'a str, ApiError> {
    call.parameter(name).ok_or_else(|| ApiError::parameter(name, "it is missing"))
}

/// Events that nobody looks at.
fn unseen() -> Events {
    Events::channel().0
}

/// `GET /v1/images/tree?name=`: what the layers hold.
pub(super) async fn tree(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["name"])?;
    let contents = call.service.builder().contents(needed(call, "name")?, &unseen()).await?;
    Ok(Json(contents).into_response())
}

/// `GET /v1/images/diff?before=&after=`: what differs between two images.
pub(super) async fn diff(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["before", "after"])?;
    let (before, after) = (needed(call, "before")?, needed(call, "after")?);
    let diff = call.service.builder().diff(before, after, &unseen()).await?;
    Ok(Json(diff).into_response())
}

/// `GET /v1/images/referrers?name=&type=`: what refers to an image, at its registry.
pub(super) async fn referrers(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["name", "type"])?;
    let name = needed(call, "name")?;
    let credentials = auth::for_image(&call.headers, name)?;
    let builder = call.service.builder();
    let found = builder.referrers(name, call.parameter("type"), &credentials).await?;
    Ok(Json(json!({ "referrers": found })).into_response())
}

/// `GET /v1/indexes?name=`: the document.
pub(super) async fn index(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["name"])?;
    let (builder, name) = (call.service.builder().clone(), needed(call, "name")?.to_owned());
    let document = blocking::run(move || builder.index_document(&name)).await?;
    Ok(([(CONTENT_TYPE, "application/json")], document).into_response())
}

/// `POST /v1/indexes?name=&source=&annotation=`: puts images under one name.
pub(super) async fn create_index(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["name", "source", "annotation"])?;
    let sources: Vec<String> = all(call, "source").map(str::to_owned).collect();
    if sources.is_empty() {
        return Err(ApiError::parameter("source", "it is missing"));
    }
    let annotations = annotations(call)?;
    let (builder, name) = (call.service.builder().clone(), needed(call, "name")?.to_owned());
    let tagged = name.clone();
    let digest = blocking::run(move || builder.create_index(&name, &sources, &annotations)).await?;
    call.service.0.events.tell(EngineEvent::image("tag", digest.as_str(), &tagged));
    Ok(Json(json!({ "digest": digest })).into_response())
}

/// `POST /v1/indexes/annotate?name=&annotation=`.
pub(super) async fn annotate_index(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["name", "annotation"])?;
    let annotations = annotations(call)?;
    let (builder, name) = (call.service.builder().clone(), needed(call, "name")?.to_owned());
    let digest = blocking::run(move || builder.annotate_index(&name, &annotations)).await?;
    Ok(Json(json!({ "digest": digest })).into_response())
}

fn all<'a>(call: &'a Call, name: &'a str) -> impl Iterator<Item = &'a str> {
    call.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn annotations(call: &Call) -> Result<Annotations, ApiError> {
    let mut annotations = Annotations::default();
    for text in all(call, "annotation") {
        let added = annotations.add_flag(text);
        added.map_err(|reason| ApiError::parameter("annotation", reason))?;
    }
    Ok(annotations)
}
