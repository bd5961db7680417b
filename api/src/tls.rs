//! TLS of the service and of its client: PEM files to rustls configurations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::ErrorKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::fault::Fault;

/// A certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Leaf first.
    pub(crate) cert: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub(crate) key: PathBuf,
}

/// Makes the configuration of a service. With `client_ca`, clients must show a certificate that it
/// signed. Blocking.
///
/// # Errors
///
/// A file that cannot be read, is no PEM, or does not fit the others.
pub(crate) fn server(identity: &Identity, client_ca: Option<&Path>) -> Result<ServerConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::of(ErrorKind::Bug, &error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(path, &error))?)
        }
    };
    let (chain, key) = load(identity)?;
    let built = builder.with_single_cert(chain, key);
    let mut config = built.map_err(|error| unusable(&identity.cert, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Makes the configuration of a client that believes `ca`, or without it the system's authorities.
/// Blocking.
///
/// # Errors
///
/// As [`server`].
pub(crate) fn client(
    ca: Option<&Path>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, Fault> {
    let roots = if let Some(path) = ca {
        roots(path)?
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::of(ErrorKind::Bug, &error))?
            .with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = load(identity)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&identity.cert, &error))
}

fn roots(path: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(path)? {
        roots.add(cert).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

fn load(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Fault> {
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| unusable(&identity.key, &error))?;
    Ok((certificates(&identity.cert)?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        let what = format!("`{}` holds no certificate in PEM", path.display());
        return Err(Fault::user(what));
    }
    Ok(certificates)
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Fault {
    let what = format!("`{}` cannot be used for TLS", path.display());
    let mut fault = Fault::user(what);
    fault.causes.extend(builder::causes(error));
    fault
}
