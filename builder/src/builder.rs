//! The engine behind command line, service and client: one store and what works on it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cache::{Builds, CheckReport, Item, PruneOptions, Pruned, StepLog, Store, StoreError, Usage};
use frontend::Platform;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::build::{self, BuildError};
use crate::check;
use crate::config::{BuilderConfig, processors};
use crate::error::ErrorKind;
use crate::export::{self, ArchiveDest, ArchiveKind, ExportImage, ImportOptions, PushForm};
use crate::history::{self, Recorder};
use crate::image::{self, HistoryRow, ImageDetails, ImageError, ImageSummary, Removed};
use crate::progress::{Event, Events, Failure, Finished, SourceText};
use crate::registry::{Registry, RegistryError};
use crate::request::{BuildRequest, Credentials};
use crate::run_image::{self, RunRequest};
use crate::sandbox::{Sandbox, SandboxError};
use crate::shell::{self, ShellError, ShellRequest};
use crate::solver::Flights;
use crate::source::{Distribution, Sources};
use crate::spool::{self, Spool, SpoolEnd};
use crate::verify::{self, StepDifference};

/// How long a cancelled build waits for a reader that does not read.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// One store and what works on it. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Builder {
    inner: Arc<Inner>,
}

/// What the parts of a build share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: BuilderConfig,
    pub(crate) store: Store,
    pub(crate) sources: Sources,
    /// Steps that somebody executes, in this process or another.
    pub(crate) flights: Arc<Flights>,
    /// One permit a processor: what rbuild itself hashes, copies and digests at once.
    pub(crate) cores: Arc<Semaphore>,
    sandbox: Arc<OnceLock<Sandbox>>,
}

impl Inner {
    /// Returns the sandbox, set up when the first step needs one.
    pub(crate) fn sandbox(&self) -> Result<Sandbox, SandboxError> {
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(sandbox.clone());
        }
        let sandbox = Sandbox::open()?;
        Ok(self.sandbox.get_or_init(|| sandbox).clone())
    }

    /// Returns the sources of images, asked with the credentials of one request.
    pub(crate) fn sources_with(&self, credentials: &BTreeMap<String, Credentials>) -> Sources {
        let registry = self.sources.registry().with_credentials(credentials.clone());
        self.sources.with_registry(registry)
    }
}

/// Why there is no builder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] cache::OpenError),
}

impl OpenError {
    /// Tells who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Host
    }
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The name in full.
    pub reference: String,
    /// `sha256:<hex>` of what the name points to at the registry.
    pub digest: String,
    /// Whether all of it was here before.
    pub up_to_date: bool,
}

/// A build that has an id and a record, and has not begun.
#[derive(Debug)]
pub struct Entered {
    id: String,
    growth: Option<watch::Receiver<u64>>,
    log: Option<StepLog>,
    spool: Arc<Spool>,
    end: SpoolEnd,
}

impl Entered {
    /// Returns the id that the build's record has.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Tells how the record grows, in bytes, until it is complete; `None` when there is none.
    #[must_use]
    pub fn growth(&self) -> Option<watch::Receiver<u64>> {
        self.growth.clone()
    }
}

/// What a push left at the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name in full.
    pub reference: String,
    /// `sha256:<hex>` of the manifest.
    pub digest: String,
    /// Size of the manifest in bytes.
    pub size: u64,
}

