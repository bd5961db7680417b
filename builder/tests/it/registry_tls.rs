//! Registries that have a certificate of their own authority and want to see ours.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::{ClientCertificate, RegistryConfig, RegistryTls, push};

use crate::registry_support::*;

/// Makes an authority `NAME.crt` with its key in `directory`.
fn authority(directory: &Path, name: &str) {
    sign(directory, name, &["-subj", "/CN=test authority"]);
}

/// Makes a certificate `NAME.crt`, vouched for by `authority`, with its key.
fn certificate(directory: &Path, authority: &str, name: &str, extension: &str) {
    let path = |end: &str| directory.join(format!("{authority}{end}")).display().to_string();
    let constraints = "basicConstraints=critical,CA:FALSE";
    #[rustfmt::skip]
    let arguments = [
        "-subj", "/CN=test", "-addext", extension, "-addext", constraints,
        "-CA", &path(".crt"), "-CAkey", &path(".key"),
    ];
    sign(directory, name, &arguments);
}

fn sign(directory: &Path, name: &str, arguments: &[&str]) {
    let path = |end: &str| directory.join(format!("{name}{end}")).display().to_string();
    let (key, out) = (path(".key"), path(".crt"));
    #[rustfmt::skip]
    let common = [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-keyout", &key, "-out", &out,
    ];
    run("openssl", &[&common, arguments].concat());
}

/// A registry with TLS that wants a client's certificate and a password.
struct Guarded {
    peer: DockerRegistry,
    files: tempfile::TempDir,
    /// In docker's form, for the registry alone.
    certs: PathBuf,
}

impl Guarded {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str| files.path().join(name);
        authority(files.path(), "ca");
        authority(files.path(), "other-ca");
        certificate(files.path(), "ca", "server", "subjectAltName=IP:127.0.0.1");
        certificate(files.path(), "ca", "client", "extendedKeyUsage=clientAuth");
        certificate(files.path(), "other-ca", "stranger", "extendedKeyUsage=clientAuth");
        let directory = tempfile::tempdir().unwrap();
        let auth = password_file(directory.path(), "me", "s3cret");
        let tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n    clientcas:\n      - {}\n{auth}",
            file("server.crt").display(),
            file("server.key").display(),
            file("ca.crt").display()
        );
        let peer = DockerRegistry::start_in(directory, &tls);
        let certs = file("certs.d").join(&peer.host);
        std::fs::create_dir_all(&certs).unwrap();
        let copies = [("ca.crt", "ca.crt"), ("client.crt", "me.cert"), ("client.key", "me.key")];
        for (from, to) in copies {
            std::fs::copy(file(from), certs.join(to)).unwrap();
        }
        Self { peer, files, certs }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs skopeo with the same directory and the password.
    fn skopeo(&self, kind: &str, verb: &[&str], end: &[&str]) -> String {
        let (certs, creds) = (format!("--{kind}cert-dir"), format!("--{kind}creds"));
        let directory = self.certs.display().to_string();
        let middle = [certs.as_str(), &directory, &creds, "me:s3cret"];
        run("skopeo", &[&["--insecure-policy"], verb, &middle, end].concat())
    }

    /// The right password and no certificate.
    fn config(&self) -> RegistryConfig {
        let file = self.file("config.json");
        let auths = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6czNjcmV0"}}}}}}"#, self.peer.host);
        std::fs::write(&file, auths).unwrap();
        RegistryConfig { auth_file: Some(file), ..RegistryConfig::default() }
    }

    /// As `registries.tls` says it.
    fn explicit(&self, ca: Option<&str>, client: Option<(&str, &str)>) -> RegistryConfig {
        let client = client.map(|(cert, key)| {
            let (cert, key) = (self.file(cert), self.file(key));
            ClientCertificate { cert, key }
        });
        let tls = RegistryTls { ca: ca.map(|name| self.file(name)), client };
        RegistryConfig { tls: BTreeMap::from([(self.peer.host.clone(), tls)]), ..self.config() }
    }

    fn by_directory(&self) -> RegistryConfig {
        RegistryConfig { certificate_dirs: vec![self.file("certs.d")], ..self.config() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_have_their_own_authority_and_see_our_certificate() {
    let registry = Guarded::start();
    let layout = busybox_layout(registry.files.path(), "1");
    let (from, to) =
        (format!("oci:{}:1", layout.display()), registry.peer.host.clone() + "/library/x:1");
    registry.skopeo("dest-", &["copy", "-q"], &[&from, &format!("docker://{to}")]);
    let me = Some(("client.crt", "client.key"));
    let nameless = RegistryConfig { auth_file: None, ..registry.by_directory() };
    let mirror =
        BTreeMap::from([("docker.io".to_owned(), vec![format!("https://{}", registry.peer.host)])]);
    let mirrored = RegistryConfig { mirrors: mirror, ..registry.by_directory() };
    #[rustfmt::skip]
    let cases = [
        ("directory",       registry.by_directory(),                                            &*to,  ""),
        ("configuration",   registry.explicit(Some("ca.crt"), me),                              &to,   ""),
        ("a mirror",        mirrored,                                                           "docker.io/x:1", ""),
        ("no password",     nameless,                                                           &to,   "pull access denied"),
        ("no certificate",  registry.explicit(Some("ca.crt"), None),                            &to,   "could not reach registry"),
        ("a stranger's",    registry.explicit(Some("ca.crt"), Some(("stranger.crt", "stranger.key"))), &to, "could not reach registry"),
        ("no authority",    registry.explicit(None, me),                                        &to,   "could not reach registry"),
        ("other authority", registry.explicit(Some("other-ca.crt"), me),                        &to,   "could not reach registry"),
        ("another's key",   registry.explicit(Some("ca.crt"), Some(("client.crt", "server.key"))), &to, "it cannot be used with its key"),
        ("a key as cert",   registry.explicit(Some("ca.key"), me),                              &to,   "it holds no certificate in PEM"),
        ("no such file",    registry.explicit(Some("none.crt"), me),                            &to,   "none.crt"),
    ];
    for (case, config, name, want) in cases {
        let bench = Bench::new(config);
        match bench.sources.pull(&reference(name), &amd64(), &bench.events).await {
            Ok((image, _)) => {
                assert_eq!(want, "", "{case}");
                let pushed = format!("{}/pushed:{}", registry.peer.host, case.replace(' ', "-"));
                push(&bench.sources, &image, &reference(&pushed), &bench.events).await.expect(case);
                registry.skopeo("", &["inspect"], &[&format!("docker://{pushed}")]);
            }
            Err(error) => {
                let text = told(&error);
                assert!(!want.is_empty() && text.contains(want), "{case}: {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_seen() {
    let registry = Guarded::start();
    let layout = busybox_layout(registry.files.path(), "1");
    let (from, to) =
        (format!("oci:{}:1", layout.display()), registry.peer.host.clone() + "/library/x:1");
    registry.skopeo("dest-", &["copy", "-q"], &[&from, &format!("docker://{to}")]);
    std::fs::copy(registry.file("other-ca.crt"), registry.certs.join("ca.crt")).unwrap();
    let bench = Bench::new(registry.by_directory());
    let wanted = reference(&to);
    let refused = bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap_err();
    assert!(told(&refused).contains("certificate"), "{}", told(&refused));
    std::fs::copy(registry.file("ca.crt"), registry.certs.join("ca.crt")).unwrap();
    bench.sources.pull(&wanted, &amd64(), &bench.events).await.unwrap();
}
