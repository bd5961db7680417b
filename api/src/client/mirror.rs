//! A context of which a service keeps what it was sent before: it hears what there is, and gets what
//! it lacks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use axum::http::Method;
use builder::{ContextInput, ErrorKind, Event, Events, Transfer, TransferPhase, blocking};
use cache::{Digest, StatCache, Store};
use serde::Deserialize;

use super::context::{self, ContextError, RemoteContext};
use super::{Client, Payload};
use crate::fault::Fault;
use crate::manifest::{self, Chunk, Entry, Kind};
use crate::pipe;

/// Bytes of an archive that is not worth the questions, and those that each file adds to its own.
const SMALL: u64 = 256 << 10;
const HEADER_BYTES: u64 = 768;

/// Bytes between two reports of how much was sent.
const REPORT_BYTES: u64 = 1 << 20;

/// Where the content of an entry is.
#[derive(Debug)]
enum Source {
    Nowhere,
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// What a context consists of.
#[derive(Debug)]
struct Listing {
    entries: Vec<Entry>,
    sources: Vec<Source>,
    /// Of the directory itself, in seconds since 1970.
    mtime: i64,
    /// Whether an archive serves it better: it is small, or has files of several names.
    is_better_whole: bool,
}

/// Tells how much of a context was sent.
struct Progress {
    transfer: Transfer,
    told: u64,
    events: Events,
}

impl Progress {
    async fn begin(shown: &str, listing: &Listing, missing: &[usize], events: Events) -> Self {
        let total = missing.iter().map(|&at| listing.size(at)).sum();
        let (id, phase) = (shown.to_owned(), TransferPhase::Loading);
        let transfer = Transfer { id, phase, current: 0, total: Some(total) };
        events.send(Event::Transfer(transfer.clone())).await;
        Self { transfer, told: 0, events }
    }

    fn add(&mut self, bytes: usize) {
        self.transfer.current += bytes as u64;
        if self.transfer.current - self.told >= REPORT_BYTES {
            self.told = self.transfer.current;
            self.events.send_blocking(Event::Transfer(self.transfer.clone()));
        }
    }