impl Builder {
    /// Opens the store that `config` names, making it if there is none. Blocking.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the store is not ours to use or was written by a newer rbuild.
    pub fn open(config: BuilderConfig) -> Result<Self, OpenError> {
        let store = Store::open(&config.root)?;
        store.govern(config.gc);
        let registry = Registry::new(config.registries.clone());
        let sources = Sources::new(store.clone(), registry);
        let cores = processors().get();
        let inner = Inner {
            config,
            store,
            sources,
            flights: Arc::default(),
            cores: Arc::new(Semaphore::new(cores)),
            sandbox: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the engine with a store handle of its own: whatever is used through it is kept from
    /// gc until the work that it was taken for is done.
    pub(crate) fn leased(&self) -> Result<Arc<Inner>, StoreError> {
        let Inner { config, store, sources, flights, cores, sandbox } = &*self.inner;
        let store = store.lease()?;
        Ok(Arc::new(Inner {
            config: config.clone(),
            sources: sources.with_store(store.clone()),
            store,
            flights: Arc::clone(flights),
            cores: Arc::clone(cores),
            sandbox: Arc::clone(sandbox),
        }))
    }

    /// Builds `request`. The last event is [`Event::Finished`] or [`Event::Failed`], with what is
    /// returned too. Cancelling `cancel` ends every step and then the build.
    ///
    /// # Errors
    ///
    /// The [`Failure`] that the last event tells.
    pub async fn build(
        &self,
        request: BuildRequest,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<Finished, Box<Failure>> {
        match self.enter(&request).await {
            Ok(entered) => {
                let no_wait = |_| std::future::ready(());
                self.build_entered(entered, request, events, cancel, no_wait).await
            }
            Err(error) => {
                let failure = build::failure_of(&BuildError::store(error), None);
                events.send(Event::Failed(failure.clone())).await;
                Err(Box::new(failure))
            }
        }
    }

    /// Gives a build its id and begins its record, before it has its turn.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when there can be no id. A record that cannot be written is no error.
    pub fn enter(
        &self,
        request: &BuildRequest,
    ) -> impl Future<Output = Result<Entered, StoreError>> + Send + use<> {
        let (header, limits) = (history::header(request), self.inner.config.history);
        let store = self.inner.store.clone();
        blocking::run(move || {
            let id = store.builds().new_id()?;
            let recorder = Recorder::begin(store.builds(), &id, &header, limits);
            let growth = recorder.as_ref().map(Recorder::growth);
            let log = recorder.as_ref().and_then(Recorder::steps);
            let (spool, end) = Spool::new(store, spool::OUTPUT_LIMIT, recorder);
            Ok(Entered { id, growth, log, spool, end })
        })
    }

    /// Builds as [`Builder::build`] does what was entered for `request`, once `turn` is over. `turn`
    /// may tell events of its own; what it returns is dropped when the build has ended.
    ///
    /// # Errors
    ///
    /// The [`Failure`] that the last event tells.
    pub async fn build_entered<T, F>(
        &self,
        entered: Entered,
        request: BuildRequest,
        events: Events,
        cancel: CancellationToken,
        turn: impl FnOnce(Events) -> F,
    ) -> Result<Finished, Box<Failure>>
    where
        F: Future<Output = T>,
    {
        let Entered { log, spool, end, .. } = entered;
        let spooled = Events::spooled(Arc::clone(&spool));
        let build = async {
            // Who is cancelled has waited long enough: the build then ends before it begins.
            let _turn = cancel.run_until_cancelled(turn(spooled.clone())).await;
            let result = Box::pin(self.build_spooled(request, spooled, &cancel, log)).await;
            blocking::run(move || drop(end)).await;
            result
        };
        let patience = async {
            cancel.cancelled().await;
            tokio::time::sleep(READER_PATIENCE).await;
        };
        let drain = blocking::run(move || spool.drain(&events));
        let drain = async {
            tokio::select! {
                () = drain => {}
                () = patience => {}
            }
        };
        let (result, ()) = tokio::join!(build, drain);
        self.settle().await;
        result
    }

    /// Brings the store within its policy. The build is done: that its store is too large is nothing
    /// that it should fail for.
    async fn settle(&self) {
        let store = self.inner.store.clone();
        let settled = blocking::run(move || store.settle()).await;
        if let Err(error) = settled {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the store could not be made smaller");
        }
    }

    async fn build_spooled(
        &self,
        request: BuildRequest,
        events: Events,
        cancel: &CancellationToken,
        log: Option<StepLog>,
    ) -> Result<Finished, Box<Failure>> {
        let mut source = None;
        let result = match self.leased() {
            Ok(inner) => build::build(&inner, request, &events, cancel, &mut source, log).await,
            Err(error) => Err(BuildError::store(error)),
        };
        match result {
            Ok(finished) => {
                events.send(Event::Finished(finished.clone())).await;
                Ok(finished)
            }
            Err(error) => {
                let failure = build::failure_of(&error, source.as_ref());
                events.send(Event::Failed(failure.clone())).await;
                Err(Box::new(failure))
            }
        }
    }

    /// Says what a build of `request` would find in the cache, by the same events, without building
    /// anything. No last event is sent.
    ///
    /// # Errors
    ///
    /// What would keep the build from beginning, with its source where there is one.
    pub async fn preview(
        &self,
        request: BuildRequest,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<(), (Box<Failure>, Option<SourceText>)> {
        let mut source = None;
        let result = match self.leased() {
            Ok(inner) => build::preview(&inner, request, events, cancel, &mut source).await,
            Err(error) => Err(BuildError::store(error)),
        };
        result.map_err(|error| (Box::new(build::failure_of(&error, source.as_ref())), source))
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Returns the past builds of the store.
    #[must_use]
    pub fn builds(&self) -> &Builds {
        self.inner.store.builds()
    }

    /// Fetches an image from its registry, or makes sure that it is the registry's newest.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not give the image.
    pub async fn pull(
        &self,
        name: &str,
        platform: Option<Platform>,
        credentials: &BTreeMap<String, Credentials>,
        events: &Events,
    ) -> Result<Pulled, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = image::parse_name(name)?;
        let platform = platform.unwrap_or_else(Platform::host);
        let sources = inner.sources_with(credentials);
        let (image, up_to_date) = sources.pull(&reference, &platform, events).await?;
        let (reference, digest) = (reference.to_string(), image.target.digest.to_string());
        Ok(Pulled { reference, digest, up_to_date })
    }

    /// Pushes an image to the registry that `destination`, or else its own name, tells.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the image is not here, or the registry does not take it.
    pub async fn push(
        &self,
        name: &str,
        destination: Option<&str>,
        credentials: &BTreeMap<String, Credentials>,
        events: &Events,
    ) -> Result<Pushed, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let target = image::target(&inner.store, name)?;
        let reference = image::parse_name(destination.unwrap_or(name))?;
        let sources = inner.sources_with(credentials);
        let form = PushForm::default();
        let manifest = export::push_target(&sources, &target, &reference, &form, events).await?;
        let (reference, digest) = (reference.to_string(), manifest.digest.to_string());
        Ok(Pushed { reference, digest, size: manifest.size })
    }

    /// Lists the images, newest first. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::summaries(&inner.store)
    }

    /// Tells everything of one image, by name, ID or a prefix of the ID. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotFound`] and what else can be wrong with a name or a document.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::details(&inner.store, name)
    }

    /// Tells an image's history, newest entry first. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryRow>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::history(&inner.store, name)
    }

