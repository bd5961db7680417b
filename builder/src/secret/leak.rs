//! Searching what a step left for the secrets that it had.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use zeroize::Zeroizing;

use super::pattern::{Found, Patterns, forms};
use super::{SEARCHED_BYTES, Secret};
use crate::rootfs::{Dir, Kind, display_path, fd_xattrs, join};

/// Bytes of a file read at once.
const READ_BYTES: usize = 1 << 20;

/// A secret where it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    /// Its id.
    pub(crate) id: String,
    /// Where it is: `the file `/x``, `a name in the directory `/x``. Holds no value.
    pub(crate) place: String,
    /// In which form: `as it is`, `in base64`.
    pub(crate) form: &'static str,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, place, form } = self;
        write!(f, "secret `{id}` is in {place} {form}")
    }
}

/// Why a layer cannot be searched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeakError {
    /// The layer cannot be read.
    #[error("could not search `{}` for secrets", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// What is searched for.
#[derive(Debug, Default)]
pub(crate) struct Search {
    secrets: Vec<(String, Secret)>,
    patterns: Option<Patterns>,
}

impl Search {
    /// Searches for these secrets in every form that is long enough to mean something.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = (&'a String, &'a Secret)>) -> Self {
        let secrets: Vec<_> = secrets
            .into_iter()
            .filter(|(_, secret)| secret.trimmed().len() >= SEARCHED_BYTES)
            .map(|(id, secret)| (id.clone(), secret.clone()))
            .collect();
        let texts = secrets.iter().flat_map(|(_, secret)| forms(secret.trimmed()));
        let patterns = Patterns::new(texts.map(|(_, text)| text), SEARCHED_BYTES);
        Self { secrets, patterns }
    }

    /// Searches the files of a layer (overlayfs upper format): contents, names, link targets and
    /// extended attributes. Archives are searched as the bytes that they are: what is compressed
    /// or encrypted cannot be seen.
    ///
    /// # Errors
    ///
    /// [`LeakError::Read`].
    pub(crate) fn layer(&self, upper: &Path) -> Result<Option<Leak>, LeakError> {
        let Some(patterns) = &self.patterns else { return Ok(None) };
        let failed = |source| LeakError::Read { path: upper.to_owned(), source };
        let dir = Dir::open(upper).map_err(failed)?;
        let mut walk = Walk { search: self, patterns, buffer: Vec::new() };
        walk.dir(&dir, b"")
    }

    /// Searches a text, which `place` names.
    pub(crate) fn text(&self, text: &[u8], place: &str) -> Option<Leak> {
        let found = self.patterns.as_ref()?.first(text)?;
        Some(self.leak(found, place.to_owned()))
    }

    /// Tells whose form `text` is.
    fn leak(&self, text: &[u8], place: String) -> Leak {
        let all = self.secrets.iter().flat_map(|(id, secret)| {
            forms(secret.trimmed()).into_iter().map(move |(form, text)| (id, form, text))
        });
        let mut matching = all.filter(|(_, _, form)| &form[..] == text);
        let (id, form, _) = matching.next().expect("what is found is one of the forms");
        Leak { id: id.clone(), place, form }
    }
}

