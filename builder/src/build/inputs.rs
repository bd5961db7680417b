//! What a build is made from: its contexts and its Dockerfile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::Store;
use frontend::{HttpOp, IgnoreRules, Op};

use super::error::BuildError;
use crate::blocking;
use crate::context::{FileRoot, FileRootError, Rules, open_archive, unpack_context};
use crate::layer::Limits;
use crate::op::newest_file;
use crate::progress::{Event, Events, SourceText};
use crate::request::{ContextInput, DockerfileInput};
use crate::rootfs::RootError;
use crate::source::{RemoteContext, RemoteFiles, SourceSecrets, Sources, parse_remote};

/// Largest Dockerfile and ignore file that are read (bytes).
const TEXT_LIMIT: u64 = 1 << 20;

/// Names that are looked for when none is given, in this order.
const DEFAULT_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Ignore files of a whole context, in the order in which they are looked for.
const IGNORE_NAMES: [&str; 2] = [".containerignore", ".dockerignore"];

/// What fetches contexts that are named by a URL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetcher<'a> {
    pub(super) sources: &'a Sources,
    pub(super) secrets: &'a SourceSecrets,
    pub(super) events: &'a Events,
}

/// Where the files come from, and what tells which of them count.
#[derive(Debug)]
pub(super) struct Origins {
    pub(super) context: ContextInput,
    pub(super) dockerfile: DockerfileInput,
    /// `--ignorefile`: stands in for those that would be looked for.
    pub(super) ignore_file: Option<PathBuf>,
    /// Whether `.git` of a context that is a repository stays.
    pub(super) keeps_git_dir: bool,
    /// Named contexts that are directories.
    pub(super) directories: Vec<(String, PathBuf)>,
}

/// Contexts and Dockerfile of one build.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) dockerfile: SourceText,
    /// The main context under `None`, named ones under their names.
    pub(super) contexts: BTreeMap<Option<String>, Arc<FileRoot>>,
    /// The ignore file of the main context, empty where there is none.
    pub(super) ignore: IgnoreRules,
    /// The time of a context that has one of its own (its commit, `Last-Modified`), seconds since
    /// 1970.
    time: Option<i64>,
}

/// A context's directory before its ignore rules are known.
struct Opened {
    root: FileRoot,
    time: Option<i64>,
    /// Name of the one file that was downloaded: it is the Dockerfile.
    single: Option<String>,
}

impl Inputs {
    /// Loads all but the named contexts that are downloads.
    pub(super) async fn load(
        store: &Store,
        origins: Origins,
        fetcher: Fetcher<'_>,
    ) -> Result<Self, BuildError> {
        let Origins { context, mut dockerfile, ignore_file, keeps_git_dir, directories } = origins;
        let opened = match context {
            ContextInput::Url(url) => fetcher.context(store, &url, keeps_git_dir).await?,
            other => {
                let store = store.clone();
                blocking::run(move || open_local(&store, other)).await?
            }
        };
        if let (Some(name), DockerfileInput::InContext(_)) = (opened.single, &dockerfile) {
            dockerfile = DockerfileInput::InContext(Some(name));
        }
        let (main, time) = (opened.root, opened.time);
        let store = store.clone();
        blocking::run(move || {
            let (dockerfile, own_ignore) = read_dockerfile(&main, dockerfile)?;
            let ignore = match ignore_file {
                Some(path) => Some(read_rules_at(&path)?.ok_or_else(|| no_ignore_file(&path))?),
                None => read_ignore_rules(&main, Some(&own_ignore))?,
            };
            let mut contexts = BTreeMap::new();
            let rules = ignore.clone().map(Rules::from);
            contexts.insert(None, Arc::new(main.with_rules(rules)));
            for (name, dir) in directories {
                let root = FileRoot::open(&dir)?.with_known_files(&store);
                let rules = read_ignore_rules(&root, None)?.map(Rules::from);
                contexts.insert(Some(name), Arc::new(root.with_rules(rules)));
            }
            let ignore = ignore.unwrap_or_default();
            Ok(Self { dockerfile, contexts, ignore, time })
        })
        .await
    }

    /// Downloads the named context `name`; an archive is unpacked, anything else is a file.
    pub(super) async fn download(
        &mut self,
        store: &Store,
        name: &str,
        op: &HttpOp,
        fetcher: Fetcher<'_>,
    ) -> Result<(), BuildError> {
        let opened = fetcher.download(store, op).await?;
        self.contexts.insert(Some(name.to_owned()), Arc::new(opened.root));
        Ok(())
    }

