//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::archive::Out;
use super::error::ExportError;

/// Bytes gathered before they go to the kernel.
const BUFFER: usize = 256 << 10;

/// A file under a temporary name beside its place; removed unless it was kept.
struct Temporary {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // The error that led here is the one to report; a file left over is named by its dot.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Has `write` fill a new file and puts it in the place of `path`, durably. Something else than a
/// regular file (a pipe, a terminal) is written to as it is.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Out) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let fault = |source| ExportError::File { path: path.to_owned(), source };
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let file = OpenOptions::new().write(true).open(path).map_err(fault)?;
        return fill(file, write, fault).map(drop);
    }
    let (file, mut temporary) = create_beside(path).map_err(fault)?;
    let file = fill(file, write, fault)?;
    file.sync_all().map_err(fault)?;
    fs::rename(&temporary.path, path).map_err(fault)?;
    temporary.is_kept = true;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).map_err(fault)?;
    directory.sync_all().map_err(fault)
}

fn fill(
    file: File,
    write: impl FnOnce(&mut dyn Out) -> Result<(), ExportError>,
    fault: impl Fn(io::Error) -> ExportError,
) -> Result<File, ExportError> {
    let mut out = BufWriter::with_capacity(BUFFER, file);
    write(&mut out)?;
    out.into_inner().map_err(|error| fault(error.into_error()))
}

fn create_beside(path: &Path) -> io::Result<(File, Temporary)> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{random:016x}.partial"));
    let path = path.with_file_name(hidden);
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    Ok((file, Temporary { path, is_kept: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        replace(&path, |out| {
            out.write_all(b"first").unwrap();
            Ok(())
        })
        .unwrap();
        let failed = replace(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(ExportError::Archive { source: io::ErrorKind::StorageFull.into() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(directory.path()), ["out.tar"]);
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let cases = [("a directory", here.to_owned()), ("no parent", here.join("absent/out.tar"))];
        for (name, path) in cases {
            let error = replace(&path, |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{name}: {error}");
        }
        assert_eq!(names(here), [""; 0]);
    }
}
