//! Images in and out: pull, push, save, load.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{ArchiveKind, ErrorKind, Event, Events, ImageError, Pulled, Pushed, blocking};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::Call;
use super::auth;
use super::classic::{error_line, line};
use super::error::ApiError;
use super::image::with_tag;
use super::query::platform;
use super::status::{Direction, StatusLines};
use crate::pipe;

/// Bytes of an archive accepted from a client.
const ARCHIVE_LIMIT: u64 = 256 << 30;

/// `POST /images/create?fromImage=&tag=&platform=`.
pub(super) async fn pull(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["fromImage", "tag", "platform"])?;
    let repository = call
        .parameter("fromImage")
        .ok_or_else(|| ApiError::parameter("fromImage", "it is missing"))?;
    let name = with_tag(repository, call.parameter("tag"));
    let platform = platform("platform", call.parameter("platform").unwrap_or_default())?;
    let credentials = auth::for_image(&call.headers, &name)?;
    let builder = call.service.builder().clone();
    let asked = name.clone();
    let mut transfer = start(call, move |events| async move {
        builder.pull(&asked, platform, &credentials, &events).await
    });
    // An unknown image is a status, not a line of a stream.
    let first = transfer.events.recv().await;
    if first.is_none() {
        match transfer.take_result().await {
            Some(Err(error)) if error.kind() == ErrorKind::User => {
                return Err(ApiError::NotFound(builder::causes(&error).join(": ")));
            }
            Some(Err(error)) => return Err(error.into()),
            result => transfer.result = result,
        }
    }
    let tag = call.parameter("tag").unwrap_or("latest").to_owned();
    let from = json!({ "status": format!("Pulling from {repository}"), "id": tag });
    let begin = line(&from) + &first.map_or_else(String::new, |event| transfer.line(&event));
    Ok(answer(begin, transfer, move |pulled: Pulled| {
        let what = if pulled.up_to_date { "Image is up to date" } else { "Downloaded newer image" };
        line(&json!({ "status": format!("Digest: {}", pulled.digest) }))
            + &line(&json!({ "status": format!("Status: {what} for {name}") }))
    }))
}

/// `POST /images/{name}/push?tag=`.
pub(super) fn push(call: &Call, repository: &str) -> Result<Response, ApiError> {
    call.expect_only(&["tag"])?;
    let Some(tag) = call.parameter("tag").map(str::to_owned) else {
        return Err(ApiError::parameter(
            "tag",
            "it is missing, and pushing all tags is not supported",
        ));
    };
    let name = with_tag(repository, Some(&tag));
    let credentials = auth::for_image(&call.headers, &name)?;
    let builder = call.service.builder().clone();
    let mut transfer =
        start(
            call,
            move |events| async move { builder.push(&name, None, &credentials, &events).await },
        );
    transfer.lines = StatusLines::new(Direction::Push);
    let begin = line(&json!({ "status": format!("The push refers to repository [{repository}]") }));
    Ok(answer(begin, transfer, move |pushed: Pushed| {
        let Pushed { digest, size, .. } = pushed;
        let aux = json!({ "Tag": tag, "Digest": digest, "Size": size });
        line(&json!({ "status": format!("{tag}: digest: {digest} size: {size}") }))
            + &line(&json!({ "progressDetail": {}, "aux": aux }))
    }))
}

