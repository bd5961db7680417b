//! `POST /auth`: whether a registry takes a name and a password.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::Call;
use super::auth::{self, registry_host};
use super::error::ApiError;

/// Bytes of credentials accepted.
const BODY_LIMIT: usize = 64 << 10;

/// Asks the registry. Nothing is stored: that is the client's to do.
pub(super) async fn check(call: &Call, body: Body) -> Result<Response, ApiError> {
    let body = axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|_| {
        ApiError::parameter("body", format!("it is longer than {BODY_LIMIT} bytes, or broke off"))
    })?;
    let (address, credentials) = auth::for_login(&body)?;
    let host = if address.is_empty() { "docker.io".to_owned() } else { registry_host(&address) };
    let token = call
        .service
        .builder()
        .login(&host, credentials)
        .await
        .map_err(|error| ApiError::Unauthorized(builder::causes(&error).join(": ")))?;
    let token = token.unwrap_or_default();
    Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": token })).into_response())
}