    /// Returns the time that the main context came with.
    pub(super) const fn own_time(&self) -> Option<i64> {
        self.time
    }

    /// Returns the time of the main context: its own, or that of its newest file.
    pub(super) async fn time(&self) -> Result<Option<i64>, BuildError> {
        if self.time.is_some() {
            return Ok(self.time);
        }
        let main = Arc::clone(&self.contexts[&None]);
        blocking::run(move || newest_file(&main)).await.map_err(|source| BuildError::Step {
            step: "SOURCE_DATE_EPOCH=context".to_owned(),
            index: None,
            source: Box::new(source),
            kept_by: None,
        })
    }
}

impl Fetcher<'_> {
    async fn context(
        self,
        store: &Store,
        url: &str,
        keeps_git_dir: bool,
    ) -> Result<Opened, BuildError> {
        let shown = frontend::redact_url(url);
        let refuse = |what: String| BuildError::Request {
            what: format!("`{shown}` cannot be the build context: {what}"),
            help: None,
        };
        let remote = parse_remote(url).map_err(|error| refuse(error.to_string()))?;
        match remote {
            None => Err(refuse("it is no URL of a repository or a file".to_owned())),
            Some(RemoteContext::Http(op)) => self.download(store, &op).await,
            Some(RemoteContext::Git(mut git)) => {
                git.op.keep_git_dir |= keeps_git_dir && git.keep_git_dir.is_none();
                let (root, time) = self.files(&Op::Git(git.op), &shown).await?;
                Ok(Opened { root, time, single: None })
            }
        }
    }

    async fn download(self, store: &Store, op: &HttpOp) -> Result<Opened, BuildError> {
        let (file, time) = self.files(&Op::Http(op.clone()), &op.url).await?;
        let (store, name) = (store.clone(), op.file_name.clone());
        blocking::run(move || {
            let path = file.dir.join(&name);
            let unpacked = store.temp_dir().map_err(BuildError::store)?;
            if !open_archive(&path, unpacked.path(), &Limits::CONTEXT)? {
                return Ok(Opened { root: file, time, single: Some(name) });
            }
            let root = FileRoot::open(unpacked.path())?.holding(unpacked);
            Ok(Opened { root, time, single: None })
        })
        .await
    }

    async fn files(self, op: &Op, shown: &str) -> Result<(FileRoot, Option<i64>), BuildError> {
        let text = format!("fetching {shown}");
        self.events.send(Event::Note { text }).await;
        let settled = RemoteFiles::settle(op, self.sources, self.secrets, self.events).await?;
        let remote = settled.expect("repositories and downloads are what is settled");
        Ok(remote.into_files(self.sources, self.events).await?)
    }
}

fn open_local(store: &Store, context: ContextInput) -> Result<Opened, BuildError> {
    let temporary = || store.temp_dir().map_err(BuildError::store);
    let root = match context {
        ContextInput::Directory(path) => FileRoot::open(&path)?.with_known_files(store),
        ContextInput::Tar(tar) => {
            let dir = temporary()?;
            unpack_context(tar, dir.path(), &Limits::CONTEXT)?;
            FileRoot::open(dir.path())?.holding(dir)
        }
        ContextInput::Empty => {
            let dir = temporary()?;
            FileRoot::open(dir.path())?.holding(dir)
        }
        ContextInput::Url(_) => unreachable!("contexts by URL are fetched, not opened"),
    };
    Ok(Opened { root, time: None, single: None })
}

/// Endings of the ignore file of one Dockerfile, in the order in which they are looked for: buildah
/// knows both, BuildKit the last.
const OWN_ENDINGS: [&str; 2] = [".containerignore", ".dockerignore"];

/// Where the ignore file of one Dockerfile may be: its path, without the ending.
enum OwnIgnore {
    /// In the context.
    Inside(String),
    /// Beside a Dockerfile that lies elsewhere.
    Beside(PathBuf),
    /// Nowhere: the Dockerfile has no place.
    Nowhere,
}

