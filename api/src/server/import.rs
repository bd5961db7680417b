//! `POST /images/create?fromSrc=-`: a root filesystem's tar into an image.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::ImportOptions;
use frontend::Reference;
use serde_json::json;

use super::Call;
use super::error::ApiError;
use super::events::EngineEvent;
use super::image::with_tag;
use super::lines::line;
use super::moment;
use super::query::platform;
use super::transfer::ARCHIVE_LIMIT;
use crate::pipe;

/// Takes the tar from the body; a URL in its place is refused.
pub(super) async fn import(call: &Call, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&["fromSrc", "repo", "tag", "message", "changes", "platform"])?;
    if call.parameter("fromSrc") != Some("-") {
        return Err(ApiError::Unsupported {
            name: "fromSrc".to_owned(),
            instead: Some("send the archive in the body, with `-` for its source"),
        });
    }
    let name = call.parameter("repo").map(|repository| with_tag(repository, call.parameter("tag")));
    let reference = name
        .as_deref()
        .map(|name| {
            let parsed = Reference::parse_normalized(name);
            let parsed = parsed.map_err(|error| ApiError::parameter("repo", error.to_string()))?;
            Ok::<_, ApiError>(parsed.with_default_tag())
        })
        .transpose()?;
    let changes = call.query.iter().filter(|(name, _)| name == "changes");
    let options = ImportOptions {
        name: reference.clone(),
        changes: changes.map(|(_, change)| change.clone()).collect(),
        message: call.parameter("message").unwrap_or_default().to_owned(),
        platform: platform("platform", call.parameter("platform").unwrap_or_default())?,
        created: u64::try_from(moment::now() / 1_000_000_000).unwrap_or_default(),
    };
    let (reader, feed) = pipe::reader(body.into_data_stream(), ARCHIVE_LIMIT);
    let builder = call.service.builder();
    let mut import = std::pin::pin!(builder.import(Box::new(reader), options));
    let id = tokio::select! {
        id = &mut import => id?,
        () = feed => import.await?,
    };
    let name = reference.as_ref().map_or_else(|| id.clone(), Reference::familiar);
    call.service.0.events.tell(EngineEvent::image("import", id.as_str(), &name));
    let body = line(&json!({ "status": id }));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}
