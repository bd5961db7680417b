//! Extra certificate authorities: seen by the command, absent from the layer.
//!
//! Programs find authorities by environment variables, or in a bundle file of the distribution.
//! The variables point into `/dev`, which is memory. The bundle files are shadowed in the stub
//! layer (see [`super::stub`]) rather than by bind mounts: `update-ca-certificates` and package
//! upgrades *rename* a new bundle over the old one, and renaming over a mount point fails. In a
//! lower layer the rename simply succeeds, and what it puts into the layer was made from the
//! image's own sources.
//!
//! One leak remains to be closed: overlayfs copies a lower file into the layer when it is appended
//! to or its owner changes. So the extra authorities stand in front of a bundle as one block, and
//! after the command that block is cut out of any copy in the layer: what stays is what the same
//! command would have made of the image's own bundle.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::beneath::open_exact;
use super::error::{At as _, Fault};
use super::mount::{make_file, open_dir, path_of};
use super::spec::base64_bytes;
use super::stub::StubLayer;
use super::view::ImageView;

/// Directory in `/dev` that the environment points to.
pub(super) const DEV_DIR: &str = "rbuild";

/// The image's authorities and the extra ones.
const ALL_FILE: &str = "ca-certificates.crt";

/// The extra authorities alone.
const EXTRA_FILE: &str = "extra-ca-certificates.crt";

/// Settings of wget and apt, whose TLS library knows no variable: without them they would lose the
/// extra authorities as soon as the step itself installs the distribution's.
const SETTINGS: [(&str, &str, &str); 2] = [
    ("WGETRC", "wgetrc", "ca_certificate = /dev/rbuild/ca-certificates.crt\n"),
    ("APT_CONFIG", "apt.conf", "Acquire::https::CAInfo \"/dev/rbuild/ca-certificates.crt\";\n"),
];

/// Bundle files of distributions. The first is also made where an image has none of them.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",   // older RHEL
    "/etc/ssl/ca-bundle.pem",             // openSUSE
    "/var/lib/ca-certificates/ca-bundle.pem", // openSUSE, newer
    "/etc/ssl/cert.pem",                  // Alpine's LibreSSL
];

/// Variables that name a file with all authorities.
const ALL_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
];

/// Variables that name a file with further authorities.
const EXTRA_VARIABLES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Largest bundle of an image that is read, and largest copy in a layer that is cleaned, in bytes.
/// Mozilla's authorities are 220 kB.
const BUNDLE_BYTES: u64 = 16 << 20;

/// What was made for the command.
#[derive(Debug)]
pub(super) struct CaPlaces {
    /// The extra authorities, then those of the image or, if it has none, of this machine.
    bundle: Vec<u8>,
    notes: Notes,
}

/// What must be done when the command has ended.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    /// What stands in front of each bundle and must not stay in the layer.
    #[serde(with = "base64_bytes")]
    block: Vec<u8>,
    /// The bundles.
    shadowed: Vec<Shadowed>,
}

/// A bundle file that the command saw with the extra authorities in it.
#[derive(Debug, Serialize, Deserialize)]
struct Shadowed {
    /// Relative to the root, without links.
    path: PathBuf,
    /// How many leading parts of it the image has; all, if it has the file.
    existing: usize,
}

impl Shadowed {
    fn is_in_image(&self) -> bool {
        self.existing == self.path.components().count()
    }
}

/// Ends `pem` with a newline, so that it can stand in front of another bundle.
pub(super) fn end_line(pem: &mut Vec<u8>) {
    if pem.last().is_some_and(|byte| *byte != b'\n') {
        pem.push(b'\n');
    }
}

/// Points variables that the image does not set to the files in `/dev`.
pub(super) fn fill_environment(env: &mut Vec<(String, String)>) {
    let all = ALL_VARIABLES.iter().map(|name| (*name, ALL_FILE));
    let extra = EXTRA_VARIABLES.iter().map(|name| (*name, EXTRA_FILE));
    let settings = SETTINGS.iter().map(|(name, file, _)| (*name, *file));
    for (name, file) in all.chain(extra).chain(settings) {
        if !env.iter().any(|(key, _)| key == name) {
            env.push((name.to_owned(), format!("/dev/{DEV_DIR}/{file}")));
        }
    }
}