/// Returns the Dockerfile, and where its own ignore file may be.
fn read_dockerfile(
    context: &FileRoot,
    dockerfile: DockerfileInput,
) -> Result<(SourceText, OwnIgnore), BuildError> {
    let inside = |name: &str, text: Vec<u8>| {
        let text = decode(Path::new(name), text)?;
        let own = OwnIgnore::Inside(name.to_owned());
        Ok((SourceText { name: name.to_owned(), text }, own))
    };
    match dockerfile {
        DockerfileInput::Inline(text) => {
            Ok((SourceText { name: "Dockerfile".to_owned(), text }, OwnIgnore::Nowhere))
        }
        DockerfileInput::File(path) => {
            let text = read_at(&path)?.ok_or_else(|| missing(&path, &path, "its directory"))?;
            let (name, text) = (path.display().to_string(), decode(&path, text)?);
            Ok((SourceText { name, text }, OwnIgnore::Beside(path)))
        }
        DockerfileInput::InContext(Some(name)) => {
            let text = context.read_file(&name, TEXT_LIMIT)?;
            inside(&name, text.ok_or_else(|| missing_in(context, &name))?)
        }
        DockerfileInput::InContext(None) => {
            for name in DEFAULT_NAMES {
                if let Some(text) = context.read_file(name, TEXT_LIMIT)? {
                    return inside(name, text);
                }
            }
            let is_link = |name: &&str| context.dir.join(name).is_symlink();
            let link = DEFAULT_NAMES.into_iter().find(is_link);
            Err(missing_in(context, link.unwrap_or("Dockerfile")))
        }
    }
}

/// Reads a file of this machine, symlinks followed within its own directory.
fn read_at(path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| missing(path, path, "its directory"))?;
    match FileRoot::open(dir.unwrap_or(Path::new("."))) {
        Ok(dir) => dir.read_file(name, TEXT_LIMIT).map_err(|error| BuildError::Request {
            // The path, not what is left of it below its directory.
            what: match error {
                FileRootError::Root(RootError::NotAFile { .. }) => {
                    format!("`{}` is not a regular file", path.display())
                }
                other => format!("could not read `{}`: {other}", path.display()),
            },
            help: None,
        }),
        Err(FileRootError::NotFound { .. } | FileRootError::NotADirectory { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn missing_in(context: &FileRoot, name: &str) -> BuildError {
    missing(Path::new(name), &context.dir.join(name), "the build context")
}

/// Says that the Dockerfile called `path` is not there. Links are followed within `bounds`: one
/// that leads out of them is told, or nobody would understand.
fn missing(path: &Path, place: &Path, bounds: &str) -> BuildError {
    if let Ok(target) = std::fs::read_link(place) {
        let (path, target) = (path.display(), target.display());
        let what = format!(
            "failed to read Dockerfile: `{path}` links to nothing in {bounds}, or out of it: -> \
             {target}"
        );
        let help = "name the file itself with -f, or copy it there".to_owned();
        return BuildError::Request { what, help: Some(help) };
    }
    BuildError::Request {
        what: format!("failed to read Dockerfile: open {}: no such file", path.display()),
        help: Some("name another file with -f".to_owned()),
    }
}

fn no_ignore_file(path: &Path) -> BuildError {
    let what = format!("the ignore file `{}` does not exist", path.display());
    BuildError::Request { what, help: None }
}

fn decode(path: &Path, text: Vec<u8>) -> Result<String, BuildError> {
    String::from_utf8(text).map_err(|error| BuildError::Request {
        what: format!(
            "`{}` is not valid UTF-8 at byte {}",
            path.display(),
            error.utf8_error().valid_up_to()
        ),
        help: None,
    })
}

/// Reads the ignore file: the Dockerfile's own first, then the context's.
fn read_ignore_rules(
    context: &FileRoot,
    own: Option<&OwnIgnore>,
) -> Result<Option<IgnoreRules>, BuildError> {
    let mut names = Vec::new();
    match own {
        Some(OwnIgnore::Inside(name)) => {
            names.extend(OWN_ENDINGS.map(|ending| format!("{name}{ending}")));
        }
        Some(OwnIgnore::Beside(path)) => {
            for ending in OWN_ENDINGS {
                let mut own = path.as_os_str().to_owned();
                own.push(ending);
                if let Some(rules) = read_rules_at(Path::new(&own))? {
                    return Ok(Some(rules));
                }
            }
        }
        Some(OwnIgnore::Nowhere) | None => {}
    }
    names.extend(IGNORE_NAMES.map(str::to_owned));
    for name in names {
        if let Some(text) = context.read_file(&name, TEXT_LIMIT)? {
            return parse_rules(Path::new(&name), text).map(Some);
        }
    }
    Ok(None)
}

fn read_rules_at(path: &Path) -> Result<Option<IgnoreRules>, BuildError> {
    read_at(path)?.map(|text| parse_rules(path, text)).transpose()
}

fn parse_rules(path: &Path, text: Vec<u8>) -> Result<IgnoreRules, BuildError> {
    IgnoreRules::parse(&decode(path, text)?).map_err(|error| BuildError::Request {
        what: format!("`{}`: {error}", path.display()),
        help: None,
    })
}
