//! A context as the tar that is sent to a service.
//!
//! Invariants: the same files give the same bytes, in the order of their names. Nothing is held
//! whole in memory. Links are sent as links and never followed.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use builder::{ContextInput, DockerfileInput};
use cache::Digest;
use frontend::IgnoreRules;
use tar::{EntryType, Header};
use walkdir::WalkDir;

use crate::fault::Fault;
use crate::ignore_file;

/// Largest Dockerfile and ignore file that are read (bytes).
const TEXT_LIMIT: u64 = 1 << 20;

/// Names that are looked for when none is given, in this order.
const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Deepest nesting of directories that is sent.
const DEPTH_LIMIT: usize = 512;

/// Why a context could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    /// A file cannot be read.
    #[error("could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Devices have no place in a context.
    #[error("`{}` is a device, which cannot be sent", path.display())]
    Device { path: PathBuf },
    /// More directories within directories than anybody has.
    #[error("`{}` lies deeper than {DEPTH_LIMIT} directories", path.display())]
    Depth { path: PathBuf },
    /// The receiver takes no more.
    #[error("could not send the context")]
    Send(#[source] io::Error),
}

/// A context ready to be sent.
pub(crate) struct RemoteContext {
    pub(super) input: ContextInput,
    rules: Option<IgnoreRules>,
    /// Name of the Dockerfile in the tar; `None` leaves the choice to the service.
    dockerfile: Option<String>,
    /// Paths that are sent although the rules leave them out.
    kept: Vec<PathBuf>,
    /// Files that are not in the directory.
    added: BTreeMap<String, Vec<u8>>,
}

impl RemoteContext {
    /// Reads what must be known before anything is sent: the ignore file, and a Dockerfile that is
    /// not in the context. `ignore_file` stands in for the ignore files that are looked for.
    pub(crate) fn open(
        input: ContextInput,
        dockerfile: DockerfileInput,
        ignore_file: Option<&Path>,
    ) -> Result<Self, Fault> {
        let root = match &input {
            ContextInput::Directory(root) => {
                check_directory(root)?;
                Some(root.clone())
            }
            // A tar goes as it is; what has a URL is fetched by the service.
            ContextInput::Tar(_) | ContextInput::Empty | ContextInput::Url(_) => None,
        };
        let mut context =
            Self { input, rules: None, dockerfile: None, kept: Vec::new(), added: BTreeMap::new() };
        let (text, own) = context.read_dockerfile(dockerfile, root.as_deref())?;
        let ignore_text = match (ignore_file, &root) {
            (Some(path), _) => Some(context.replace_rules(path)?),
            (None, Some(root)) => context.read_rules(root, own)?,
            (None, None) => None,
        };
        let text = match (text, &root) {
            // Beside the Dockerfile of the context its own rules would win over those given.
            (None, Some(root)) if ignore_file.is_some() => Some(context.take_dockerfile(root)?),
            (text, _) => text,
        };
        if let Some(text) = text {
            context.add_dockerfile(text, ignore_text);
        }
        Ok(context)
    }

    /// Reads what must be known of a named context, which has ignore rules and no Dockerfile.
    pub(super) fn named(root: &Path) -> Result<Self, Fault> {
        let mut context = Self::plain(root.to_owned())?;
        for name in ignore_file::NAMES {
            let path = root.join(name);
            let Some(bytes) = read_file(&path)? else { continue };
            context.set_rules(&path, &bytes)?;
            context.kept.push(name.into());
            break;
        }
        Ok(context)
    }

    /// A directory of which everything is sent.
    pub(super) fn plain(root: PathBuf) -> Result<Self, Fault> {
        check_directory(&root)?;
        Ok(Self {
            input: ContextInput::Directory(root),
            rules: None,
            dockerfile: None,
            kept: Vec::new(),
            added: BTreeMap::new(),
        })
    }

    /// Returns the text of a Dockerfile that is not in the context, and the path of the Dockerfile,
    /// whose own ignore file lies beside it.
    fn read_dockerfile(
        &mut self,
        dockerfile: DockerfileInput,
        root: Option<&Path>,
    ) -> Result<(Option<Vec<u8>>, Option<PathBuf>), Fault> {
        match dockerfile {
            DockerfileInput::InContext(name) => {
                let found = name.clone().or_else(|| {
                    let is_there = |name: &&str| root.is_some_and(|root| root.join(name).is_file());
                    DOCKERFILE_NAMES.into_iter().find(is_there).map(str::to_owned)
                });
                self.dockerfile = name;
                Ok((None, found.map(PathBuf::from)))
            }
            DockerfileInput::File(path) => {
                let text = required(&path)?;
                let place = std::path::absolute(&path);
                let place = place.map_err(|error| Fault::file("find", &path, &error))?;
                Ok((Some(text), Some(place)))
            }
            DockerfileInput::Inline(text) => Ok((Some(text.into_bytes()), None)),
        }
    }

