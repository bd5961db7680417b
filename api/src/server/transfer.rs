//! Images in and out: pull, push, save, load.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use builder::{
    ArchiveKind, Compression, ErrorKind, Event, Events, ImageError, ImageForm, Pulled, PushOptions,
    Pushed, blocking,
};
use bytes::Bytes;
use frontend::Reference;
use futures_util::stream;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::Call;
use super::auth;
use super::error::ApiError;
use super::events::EngineEvent;
use super::image::{wanted_platforms, with_tag};
use super::lines::{error_line, line};
use super::query::platform;
use super::status::{Direction, StatusLines};
use crate::pipe;

/// Bytes of an archive accepted from a client.
pub(super) const ARCHIVE_LIMIT: u64 = 256 << 30;

/// `POST /images/create?fromImage=&tag=&platform=`; without a tag, every tag of the repository.
pub(super) async fn pull(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&["fromImage", "tag", "platform"])?;
    let repository = call
        .parameter("fromImage")
        .ok_or_else(|| ApiError::parameter("fromImage", "it is missing"))?;
    let name = with_tag(repository, call.parameter("tag"));
    let platform = platform("platform", call.parameter("platform").unwrap_or_default())?;
    let credentials = auth::for_image(&call.headers, &name)?;
    let builder = call.service.builder().clone();
    let reference = Reference::parse_normalized(&name).map_err(ImageError::from)?;
    let names = if reference.tag.is_none() && reference.digest.is_none() {
        builder.tags(&name, &credentials).await.map_err(unknown)?
    } else {
        vec![name.clone()]
    };
    let from = names.iter().map(|name| pulling_from(name, &reference.repository));
    let begin: String = from.collect();
    let mut transfer = start(call, move |events| async move {
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let pulled = builder.pull(&name, platform.clone(), &credentials, &events).await?;
            all.push((name, pulled));
        }
        Ok(all)
    });
    // An unknown image is a status, not a line of a stream.
    let first = transfer.events.recv().await;
    if first.is_none() {
        match transfer.take_result().await {
            Some(Err(error)) => return Err(unknown(error)),
            result => transfer.result = result,
        }
    }
    let begin = begin + &first.map_or_else(String::new, |event| transfer.line(&event));
    let service = call.service.clone();
    Ok(answer(begin, transfer, move |all: Vec<(String, Pulled)>| {
        let mut text = String::new();
        for (name, pulled) in &all {
            service.0.events.tell(EngineEvent::image("pull", name.as_str(), name));
            text += &line(&json!({ "status": format!("Digest: {}", pulled.digest) }));
        }
        let is_up_to_date = all.iter().all(|(_, pulled)| pulled.up_to_date);
        let what = if is_up_to_date { "Image is up to date" } else { "Downloaded newer image" };
        text + &line(&json!({ "status": format!("Status: {what} for {name}") }))
    }))
}

/// An image that the registry does not give is not found, whatever the registry said.
fn unknown(error: ImageError) -> ApiError {
    if error.kind() == ErrorKind::User {
        return ApiError::NotFound(builder::causes(&error).join(": "));
    }
    error.into()
}

/// Makes the line that a pull begins with: the tag or digest, and the path below the registry.
fn pulling_from(name: &str, path: &str) -> String {
    let separator = if name.contains('@') { '@' } else { ':' };
    let tag = name.rsplit_once(separator).map_or("latest", |(_, tag)| tag);
    line(&json!({ "status": format!("Pulling from {path}"), "id": tag }))
}

/// `POST /images/{name}/push?tag=`; without a tag, every tag of the repository. Ours are
/// `destination`, another name for the one image, and how layers are compressed.
pub(super) async fn push(call: &Call, repository: &str) -> Result<Response, ApiError> {
    let options = push_options(call)?;
    let names = match (call.parameter("tag"), &options.destination) {
        (Some(tag), _) => vec![with_tag(repository, Some(tag))],
        (None, Some(_)) => vec![repository.to_owned()],
        (None, None) => tagged(call, repository).await?,
    };
    let repository = options.destination.as_deref().map_or(repository, repository_of).to_owned();
    let credentials = auth::for_image(&call.headers, &repository)?;
    let service = call.service.clone();
    let mut transfer = start(call, move |events| async move {
        let mut all = Vec::new();
        for name in names {
            let pushed = service.builder().push(&name, &options, &credentials, &events).await?;
            service.0.events.tell(EngineEvent::image("push", name.as_str(), &name));
            all.push((options.destination.clone().unwrap_or(name), pushed));
        }
        Ok(all)
    });
    transfer.lines = StatusLines::new(Direction::Push);
    let begin = line(&json!({ "status": format!("The push refers to repository [{repository}]") }));
    Ok(answer(begin, transfer, |all: Vec<(String, Pushed)>| {
        all.iter().map(|(name, pushed)| pushed_lines(name, pushed)).collect()
    }))
}

