//! Images of a service.

use std::io::{self, Read, Write};

use axum::http::{HeaderName, Method};
use builder::{ArchiveKind, Compression, ErrorKind, ImportOptions, PushOptions, blocking};
use bytes::Bytes;
use frontend::{Platform, Reference};
use http_body_util::BodyExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Answer, Client, Payload};
use crate::fault::Fault;
use crate::format::printable;
use crate::pipe;
use crate::wire::{HistoryItem, ImageItem, RemovedItem};

/// What may stand in a path as it is, besides letters and digits.
const IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b':').remove(b'.').remove(b'-').remove(b'_').remove(b'@');

/// Bytes of an archive taken from a service.
const ARCHIVE_LIMIT: u64 = 256 << 30;

/// A line of the stream that answers pulls, pushes and loads.
#[derive(Debug, Deserialize)]
struct StatusLine {
    status: Option<String>,
    stream: Option<String>,
    id: Option<String>,
    error: Option<String>,
    /// Present on the repeated reports of bytes moved.
    progress: Option<String>,
    /// What a push ended with.
    aux: Option<Value>,
}

impl Client {
    /// Lists the images that pass `filters`, newest first.
    pub(crate) async fn images(&self, filters: &str) -> Result<Vec<ImageItem>, Fault> {
        let query = query(&[("filters", Some(filters))]);
        self.json(Method::GET, &format!("/images/json?{query}")).await
    }

