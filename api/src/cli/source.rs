//! Dockerfiles that are read to be looked at, not to be built.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use builder::{SourceDiagnostic, SourceText};
use frontend::{Diagnostic, Severity};

use crate::fault::Fault;
use crate::report::{self, Quotable};

/// Largest file that is read (bytes).
const LIMIT: u64 = 1 << 20;

/// Reads `path`, or standard input where it is `-`. Blocking.
///
/// # Errors
///
/// A file that is missing, no regular file, too large or no text.
pub(super) fn read(path: &Path) -> Result<SourceText, Fault> {
    if path == Path::new("-") {
        return text("<stdin>", io::stdin().lock());
    }
    let unreadable = |error: &io::Error| Fault::file("read", path, error);
    // Opening a FIFO would wait for somebody to write.
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Fault::user(format!("`{}` is not a regular file", path.display())));
    }
    text(&path.display().to_string(), File::open(path).map_err(|error| unreadable(&error))?)
}

/// Reads several Dockerfiles as one: the instructions of each follow those of the one before, as
/// with buildah. Each is looked for here, then in the context. Blocking.
///
/// # Errors
///
/// A file that cannot be read, and standard input, which cannot be one of several.
pub(super) fn join(context: &Path, files: &[PathBuf]) -> Result<String, Fault> {
    let mut joined = String::new();
    for file in files.iter().map(PathBuf::as_path) {
        if file == Path::new("-") || context == Path::new("-") {
            let what = "with several Dockerfiles nothing can come from standard input";
            return Err(Fault::user(what));
        }
        let in_context = context.join(file);
        let is_here = file.exists() || !in_context.exists();
        let text = read(if is_here { file } else { &in_context })?.text;
        joined.push_str(text.strip_prefix('\u{feff}').unwrap_or(&text));
        if !joined.ends_with('\n') {
            joined.push('\n');
        }
    }
    Ok(joined)
}

fn text(name: &str, source: impl Read) -> Result<SourceText, Fault> {
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| {
        let mut fault = Fault::user(format!("could not read `{name}`"));
        fault.causes.push(error.to_string());
        fault
    })?;
    if bytes.len() as u64 > LIMIT {
        return Err(Fault::user(format!("`{name}` is larger than {LIMIT} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Fault::user(format!("`{name}` is not valid UTF-8 at byte {at}"))
    })?;
    Ok(SourceText { name: name.to_owned(), text })
}

/// Renders diagnostics of `source`, the source quoted.
pub(super) fn render(source: &SourceText, diagnostics: &[Diagnostic]) -> String {
    let quotable = Quotable { source: Some(source), steps: &[], width: None };
    let remark = |diagnostic: &Diagnostic| SourceDiagnostic {
        is_error: diagnostic.severity == Severity::Error,
        rule: diagnostic.rule.map(str::to_owned),
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone(),
        span: (diagnostic.span.start, diagnostic.span.end),
        line_column: diagnostic.span.line_column(&source.text),
    };
    let shown = diagnostics.iter().map(|found| report::diagnostic(&remark(found), quotable, false));
    shown.collect::<Vec<_>>().join("\n")
}

/// Makes a fault of a Dockerfile's errors.
pub(super) fn fault(source: &SourceText, diagnostics: &[Diagnostic]) -> Fault {
    let errors: Vec<Diagnostic> =
        diagnostics.iter().filter(|d| d.severity == Severity::Error).cloned().collect();
    let what = match errors.len() {
        1 => format!("`{}` has an error", source.name),
        count => format!("`{}` has {count} errors", source.name),
    };
    let text = render(source, &errors) + "\n";
    drop(io::Write::write_all(&mut io::stderr(), text.as_bytes()));
    Fault::user(what)
}
