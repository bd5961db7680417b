//! `[registries]` of the configuration file, and where certificates of registries are looked for.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use builder::{ClientCertificate, RegistryTls};
use serde::Deserialize;

use crate::fault::Fault;

/// `[registries]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistriesTable {
    /// Registry host to base URLs, tried in order.
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts that may be spoken to by plain HTTP.
    pub(crate) insecure: Vec<String>,
    /// Registry host to its certificates.
    pub(crate) tls: BTreeMap<String, TlsTable>,
    /// Blobs that move from and to one registry at once.
    pub(crate) transfers: Option<NonZeroUsize>,
}

/// `[registries.tls."HOST"]`: PEM files; relative ones are beside the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsTable {
    /// Authorities that are trusted beside the system's.
    ca: Option<PathBuf>,
    /// The client's certificate.
    cert: Option<PathBuf>,
    /// Its key.
    key: Option<PathBuf>,
}

impl RegistriesTable {
    /// Makes paths relative to `beside`.
    pub(crate) fn resolve(&mut self, beside: &Path) {
        for tls in self.tls.values_mut() {
            for path in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
                *path = beside.join(&*path);
            }
        }
    }
}

/// Checks that certificate and key came together.
///
/// # Errors
///
/// Half of a pair, or nothing at all.
pub(crate) fn tls_of(
    tables: BTreeMap<String, TlsTable>,
) -> Result<BTreeMap<String, RegistryTls>, Fault> {
    let checked = |(host, table)| {
        let TlsTable { ca, cert, key } = table;
        let fault = |what| Err(Fault::user(format!("`registries.tls.\"{host}\"` {what}")));
        let client = match (cert, key) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (None, None) if ca.is_none() => {
                return fault("names neither `ca` nor `cert` and `key`");
            }
            (None, None) => None,
            (Some(_), None) => return fault("has a `cert` without its `key`"),
            (None, Some(_)) => return fault("has a `key` without its `cert`"),
        };
        Ok((host, RegistryTls { ca, client }))
    };
    tables.into_iter().map(checked).collect()
}

/// Returns where docker and podman keep certificates of registries, the user's own before the
/// system's.
pub(crate) fn certificate_dirs(user: Option<&Path>) -> Vec<PathBuf> {
    let system = Path::new("/etc");
    let bases = user.into_iter().chain([system]);
    bases
        .flat_map(|base| ["docker", "containers"].map(|tool| base.join(tool).join("certs.d")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_named_beside_the_file_and_in_pairs() {
        #[rustfmt::skip]
        let cases = [
            ("all",     "ca = \"c\"\ncert = \"/a\"\nkey = \"k\"", "/etc/r/c /a /etc/r/k"),
            ("ca",      "ca = \"c\"",                               "/etc/r/c"),
            ("no key",  "cert = \"a\"",                             "has a `cert` without its `key`"),
            ("no cert", "key = \"k\"",                              "has a `key` without its `cert`"),
            ("nothing", "",                                         "names neither"),
        ];
        for (name, text, want) in cases {
            let text = format!("[tls.\"r.example:5000\"]\n{text}\n");
            let mut table: RegistriesTable = toml::from_str(&text).expect(name);
            table.resolve(Path::new("/etc/r"));
            let got = match tls_of(table.tls) {
                Ok(all) => {
                    let RegistryTls { ca, client } = all["r.example:5000"].clone();
                    let client = client.into_iter().flat_map(|it| [it.cert, it.key]);
                    let paths = ca.into_iter().chain(client).map(|path| path.display().to_string());
                    paths.collect::<Vec<_>>().join(" ")
                }
                Err(fault) => fault.to_string(),
            };
            assert!(got.contains(want), "{name}: {got}");
        }
    }
}