    fn end(self) {
        let done = Transfer { phase: TransferPhase::Done, ..self.transfer };
        self.events.send_blocking(Event::Transfer(done));
    }
}

/// Counts what is written.
struct Counted<W> {
    writer: W,
    progress: Progress,
}

impl<W: io::Write> io::Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.progress.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// How a context goes to the service.
pub(super) enum Sent {
    /// It is there, under this id.
    Kept(String),
    /// It is still to be sent whole.
    Whole(RemoteContext),
}

impl Client {
    /// Sends what the service lacks of a directory. Small ones, and those that the service does not
    /// keep, are left to be sent whole.
    ///
    /// # Errors
    ///
    /// What this machine cannot read, and a lost connection.
    pub(super) async fn send_changes(
        &self,
        context: RemoteContext,
        events: &Events,
    ) -> Result<Sent, Fault> {
        let ContextInput::Directory(root) = &context.input else {
            return Ok(Sent::Whole(context));
        };
        let name = name(root);
        let (context, listing) = self.list(context).await?;
        if listing.is_better_whole {
            return Ok(Sent::Whole(context));
        }
        match self.offer(&name, listing, "context", events).await {
            Ok(id) => Ok(Sent::Kept(id)),
            // One that knows nothing of this takes the whole, or says once more why not.
            Err(fault) if matches!(fault.kind, ErrorKind::User | ErrorKind::Host) => {
                tracing::debug!(%fault, "the context is sent whole");
                Ok(Sent::Whole(context))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Sends what the service lacks of a directory beside the context; returns the id that the
    /// service gives it. `shown` is what people call it.
    ///
    /// # Errors
    ///
    /// As [`Client::send_changes`]; and a service that keeps none.
    pub(super) async fn send_directory(
        &self,
        context: RemoteContext,
        shown: &str,
        events: &Events,
    ) -> Result<String, Fault> {
        let ContextInput::Directory(root) = &context.input else {
            return Err(Fault::new(ErrorKind::Bug, "only directories are sent beside the context"));
        };
        // Apart from what the same directory is as the context: other rules make another list.
        let name = format!("{} ({shown})", name(root));
        let (_, listing) = self.list(context).await?;
        self.offer(&name, listing, shown, events).await
    }

    async fn list(&self, context: RemoteContext) -> Result<(RemoteContext, Listing), Fault> {
        let store = self.store.clone();
        let (context, listing) = blocking::run(move || {
            let listing = list(&context, store.as_deref());
            (context, listing)
        })
        .await;
        Ok((context, listing.map_err(|error| Fault::of(ErrorKind::User, &error))?))
    }

    async fn offer(
        &self,
        name: &str,
        listing: Listing,
        shown: &str,
        events: &Events,
    ) -> Result<String, Fault> {
        #[derive(Deserialize)]
        struct Announced {
            id: String,
            /// Chunks of the list; while there are any, nothing is said of files.
            lacking: Vec<usize>,
            missing: Vec<usize>,
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("name", name)
            .append_pair("mtime", &listing.mtime.to_string())
            .finish();
        let path = format!("/v1/contexts?{query}");
        let chunks = manifest::encode(&listing.entries);
        let announcement = Payload::Bytes(manifest::announce(&chunks).into());
        let answer = self.send(Method::POST, &path, announcement).await?;
        let Announced { id, lacking, mut missing } = answer.document().await?;
        if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Fault::new(ErrorKind::Remote, "the service gave the context an odd id"));
        }
        if !lacking.is_empty() {
            missing = self.send_list(&id, &chunks, &lacking).await?;
        }
        if !missing.is_empty() {
            let progress = Progress::begin(shown, &listing, &missing, events.clone()).await;
            self.send_content(&id, listing, missing, progress).await?;
        }
        Ok(id)
    }

    /// Sends parts of the list; returns the places of the files that are missing.
    async fn send_list(
        &self,
        id: &str,
        chunks: &[Chunk],
        lacking: &[usize],
    ) -> Result<Vec<usize>, Fault> {
        #[derive(Deserialize)]
        struct Listed {
            missing: Vec<usize>,
        }
        let packed = manifest::pack(lacking.iter().filter_map(|&at| chunks.get(at)));
        let packed = packed.map_err(|error| Fault::of(ErrorKind::Host, &error))?;
        let path = format!("/v1/contexts/{id}/list");
        let answer = self.send(Method::PUT, &path, Payload::Bytes(packed.into())).await?;
        Ok(answer.document::<Listed>().await?.missing)
    }

    async fn send_content(
        &self,
        id: &str,
        listing: Listing,
        missing: Vec<usize>,
        progress: Progress,
    ) -> Result<(), Fault> {
        let (writer, end, chunks) = pipe::writer();
        let mut counted = Counted { writer, progress };
        let send = async move {
            let written = blocking::run(move || {
                for at in missing {
                    write_content(&listing, at, &mut counted)?;
                }
                counted.flush().map_err(ContextError::Send)?;
                counted.progress.end();
                Ok(())
            });
            match written.await {
                // The service has answered before it read everything; what it says counts.
                Ok(()) | Err(ContextError::Send(_)) => None,
                Err(error) => {
                    let fault = Fault::of(ErrorKind::User, &error);
                    end.fail(io::Error::other(error)).await;
                    Some(fault)
                }
            }
        };
        let path = format!("/v1/contexts/{id}");
        let put = self.send(Method::PUT, &path, Payload::Tar(chunks));
        let (fault, answered) = tokio::join!(send, put);
        fault.map_or(answered.map(drop), Err)
    }
}

/// Tells contexts of one client apart: this machine and the directory.
fn name(root: &Path) -> String {
    let host = rustix::system::uname();
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    format!("{}:{}", host.nodename().to_string_lossy(), root.display())
}

fn write_content(
    listing: &Listing,
    at: usize,
    out: &mut impl io::Write,
) -> Result<(), ContextError> {
    let (Some(Entry { kind: Kind::File { size, .. }, .. }), Some(source)) =
        (listing.entries.get(at), listing.sources.get(at))
    else {
        let source = io::Error::other("the service asks for what is no file");
        return Err(ContextError::Send(source));
    };
    match source {
        Source::Bytes(bytes) => out.write_all(bytes).map_err(ContextError::Send),
        Source::File(path) => {
            let file =
                open(path).map_err(|source| ContextError::Read { path: path.clone(), source })?;
            context::copy_exactly(file, *size, path, out)
        }
        Source::Nowhere => Ok(()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Lists a directory with the digests of its files. `store` remembers digests. Blocking.
fn list(context: &RemoteContext, store: Option<&Path>) -> Result<Listing, ContextError> {
    let ContextInput::Directory(root) = &context.input else {
        let source = io::Error::other("it is no directory");
        return Err(ContextError::Read { path: "-".into(), source });
    };
    let store = store.and_then(|root| Store::open(root).ok());
    let remembered = remembered_as(root);
    let mut known = store.as_ref().map(|store| store.stat_cache(&remembered)).unwrap_or_default();
    let read = |source| ContextError::Read { path: root.to_owned(), source };
    let mtime = fs::metadata(root).map_err(read)?.mtime().max(0);
    let (entries, sources) = (Vec::new(), Vec::new());
    let mut listing = Listing { entries, sources, mtime, is_better_whole: false };
    let (mut bytes, mut linked, mut has_links) = (0, BTreeSet::new(), false);
    context::each_file(context, root, |path, full, metadata| {
        // A file that is there twice stays one only in an archive.
        has_links |= metadata.is_file()
            && metadata.nlink() > 1
            && !linked.insert((metadata.dev(), metadata.ino()));
        bytes += HEADER_BYTES + if metadata.is_file() { metadata.len() } else { 0 };
        listing.add(path, full, metadata, &mut known)
    })?;
    if let Some(store) = &store {
        // Losing it costs time.
        drop(store.save_stat_cache(&remembered, &known));
    }
    listing.is_better_whole = has_links || bytes <= SMALL;
    for (name, bytes) in context.added() {
        let kind = Kind::File { size: bytes.len() as u64, digest: Digest::of(bytes) };
        listing.entries.retain(|entry| entry.path != Path::new(name));
        listing.entries.push(Entry { path: name.into(), mode: 0o644, mtime: 0, kind });
        listing.sources.push(Source::Bytes(bytes.clone()));
    }
    Ok(listing)
}

/// What a directory's digests are remembered under: apart from those of builds here, which know
/// that their files have no extended attributes.
fn remembered_as(root: &Path) -> PathBuf {
    let mut name = OsString::from("sent:");
    name.push(root.canonicalize().unwrap_or_else(|_| root.to_owned()));
    name.into()
}

impl Listing {
    /// Bytes of the file at this place.
    fn size(&self, at: usize) -> u64 {
        match self.entries.get(at) {
            Some(Entry { kind: Kind::File { size, .. }, .. }) => *size,
            _ => 0,
        }
    }

    fn add(
        &mut self,
        path: &Path,
        full: &Path,
        metadata: &fs::Metadata,
        known: &mut StatCache,
    ) -> Result<(), ContextError> {
        let read = |source| ContextError::Read { path: full.to_owned(), source };
        let file_type = metadata.file_type();
        let (kind, source) = if file_type.is_dir() {
            (Kind::Dir, Source::Nowhere)
        } else if file_type.is_symlink() {
            (Kind::Link { target: fs::read_link(full).map_err(read)? }, Source::Nowhere)
        } else if file_type.is_fifo() {
            (Kind::Fifo, Source::Nowhere)
        } else if file_type.is_file() {
            let (digest, size) = manifest::digest(metadata, known, || open(full)).map_err(read)?;
            (Kind::File { size, digest }, Source::File(full.to_owned()))
        } else if file_type.is_socket() {
            return Ok(());
        } else {
            return Err(ContextError::Device { path: full.to_owned() });
        };
        let (mode, mtime) = (metadata.mode() & 0o7777, metadata.mtime().max(0));
        self.entries.push(Entry { path: path.to_owned(), mode, mtime, kind });
        self.sources.push(source);
        Ok(())
    }
}