/// Shadows the bundle files of the image by ones with `extra` in front.
///
/// An image without any gets a bundle that also holds this machine's authorities: a step that
/// installs the distribution's own and then fetches something must find the public ones too,
/// though the variables that were set for it name another file.
pub(super) fn add_to_image(
    view: &ImageView,
    stubs: &mut StubLayer<'_>,
    extra: &[u8],
) -> Result<CaPlaces, Fault> {
    let mut notes = Notes { block: extra.to_owned(), shadowed: Vec::new() };
    let mut first = None;
    for path in BUNDLES {
        // A path that cannot be followed, such as a loop of links, holds no bundle.
        let Ok(located) = view.locate(path) else { continue };
        let is_known = notes.shadowed.iter().any(|earlier| earlier.path == located.path);
        let own = view.read_file(&located.path, BUNDLE_BYTES)?.filter(|_| !is_known);
        let Some(own) = own else { continue };
        let bundle = [extra, &own].concat();
        stubs.add_file(&located, &bundle)?;
        notes.shadowed.push(Shadowed { path: located.path, existing: located.existing });
        first.get_or_insert(bundle);
    }
    let Some(bundle) = first else {
        notes.block.extend(host_bundle());
        let located = view.locate(BUNDLES[0])?;
        if located.kind.is_none() {
            stubs.add_file(&located, &notes.block)?;
            notes.shadowed.push(Shadowed { path: located.path, existing: located.existing });
        }
        return Ok(CaPlaces { bundle: notes.block.clone(), notes });
    };
    Ok(CaPlaces { bundle, notes })
}

/// Reads this machine's authorities; none where it has none.
fn host_bundle() -> Vec<u8> {
    let read = |path: &&str| {
        let mut content = Vec::new();
        File::open(path).and_then(|file| file.take(BUNDLE_BYTES).read_to_end(&mut content)).ok()?;
        Some(content)
    };
    BUNDLES.iter().find_map(read).unwrap_or_default()
}

impl CaPlaces {
    /// Writes the files that the environment names into `dir`.
    pub(super) fn write_files(&self, dir: &OwnedFd, extra: &[u8]) -> Result<(), Fault> {
        let settings = SETTINGS.iter().map(|(_, name, text)| (*name, text.as_bytes()));
        let bundles = [(ALL_FILE, self.bundle.as_slice()), (EXTRA_FILE, extra)];
        for (name, content) in bundles.into_iter().chain(settings) {
            File::from(make_file(dir, name, 0o444)?).write_all(content).at(name)?;
        }
        Ok(())
    }

    /// Hands what must be done afterwards to whoever outlives the command.
    pub(super) fn write_notes(&self, notes: &OwnedFd) -> Result<(), Fault> {
        let text = serde_json::to_vec(&self.notes).map_err(std::io::Error::from)?;
        Ok(File::from(notes.try_clone()?).write_all(&text)?)
    }
}

/// Cuts the extra authorities out of the layer `upper`, after the command and all its processes
/// are gone. `notes` is what [`CaPlaces::write_notes`] wrote; nothing, if the command never ran.
pub(super) fn clean_layer(notes: &OwnedFd, upper: &Path) -> Result<(), Fault> {
    let text = fs::read(path_of(notes))?;
    if text.is_empty() {
        return Ok(());
    }
    let notes: Notes = serde_json::from_slice(&text).map_err(std::io::Error::from)?;
    let upper = open_dir(upper)?;
    notes
        .shadowed
        .iter()
        .try_for_each(|file| clean_file(&upper, file, &notes.block).at(file.path.display()))
}