struct Walk<'a> {
    search: &'a Search,
    patterns: &'a Patterns,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn dir(&mut self, dir: &Dir, path: &[u8]) -> Result<Option<Leak>, LeakError> {
        let at = |path: &[u8]| {
            let path = display_path(path);
            move |source| LeakError::Read { path, source }
        };
        for (name, file_type) in dir.entries().map_err(at(path))? {
            // Not the path itself, which holds the value.
            let in_name = self.find(&name, || format!("a name in the directory `{}`", shown(path)));
            let path = join(path, &name);
            if in_name.is_some() {
                return Ok(in_name);
            }
            let Some(metadata) = dir.metadata_of(&name).map_err(at(&path))? else { continue };
            let leak = if file_type == FileType::Directory || metadata.is_dir() {
                let below = dir.open_dir(&name).map_err(at(&path))?;
                let xattrs = fd_xattrs(&below).map_err(at(&path))?;
                match self.xattrs(&xattrs, &path) {
                    None => self.dir(&below, &path)?,
                    leak => leak,
                }
            } else if metadata.kind == Kind::File {
                let (file, _) = dir.open_file(&name).map_err(at(&path))?;
                let xattrs = fd_xattrs(&file).map_err(at(&path))?;
                match self.xattrs(&xattrs, &path) {
                    None => self.content(file, &path).map_err(at(&path))?,
                    leak => leak,
                }
            } else if metadata.kind == Kind::Symlink {
                let target = dir.read_link(&name).map_err(at(&path))?;
                self.find(&target, || format!("the link `{}`", shown(&path)))
            } else {
                None
            };
            if leak.is_some() {
                return Ok(leak);
            }
        }
        Ok(None)
    }

    fn find(&self, text: &[u8], place: impl FnOnce() -> String) -> Option<Leak> {
        let found = self.patterns.first(text)?;
        Some(self.search.leak(found, place()))
    }

    fn xattrs(&self, xattrs: &[(Vec<u8>, Vec<u8>)], path: &[u8]) -> Option<Leak> {
        xattrs.iter().find_map(|(name, value)| {
            let place = || format!("an extended attribute of `{}`", shown(path));
            self.find(name, place).or_else(|| self.find(value, place))
        })
    }

    /// Reads a file in pieces that overlap by what the longest pattern may need.
    fn content(&mut self, mut file: impl Read, path: &[u8]) -> io::Result<Option<Leak>> {
        let overlap = self.patterns.longest() - 1;
        self.buffer.resize(READ_BYTES + overlap, 0);
        let mut kept = 0;
        loop {
            let room = &mut self.buffer[kept..];
            let read = match file.read(room) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let length = kept + read;
            if let Some(found) = self.patterns.first(&self.buffer[..length]) {
                let found = Zeroizing::new(found.to_vec());
                return Ok(Some(self.search.leak(&found, format!("the file `{}`", shown(path)))));
            }
            kept = length.min(overlap);
            self.buffer.copy_within(length - kept..length, 0);
        }
    }
}

impl Patterns {
    /// Returns the first pattern in `text`.
    fn first<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let mut from = 0;
        while let Some(start) = self.next_head(text, from) {
            if let Found::Whole(length) = self.whole_at_start(&text[start..]) {
                return Some(&text[start..start + length]);
            }
            from = start + 1;
        }
        None
    }
}

fn shown(path: &[u8]) -> String {
    display_path(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const VALUE: &str = "canary-7f3a9b&c";
    const HEX: &str = "63616e6172792d3766336139622663";

    fn search() -> Search {
        Search::new([(&"token".to_owned(), &Secret::from(VALUE))])
    }

    #[test]
    fn a_leak_is_found_wherever_it_is() {
        type Leaks = fn(&Path);
        #[rustfmt::skip]
        let cases: [(&str, Leaks, Option<&str>); 9] = [
            ("plain",     |dir| std::fs::write(dir.join("a"), format!("x{VALUE}y")).unwrap(), Some("secret `token` is in the file `/a` as it is")),
            ("base64",    |dir| std::fs::write(dir.join("a"), STANDARD.encode(format!("x{VALUE}y"))).unwrap(), Some("secret `token` is in the file `/a` in base64")),
            ("hex",       |dir| std::fs::write(dir.join("a"), HEX).unwrap(), Some("secret `token` is in the file `/a` in hex")),
            ("url",       |dir| std::fs::write(dir.join("a"), "t=canary-7f3a9b%26c").unwrap(), Some("secret `token` is in the file `/a` URL-encoded")),
            ("name",      |dir| std::fs::create_dir(dir.join(VALUE)).unwrap(), Some("secret `token` is in a name in the directory `/` as it is")),
            ("link",      |dir| symlink(VALUE, dir.join("l")).unwrap(), Some("secret `token` is in the link `/l` as it is")),
            ("deep",      |dir| {
                std::fs::create_dir_all(dir.join("d/e")).unwrap();
                std::fs::write(dir.join("d/e/f"), VALUE).unwrap();
            }, Some("secret `token` is in the file `/d/e/f` as it is")),
            ("border",    |dir| {
                let text = ["x".repeat(READ_BYTES + 3), VALUE.to_owned()].concat();
                std::fs::write(dir.join("big"), text).unwrap();
            }, Some("secret `token` is in the file `/big` as it is")),
            ("nothing",   |dir| std::fs::write(dir.join("a"), "canary-7f3a9b").unwrap(), None),
        ];
        for (name, leak, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            leak(dir.path());
            let found = search().layer(dir.path()).unwrap().map(|leak| leak.to_string());
            assert_eq!(found.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn a_leak_in_an_extended_attribute_is_found() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "").unwrap();
        rustix::fs::setxattr(&file, "user.t", VALUE.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
        let found = search().layer(dir.path()).unwrap().unwrap();
        assert_eq!(found.place, "an extended attribute of `/a`");
    }

    #[test]
    fn short_values_are_not_searched_for() {
        let search = Search::new([(&"s".to_owned(), &Secret::from("short"))]);
        assert_eq!(search.text(b"a short text", "the text"), None);
    }
}
