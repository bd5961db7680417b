//! `rbuild context`: what of a directory reaches a build, and which rule of the ignore file says so.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use frontend::IgnoreReason;
use serde_json::{Value, json};
use walkdir::WalkDir;

use super::args::ListFormat;
use super::print;
use crate::fault::Fault;
use crate::format::{self, printable};
use crate::ignore_file::IgnoreFile;

/// Names that are looked for when none is given, in this order.
const DEFAULT_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    Ls(ListArgs),
}

/// List what a build takes from a directory, or say why a path is taken or left out
///
/// Each file with its size in bytes and, where one matched, the rule of the ignore file that decided.
/// The Dockerfile and the ignore file reach the builder whatever the rules say; COPY sees only what
/// is listed.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Context directory
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Dockerfile, whose own ignore file goes first; looked for here, then in the context
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ignore file in the place of those that are looked for
    #[arg(long, value_name = "FILE")]
    ignorefile: Option<PathBuf>,
    /// Say what decides about this path of the context, whether it exists or not (repeatable)
    #[arg(long, value_name = "PATH")]
    why: Vec<PathBuf>,
    /// List what is left out as well
    #[arg(short, long)]
    all: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

/// Does it. Blocking.
pub(super) fn context(command: &ContextCommand) -> Result<(), Fault> {
    let ContextCommand::Ls(args) = command;
    let is_dir = fs::metadata(&args.path)
        .map_err(|error| Fault::file("read the context", &args.path, &error))?
        .is_dir();
    if !is_dir {
        let what = format!("the context `{}` is not a directory", args.path.display());
        return Err(Fault::user(what).with_help("archives and repositories are not listed"));
    }
    let rules = match &args.ignorefile {
        Some(path) => Some(IgnoreFile::read(path)?),
        None => IgnoreFile::find(Some(&args.path), dockerfile(args).as_deref())?,
    };
    let listing = Listing { args, rules };
    if args.why.is_empty() { print(&listing.list()?) } else { print(&listing.explain()?) }
}

/// The Dockerfile that a build would read, if there is one.
fn dockerfile(args: &ListArgs) -> Option<PathBuf> {
    let mut places = match &args.file {
        Some(file) => vec![file.clone(), args.path.join(file)],
        None => DEFAULT_NAMES.iter().map(|name| args.path.join(name)).collect(),
    };
    places.retain(|place| place.exists());
    places.into_iter().next()
}

struct Listing<'a> {
    args: &'a ListArgs,
    rules: Option<IgnoreFile>,
}