    /// Tells what differs between two images of one Dockerfile, by the step that made it; of
    /// several platforms between those of each. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], and when a layer is not here.
    pub fn differences(
        &self,
        first: &str,
        second: &str,
    ) -> Result<Vec<StepDifference>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let (a, b) = (image::target(&inner.store, first)?, image::target(&inner.store, second)?);
        let mut found = Vec::new();
        for (a, b) in a.images.iter().zip(&b.images) {
            found.extend(verify::differences(&inner.store, a, b)?);
        }
        Ok(found)
    }

    /// Forgets an image, by its ID, unless it has a name. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the store cannot be written.
    pub fn forget_untagged(&self, id: &str) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let Ok(id) = cache::Digest::parse(id) else { return Ok(()) };
        inner.store.images().remove_untagged(&id).map(drop).map_err(ImageError::store)
    }

    /// Gives an image a further name. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], for either name.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::tag(&inner.store, source, target)
    }

    /// Takes a name away, and the image with its last name. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::Tagged`] when an ID stands for several names and `force` is not set.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::remove(&inner.store, name, force)
    }

    /// Writes images as one archive to `out`.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when an image is not here, or the archive cannot be written.
    pub async fn save(
        &self,
        names: &[String],
        kind: ArchiveKind,
        out: Box<dyn Write + Send>,
        events: &Events,
    ) -> Result<(), ImageError> {
        self.save_to(names, kind, ArchiveDest::Stream(out), events).await
    }

    /// Writes images as one archive to a file, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`Builder::save`].
    pub async fn save_file(
        &self,
        names: &[String],
        kind: ArchiveKind,
        path: std::path::PathBuf,
        events: &Events,
    ) -> Result<(), ImageError> {
        self.save_to(names, kind, ArchiveDest::File(path), events).await
    }

    /// Writes images as one archive for a docker engine that has the layers of `stacks` already:
    /// of each image the layers, base first, as `sha256:<hex>` of their tars.
    ///
    /// # Errors
    ///
    /// As [`Builder::save`].
    pub async fn save_missing(
        &self,
        names: &[String],
        stacks: &[Vec<String>],
        out: Box<dyn Write + Send>,
        events: &Events,
    ) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let images = export_images(&inner, names)?;
        Ok(export::export_missing(&inner.sources, images, stacks, out, events).await?)
    }

    async fn save_to(
        &self,
        names: &[String],
        kind: ArchiveKind,
        dest: ArchiveDest,
        events: &Events,
    ) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let images = export_images(&inner, names)?;
        Ok(export::export(&inner.sources, images, kind, dest, events).await?)
    }

    /// Takes in the images of an archive; returns their names, or IDs where they have none.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when it is no archive of images, or damaged.
    pub async fn load(&self, archive: Box<dyn Read + Send>) -> Result<Vec<String>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        Ok(export::load(&inner.store, archive, &Platform::host()).await?)
    }

    /// Makes an image of one layer out of a tar of a root filesystem; returns its ID.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when it is no tar, or a change cannot be made.
    pub async fn import(
        &self,
        archive: Box<dyn Read + Send>,
        options: ImportOptions,
    ) -> Result<String, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        Ok(export::import(&inner.store, archive, options).await?)
    }

    /// Asks the registry at `host` whether it takes `credentials`.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] when it says no, or cannot be asked.
    pub async fn login(&self, host: &str, credentials: Credentials) -> Result<(), RegistryError> {
        let credentials = BTreeMap::from([(host.to_owned(), credentials)]);
        self.inner.sources.registry().with_credentials(credentials).login(host).await
    }

    /// Asks the registry what a name points to, without fetching the image.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not know it.
    pub async fn distribution(
        &self,
        name: &str,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Distribution, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = image::parse_name(name)?;
        Ok(inner.sources_with(credentials).distribution(&reference).await?)
    }

    /// Runs an image's command in a sandbox with this process's standard streams; returns its exit
    /// code, 128 and the number for a signal. Signals whose numbers come by `signals` are passed on.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the image cannot be had or its command cannot be started.
    pub async fn run(
        &self,
        request: RunRequest,
        events: &Events,
        signals: mpsc::Receiver<i32>,
        cancel: CancellationToken,
    ) -> Result<i32, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        run_image::run(&inner, request, events, signals, cancel).await
    }

    /// Enters a step of a past build: runs a command in its sandbox, on its files, with this
    /// process's standard streams; returns its exit code, as [`Builder::run`] does.
    ///
    /// # Errors
    ///
    /// [`ShellError`] when the step is unknown, its files are gone or the command cannot be started.
    pub async fn shell(
        &self,
        request: ShellRequest,
        events: &Events,
        signals: mpsc::Receiver<i32>,
        cancel: CancellationToken,
    ) -> Result<i32, ShellError> {
        let inner = self.leased().map_err(ShellError::Store)?;
        shell::enter(&inner, request, events, signals, cancel).await
    }

    /// Measures the store. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.store.usage()
    }

    /// Deletes what neither a name nor running work needs. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read or written.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        self.inner.store.prune(options)
    }

    /// Lists everything in the store, largest first. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read.
    pub fn items(&self) -> Result<Vec<Item>, StoreError> {
        self.inner.store.items()
    }

    /// Looks the whole store over, every byte of its blobs and built layers included; with `repair`, what is broken
    /// is deleted, so that it is made or fetched again. Blocking.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read.
    pub fn check(&self, repair: bool) -> Result<CheckReport, StoreError> {
        let inner = self.leased()?;
        let mut report = inner.store.check(true, repair)?;
        check::built_layers(&inner.store, repair, &mut report)?;
        Ok(report)
    }
}

/// Finds the images that are written to an archive, several names of one together.
fn export_images(inner: &Inner, names: &[String]) -> Result<Vec<ExportImage>, ImageError> {
    let mut images: Vec<ExportImage> = Vec::with_capacity(names.len());
    for name in names {
        let target = image::target(&inner.store, name)?;
        let reference = image::find(&inner.store, name)?
            .into_iter()
            .find_map(|record| record.reference)
            .and_then(|reference| image::parse_name(&reference).ok());
        match images.iter_mut().find(|known| known.target.descriptor == target.descriptor) {
            Some(known) => known.names.extend(reference),
            None => images.push(ExportImage { target, names: reference.into_iter().collect() }),
        }
    }
    Ok(images)
}