    /// Removes the images that pass `filters`; returns what went, and the bytes freed.
    pub(crate) async fn prune_images(
        &self,
        filters: &str,
    ) -> Result<(Vec<RemovedItem>, u64), Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Pruned {
            images_deleted: Option<Vec<RemovedItem>>,
            space_reclaimed: u64,
        }
        let query = query(&[("filters", Some(filters))]);
        let pruned: Pruned = self.json(Method::POST, &format!("/images/prune?{query}")).await?;
        Ok((pruned.images_deleted.unwrap_or_default(), pruned.space_reclaimed))
    }

    /// Returns the document that `inspect` prints.
    pub(crate) async fn inspect(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Value, Fault> {
        let platform = platform.map(in_json);
        let query = query(&[("platform", platform.as_deref())]);
        self.json(Method::GET, &format!("/images/{}/json?{query}", in_path(name))).await
    }

    /// Returns the history, newest entry first.
    pub(crate) async fn history(&self, name: &str) -> Result<Vec<HistoryItem>, Fault> {
        self.json(Method::GET, &format!("/images/{}/history", in_path(name))).await
    }

    /// Gives `source` the further name `target`.
    pub(crate) async fn tag(&self, source: &str, target: &str) -> Result<(), Fault> {
        let (repository, tag) = split_tag(target);
        let query = query(&[("repo", Some(repository)), ("tag", tag)]);
        let path = format!("/images/{}/tag?{query}", in_path(source));
        self.send(Method::POST, &path, Payload::Nothing).await.map(drop)
    }

    /// Takes a name away, and the image with its last name.
    pub(crate) async fn remove(&self, name: &str, force: bool) -> Result<Vec<RemovedItem>, Fault> {
        let force = if force { "?force=1" } else { "" };
        self.json(Method::DELETE, &format!("/images/{}{force}", in_path(name))).await
    }

    /// Has the service pull an image; `show` gets a line for what happens.
    pub(crate) async fn pull(
        &self,
        name: &str,
        platform: Option<&Platform>,
        show: impl FnMut(&str),
    ) -> Result<(), Fault> {
        let (repository, tag) = split_tag(name);
        let platform = platform.map(ToString::to_string);
        let query = query(&[
            ("fromImage", Some(repository)),
            ("tag", Some(tag.unwrap_or("latest"))),
            ("platform", platform.as_deref()),
        ]);
        let auth = self.registry_auth(name).await;
        self.follow(&format!("/images/create?{query}"), Payload::Nothing, auth, show)
            .await
            .map(drop)
    }

    /// Has the service push an image; `show` gets a line for what happens. Returns the digest.
    pub(crate) async fn push(
        &self,
        name: &str,
        options: &PushOptions,
        show: impl FnMut(&str),
    ) -> Result<Option<String>, Fault> {
        let PushOptions { destination, platform, form } = options;
        // An image that goes elsewhere may be named by its ID.
        let (name_in_path, tag) = if destination.is_some() {
            (name, None)
        } else {
            let (repository, tag) = split_tag(name);
            (repository, Some(tag.unwrap_or("latest")))
        };
        let (platform, level) =
            (platform.as_ref().map(in_json), form.level.map(|it| it.to_string()));
        let query = query(&[
            ("tag", tag),
            ("platform", platform.as_deref()),
            ("destination", destination.as_deref()),
            ("compression", form.compression.map(Compression::name)),
            ("compression-level", level.as_deref()),
            ("force-compression", form.force.then_some("1")),
        ]);
        let path = format!("/images/{}/push?{query}", in_path(name_in_path));
        let auth = self.registry_auth(destination.as_deref().unwrap_or(name)).await;
        self.follow(&path, Payload::Nothing, auth, show).await
    }

    /// Writes images as one archive to `out`.
    pub(crate) async fn save(
        &self,
        names: &[String],
        (kind, platform): (ArchiveKind, Option<&Platform>),
        mut out: Box<dyn Write + Send>,
    ) -> Result<(), Fault> {
        let format = match kind {
            ArchiveKind::Docker => None,
            ArchiveKind::Oci => Some("oci"),
        };
        let platform = platform.map(in_json);
        let names = names.iter().map(|name| ("names", Some(name.as_str())));
        let more = [("format", format), ("platform", platform.as_deref())];
        let pairs: Vec<_> = names.chain(more).collect();
        let path = format!("/images/get?{}", query(&pairs));
        let answer = self.send(Method::GET, &path, Payload::Nothing).await?;
        let Answer { body, connection, .. } = answer;
        let (mut reader, feed) = pipe::reader(body.into_data_stream(), ARCHIVE_LIMIT);
        let copy = blocking::run(move || io::copy(&mut reader, &mut out).and_then(|_| out.flush()));
        let (copied, ()) = tokio::join!(copy, feed);
        drop(connection);
        copied.map_err(|error| {
            let mut fault = Fault::new(ErrorKind::Remote, "could not save the images");
            fault.causes.push(error.to_string());
            fault
        })
    }

    /// Hands an archive to the service; `show` gets a line for each image.
    pub(crate) async fn load(
        &self,
        archive: Box<dyn Read + Send>,
        show: impl FnMut(&str),
    ) -> Result<(), Fault> {
        self.hand_over("/images/load?quiet=1", archive, show).await
    }

    /// Hands the tar of a root filesystem to the service; `show` gets the ID of its image.
    pub(crate) async fn import(
        &self,
        archive: Box<dyn Read + Send>,
        options: &ImportOptions,
        show: impl FnMut(&str),
    ) -> Result<(), Fault> {
        let name = options.name.as_ref().map(Reference::familiar);
        let (repository, tag) = name.as_deref().map(split_tag).unzip();
        let platform = options.platform.as_ref().map(ToString::to_string);
        let mut pairs = vec![
            ("fromSrc", Some("-")),
            ("repo", repository),
            ("tag", tag.flatten()),
            ("message", Some(options.message.as_str())),
            ("platform", platform.as_deref()),
        ];
        pairs.extend(options.changes.iter().map(|change| ("changes", Some(change.as_str()))));
        self.hand_over(&format!("/images/create?{}", query(&pairs)), archive, show).await
    }

    async fn hand_over(
        &self,
        path: &str,
        mut archive: Box<dyn Read + Send>,
        show: impl FnMut(&str),
    ) -> Result<(), Fault> {
        let (mut writer, end, chunks) = pipe::writer();
        let send = async move {
            let copied = blocking::run(move || {
                io::copy(&mut archive, &mut writer).and_then(|_| writer.flush())
            });
            if let Err(error) = copied.await {
                end.fail(error).await;
            }
        };
        let follow = self.follow(path, Payload::Tar(chunks), None, show);
        let ((), followed) = tokio::join!(send, follow);
        followed.map(drop)
    }

    /// Hands an archive to the service as it is made; `show` gets a line for each image.
    pub(crate) async fn load_chunks(
        &self,
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        show: impl FnMut(&str),
    ) -> Result<(), Fault> {
        self.follow("/images/load?quiet=1", Payload::Tar(chunks), None, show).await.map(drop)
    }

    /// Returns what `GET /version` answers.
    pub(crate) async fn version(&self) -> Result<Value, Fault> {
        self.json(Method::GET, "/version").await
    }

    async fn follow(
        &self,
        path: &str,
        payload: Payload,
        auth: Option<(HeaderName, String)>,
        mut show: impl FnMut(&str),
    ) -> Result<Option<String>, Fault> {
        let mut digest = None;
        let mut answer = self.send_with(Method::POST, path, payload, auth.as_slice()).await?;
        let mut rest = Vec::new();
        while let Some(line) = answer.line::<StatusLine>(&mut rest).await? {
            if let Some(error) = line.error {
                return Err(Fault::new(ErrorKind::Remote, printable(&error)));
            }
            let told = line.aux.as_ref().and_then(|aux| aux["Digest"].as_str());
            digest = told.map(printable).or(digest);
            let text = line.stream.or(line.status).unwrap_or_default();
            match line.id {
                _ if line.progress.is_some() || text.is_empty() => {}
                Some(id) => show(&printable(&format!("{id}: {text}"))),
                None => show(&printable(&text)),
            }
        }
        Ok(digest)
    }
}

fn in_path(name: &str) -> String {
    utf8_percent_encode(name, IN_PATH).to_string()
}

fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// Writes a platform as services of newer API versions read it.
fn in_json(platform: &Platform) -> String {
    let Platform { os, architecture, variant } = platform;
    serde_json::json!({ "os": os, "architecture": architecture, "variant": variant }).to_string()
}

/// Splits `repository:tag` or `repository@digest`; the port of a registry is no tag.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    if let Some((repository, digest)) = name.split_once('@') {
        return (repository, Some(digest));
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_their_tag() {
        #[rustfmt::skip]
        let cases = [
            ("node",                   ("node", None)),
            ("node:14",                ("node", Some("14"))),
            ("reg:5000/a/b",           ("reg:5000/a/b", None)),
            ("reg:5000/a/b:1",         ("reg:5000/a/b", Some("1"))),
            ("a@sha256:01",            ("a", Some("sha256:01"))),
        ];
        for (name, want) in cases {
            assert_eq!(split_tag(name), want, "{name}");
        }
    }

    #[test]
    fn names_are_quoted_in_paths() {
        assert_eq!(in_path("reg:5000/a-b_c.d/e:1"), "reg:5000/a-b_c.d/e:1");
        assert_eq!(in_path("a?b#c d%"), "a%3Fb%23c%20d%25");
    }
}
