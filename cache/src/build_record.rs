//! What is remembered of past builds.
//!
//! ```text
//! builds/<started>-<id>/     12 hex digits of unix milliseconds, 8 of chance: names sort by age
//!   events                   the header, then all that happened: one JSON object a line, appended
//!                            as it happens; locked as long as the build runs
//!   summary                  how it ended; absent until then
//!   steps failed             see `build_steps`
//! ```
//!
//! Invariant: a build that was killed is told from one that runs by the lock alone, which the kernel
//! drops with the process. A line that was being written at that moment is left out by readers.
//!
//! What the lines after the header say is their writer's business.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::build_events::EventTail;
use crate::build_steps::StepLog;
use crate::digest::Digest;
use crate::document::{self, Durability, Kind, Loaded};
use crate::error::{AtPath, Result, found};
use crate::layout::make_dir;
use crate::lease::Handle;
use crate::lock::FileLock;
use crate::session::random_hex;

/// Hex digits of the time in a name.
const TIME_DIGITS: usize = 12;

/// Hex digits of an id.
const ID_DIGITS: usize = 8;

/// Bytes of the header's line.
const MAX_HEADER: usize = 1 << 20;

/// What is known when a build begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildHeader {
    /// Unix milliseconds.
    pub started_ms: u64,
    /// Where the files come from, for people.
    pub context: String,
    /// Names for the result.
    pub tags: Vec<String>,
    /// The stage asked for.
    pub target: Option<String>,
    /// `os/arch`, where one was asked for.
    pub platform: Option<String>,
    /// Names of the build arguments given; their values may be nobody's business.
    pub build_args: Vec<String>,
    /// Whether the cache was not to be used.
    pub no_cache: bool,
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BuildResult {
    /// It goes on.
    Running,
    /// It made an image.
    Done {
        /// `sha256:<hex>` of the config.
        image: String,
    },
    /// It failed.
    Failed {
        /// What failed, then its causes.
        causes: Vec<String>,
    },
    /// Its user ended it.
    Cancelled,
    /// Its process was killed, or the machine stopped.
    Interrupted,
    /// It ended, and what was noted of that is damaged.
    Unknown,
}

/// The sums over a build, noted at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSummary {
    /// How it ended.
    pub result: BuildResult,
    /// Wall time in milliseconds.
    pub millis: u64,
    /// Digest of the Dockerfile, once it was read.
    pub dockerfile: Option<Digest>,
    /// Steps with work that were planned.
    pub steps: usize,
    /// Those of them that were found in the cache.
    pub cached: usize,
    /// Warnings.
    pub warnings: usize,
    /// Bytes that steps wrote to their outputs.
    pub log_bytes: u64,
}

impl BuildSummary {
    const fn unfinished(result: BuildResult) -> Self {
        Self { result, millis: 0, dockerfile: None, steps: 0, cached: 0, warnings: 0, log_bytes: 0 }
    }
}

/// One remembered build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// 8 hex digits.
    pub id: String,
    /// What was asked for.
    #[serde(flatten)]
    pub header: BuildHeader,
    /// What became of it.
    #[serde(flatten)]
    pub summary: BuildSummary,
}

/// The past builds of a store.
#[derive(Clone, Debug)]
pub struct Builds {
    handle: Arc<Handle>,
}

/// A build that is being recorded. Dropped without [`BuildLog::finish`], it was interrupted.
#[derive(Debug)]
pub struct BuildLog {
    id: String,
    dir: PathBuf,
    events: File,
    length: u64,
    handle: Arc<Handle>,
    _lock: FileLock,
}

impl BuildLog {
    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what notes the steps of this build.
    #[must_use]
    pub fn steps(&self) -> StepLog {
        let builds = Builds { handle: Arc::clone(&self.handle) };
        StepLog::new(self.id.clone(), self.dir.clone(), builds)
    }

    /// Returns how many bytes were written, the header among them.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends whole lines.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        self.events.write_all(lines).at("write", &self.dir.join("events"))?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Notes how the build ended.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn finish(self, summary: &BuildSummary) -> Result<()> {
        let path = self.dir.join("summary");
        document::replace(&self.handle.session, Kind::Build, &path, summary, Durability::Later)
    }
}

impl Builds {
    pub(crate) const fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// Makes up an id for a build.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io) when the system has no random numbers.
    pub fn new_id(&self) -> Result<String> {
        let mut id = random_hex().at("name", &self.handle.layout.builds())?;
        id.truncate(ID_DIGITS);
        Ok(id)
    }

