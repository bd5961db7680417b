//! Credentials: those that came with the request, then Docker's `config.json` and its helpers
//! (docker/cli "config file", "credential helpers protocol").
//!
//! Invariant: a credential is found by the exact host it was stored for, so a mirror never gets
//! the password of the registry that it mirrors.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::repository::DOCKER_HUB;
use crate::blocking;
use crate::request::Credentials;

/// The largest `config.json` that is read, bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// The longest answer of a credential helper that is read, bytes.
const HELPER_LIMIT: u64 = 64 << 10;
/// A helper that asks its user something gets no answer from us.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The name that `docker login` stores Docker Hub's credentials under.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user whose secret is an identity token (docker-credential-helpers, README).
pub(super) const TOKEN_USER: &str = "<token>";

/// Why stored credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file exists and cannot be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no `config.json`. The parser's words are left out: they may quote a secret.
    #[error("`{}` is not a Docker configuration: line {line}, column {column}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
    /// An `auth` entry is not base64 of `user:password`.
    #[error("the entry for `{host}` in `{}` is not base64 of user:password", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's key.
        host: String,
    },
    /// The name of a helper could name any program.
    #[error("`{0}` cannot be the name of a credential helper")]
    HelperName(String),
    /// The helper could not be run, or did not answer.
    #[error("could not run `{program}`")]
    Helper {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be changed.
    #[error("could not change `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The helper said no. Its output is left out: it may hold a secret.
    #[error("`{program}` failed: {status}")]
    HelperFailed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
}

/// Where credentials are looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialSource {
    /// Keyed by normalised host.
    explicit: BTreeMap<String, Credentials>,
    file: Option<PathBuf>,
}

/// The part of `config.json` that matters here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl CredentialSource {
    /// Looks in `explicit` (keys as users write hosts), then in `file`, read anew each time so
    /// that a `docker login` is seen by a running service.
    pub(super) fn new(explicit: BTreeMap<String, Credentials>, file: Option<PathBuf>) -> Self {
        let explicit = explicit.into_iter().map(|(key, value)| (normalised(&key), value)).collect();
        Self { explicit, file }
    }

    /// Returns a source that looks in `explicit` before the same file.
    pub(super) fn with_explicit(&self, explicit: BTreeMap<String, Credentials>) -> Self {
        Self::new(explicit, self.file.clone())
    }

    /// Finds the credentials for `host` (`docker.io`, `registry.local:5000`).
    pub(super) async fn find(&self, host: &str) -> Result<Option<Credentials>, CredentialError> {
        let host = normalised(host);
        if let Some(found) = self.explicit.get(&host) {
            return Ok(Some(found.clone()));
        }
        let Some(path) = self.file.clone() else { return Ok(None) };
        let (config, path) = blocking::run(move || (read_config(&path), path)).await;
        let config = config?;
        if let Some(helper) = helper_of(&config, &host)
            && let Some(found) = ask_helper(helper, &host).await?
        {
            return Ok(Some(found));
        }
        let entry = config.auths.into_iter().find(|(key, _)| normalised(key) == host);
        entry.map_or(Ok(None), |(key, entry)| entry.into_credentials(&path, &key))
    }
}

/// Returns the credentials that Docker's `config.json` at `file` and its helpers have: for `host`, or
/// for all registries that the file names. What cannot be had is told beside.
pub async fn stored_credentials(
    file: &Path,
    host: Option<&str>,
) -> (BTreeMap<String, Credentials>, Vec<CredentialError>) {
    let (mut found, mut faults) = (BTreeMap::new(), Vec::new());
    let hosts = if let Some(host) = host {
        vec![host.to_owned()]
    } else {
        let path = file.to_owned();
        match blocking::run(move || read_config(&path)).await {
            Ok(config) => {
                let keys = config.auths.keys().chain(config.cred_helpers.keys());
                keys.map(|key| normalised(key)).collect()
            }
            Err(error) => return (found, vec![error]),
        }
    };
    let source = CredentialSource::new(BTreeMap::new(), Some(file.to_owned()));
    for host in hosts {
        match source.find(&host).await {
            Ok(Some(credentials)) => drop(found.insert(host, credentials)),
            Ok(None) => {}
            Err(error) => faults.push(error),
        }
    }
    (found, faults)
}

