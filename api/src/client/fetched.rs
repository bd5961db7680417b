//! Results that a service made for this machine: archives, trees and caches.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use axum::http::Method;
use builder::{
    CachePlace, CacheTo, ErrorKind, Event, Events, OutputDest, OutputKind, OutputSpec, Transfer,
    TransferPhase, blocking,
};
use http_body_util::BodyExt as _;

use super::{Answer, Client, Payload};
use crate::fault::Fault;
use crate::pipe;
use crate::temporary::Temporary;

/// Bytes of one result.
const RESULT_LIMIT: u64 = 512 << 30;

/// Bytes between two reports of how far it has come.
const REPORT_BYTES: u64 = 1 << 20;

/// One result, in the order in which the service numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// An archive to standard output.
    Stdout,
    /// An archive to a file.
    File(PathBuf),
    /// Files to a directory.
    Tree(PathBuf),
    /// A cache to a directory that may hold others.
    Cache(PathBuf),
}

impl Fetched {
    /// Returns what of these comes here; the rest stays at the service or goes to a registry.
    pub(super) fn of(outputs: &[OutputSpec], caches: &[CacheTo]) -> Vec<Self> {
        let outputs = outputs.iter().filter_map(|output| match &output.dest {
            OutputDest::Own => None,
            OutputDest::Stdout => Some(Self::Stdout),
            OutputDest::Path(path) if output.kind == OutputKind::Local => {
                Some(Self::Tree(path.clone()))
            }
            OutputDest::Path(path) => Some(Self::File(path.clone())),
        });
        let caches = caches.iter().filter_map(|to| match &to.place {
            CachePlace::Local { dir, .. } => Some(Self::Cache(dir.clone())),
            CachePlace::Registry(_) | CachePlace::Inline => None,
        });
        outputs.chain(caches).collect()
    }

    /// For people.
    fn shown(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::File(path) | Self::Tree(path) | Self::Cache(path) => path.display().to_string(),
        }
    }

    /// Puts it where it belongs. Blocking.
    fn take(&self, mut content: impl Read) -> Result<(), Fault> {
        let broken = |error: &io::Error| {
            let what = format!("could not write `{}`", self.shown());
            Fault { causes: vec![what, error.to_string()], ..Fault::new(ErrorKind::Host, "") }
        };
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                io::copy(&mut content, &mut out)
                    .and_then(|_| out.flush())
                    .map_err(|error| broken(&error))
            }
            Self::File(path) => {
                let (mut file, temporary) = Temporary::beside(path)?;
                io::copy(&mut content, &mut file).map_err(|error| broken(&error))?;
                temporary.rename()
            }
            Self::Tree(path) => {
                fs::create_dir_all(path).map_err(|error| broken(&error))?;
                unpack(content, path)
            }
            Self::Cache(path) => {
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                let parent = parent.unwrap_or(Path::new("."));
                fs::create_dir_all(parent).map_err(|error| broken(&error))?;
                let temporary = Scratch::make(path).map_err(|error| broken(&error))?;
                unpack(content, &temporary.0)?;
                builder::merge_layouts(&temporary.0, path)
                    .map_err(|error| Fault::of(ErrorKind::Host, &error))
            }
        }
    }
}

fn unpack(content: impl Read, dest: &Path) -> Result<(), Fault> {
    let unpacked = builder::unpack_tree(content, dest);
    unpacked.map(drop).map_err(|error| Fault::of(ErrorKind::Host, &error))
}

/// A directory beside another, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dest: &Path) -> io::Result<Self> {
        let mut name = dest.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = dest.with_file_name(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "could not remove a directory");
        }
    }
}

impl Client {
    /// Fetches the results of the build `id`, all of them or none that is broken.
    pub(super) async fn fetch_results(
        &self,
        id: String,
        results: Vec<Fetched>,
        events: &Events,
    ) -> Result<(), Fault> {
        if results.is_empty() {
            return Ok(());
        }
        for (number, result) in results.into_iter().enumerate() {
            let path = format!("/v1/builds/{id}/output?number={number}");
            let answer = self.send(Method::GET, &path, Payload::Nothing).await?;
            let Answer { body, connection, .. } = answer;
            let (reader, feed) = pipe::reader(body.into_data_stream(), RESULT_LIMIT);
            let shown = result.shown();
            let reader = Reported::new(reader, shown, events.clone());
            let taken = blocking::run(move || result.take(reader));
            let (taken, ()) = tokio::join!(taken, feed);
            drop(connection);
            taken?;
        }
        // It goes by itself in a while.
        let path = format!("/v1/builds/{id}/output");
        drop(self.send(Method::DELETE, &path, Payload::Nothing).await);
        Ok(())
    }
}

/// Tells how far the reading has come.
struct Reported<R> {
    reader: R,
    events: Events,
    id: String,
    current: u64,
    told: u64,
}

impl<R> Reported<R> {
    const fn new(reader: R, id: String, events: Events) -> Self {
        Self { reader, events, id, current: 0, told: 0 }
    }

    fn tell(&mut self, phase: TransferPhase) {
        self.told = self.current;
        let (id, current) = (self.id.clone(), self.current);
        self.events.send_blocking(Event::Transfer(Transfer { id, phase, current, total: None }));
    }
}

impl<R: Read> Read for Reported<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.current += count as u64;
        if count == 0 {
            self.tell(TransferPhase::Done);
        } else if self.current - self.told >= REPORT_BYTES {
            self.tell(TransferPhase::Downloading);
        }
        Ok(count)
    }
}
