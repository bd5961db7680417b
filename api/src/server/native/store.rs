//! The store: `GET /v1/store` and `POST /v1/store/prune`.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use builder::blocking;
use cache::{ItemKind, PruneOptions};
use serde_json::json;

use crate::limits;
use crate::server::Call;
use crate::server::error::ApiError;
use crate::server::events::EngineEvent;

/// `GET /v1/store?items=`: sums, and everything one by one if asked for.
pub(super) async fn usage(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["items"])?;
    let has_items = call.flag("items", false)?;
    let builder = call.service.builder().clone();
    let root = call.service.0.root.display().to_string();
    let document = blocking::run(move || {
        let mut document = json!({ "root": root, "usage": builder.usage()? });
        if has_items {
            document["items"] = json!(builder.items()?);
        }
        Ok::<_, ApiError>(document)
    })
    .await?;
    Ok(Json(document).into_response())
}

/// `POST /v1/store/prune`, options in the query or as JSON.
pub(super) async fn prune(call: &Call, body: Body) -> Result<Response, ApiError> {
    let call = &call.with_options(body).await?;
    call.expect_only(&["all", "keep_bytes", "unused_for", "kind", "dry_run"])?;
    let options = PruneOptions {
        all: call.flag("all", false)?,
        keep_bytes: call.number("keep_bytes")?,
        older_than: call
            .parameter("unused_for")
            .map(|text| {
                limits::duration(text).map_err(|reason| ApiError::parameter("unused_for", reason))
            })
            .transpose()?,
        only: call.parameter("kind").map(kind).transpose()?,
        dry_run: call.flag("dry_run", false)?,
    };
    let builder = call.service.builder().clone();
    let pruned = blocking::run(move || builder.prune(&options)).await?;
    if !options.dry_run {
        call.service.0.events.tell(EngineEvent::prune("builder", pruned.bytes));
    }
    Ok(Json(pruned).into_response())
}

/// `POST /v1/store/check?repair=`: reads the whole store and tells what is damaged.
pub(super) async fn check(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["repair"])?;
    let repair = call.flag("repair", false)?;
    let builder = call.service.builder().clone();
    let report = blocking::run(move || builder.check(repair)).await?;
    Ok(Json(report).into_response())
}

fn kind(text: &str) -> Result<ItemKind, ApiError> {
    let kind = serde_json::from_value(text.into());
    let refuse = |reason: &str| ApiError::parameter("kind", format!("`{text}` {reason}"));
    match kind.map_err(|_| refuse("is no kind of thing"))? {
        ItemKind::Layer | ItemKind::Blob | ItemKind::Metadata => {
            Err(refuse("goes with what it belongs to"))
        }
        kind => Ok(kind),
    }
}
