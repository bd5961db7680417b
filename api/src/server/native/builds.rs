//! The builds that the store remembers and those that run: `/v1/builds` and what lies below.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{Builder, blocking};
use cache::{BuildRecord, BuildResult};
use serde_json::{Value, json};

use crate::server::error::ApiError;
use crate::server::{Call, Service};
use crate::story::{self, Story};

/// Builds listed where no number is asked for.
const DEFAULT_LIMIT: u64 = 100;

/// `GET /v1/builds?prefix=&limit=`, newest first.
pub(super) async fn list(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["prefix", "limit"])?;
    let limit = call.number("limit")?.unwrap_or(DEFAULT_LIMIT);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let prefix = call.parameter("prefix").map(str::to_owned);
    let is_id = |text: &String| text.len() <= 8 && text.bytes().all(|it| it.is_ascii_hexdigit());
    if prefix.as_ref().is_some_and(|prefix| !is_id(prefix)) {
        return Err(ApiError::parameter("prefix", "ids are 8 hexadecimal digits"));
    }
    let builder = call.service.builder().clone();
    let records = blocking::run(move || match prefix {
        None => builder.builds().list(),
        Some(prefix) => builder.builds().find(&prefix),
    })
    .await?;
    let records = records.iter().take(limit);
    let builds: Vec<Value> = records.map(|record| document(&call.service, record)).collect();
    Ok(Json(json!({ "builds": builds })).into_response())
}

/// A build as it is listed; one that waits has its place.
fn document(service: &Service, record: &BuildRecord) -> Value {
    let mut document = json!(record);
    if record.summary.result == BuildResult::Running {
        let place = service.running().get(&record.id).map_or(0, |build| *build.place.borrow());
        document["queue_place"] = json!((place > 0).then_some(place));
    }
    document
}

/// `GET /v1/builds/{id}`: the build with its steps.
pub(super) async fn show(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let (record, story) = tell(call, id).await?;
    let mut whole = story::record_json(&record, &story);
    whole["queue_place"] = document(&call.service, &record)["queue_place"].take();
    Ok(Json(whole).into_response())
}

/// `GET /v1/builds/{id}/graph?format=`: what needs what.
pub(super) async fn graph(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&["format"])?;
    let is_dot = match call.parameter("format") {
        None | Some("json") => false,
        Some("dot") => true,
        Some(other) => {
            let reason = format!("`{other}` is neither json nor dot");
            return Err(ApiError::parameter("format", reason));
        }
    };
    let (_, story) = tell(call, id).await?;
    if is_dot {
        return Ok(([(CONTENT_TYPE, "text/vnd.graphviz")], story.dot()).into_response());
    }
    Ok(Json(json!({ "steps": story.steps_json() })).into_response())
}

async fn tell(call: &Call, id: &str) -> Result<(BuildRecord, Story), ApiError> {
    let (builder, id) = (call.service.builder().clone(), id.to_owned());
    blocking::run(move || {
        let record = find(&builder, &id)?;
        let events = builder.builds().events(&id)?;
        let events = events.into_iter().flat_map(story::events);
        Ok((record, Story::of(events.map(|recorded| recorded.event))))
    })
    .await
}

fn find(builder: &Builder, id: &str) -> Result<BuildRecord, ApiError> {
    let found = builder.builds().find(id)?.into_iter().find(|record| record.id == id);
    found.ok_or_else(|| ApiError::NotFound(format!("no such build: {id}")))
}

/// `DELETE /v1/builds/{id}`: ends a build that runs or waits. It is over when its last event is
/// there.
pub(super) async fn cancel(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    if let Some(build) = call.service.running().get(id) {
        build.cancel.cancel();
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let (builder, id) = (call.service.builder().clone(), id.to_owned());
    let record = blocking::run(move || find(&builder, &id)).await?;
    Err(ApiError::Conflict(match record.summary.result {
        BuildResult::Running => format!("build {} runs in another process", record.id),
        _ => format!("build {} is over", record.id),
    }))
}

/// `DELETE /v1/builds/{id}/record`: forgets a build that is over.
pub(super) async fn forget(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let (builder, id) = (call.service.builder().clone(), id.to_owned());
    blocking::run(move || {
        find(&builder, &id)?;
        if builder.builds().remove(&id)? {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Err(ApiError::Conflict(format!("build {id} is running")))
    })
    .await
}
