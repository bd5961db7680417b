//! What Docker's clients ask of every engine and this one does not have: containers, networks,
//! volumes. Lists are empty and names unknown, so that `docker ps`, `inspect` and `system prune`
//! behave; what would make some, and swarms, is told to be of no use here.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::error::ApiError;
use super::route::Absent;

/// Answers in Docker's words.
pub(super) fn answer(absent: Absent) -> Result<Response, ApiError> {
    let document = match absent {
        Absent::List => json!([]),
        Absent::Volumes => json!({ "Volumes": [], "Warnings": [] }),
        Absent::Pruned(list) => json!({ list: null, "SpaceReclaimed": 0 }),
        Absent::Container(name) => {
            return Err(ApiError::NotFound(format!("No such container: {name}")));
        }
        Absent::Network(name) => {
            return Err(ApiError::NotFound(format!("network {name} not found")));
        }
        Absent::Volume(name) => {
            return Err(ApiError::NotFound(format!("get {name}: no such volume")));
        }
        Absent::CreateContainer => {
            return Err(ApiError::NotHere(
                "containers are not supported by rbuild, which builds images and runs no \
                 containers; `rbuild run` tries an image out",
            ));
        }
        Absent::CreateNetwork => return not_supported("networks are not supported by rbuild"),
        Absent::CreateVolume => return not_supported("volumes are not supported by rbuild"),
        Absent::Swarm => return not_supported("swarms are not supported by rbuild"),
        Absent::Plugin => return not_supported("plugins are not supported by rbuild"),
        Absent::Search => return not_supported("searching a registry is not supported by rbuild"),
    };
    Ok(Json(document).into_response())
}

fn not_supported(what: &'static str) -> Result<Response, ApiError> {
    Err(ApiError::NotHere(what))
}