    /// Reads the Dockerfile out of the context.
    fn take_dockerfile(&self, root: &Path) -> Result<Vec<u8>, Fault> {
        let names = match &self.dockerfile {
            Some(name) => vec![name.as_str()],
            None => DOCKERFILE_NAMES.to_vec(),
        };
        for name in &names {
            if let Some(text) = read_file(&root.join(name))? {
                return Ok(text);
            }
        }
        let path = root.join(names[0]);
        Err(Fault::file("read", &path, &io::ErrorKind::NotFound.into()))
    }

    /// Takes the rules of `path` in the place of those of the context.
    fn replace_rules(&mut self, path: &Path) -> Result<Vec<u8>, Fault> {
        let bytes = required(path)?;
        self.set_rules(path, &bytes)?;
        Ok(bytes)
    }

    fn set_rules(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(bytes);
        let rules = IgnoreRules::parse(&text)
            .map_err(|error| Fault::user(format!("`{}`: {error}", path.display())))?;
        self.rules = Some(rules);
        Ok(())
    }

    /// Returns the name of the Dockerfile in the tar.
    pub(crate) fn dockerfile(&self) -> Option<&str> {
        self.dockerfile.as_deref()
    }

    /// Reads the ignore file: the Dockerfile's own first, then the context's.
    fn read_rules(
        &mut self,
        root: &Path,
        dockerfile: Option<PathBuf>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let names: Vec<PathBuf> = match &self.dockerfile {
            Some(name) => vec![name.into()],
            None => DOCKERFILE_NAMES.map(PathBuf::from).into(),
        };
        self.kept.extend(names);
        let own = dockerfile.into_iter().flat_map(|dockerfile| {
            ignore_file::OWN_ENDINGS.map(|ending| {
                let mut name = dockerfile.as_os_str().to_owned();
                name.push(ending);
                PathBuf::from(name)
            })
        });
        for name in own.chain(ignore_file::NAMES.map(PathBuf::from)) {
            let path = root.join(&name);
            let Some(bytes) = read_file(&path)? else { continue };
            self.set_rules(&path, &bytes)?;
            self.kept.push(name);
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    /// Adds a Dockerfile from elsewhere under a name of its own, with rules that keep it out of
    /// what COPY sees.
    fn add_dockerfile(&mut self, text: Vec<u8>, ignore_text: Option<Vec<u8>>) {
        let name = format!(".dockerfile.{}", &Digest::of(&text).hex()[..20]);
        let ignore_name = format!("{name}.dockerignore");
        let mut rules = ignore_text.unwrap_or_default();
        rules.extend_from_slice(format!("\n{name}\n{ignore_name}\n").as_bytes());
        self.added.insert(ignore_name, rules);
        self.added.insert(name.clone(), text);
        self.dockerfile = Some(name);
    }

    /// Returns the files that are not in the directory.
    pub(super) fn added(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.added
    }

    fn is_kept(&self, path: &Path) -> bool {
        self.kept.iter().any(|kept| kept == path)
    }

    fn leads_to_kept(&self, dir: &Path) -> bool {
        self.kept.iter().any(|kept| kept.starts_with(dir))
    }
}

fn check_directory(root: &Path) -> Result<(), Fault> {
    let metadata = fs::metadata(root).map_err(|error| Fault::file("read", root, &error))?;
    if metadata.is_dir() {
        return Ok(());
    }
    Err(Fault::user(format!("`{}` is not a directory", root.display())))
}

/// Returns the bytes of a small regular file that must be there.
fn required(path: &Path) -> Result<Vec<u8>, Fault> {
    let missing = || Fault::file("read", path, &io::ErrorKind::NotFound.into());
    read_file(path)?.ok_or_else(missing)
}

/// Returns the bytes of a small regular file, `None` if there is none of that name.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    let fault = |error: &io::Error| Fault::file("read", path, error);
    // A FIFO of that name must not block.
    let options = File::options().read(true).custom_flags(NONBLOCK).open(path);
    let file = match options {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(&error)),
    };
    if !file.metadata().map_err(|error| fault(&error))?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
    if bytes.len() as u64 > TEXT_LIMIT {
        let what = format!("`{}` is larger than {TEXT_LIMIT} bytes", path.display());
        return Err(Fault::user(what));
    }
    Ok(Some(bytes))
}

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Writes the context as a tar to `out`.
///
/// # Errors
///
/// [`ContextError`]; [`ContextError::Send`] when it is `out` that fails.
pub(crate) fn write_tar(
    mut context: RemoteContext,
    out: &mut impl Write,
) -> Result<(), ContextError> {
    if let ContextInput::Tar(tar) = &mut context.input {
        // A service finds the tar's own Dockerfile; an added one is for directories only.
        return pass_on(tar, out);
    }
    let mut archive = Archive { tar: tar::Builder::new(out), links: BTreeMap::new() };
    if let ContextInput::Directory(root) = &context.input {
        each_file(&context, root, |path, full, metadata| archive.entry(path, full, metadata))?;
    }
    for (name, bytes) in &context.added {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        archive.append(&mut header, Path::new(name), bytes.as_slice())?;
    }
    archive.tar.finish().map_err(ContextError::Send)
}

