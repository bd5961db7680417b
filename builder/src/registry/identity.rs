//! Certificates per registry: authorities to trust beside the system's, and who we are.
//!
//! Those of the configuration count; else the first directory `DIR/HOST[:PORT]` does, in the form
//! that docker and podman share: `*.crt` are authorities, `NAME.cert` and `NAME.key` a client's
//! certificate and key (docs.docker.com, "Use a certificate for registry client verification";
//! containers-certs.d(5)).
//!
//! Invariant: a client's certificate is shown to the registry that it was given for, and to no
//! place that a registry names.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::error::RegistryError;
use crate::config::{RegistryConfig, RegistryTls};

/// Largest file of certificates, bytes: a bundle of all public authorities is a fifth of it.
const FILE_LIMIT: u64 = 1 << 20;
/// Files of one directory that are looked at.
const MAX_FILES: usize = 100;

/// The certificate files of one host, as they are now: one that changes is read anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    host: String,
    authorities: Vec<Stamped>,
    client: Option<(Stamped, Stamped)>,
}

/// A file and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamped {
    path: PathBuf,
    modified: SystemTime,
    size: u64,
}

/// A file, and what is wrong with it.
struct Flaw(PathBuf, String);

/// A certificate with those that vouch for it, and its key.
pub(super) type Client = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    /// Finds the certificates for `host`; `None` where it has none of its own.
    pub(super) fn find(config: &RegistryConfig, host: &str) -> Result<Option<Self>, RegistryError> {
        let found = match config.tls.get(host) {
            Some(RegistryTls { ca, client }) => {
                let client = client.as_ref().map(|it| (it.cert.clone(), it.key.clone()));
                Self::stamped(host, ca.iter().cloned().collect(), client).map(Some)
            }
            None => Self::in_directories(&config.certificate_dirs, host),
        };
        found.map_err(|flaw| flaw.of(host))
    }

    /// The host and port that it is for.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Reads the authorities to trust beside the system's.
    pub(super) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
        let all = self.authorities.iter().map(|file| certificates(&file.path));
        let all = all.collect::<Result<Vec<_>, _>>().map_err(|flaw| flaw.of(&self.host))?;
        Ok(all.concat())
    }

    /// Reads what to show to a registry that wants to know who we are.
    pub(super) fn client(&self) -> Result<Option<Client>, RegistryError> {
        let Some((cert, key)) = &self.client else { return Ok(None) };
        let read = || {
            let bytes = Zeroizing::new(read(&key.path)?);
            let parsed = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
                Flaw(key.path.clone(), format!("it is no private key: {error}"))
            })?;
            Ok((certificates(&cert.path)?, parsed))
        };
        read().map(Some).map_err(|flaw: Flaw| flaw.of(&self.host))
    }

    /// The error of a certificate that does not belong to its key.
    pub(super) fn mismatch(&self, error: &rustls::Error) -> RegistryError {
        let path = self.client.as_ref().map(|(cert, _)| cert.path.clone()).unwrap_or_default();
        Flaw(path, format!("it cannot be used with its key: {error}")).of(&self.host)
    }

    fn in_directories(directories: &[PathBuf], host: &str) -> Result<Option<Self>, Flaw> {
        // A host that is more than one file name would lead out of the directory.
        let mut parts = Path::new(host).components();
        let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
            return Ok(None);
        };
        for directory in directories.iter().map(|directory| directory.join(host)) {
            match fs::read_dir(&directory).and_then(names) {
                Ok(names) => return Self::of_names(host, &directory, &names),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Flaw(directory, error.to_string())),
            }
        }
        Ok(None)
    }

    fn of_names(host: &str, directory: &Path, names: &[String]) -> Result<Option<Self>, Flaw> {
        let ending = |end: &'static str| names.iter().filter_map(move |it| it.strip_suffix(end));
        let beside = |stem: &str, end: &str| directory.join(format!("{stem}{end}"));
        let authorities: Vec<_> = ending(".crt").map(|stem| beside(stem, ".crt")).collect();
        let clients: Vec<_> = ending(".cert").collect();
        let client = match *clients.as_slice() {
            [] => match ending(".key").next() {
                Some(stem) => {
                    let reason = format!("there is no `{stem}.cert` beside it");
                    return Err(Flaw(beside(stem, ".key"), reason));
                }
                None => None,
            },
            [stem] => Some((beside(stem, ".cert"), beside(stem, ".key"))),
            _ => {
                let reason = "it holds several `.cert` files; name one in the configuration, under \
                              `registries.tls`";
                return Err(Flaw(directory.to_owned(), reason.to_owned()));
            }
        };
        if authorities.is_empty() && client.is_none() {
            return Ok(None);
        }
        Self::stamped(host, authorities, client).map(Some)
    }

    fn stamped(
        host: &str,
        authorities: Vec<PathBuf>,
        client: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, Flaw> {
        let authorities = authorities.into_iter().map(Stamped::now).collect::<Result<_, _>>()?;
        let stamp = |(cert, key)| Ok((Stamped::now(cert)?, Stamped::now(key)?));
        Ok(Self { host: host.to_owned(), authorities, client: client.map(stamp).transpose()? })
    }
}