impl Listing<'_> {
    fn reason(&self, path: &Path) -> Option<IgnoreReason<'_>> {
        self.rules.as_ref()?.rules.explain(path.as_os_str().as_bytes())
    }

    /// Returns `.dockerignore:3`.
    fn place(&self, reason: &IgnoreReason<'_>) -> String {
        let file = self.rules.as_ref().map_or(Path::new(""), |rules| &rules.path);
        let file = file.strip_prefix("./").unwrap_or(file);
        format!("{}:{}", file.display(), reason.line)
    }

    /// Lists files, and where all is wanted the directories that are left out as a whole.
    fn list(&self) -> Result<String, Fault> {
        let is_json = self.args.format == ListFormat::Json;
        let mut text = String::new();
        let (mut files, mut bytes, mut left_out) = (0_u64, 0_u64, 0_u64);
        let mut walk = WalkDir::new(&self.args.path).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let unreadable = |error: &walkdir::Error| {
                let place = error.path().unwrap_or(&self.args.path).display().to_string();
                let mut fault = Fault::user(format!("could not read `{place}`"));
                fault.causes.push(error.to_string());
                fault
            };
            let entry = entry.map_err(|error| unreadable(&error))?;
            let metadata = entry.metadata().map_err(|error| unreadable(&error))?;
            let path = entry.path().strip_prefix(&self.args.path).unwrap_or(entry.path());
            let reason = self.reason(path);
            let is_out = reason.as_ref().is_some_and(|reason| reason.excluded);
            if metadata.is_dir() {
                let rules = self.rules.as_ref().filter(|_| is_out);
                let may_hold =
                    rules.is_none_or(|it| it.rules.may_descend(path.as_os_str().as_bytes()));
                if may_hold {
                    continue;
                }
                walk.skip_current_dir();
            }
            if is_out {
                left_out += 1;
            } else {
                files += 1;
                bytes += size(&metadata);
            }
            if is_out && !self.args.all {
                continue;
            }
            if is_json {
                let _ = writeln!(text, "{}", self.object(path, &metadata, reason.as_ref()));
            } else {
                text += &self.row(path, &metadata, reason.as_ref());
            }
        }
        if !is_json {
            let size = format::size(bytes);
            let _ =
                writeln!(text, "{files} files, {size}; {left_out} files and directories left out");
        }
        Ok(text)
    }

    fn row(&self, path: &Path, metadata: &Metadata, reason: Option<&IgnoreReason<'_>>) -> String {
        let is_out = reason.is_some_and(|reason| reason.excluded);
        let size = if is_out { "-".to_owned() } else { size(metadata).to_string() };
        let mut name = printable(&path.to_string_lossy());
        if metadata.is_dir() {
            name.push('/');
        }
        match reason {
            None => format!("{size:>12}  {name}\n"),
            Some(reason) => {
                let (place, pattern) = (self.place(reason), printable(reason.pattern));
                format!("{size:>12}  {name}  ({place}: {pattern})\n")
            }
        }
    }

    fn object(&self, path: &Path, metadata: &Metadata, reason: Option<&IgnoreReason<'_>>) -> Value {
        let kind = if metadata.is_dir() {
            "directory"
        } else if metadata.is_symlink() {
            "symlink"
        } else if metadata.is_file() {
            "file"
        } else {
            "other"
        };
        json!({
            "path": path.to_string_lossy(),
            "kind": kind,
            "size": size(metadata),
            "included": reason.is_none_or(|reason| !reason.excluded),
            "rule": reason.map(|reason| self.rule(reason)),
        })
    }

    fn rule(&self, reason: &IgnoreReason<'_>) -> Value {
        let file = self.rules.as_ref().map(|rules| rules.path.to_string_lossy());
        json!({ "file": file, "line": reason.line, "pattern": reason.pattern })
    }

    /// Says of each path that was asked about what decides.
    fn explain(&self) -> Result<String, Fault> {
        let mut text = String::new();
        for path in &self.args.why {
            let path = self.inside(path)?;
            let name = printable(&path.to_string_lossy());
            let reason = self.reason(&path);
            if self.args.format == ListFormat::Json {
                let object = json!({
                    "path": path.to_string_lossy(),
                    "exists": self.args.path.join(&path).symlink_metadata().is_ok(),
                    "included": reason.as_ref().is_none_or(|reason| !reason.excluded),
                    "rule": reason.as_ref().map(|reason| self.rule(reason)),
                });
                let _ = writeln!(text, "{object}");
                continue;
            }
            let verdict = match &reason {
                None if self.rules.is_none() => "included: there is no ignore file".to_owned(),
                None => "included: no rule matches".to_owned(),
                Some(reason) => {
                    let (place, pattern) = (self.place(reason), printable(reason.pattern));
                    let word = if reason.excluded { "left out" } else { "included" };
                    format!("{word} by {place}: {pattern}")
                }
            };
            let is_there = self.args.path.join(&path).symlink_metadata().is_ok();
            let there = if is_there { "" } else { " (nothing is there)" };
            let _ = writeln!(text, "{name}: {verdict}{there}");
        }
        Ok(text)
    }

    /// Makes a path relative to the context: it is meant so, unless it leads there from here.
    fn inside(&self, path: &Path) -> Result<PathBuf, Fault> {
        let context = &self.args.path;
        let inside = if path.is_absolute() {
            let (whole, context) = (std::path::absolute(path), std::path::absolute(context));
            let relative = whole.ok().zip(context.ok());
            relative.and_then(|(path, context)| path.strip_prefix(context).ok().map(Into::into))
        } else {
            let below = path.strip_prefix(context).ok().filter(|_| *context != Path::new("."));
            Some(below.map_or_else(|| path.to_owned(), Path::to_owned))
        };
        let is_within = |path: &PathBuf| !path.iter().any(|part| part == "..");
        inside.filter(is_within).ok_or_else(|| {
            let what = format!("`{}` is not in the context", path.display());
            Fault::user(what).with_help("name it relative to the context")
        })
    }
}

/// Bytes of content: directories and links have none.
fn size(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}
