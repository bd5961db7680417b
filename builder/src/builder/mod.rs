//! The engine behind command line, service and client: one store and what works on it.

mod images;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cache::{Builds, CheckReport, Item, PruneOptions, Pruned, StepLog, Store, StoreError, Usage};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use images::{Pulled, PushOptions, Pushed};

use crate::blocking;
use crate::build::{self, BuildError};
use crate::check;
use crate::config::{BuilderConfig, processors};
use crate::error::ErrorKind;
use crate::history::{self, Recorder};
use crate::image::ImageError;
use crate::progress::{Event, Events, Failure, Finished, SourceText};
use crate::registry::Registry;
use crate::request::{BuildRequest, Credentials};
use crate::run_image::{self, RunRequest};
use crate::sandbox::{Sandbox, SandboxError};
use crate::shell::{self, ShellError, ShellRequest};
use crate::solver::Flights;
use crate::source::Sources;
use crate::spool::{self, Spool, SpoolEnd};
use crate::telemetry::Exporter;

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
    telemetry: Option<Arc<Exporter>>,
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
        let telemetry = config.telemetry.clone().map(|config| Arc::new(Exporter::new(config)));
        let inner = Inner {
            config,
            store,
            sources,
            flights: Arc::default(),
            cores: Arc::new(Semaphore::new(cores)),
            sandbox: Arc::default(),
            telemetry,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the engine with a store handle of its own: whatever is used through it is kept from
    /// gc until the work that it was taken for is done.
    pub(crate) fn leased(&self) -> Result<Arc<Inner>, StoreError> {
        let Inner { config, store, sources, flights, cores, sandbox, telemetry } = &*self.inner;
        let store = store.lease()?;
        Ok(Arc::new(Inner {
            config: config.clone(),
            sources: sources.with_store(store.clone()),
            store,
            flights: Arc::clone(flights),
            cores: Arc::clone(cores),
            sandbox: Arc::clone(sandbox),
            telemetry: telemetry.clone(),
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
        let (telemetry, parent) = (self.inner.telemetry.clone(), request.trace_parent.clone());
        let store = self.inner.store.clone();
        blocking::run(move || {
            let id = store.builds().new_id()?;
            let recorder = Recorder::begin(store.builds(), &id, &header, limits);
            let growth = recorder.as_ref().map(Recorder::growth);
            let log = recorder.as_ref().and_then(Recorder::steps);
            let trace = telemetry.and_then(|it| it.begin(&id, parent.as_ref()));
            let (spool, end) = Spool::new(store, spool::OUTPUT_LIMIT, recorder, trace);
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
            let turn = cancel.run_until_cancelled(turn(spooled.clone())).await;
            let result = Box::pin(self.build_spooled(request, spooled, &cancel, log, turn)).await;
            blocking::run(move || drop(end)).await;
            result
        };
        let patience = async {
            cancel.cancelled().await;
            tokio::time::sleep(READER_PATIENCE).await;
        };
        let drained = Arc::clone(&spool);
        let drain = blocking::run(move || drained.drain(&events));
        let drain = async {
            tokio::select! {
                () = drain => {}
                () = patience => {}
            }
        };
        let (result, ()) = tokio::join!(build, drain);
        if let (Some(exporter), Some(trace)) = (&self.inner.telemetry, spool.take_trace()) {
            exporter.export(&trace);
        }
        self.settle().await;
        result
    }

    /// Waits, for seconds at most, until the traces of builds that ended are with their collector or
    /// given up.
    pub async fn flush_telemetry(&self) {
        if let Some(exporter) = &self.inner.telemetry {
            exporter.flush().await;
        }
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
        turn: impl Sized,
    ) -> Result<Finished, Box<Failure>> {
        let mut source = None;
        let result = match self.leased() {
            Ok(inner) => build::build(&inner, request, &events, cancel, &mut source, log).await,
            Err(error) => Err(BuildError::store(error)),
        };
        // Whoever hears that it is over may build anew with what this one had.
        drop(turn);
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