impl AuthEntry {
    fn into_credentials(
        self,
        path: &Path,
        host: &str,
    ) -> Result<Option<Credentials>, CredentialError> {
        let fault = || CredentialError::Entry { path: path.to_owned(), host: host.to_owned() };
        let pair = match self.auth.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text.trim())
                    .map_err(|_| fault())?;
                let text = String::from_utf8(bytes).map_err(|_| fault())?;
                let (user, password) = text.split_once(':').ok_or_else(fault)?;
                // Docker pads the password with zero bytes in files of old.
                Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
            }
            None => self.username.zip(self.password),
        };
        let identity_token = self.identitytoken.filter(|text| !text.is_empty());
        if pair.is_none() && identity_token.is_none() {
            return Ok(None);
        }
        let (username, password) = pair.unwrap_or_default();
        Ok(Some(Credentials { username, password, identity_token }))
    }
}

/// Returns the helper for `host`, if one is named.
pub(super) fn helper_of<'a>(config: &'a DockerConfig, host: &str) -> Option<&'a String> {
    let own = config.cred_helpers.iter().find(|(key, _)| normalised(key) == host);
    let helper = own.map(|(_, helper)| helper).or(config.creds_store.as_ref());
    helper.filter(|name| !name.is_empty())
}

/// Returns the name that Docker keeps the credentials of a host under.
pub(super) fn key_of(host: &str) -> &str {
    if host == DOCKER_HUB { HUB_KEY } else { host }
}

pub(super) fn read_config(path: &Path) -> Result<DockerConfig, CredentialError> {
    let fault = |source| CredentialError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DockerConfig::default()),
        other => other.map_err(fault)?,
    };
    let mut text = String::new();
    file.take(FILE_LIMIT).read_to_string(&mut text).map_err(fault)?;
    serde_json::from_str(&text).map_err(|error| CredentialError::Form {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

/// Runs `docker-credential-NAME ACTION` with `given` on its standard input, and returns what it
/// prints; `None` when it knows nothing of the host.
pub(super) async fn talk(
    name: &str,
    action: &str,
    given: &str,
) -> Result<Option<Vec<u8>>, CredentialError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err(CredentialError::HelperName(name.to_owned()));
    }
    let program = format!("docker-credential-{name}");
    let talk = async {
        let mut child = tokio::process::Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        match stdin.write_all(given.as_bytes()).await {
            // One that knows without reading says so by its answer.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
        drop(stdin);
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut answer = Vec::new();
        stdout.take(HELPER_LIMIT).read_to_end(&mut answer).await?;
        Ok((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(HELPER_TIMEOUT, talk)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| CredentialError::Helper { program: program.clone(), source })?;
    if status.success() {
        return Ok(Some(answer));
    }
    // The protocol's sentence for "nothing stored" (docker-credential-helpers, errors.go).
    let is_unknown = String::from_utf8_lossy(&answer).contains("credentials not found");
    let status = status.to_string();
    if is_unknown { Ok(None) } else { Err(CredentialError::HelperFailed { program, status }) }
}

/// Asks a helper for the credentials of `host`; `None` when it has none.
async fn ask_helper(name: &str, host: &str) -> Result<Option<Credentials>, CredentialError> {
    let Some(answer) = talk(name, "get", key_of(host)).await? else { return Ok(None) };
    let fault = |source| {
        let program = format!("docker-credential-{name}");
        CredentialError::Helper { program, source }
    };
    let answer: HelperAnswer =
        serde_json::from_slice(&answer).map_err(|_| fault(io::ErrorKind::InvalidData.into()))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials {
            username: answer.username,
            password: String::new(),
            identity_token: Some(answer.secret),
        }
    } else {
        Credentials { username: answer.username, password: answer.secret, identity_token: None }
    }))
}

