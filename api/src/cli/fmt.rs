//! `rbuild fmt`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use builder::ErrorKind;
use clap::Args;

use super::{print, source};
use crate::fault::Fault;

/// Names that are looked for when none is given, in this order.
const DEFAULT_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Lay out Dockerfiles, and print the result
///
/// Keywords in upper case, one blank between words, no blanks at line ends. Comments stay, and so
/// does every byte of a command, so that what is built and its cache keys do not change.
#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// Dockerfiles, or `-` for standard input [default: Dockerfile or Containerfile here]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print nothing, but name the files that would change, and exit 1 if there are any
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Rewrite the files
    #[arg(long)]
    write: bool,
}

/// Does it. Blocking.
pub(super) fn fmt(args: FmtArgs) -> Result<ExitCode, Fault> {
    let files = if args.files.is_empty() { vec![default_file()?] } else { args.files };
    if files.len() > 1 && !args.check && !args.write {
        return Err(Fault::user("several files cannot be printed as one")
            .with_help("--write rewrites them, --check tells which would change"));
    }
    let mut changed = 0;
    for file in &files {
        let text = source::read(file)?;
        let formatted = frontend::format(&text.text)
            .map_err(|diagnostics| source::fault(&text, &diagnostics))?;
        if args.check {
            if let Some(line) = first_difference(&text.text, &formatted) {
                changed += 1;
                drop(writeln!(io::stderr(), "{}:{line}: would be laid out anew", text.name));
            }
        } else if args.write {
            if formatted != text.text {
                replace(file, &formatted)?;
            }
        } else {
            print(&formatted)?;
        }
    }
    Ok(if changed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn default_file() -> Result<PathBuf, Fault> {
    let found = DEFAULT_NAMES.iter().map(PathBuf::from).find(|file| file.exists());
    found.ok_or_else(|| Fault::user("there is no Dockerfile here").with_help("name a file, or `-`"))
}

/// Returns the 1-based number of the first line that differs.
fn first_difference(one: &str, other: &str) -> Option<usize> {
    if one == other {
        return None;
    }
    let same = one.split('\n').zip(other.split('\n')).take_while(|(one, other)| one == other);
    Some(same.count() + 1)
}

/// Replaces a file as a whole: whoever reads it meets the old text or the new one.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Fault> {
    if path == Path::new("-") {
        return Err(Fault::user("standard input cannot be rewritten"));
    }
    let failed = |error: &io::Error| {
        let mut fault =
            Fault::new(ErrorKind::Host, format!("could not write `{}`", path.display()));
        fault.causes.push(error.to_string());
        fault
    };
    let write = || {
        // The file itself, so that a link to it stays one.
        let path = fs::canonicalize(path)?;
        let permissions = fs::metadata(&path)?.permissions();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let result = fs::write(&temporary, text)
            .and_then(|()| fs::set_permissions(&temporary, permissions))
            .and_then(|()| fs::rename(&temporary, &path));
        if result.is_err() {
            drop(fs::remove_file(&temporary));
        }
        result
    };
    write().map_err(|error| failed(&error))
}