    /// Begins the record of the build `id`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn begin(&self, id: &str, header: &BuildHeader) -> Result<BuildLog> {
        let root = self.handle.layout.builds();
        let id = id.to_owned();
        let new = self.handle.session.fresh("build");
        make_dir(&new, false).at("create", &new)?;
        let path = new.join("events");
        let mut events = File::create_new(&path).at("create", &path)?;
        let lock = FileLock::exclusive(&path).at("lock", &path)?;
        let mut line =
            serde_json::to_vec(header).map_err(std::io::Error::from).at("write", &path)?;
        line.push(b'\n');
        events.write_all(&line).at("write", &path)?;
        let dir = root.join(format!("{:0TIME_DIGITS$x}-{id}", header.started_ms));
        fs::rename(&new, &dir).at("write", &dir)?;
        let (length, handle) = (line.len() as u64, Arc::clone(&self.handle));
        Ok(BuildLog { id, dir, events, length, handle, _lock: lock })
    }

    /// Lists the builds, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn list(&self) -> Result<Vec<BuildRecord>> {
        let mut records = Vec::new();
        for dir in self.dirs()?.iter().rev() {
            records.extend(read(dir)?);
        }
        Ok(records)
    }

    /// Returns the builds whose ids begin with `prefix`, newest first; the newest of all for an
    /// empty one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn find(&self, prefix: &str) -> Result<Vec<BuildRecord>> {
        let mut records = Vec::new();
        for dir in self.dirs()?.iter().rev() {
            if id_of(dir).is_some_and(|id| id.starts_with(prefix)) {
                records.extend(read(dir)?);
                if prefix.is_empty() && !records.is_empty() {
                    break;
                }
            }
        }
        Ok(records)
    }

    /// Opens what happened in the build `id`, after its header; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn events(&self, id: &str) -> Result<Option<impl BufRead + use<>>> {
        let Some(dir) = self.dir(id)? else { return Ok(None) };
        let path = dir.join("events");
        let Some(file) = found(File::open(&path)).at("open", &path)? else { return Ok(None) };
        let mut reader = BufReader::new(file);
        header_line(&mut reader).at("read", &path)?;
        Ok(Some(reader))
    }

    /// Opens what happens in the build `id` to be read while it is written: from its first event
    /// on, or from byte `after` of the record, which must be the end of a line. `None` when there is
    /// no such build, or no line that ends there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn follow(&self, id: &str, after: Option<u64>) -> Result<Option<EventTail>> {
        match self.dirs()?.into_iter().find(|dir| id_of(dir) == Some(id)) {
            None => Ok(None),
            Some(dir) => EventTail::open(&dir, after),
        }
    }

    /// Forgets the build `id`; false when there is none, or it runs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn remove(&self, id: &str) -> Result<bool> {
        match self.dir(id)? {
            Some(dir) if !is_running(&dir)? => self.forget(&dir),
            _ => Ok(false),
        }
    }

    fn forget(&self, dir: &Path) -> Result<bool> {
        self.let_go(dir)?;
        self.handle.session.remove_later(dir)
    }

    /// Returns the directory of the build `id`.
    pub(crate) fn dir(&self, id: &str) -> Result<Option<PathBuf>> {
        Ok(self.dirs()?.into_iter().find(|dir| id_of(dir) == Some(id)))
    }

    pub(crate) const fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Forgets the oldest builds beyond `count`, and those that began longer than `age` ago.
    ///
    /// Costs one listing of names as long as nothing is to go.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn keep(&self, count: usize, age: Duration) -> Result<usize> {
        let dirs = self.dirs()?;
        let oldest = SystemTime::now().checked_sub(age).map_or(0, unix_millis);
        let beyond = dirs.len().saturating_sub(count);
        let mut removed = 0;
        for (index, dir) in dirs.iter().enumerate() {
            let is_old = started(dir).is_some_and(|started| started < oldest);
            if !is_old && index >= beyond {
                break;
            }
            if !is_running(dir)? && self.forget(dir)? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Returns the directories of all builds, oldest first.
    pub(crate) fn dirs(&self) -> Result<Vec<PathBuf>> {
        let root = self.handle.layout.builds();
        let entries = fs::read_dir(&root).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let paths = entries.at("read", &root)?.into_iter().map(|entry| entry.path());
        let mut dirs: Vec<PathBuf> = paths.filter(|path| id_of(path).is_some()).collect();
        dirs.sort_unstable();
        Ok(dirs)
    }
}

/// Returns whether the build at `dir` goes on.
pub(crate) fn is_running(dir: &Path) -> Result<bool> {
    let path = dir.join("events");
    // A record that is gone is no running one's.
    Ok(matches!(found(FileLock::try_exclusive(&path)).at("lock", &path)?, Some(None)))
}

fn read(dir: &Path) -> Result<Option<BuildRecord>> {
    let Some(id) = id_of(dir) else { return Ok(None) };
    let path = dir.join("events");
    let Some(file) = found(File::open(&path)).at("open", &path)? else { return Ok(None) };
    let line = header_line(&mut BufReader::new(file)).at("read", &path)?;
    let header = serde_json::from_slice(&line).unwrap_or_else(|_| BuildHeader {
        started_ms: started(dir).unwrap_or_default(),
        ..BuildHeader::default()
    });
    // Asked first: what ends by itself has its summary before it is seen to be over.
    let is_running = is_running(dir)?;
    let summary = match document::load(Kind::Build, &dir.join("summary"))? {
        Loaded::Whole(summary) => summary,
        Loaded::Damaged(_) => BuildSummary::unfinished(BuildResult::Unknown),
        Loaded::Absent if is_running => BuildSummary::unfinished(BuildResult::Running),
        // It was forgotten meanwhile.
        Loaded::Absent if !path.exists() => return Ok(None),
        Loaded::Absent => BuildSummary::unfinished(BuildResult::Interrupted),
    };
    Ok(Some(BuildRecord { id: id.to_owned(), header, summary }))
}

pub(crate) fn header_line(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    std::io::Read::take(reader, MAX_HEADER as u64).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// Returns the id in the name of a build's directory.
pub(crate) fn id_of(dir: &Path) -> Option<&str> {
    let (time, id) = dir.file_name()?.to_str()?.split_once('-')?;
    (time.len() >= TIME_DIGITS && id.len() == ID_DIGITS).then_some(id)
}

fn started(dir: &Path) -> Option<u64> {
    let (time, _) = dir.file_name()?.to_str()?.split_once('-')?;
    u64::from_str_radix(time, 16).ok()
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