/// Brings a key of `config.json` to a host: without scheme and path, Docker Hub under one name.
pub(super) fn normalised(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or(key).to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_HUB.into(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(username: &str, password: &str) -> Credentials {
        let (username, password) = (username.to_owned(), password.to_owned());
        Credentials { username, password, identity_token: None }
    }

    #[tokio::test]
    async fn entries_are_found_by_host() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "registry.local:5000": {"auth": "dTpwOnE="},
            "https://plain.example/v2/": {"username": "a", "password": "b"},
            "token.example": {"auth": "Og==", "identitytoken": "it"},
            "empty.example": {}
        }, "HttpHeaders": {"X": "y"}}"#;
        std::fs::write(&file, text).unwrap();
        let explicit = BTreeMap::from([("given.example".to_owned(), pair("g", "h"))]);
        let source = CredentialSource::new(explicit, Some(file));
        let token = Credentials { identity_token: Some("it".into()), ..pair("", "") };
        #[rustfmt::skip]
        let cases = [
            ("hub",                "docker.io",            Some(pair("hub", "pw"))),
            ("port belongs",       "registry.local:5000",  Some(pair("u", "p:q"))),
            ("other port",         "registry.local:5001",  None),
            ("sub-domain",         "x.registry.local:5000", None),
            ("scheme and path",    "plain.example",        Some(pair("a", "b"))),
            ("token",              "token.example",        Some(token)),
            ("empty entry",        "empty.example",        None),
            ("explicit",           "given.example",        Some(pair("g", "h"))),
        ];
        for (name, host, want) in cases {
            assert!(source.find(host).await.unwrap() == want, "{name}");
        }
    }

    #[tokio::test]
    async fn all_that_are_stored_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "a.example": {"auth": "dTpwOnE="}, "odd.example": {"auth": "%"}, "none.example": {}}}"#;
        std::fs::write(&file, text).unwrap();
        let (found, faults) = stored_credentials(&file, None).await;
        let want = [("a.example", pair("u", "p:q")), ("docker.io", pair("hub", "pw"))];
        assert!(found == want.map(|(host, pair)| (host.to_owned(), pair)).into());
        assert_eq!(faults.len(), 1);
        let (found, faults) = stored_credentials(&file, Some("docker.io")).await;
        assert!(found.len() == 1 && faults.is_empty());
        let (found, faults) = stored_credentials(&directory.path().join("none"), None).await;
        assert!(found.is_empty() && faults.is_empty());
    }

    #[tokio::test]
    async fn damaged_files_are_named_without_their_content() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        #[rustfmt::skip]
        let cases = [
            ("not json",     r#"{"auths": {"x": {"auth": s3cret"#,        "line 1"),
            ("not base64",   r#"{"auths": {"x": {"auth": "s3cret!"}}}"#,  "not base64"),
            ("no colon",     r#"{"auths": {"x": {"auth": "czNjcmV0"}}}"#, "not base64"),
            ("helper name",  r#"{"credsStore": "../../bin/sh"}"#,         "cannot be the name"),
            ("no helper",    r#"{"credsStore": "absent-from-here"}"#,     "could not run"),
        ];
        for (name, text, want) in cases {
            std::fs::write(&file, text).unwrap();
            let source = CredentialSource::new(BTreeMap::new(), Some(file.clone()));
            let error = source.find("x").await.unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("s3cret"), "{name}: {error}");
        }
    }

    /// Runs the test below with a PATH that holds our own helper.
    #[test]
    fn helpers_are_asked_for_their_hosts() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let helper = directory.path().join("docker-credential-test");
        let script = "#!/bin/sh\nread -r host\ncase $host in\n\
            known.example) echo '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"p\"}';;\n\
            https://index.docker.io/v1/) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
            broken.example) echo s3cret; exit 2;;\n\
            *) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "registry::credential::tests::helpers_child"])
            .env("PATH", path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[tokio::test]
    #[ignore = "run by `helpers_are_asked_for_their_hosts` with a PATH of its own"]
    async fn helpers_child() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let text = r#"{"credsStore": "test", "auths": {"file.example": {"auth": "dTpw"}}}"#;
        std::fs::write(&file, text).unwrap();
        let source = CredentialSource::new(BTreeMap::new(), Some(file));
        let token = Credentials { identity_token: Some("t".into()), ..pair("<token>", "") };
        #[rustfmt::skip]
        let cases = [
            ("known",             "known.example", Some(pair("u", "p"))),
            ("hub, with a token", "docker.io",     Some(token)),
            ("unknown",           "other.example", None),
            ("in the file only",  "file.example",  Some(pair("u", "p"))),
        ];
        for (name, host, want) in cases {
            assert!(source.find(host).await.unwrap() == want, "{name}");
        }
        let error = source.find("broken.example").await.unwrap_err().to_string();
        assert!(error.contains("docker-credential-test") && !error.contains("s3cret"), "{error}");
    }
}
