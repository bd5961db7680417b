//! Contexts that are kept: a client tells what its context consists of, sends what is missing, and
//! names it in a build.
//!
//! ```text
//! POST /v1/contexts            digests of the list's chunks    -> chunks that are lacking, or
//! PUT  /v1/contexts/ID/list    those chunks                    -> files that are missing
//! PUT  /v1/contexts/ID         the content of those files
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use builder::blocking;
use bytes::Bytes;
use serde_json::json;

use crate::manifest::{self, ANNOUNCEMENT_LIMIT, ManifestError};
use crate::pipe;
use crate::server::error::ApiError;
use crate::server::listing::Listing;
use crate::server::mirror::Mirror;
use crate::server::{Call, Service};

/// Bytes of chunks of a list, packed.
const LIST_LIMIT: usize = 128 << 20;

/// Contexts that wait for their content or their build.
const MOST: usize = 256;

/// How long one is kept for its client.
const PATIENCE: Duration = Duration::from_secs(600);

/// Contexts between their announcement and their build.
#[derive(Debug, Default)]
pub(in crate::server) struct Contexts(Mutex<HashMap<String, Waiting>>);

#[derive(Debug)]
struct Waiting {
    client: String,
    state: State,
}

/// How far a context has come.
#[derive(Debug)]
enum State {
    /// Chunks of its list are lacking.
    Announced(Box<Listing>),
    /// Its list is known; content may be missing.
    Listed(Mirror),
}

impl Contexts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the context `id` of `client`.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotFound`] where there is none, [`ApiError::Conflict`] where content is missing.
    pub(in crate::server) fn take(&self, id: &str, client: &str) -> Result<Mirror, ApiError> {
        let mirror = self.take_listed(id, client)?;
        if mirror.missing().is_empty() {
            return Ok(mirror);
        }
        Err(ApiError::Conflict(format!("content of the context {id} is missing")))
    }

    fn take_listed(&self, id: &str, client: &str) -> Result<Mirror, ApiError> {
        match self.take_any(id, client)? {
            State::Listed(mirror) => Ok(mirror),
            State::Announced(_) => {
                let what = format!("parts of the list of the context {id} are missing");
                Err(ApiError::Conflict(what))
            }
        }
    }

    fn take_any(&self, id: &str, client: &str) -> Result<State, ApiError> {
        let mut contexts = self.lock();
        if contexts.get(id).is_none_or(|waiting| waiting.client != client) {
            return Err(ApiError::NotFound(format!("no such context: {id}")));
        }
        let waiting = contexts.remove(id).expect("it was just looked at");
        Ok(waiting.state)
    }
}

/// Keeps a context for its client, for a while.
fn keep(service: &Service, id: String, client: String, state: State) -> Result<(), ApiError> {
    let mut contexts = service.0.contexts.lock();
    if contexts.len() >= MOST {
        return Err(ApiError::Busy);
    }
    contexts.insert(id.clone(), Waiting { client, state });
    drop(contexts);
    let (service, ending) = (service.clone(), service.0.ending.clone());
    service.clone().spawn(async move {
        let _waited = ending.run_until_cancelled(tokio::time::sleep(PATIENCE)).await;
        service.0.contexts.lock().remove(&id);
    });
    Ok(())
}

/// `POST /v1/contexts?name=&mtime=`: takes what a context's list consists of; answers what is lacking
/// of it, or else which files are missing.
pub(super) async fn announce(call: &Call, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&["name", "mtime"])?;
    let mtime = i64::try_from(call.number("mtime")?.unwrap_or_default()).unwrap_or_default();
    let name =
        call.parameter("name").ok_or_else(|| ApiError::parameter("name", "it is missing"))?;
    let bytes = whole(body, ANNOUNCEMENT_LIMIT).await?;
    let digests = manifest::announced(&bytes).map_err(|error| refused(&error))?;
    // Contexts of other clients are none of this one's business.
    let name = format!("{} {name}", call.client);
    let builder = call.service.builder().clone();
    let (id, listing) = blocking::run(move || {
        let store = builder.store();
        let id = [store.builds().new_id()?, store.builds().new_id()?].concat();
        Ok::<_, ApiError>((id, Listing::open(store, &name, digests, mtime)?))
    })
    .await?;
    let lacking = listing.lacking();
    if lacking.is_empty() {
        let missing = list(call, &id, listing).await?;
        let answer = json!({ "id": id, "lacking": [], "missing": missing });
        return Ok((StatusCode::CREATED, Json(answer)).into_response());
    }
    let answer = json!({ "id": id, "lacking": lacking, "missing": [] });
    keep(&call.service, id, call.client.clone(), State::Announced(Box::new(listing)))?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `PUT /v1/contexts/{id}/list`: takes the parts of the list that were lacking.
pub(super) async fn receive_list(call: &Call, id: &str, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let bytes = whole(body, LIST_LIMIT).await?;
    let State::Announced(mut listing) = call.service.0.contexts.take_any(id, &call.client)? else {
        return Err(ApiError::Conflict(format!("the list of the context {id} is complete")));
    };
    let listing = blocking::run(move || {
        listing.receive(&bytes).map_err(|error| refused(&error))?;
        Ok::<_, ApiError>(*listing)
    })
    .await?;
    let missing = list(call, id, listing).await?;
    Ok(Json(json!({ "missing": missing })).into_response())
}

async fn whole(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let bytes = axum::body::to_bytes(body, limit).await;
    bytes.map_err(|error| ApiError::parameter("body", builder::causes(&error).join(": ")))
}

fn refused(error: &ManifestError) -> ApiError {
    ApiError::parameter("body", error.to_string())
}

/// Makes the mirror what the list says; returns which files are missing.
async fn list(call: &Call, id: &str, listing: Listing) -> Result<Vec<usize>, ApiError> {
    let limit = call.service.limits().upload.bytes;
    let builder = call.service.builder().clone();
    let mirror = blocking::run(move || {
        let entries = listing.entries().map_err(|error| refused(&error))?;
        let sizes = entries.iter().map(|entry| match entry.kind {
            manifest::Kind::File { size, .. } => size,
            _ => 0,
        });
        if sizes.fold(0, u64::saturating_add) > limit {
            let reason = format!("the context is larger than the limit of {limit} bytes");
            return Err(ApiError::parameter("body", reason));
        }
        Ok(listing.into_mirror(builder.store(), entries)?)
    })
    .await?;
    let missing = mirror.missing().to_vec();
    keep(&call.service, id.to_owned(), call.client.clone(), State::Listed(mirror))?;
    Ok(missing)
}

/// `PUT /v1/contexts/{id}`: takes the content of the missing files.
pub(super) async fn receive(call: &Call, id: &str, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let mut mirror = call.service.0.contexts.take_listed(id, &call.client)?;
    let (reader, feed) = pipe::upload(body.into_data_stream(), call.service.limits().upload);
    let receive = blocking::run(move || {
        mirror.receive(reader)?;
        Ok::<_, ApiError>(mirror)
    });
    let mut receive = std::pin::pin!(receive);
    let mirror = tokio::select! {
        received = &mut receive => received?,
        () = feed => receive.await?,
    };
    keep(&call.service, id.to_owned(), call.client.clone(), State::Listed(mirror))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