fn push_options(call: &Call) -> Result<PushOptions, ApiError> {
    const COMPRESSION: [&str; 3] = ["compression", "compression-level", "force-compression"];
    let known = [&["tag", "platform", "destination"][..], &COMPRESSION].concat();
    call.expect_only(&known)?;
    let [compression, level, force] = COMPRESSION;
    let unknown = || {
        let known = Compression::ALL.map(Compression::name).join(", ");
        ApiError::parameter(compression, format!("it is none of {known}"))
    };
    let parsed = call.parameter(compression).map(|it| Compression::parse(it).ok_or_else(unknown));
    let number = |text: &str| {
        text.parse().map_err(|_| ApiError::parameter(level, "it is no number up to 255"))
    };
    let form = ImageForm {
        compression: parsed.transpose()?,
        level: call.parameter(level).map(number).transpose()?,
        force: call.flag(force, false)?,
        ..ImageForm::default()
    };
    form.check().map_err(|reason| ApiError::parameter(level, reason))?;
    let destination = call.parameter("destination").map(str::to_owned);
    let platform = wanted_platforms(call, "platform")?.into_iter().next();
    Ok(PushOptions { destination, platform, form })
}

fn pushed_lines(name: &str, pushed: &Pushed) -> String {
    let Pushed { digest, size, .. } = pushed;
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    let aux = json!({ "Tag": tag, "Digest": digest, "Size": size });
    line(&json!({ "status": format!("{tag}: digest: {digest} size: {size}") }))
        + &line(&json!({ "progressDetail": {}, "aux": aux }))
}

/// Lists the names of the store's images that are tags of `repository`.
async fn tagged(call: &Call, repository: &str) -> Result<Vec<String>, ApiError> {
    let builder = call.service.builder().clone();
    let images = blocking::run(move || builder.images().map_err(ApiError::from)).await?;
    let tags = images.into_iter().flat_map(|image| image.tags);
    let of_repository = |tag: &String| tag.rsplit_once(':').is_some_and(|(it, _)| it == repository);
    let mut names: Vec<String> = tags.filter(of_repository).collect();
    names.sort();
    if names.is_empty() {
        return Err(ApiError::NotFound(absent(repository)));
    }
    Ok(names)
}

/// `GET /images/get?names=` and `GET /images/{name}/get`; `format=oci` is ours.
pub(super) async fn save(call: &Call, name: Option<String>) -> Result<Response, ApiError> {
    call.expect_only(&["names", "platform", "format"])?;
    let mut names: Vec<String> = name.into_iter().collect();
    if names.is_empty() {
        let given = call.query.iter().filter(|(name, _)| name == "names");
        // Docker's clients repeat the parameter; its documentation separates names by commas.
        names = given.flat_map(|(_, value)| value.split(',')).map(str::to_owned).collect();
    }
    if names.is_empty() {
        return Err(ApiError::parameter("names", "it is missing"));
    }
    let platform = wanted_platforms(call, "platform")?.into_iter().next();
    let kind = match call.parameter("format") {
        None | Some("docker") => ArchiveKind::Docker,
        Some("oci") => ArchiveKind::Oci,
        Some(_) => return Err(ApiError::parameter("format", "it is neither docker nor oci")),
    };
    let builder = call.service.builder().clone();
    let (known, wanted) = (names.clone(), platform.clone());
    let look = builder.clone();
    let ids = blocking::run(move || {
        let id = |name: &String| {
            let image = match &wanted {
                None => look.inspect(name)?,
                Some(platform) => look.inspect_for(name, platform)?,
            };
            Ok(image.summary.id)
        };
        known.iter().map(id).collect::<Result<Vec<_>, ImageError>>().map_err(ApiError::from)
    })
    .await?;
    let (writer, end, chunks) = pipe::writer();
    let service = call.service.clone();
    call.service.spawn(async move {
        let (events, seen) = Events::channel();
        drop(seen);
        let platform = platform.as_ref();
        let saved = builder.save(&names, kind, platform, Box::new(writer), &events).await;
        if let Err(error) = saved {
            return end.fail(error).await;
        }
        for (id, name) in ids.iter().zip(&names) {
            service.0.events.tell(EngineEvent::image("save", id.as_str(), name));
        }
    });
    let body = Body::from_stream(pipe::stream(chunks));
    Ok(([(CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// `POST /images/load`.
pub(super) async fn load(call: &Call, body: Body) -> Result<Response, ApiError> {
    call.expect_only(&["quiet"])?;
    let events = &call.service.0.events;
    // Docker's Python SDK sends no type; a web page is known by its Origin.
    if call.headers.contains_key(CONTENT_TYPE) {
        super::guard::check_tar(&call.headers)?;
    }
    let (reader, feed) = pipe::reader(body.into_data_stream(), ARCHIVE_LIMIT);
    let builder = call.service.builder().clone();
    let load = async move { builder.load(Box::new(reader)).await };
    let mut load = std::pin::pin!(load);
    let names = tokio::select! {
        names = &mut load => names?,
        () = feed => load.await?,
    };
    for name in &names {
        events.tell(EngineEvent::image("load", name.as_str(), name));
    }
    let lines = names.iter().map(|name| {
        let what = if name.starts_with("sha256:") { "image ID" } else { "image" };
        line(&json!({ "stream": format!("Loaded {what}: {name}\n") }))
    });
    Ok(([(CONTENT_TYPE, "application/json")], lines.collect::<String>()).into_response())
}

/// Tells why a transfer failed, in Docker's words where clients look for them.
fn message(error: &ImageError) -> String {
    match error {
        ImageError::NotFound { name } => absent(repository_of(name)),
        error => builder::causes(error).join(": "),
    }
}

/// What is said of an image that was to be pushed and is not here.
fn absent(repository: &str) -> String {
    format!("An image does not exist locally with the tag: {repository}")
}

/// Takes the tag off a name; a colon before a slash is that of a port.
fn repository_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
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
            Some(Err(error)) => error_line(&message(&error), 0),
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
