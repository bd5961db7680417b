//! Results that wait for their client: archives, trees and caches, which a build wrote here and its
//! client wants there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{blocking, write_layer};
use cache::TempDir;

use crate::pipe::{self, ChunkWriter};
use crate::server::error::ApiError;
use crate::server::{Call, Service};

/// How long they wait after the build.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the results of one build are; removed when dropped.
#[derive(Debug)]
pub(in crate::server) struct Delivery {
    dir: TempDir,
    count: usize,
}

impl Delivery {
    pub(in crate::server) const fn new(dir: TempDir) -> Self {
        Self { dir, count: 0 }
    }

    /// Makes up the place of one more result.
    pub(in crate::server) fn add(&mut self) -> PathBuf {
        self.count += 1;
        self.place(self.count - 1)
    }

    fn place(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }
}

/// All that wait, by the ids of their builds.
#[derive(Debug, Default)]
pub(in crate::server) struct Deliveries(Mutex<HashMap<String, Waiting>>);

#[derive(Debug)]
struct Waiting {
    client: String,
    delivery: Arc<Delivery>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the client of the build `id` fetch its results.
    pub(in crate::server) fn offer(&self, id: &str, client: &str, delivery: Arc<Delivery>) {
        let waiting = Waiting { client: client.to_owned(), delivery };
        self.lock().insert(id.to_owned(), waiting);
    }

    fn find(&self, id: &str, client: &str) -> Result<Arc<Delivery>, ApiError> {
        let deliveries = self.lock();
        let found = deliveries.get(id).filter(|waiting| waiting.client == client);
        let found = found.map(|waiting| Arc::clone(&waiting.delivery));
        found.ok_or_else(|| ApiError::NotFound(format!("the build {id} has no results to fetch")))
    }
}

/// Takes the results of the build `id` away: at once, or in a while for the client to fetch them.
pub(in crate::server) fn withdraw(service: &Service, id: String, is_wanted: bool) {
    let (service, ending) = (service.clone(), service.0.ending.clone());
    service.clone().spawn(async move {
        if is_wanted {
            let _waited = ending.run_until_cancelled(tokio::time::sleep(PATIENCE)).await;
        }
        let taken = service.0.deliveries.lock().remove(&id);
        blocking::run(move || drop(taken)).await;
    });
}

/// `GET /v1/builds/{id}/output?number=`: one result, a directory as a tar.
pub(super) async fn fetch(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&["number"])?;
    let number = call.number("number")?.unwrap_or_default();
    let delivery = call.service.0.deliveries.find(id, &call.client)?;
    let missing = || ApiError::NotFound(format!("the build {id} has no result {number}"));
    let number = usize::try_from(number).ok().filter(|number| *number < delivery.count);
    let place = delivery.place(number.ok_or_else(missing)?);
    let path = place.clone();
    let found = blocking::run(move || fs::metadata(&path)).await.map_err(|_| missing())?;
    let is_dir = found.is_dir();
    let (writer, end, chunks) = pipe::writer();
    call.service.spawn(async move {
        let written = blocking::run(move || {
            let _held = delivery;
            if is_dir { write_tree(&place, writer) } else { write_file(&place, writer) }
        });
        if let Err(error) = written.await {
            end.fail(error).await;
        }
    });
    let kind = if is_dir { "application/x-tar" } else { "application/octet-stream" };
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(pipe::stream(chunks))).into_response())
}

fn write_tree(dir: &Path, mut out: ChunkWriter) -> io::Result<()> {
    write_layer(dir, &mut out).map_err(io::Error::other)?;
    out.flush()
}

fn write_file(path: &Path, mut out: ChunkWriter) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut out)?;
    out.flush()
}

/// `DELETE /v1/builds/{id}/output`: the client has what it wants.
pub(super) fn remove(call: &Call, id: &str) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    call.service.0.deliveries.find(id, &call.client)?;
    withdraw(&call.service, id.to_owned(), false);
    Ok(StatusCode::NO_CONTENT.into_response())
}