/// Copies, keeping failures of the two ends apart.
fn pass_on(tar: &mut dyn Read, out: &mut impl Write) -> Result<(), ContextError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => out.write_all(&buffer[..length]).map_err(ContextError::Send)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ContextError::Read { path: "-".into(), source }),
        }
    }
}

fn walk_error(root: &Path, error: walkdir::Error) -> ContextError {
    let path = error.path().unwrap_or(root).to_owned();
    // Links are not followed, so there is no loop that could be found in place of an I/O error.
    let source =
        error.into_io_error().unwrap_or_else(|| io::Error::other("links lead in a circle"));
    ContextError::Read { path, source }
}

/// Visits what the rules leave of the tree below `root`: parents first, names in their order. Gets
/// the path in the context, the path here, and what lies there.
pub(super) fn each_file(
    context: &RemoteContext,
    root: &Path,
    mut visit: impl FnMut(&Path, &Path, &Metadata) -> Result<(), ContextError>,
) -> Result<(), ContextError> {
    let mut walk = WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| walk_error(root, error))?;
        let metadata = entry.metadata().map_err(|error| walk_error(root, error))?;
        let full = entry.path();
        let path = full.strip_prefix(root).expect("a walk stays below its root");
        let is_dir = metadata.is_dir();
        let bytes = path.as_os_str().as_bytes();
        let is_out = context
            .rules
            .as_ref()
            .is_some_and(|rules| rules.is_excluded(bytes, is_dir) && !context.is_kept(path));
        if !is_out {
            visit(path, full, &metadata)?;
        }
        if !is_dir {
            continue;
        }
        let may_descend = context.rules.as_ref().is_none_or(|rules| rules.may_descend(bytes));
        if is_out && !may_descend && !context.leads_to_kept(path) {
            walk.skip_current_dir();
        } else if entry.depth() > DEPTH_LIMIT {
            return Err(ContextError::Depth { path: full.to_owned() });
        }
    }
    Ok(())
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    /// First names of files that have several.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, path: &Path, full: &Path, metadata: &Metadata) -> Result<(), ContextError> {
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let read = |source| ContextError::Read { path: full.to_owned(), source };
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.append(&mut header, path, io::empty())
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(full).map_err(read)?;
            self.tar.append_link(&mut header, path, target).map_err(ContextError::Send)
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            self.append(&mut header, path, io::empty())
        } else if kind.is_file() {
            self.file(header, path, full)
        } else if kind.is_socket() {
            // A socket is a running program, not content; tar has no form for it.
            Ok(())
        } else {
            Err(ContextError::Device { path: full.to_owned() })
        }
    }

    fn file(&mut self, mut header: Header, path: &Path, full: &Path) -> Result<(), ContextError> {
        let read = |source| ContextError::Read { path: full.to_owned(), source };
        let file = File::options()
            .read(true)
            .custom_flags(NOFOLLOW | NONBLOCK)
            .open(full)
            .map_err(read)?;
        // What was opened counts, not what had the name a moment ago.
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(read(io::Error::other("it was replaced while it was read")));
        }
        if metadata.nlink() > 1 {
            let first = self.links.get(&(metadata.dev(), metadata.ino()));
            if let Some(first) = first {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, path, first).map_err(ContextError::Send);
            }
            self.links.insert((metadata.dev(), metadata.ino()), path.to_owned());
        }
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        let body = Exactly { file, left: metadata.len(), path: full };
        self.append(&mut header, path, body)
    }

    fn append(
        &mut self,
        header: &mut Header,
        path: &Path,
        body: impl Read,
    ) -> Result<(), ContextError> {
        self.tar.append_data(header, path, body).map_err(|error| {
            match error.downcast::<ContextError>() {
                Ok(own) => own,
                Err(error) => ContextError::Send(error),
            }
        })
    }
}

/// Copies a file of `size` bytes, no more, and fails on less.
pub(super) fn copy_exactly(
    file: File,
    size: u64,
    path: &Path,
    out: &mut impl Write,
) -> Result<(), ContextError> {
    let mut body = Exactly { file, left: size, path };
    io::copy(&mut body, out).map(drop).map_err(|error| match error.downcast::<ContextError>() {
        Ok(own) => own,
        Err(error) => ContextError::Send(error),
    })
}

/// Reads the size that the header promised, no more, and fails on less: a file that changes while
/// it is read must not shift what comes after it.
struct Exactly<'a> {
    file: File,
    left: u64,
    path: &'a Path,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let fault =
            |source| io::Error::other(ContextError::Read { path: self.path.to_owned(), source });
        match self.file.read(&mut buffer[..length]) {
            Ok(0) => Err(fault(io::Error::other("it became shorter while it was read"))),
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(fault(error)),
        }
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