fn clean_file(upper: &OwnedFd, file: &Shadowed, block: &[u8]) -> Result<(), Fault> {
    let place = match open_exact(upper, &file.path) {
        // Untouched, or something else has taken the place of a directory on the way.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        place => place?,
    };
    let stat = rustix::fs::fstat(&place)?;
    match FileType::from_raw_mode(stat.st_mode) {
        // The command removed a file that the image never had.
        FileType::CharacterDevice if stat.st_rdev == 0 && !file.is_in_image() => {
            remove(upper, file)
        }
        FileType::RegularFile => cut(upper, &place, &stat, file, block),
        _ => Ok(()),
    }
}

/// Cuts every occurrence of `block` out of the file at `place`.
fn cut(
    upper: &OwnedFd,
    place: &OwnedFd,
    stat: &Stat,
    file: &Shadowed,
    block: &[u8],
) -> Result<(), Fault> {
    if u64::try_from(stat.st_size).unwrap_or(0) > BUNDLE_BYTES + block.len() as u64 {
        return Err(Fault::refused(format!(
            "`/{}` is too large to be searched for the extra certificates",
            file.path.display()
        )));
    }
    let mut content = Vec::new();
    File::open(path_of(place))?.read_to_end(&mut content)?;
    let Some(kept) = without(&content, block) else { return Ok(()) };
    if kept.is_empty() && !file.is_in_image() {
        return remove(upper, file);
    }
    let opened = fs::OpenOptions::new().write(true).truncate(true).open(path_of(place))?;
    (&opened).write_all(&kept)?;
    let time =
        |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec.try_into().unwrap_or_default() };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(&opened, &times)?)
}

/// Removes a file that only the command saw, and the directories above that only it saw.
fn remove(upper: &OwnedFd, file: &Shadowed) -> Result<(), Fault> {
    rustix::fs::unlinkat(upper, &file.path, AtFlags::empty())?;
    let depth = file.path.components().count() - 1;
    let unknown = depth.saturating_sub(file.existing);
    for dir in file.path.ancestors().skip(1).take(unknown) {
        match rustix::fs::unlinkat(upper, dir, AtFlags::REMOVEDIR) {
            // The command put something there: it stays.
            Err(Errno::NOTEMPTY | Errno::EXIST) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Returns `content` without any `block`; `None` if there is none in it.
fn without(content: &[u8], block: &[u8]) -> Option<Vec<u8>> {
    if block.is_empty() {
        return None;
    }
    let mut kept = Vec::new();
    let mut rest = content;
    let mut is_found = false;
    while let Some(start) = rest.windows(block.len()).position(|window| window == block) {
        is_found = true;
        kept.extend_from_slice(&rest[..start]);
        rest = &rest[start + block.len()..];
    }
    kept.extend_from_slice(rest);
    is_found.then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_wherever_they_are() {
        #[rustfmt::skip]
        let cases = [
            ("in front", "XYabc",     Some("abc")),
            ("twice",    "aXYbXY",    Some("ab")),
            ("alone",    "XY",        Some("")),
            ("adjacent", "XYXY",      Some("")),
            ("absent",   "aXbY",      None),
            ("empty",    "",          None),
        ];
        for (name, content, want) in cases {
            let kept = without(content.as_bytes(), b"XY");
            assert_eq!(kept.as_deref(), want.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn variables_of_the_image_win() {
        let mut env = vec![("SSL_CERT_FILE".to_owned(), "/own.pem".to_owned())];
        fill_environment(&mut env);
        assert_eq!(env[0].1, "/own.pem");
        assert_eq!(env.len(), ALL_VARIABLES.len() + EXTRA_VARIABLES.len() + SETTINGS.len());
        let node = env.iter().find(|(key, _)| key == "NODE_EXTRA_CA_CERTS").unwrap();
        assert_eq!(node.1, "/dev/rbuild/extra-ca-certificates.crt");
    }

    #[test]
    fn a_certificate_ends_its_line() {
        for (pem, want) in [("a", "a\n"), ("a\n", "a\n"), ("", "")] {
            let mut bytes = pem.as_bytes().to_vec();
            end_line(&mut bytes);
            assert_eq!(bytes, want.as_bytes());
        }
    }
}
