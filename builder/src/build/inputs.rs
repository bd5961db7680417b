//! What a build is made from: its contexts and its Dockerfile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::{Store, TempDir};
use frontend::IgnoreRules;

use super::error::BuildError;
use crate::blocking;
use crate::context::{FileRoot, Rules, unpack_context};
use crate::layer::Limits;
use crate::progress::SourceText;
use crate::request::{ContextInput, DockerfileInput};

/// Largest Dockerfile and ignore file that are read (bytes).
const TEXT_LIMIT: u64 = 1 << 20;

/// Names that are looked for when none is given, in this order.
const DEFAULT_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Contexts and Dockerfile of one build.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) dockerfile: SourceText,
    /// The main context under `None`, named directories under their names.
    pub(super) contexts: BTreeMap<Option<String>, Arc<FileRoot>>,
    /// The ignore file of the main context, empty where there is none.
    pub(super) ignore: IgnoreRules,
    /// Holds a context that came as a tar, for as long as the build needs it.
    _unpacked: Option<TempDir>,
}

/// Loads them.
pub(super) async fn load(
    store: &Store,
    context: ContextInput,
    dockerfile: DockerfileInput,
    directories: Vec<(String, PathBuf)>,
) -> Result<Inputs, BuildError> {
    let store = store.clone();
    blocking::run(move || {
        let (dir, unpacked) = open_context(&store, context)?;
        let main = FileRoot::open(&dir)?;
        let (name, text) = read_dockerfile(&main, dockerfile)?;
        let ignore = read_ignore_rules(&main, &name)?;
        let rules = ignore.clone().map(Rules::from);
        let mut contexts = BTreeMap::new();
        contexts.insert(None, Arc::new(main.with_rules(rules)));
        for (name, dir) in directories {
            let root = FileRoot::open(&dir)?;
            let rules = read_ignore_rules(&root, "Dockerfile")?.map(Rules::from);
            contexts.insert(Some(name), Arc::new(root.with_rules(rules)));
        }
        Ok(Inputs {
            dockerfile: SourceText { name, text },
            contexts,
            ignore: ignore.unwrap_or_default(),
            _unpacked: unpacked,
        })
    })
    .await
}

fn open_context(
    store: &Store,
    context: ContextInput,
) -> Result<(PathBuf, Option<TempDir>), BuildError> {
    let temporary = || store.temp_dir().map_err(BuildError::store);
    match context {
        ContextInput::Directory(path) => Ok((path, None)),
        ContextInput::Tar(tar) => {
            let dir = temporary()?;
            unpack_context(tar, dir.path(), &Limits::CONTEXT)?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
        ContextInput::Empty => {
            let dir = temporary()?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
    }
}

/// Returns the Dockerfile's name, as it is shown, and its text.
fn read_dockerfile(
    context: &FileRoot,
    dockerfile: DockerfileInput,
) -> Result<(String, String), BuildError> {
    match dockerfile {
        DockerfileInput::Inline(text) => Ok(("Dockerfile".to_owned(), text)),
        DockerfileInput::File(path) => {
            let (dir, name) = (path.parent(), path.file_name());
            let dir = dir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = name.and_then(|name| name.to_str()).ok_or_else(|| missing(&path))?;
            let text = FileRoot::open(dir)?.read_file(name, TEXT_LIMIT)?;
            let text = text.ok_or_else(|| missing(&path))?;
            Ok((path.display().to_string(), decode(&path, text)?))
        }
        DockerfileInput::InContext(Some(name)) => {
            let text = context.read_file(&name, TEXT_LIMIT)?;
            let text = text.ok_or_else(|| missing(Path::new(&name)))?;
            Ok((name.clone(), decode(Path::new(&name), text)?))
        }
        DockerfileInput::InContext(None) => {
            for name in DEFAULT_NAMES {
                if let Some(text) = context.read_file(name, TEXT_LIMIT)? {
                    return Ok((name.to_owned(), decode(Path::new(name), text)?));
                }
            }
            Err(missing(Path::new("Dockerfile")))
        }
    }
}

fn missing(path: &Path) -> BuildError {
    BuildError::Request {
        what: format!("failed to read Dockerfile: open {}: no such file", path.display()),
        help: Some("name another file with -f".to_owned()),
    }
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
    dockerfile: &str,
) -> Result<Option<IgnoreRules>, BuildError> {
    for name in
        [format!("{dockerfile}.dockerignore"), ".dockerignore".into(), ".containerignore".into()]
    {
        let Ok(Some(text)) = context.read_file(&name, TEXT_LIMIT) else { continue };
        let text = decode(Path::new(&name), text)?;
        let rules = IgnoreRules::parse(&text).map_err(|error| BuildError::Request {
            what: format!("`{name}`: {error}"),
            help: None,
        })?;
        return Ok(Some(rules));
    }
    Ok(None)
}