/// `GET /images/get?names=` and `GET /images/{name}/get`.
pub(super) async fn save(call: &Call, name: Option<String>) -> Result<Response, ApiError> {
    call.expect_only(&["names"])?;
    let mut names: Vec<String> = name.into_iter().collect();
    if names.is_empty() {
        let given = call.query.iter().filter(|(name, _)| name == "names");
        // Docker's clients repeat the parameter; its documentation separates names by commas.
        names = given.flat_map(|(_, value)| value.split(',')).map(str::to_owned).collect();
    }
    if names.is_empty() {
        return Err(ApiError::parameter("names", "it is missing"));
    }
    let builder = call.service.builder().clone();
    let known = names.clone();
    let look = builder.clone();
    blocking::run(move || {
        known.iter().try_for_each(|name| look.inspect(name).map(drop).map_err(ApiError::from))
    })
    .await?;
    let (writer, end, chunks) = pipe::writer();
    call.service.spawn(async move {
        let (events, seen) = Events::channel();
        drop(seen);
        let saved = builder.save(&names, ArchiveKind::Docker, Box::new(writer), &events).await;
        if let Err(error) = saved {
            end.fail(error).await;
        }
    });
    let body = Body::from_stream(pipe::stream(chunks));
    Ok(([(CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// `POST /images/load`.
pub(super) async fn load(call: &Call, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&["quiet"])?;
    super::guard::check_tar(&call.headers)?;
    let (reader, feed) = pipe::reader(body.into_data_stream(), ARCHIVE_LIMIT);
    let builder = call.service.builder().clone();
    let load = async move { builder.load(Box::new(reader)).await };
    let mut load = std::pin::pin!(load);
    let names = tokio::select! {
        names = &mut load => names?,
        () = feed => load.await?,
    };
    let lines = names.iter().map(|name| {
        let what = if name.starts_with("sha256:") { "image ID" } else { "image" };
        line(&json!({ "stream": format!("Loaded {what}: {name}\n") }))
    });
    Ok(([(CONTENT_TYPE, "application/json")], lines.collect::<String>()).into_response())
}

/// A pull or push under way. Dropping it stops the work.
struct Transfer<T> {
    events: mpsc::Receiver<Event>,
    outcome: Option<oneshot::Receiver<Result<T, ImageError>>>,
    result: Option<Result<T, ImageError>>,
    lines: StatusLines,
    _stop_on_drop: DropGuard,
}

impl<T> Transfer<T> {
    fn line(&mut self, event: &Event) -> String {
        match event {
            Event::Transfer(transfer) => {
                self.lines.line(transfer).as_ref().map_or_else(String::new, line)
            }
            _ => String::new(),
        }
    }

    /// Takes what came of it; `None` if it was stopped.
    async fn take_result(&mut self) -> Option<Result<T, ImageError>> {
        match self.result.take() {
            Some(result) => Some(result),
            None => self.outcome.take()?.await.ok(),
        }
    }
}

fn start<T, F>(call: &Call, work: impl FnOnce(Events) -> F) -> Transfer<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ImageError>> + Send + 'static,
{
    let (events, receiver) = Events::channel();
    let (sender, outcome) = oneshot::channel();
    let stop = call.service.0.stop.child_token();
    let stop_on_drop = stop.clone().drop_guard();
    let work = work(events);
    call.service.spawn(async move {
        if let Some(result) = stop.run_until_cancelled_owned(work).await {
            // A client that left needs no result.
            drop(sender.send(result));
        }
    });
    Transfer {
        events: receiver,
        outcome: Some(outcome),
        result: None,
        lines: StatusLines::new(Direction::Pull),
        _stop_on_drop: stop_on_drop,
    }
}

/// Streams `begin`, a line for each event, and then what `end` makes of the result.
fn answer<T: Send + 'static>(
    begin: String,
    transfer: Transfer<T>,
    end: impl FnOnce(T) -> String + Send + 'static,
) -> Response {
    let texts = stream::unfold(Some((transfer, end)), |state| async move {
        let (mut transfer, end) = state?;
        if let Some(event) = transfer.events.recv().await {
            let text = transfer.line(&event);
            return Some((text, Some((transfer, end))));
        }
        let text = match transfer.take_result().await {
            Some(Ok(result)) => end(result),
            Some(Err(error)) => error_line(&builder::causes(&error).join(": "), 0),
            None => error_line("the service is shutting down", 0),
        };
        Some((text, None))
    });
    let texts = futures_util::StreamExt::chain(stream::once(std::future::ready(begin)), texts);
    let chunks = futures_util::StreamExt::filter_map(texts, |text| {
        std::future::ready((!text.is_empty()).then(|| Ok::<_, std::io::Error>(Bytes::from(text))))
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response()
}