impl Stamped {
    fn now(path: PathBuf) -> Result<Self, Flaw> {
        let stamp = fs::metadata(&path).and_then(|found| Ok((found.modified()?, found.len())));
        match stamp {
            Ok((modified, size)) => Ok(Self { path, modified, size }),
            Err(error) => Err(Flaw(path, error.to_string())),
        }
    }
}

impl Flaw {
    fn of(self, host: &str) -> RegistryError {
        let Self(path, reason) = self;
        RegistryError::Certificate { host: host.to_owned(), path, reason }
    }
}

/// Lists names in their order, those that are text.
fn names(entries: fs::ReadDir) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries.take(MAX_FILES) {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let flaw = |reason: String| Flaw(path.to_owned(), reason);
    let found = found.map_err(|error| flaw(format!("it is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(flaw("it holds no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Flaw> {
    let mut bytes = Vec::new();
    let outcome =
        File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes));
    match outcome {
        Ok(_) if bytes.len() as u64 <= FILE_LIMIT => Ok(bytes),
        Ok(_) => Err(Flaw(path.to_owned(), format!("it is larger than {FILE_LIMIT} bytes"))),
        Err(error) => Err(Flaw(path.to_owned(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_as_docker_reads_them() {
        let place = tempfile::tempdir().unwrap();
        let dirs = vec![place.path().join("user"), place.path().join("system")];
        #[rustfmt::skip]
        let cases: [(&str, &str, &[&str], &str); 8] = [
            ("nothing",      "none.example",   &[],                                     "none"),
            ("empty",        "empty.example",  &["user/empty.example/readme"],          "none"),
            ("authorities",  "a.example:5000", &["user/a.example:5000/ca.crt", "user/a.example:5000/b.crt"], "2 authorities"),
            ("client",       "c.example",      &["system/c.example/ca.crt", "system/c.example/client.cert", "system/c.example/client.key"], "1 authorities, client"),
            ("no key",       "k.example",      &["user/k.example/client.cert"],         "client.key"),
            ("no cert",      "n.example",      &["user/n.example/client.key"],          "no `client.cert`"),
            ("two clients",  "t.example",      &["user/t.example/a.cert", "user/t.example/b.cert"], "several"),
            ("out of there", "..",             &["ca.crt"],                             "none"),
        ];
        for (name, host, files, want) in cases {
            for file in files {
                let path = place.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            let config = RegistryConfig { certificate_dirs: dirs.clone(), ..Default::default() };
            let got = match Identity::find(&config, host) {
                Ok(None) => "none".to_owned(),
                Ok(Some(found)) => {
                    let client = if found.client.is_some() { ", client" } else { "" };
                    format!("{} authorities{client}", found.authorities.len())
                }
                Err(error) => error.to_string(),
            };
            assert!(got.contains(want), "{name}: {got}");
        }
    }
}
