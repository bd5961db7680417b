//! Credentials put where [`super::credential`] finds them: into a helper, or into `config.json`.
//!
//! Invariant: the file keeps everything else that it says, is readable by its owner alone, and is
//! replaced whole.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::credential::{
    CredentialError, TOKEN_USER, helper_of, key_of, normalised, read_config, talk,
};
use crate::blocking;
use crate::request::Credentials;

/// Where credentials are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A program, by its name.
    Helper(String),
    /// Docker's `config.json`, where whoever reads it reads them.
    File(PathBuf),
}

/// Keeps `credentials` for `host` as `docker login` does: in the helper that `file` names, or else
/// in `file` itself.
///
/// # Errors
///
/// [`CredentialError`].
pub async fn keep_credentials(
    file: &Path,
    host: &str,
    credentials: &Credentials,
) -> Result<Keeper, CredentialError> {
    let (host, path) = (normalised(host), file.to_owned());
    let key = key_of(&host).to_owned();
    if let Some(helper) = helper(&path, &host).await? {
        let (username, secret) = match &credentials.identity_token {
            Some(token) => (TOKEN_USER, token.as_str()),
            None => (credentials.username.as_str(), credentials.password.as_str()),
        };
        let given = json!({ "ServerURL": key, "Username": username, "Secret": secret });
        talk(&helper, "store", &given.to_string()).await?;
        return Ok(Keeper::Helper(helper));
    }
    // A token stands in the password's place, which is kept nowhere then.
    let password = if credentials.identity_token.is_some() { "" } else { &credentials.password };
    let pair = format!("{}:{password}", credentials.username);
    let mut entry = json!({ "auth": base64::engine::general_purpose::STANDARD.encode(pair) });
    if let Some(token) = &credentials.identity_token {
        entry["identitytoken"] = token.as_str().into();
    }
    let kept = path.clone();
    blocking::run(move || {
        change(&path, |auths| {
            auths.retain(|name, _| normalised(name) != host);
            auths.insert(key, entry);
            true
        })
    })
    .await?;
    Ok(Keeper::File(kept))
}

/// Forgets the credentials of `host`; false when there were none.
///
/// # Errors
///
/// [`CredentialError`].
pub async fn forget_credentials(file: &Path, host: &str) -> Result<bool, CredentialError> {
    let (host, path) = (normalised(host), file.to_owned());
    let mut found = false;
    if let Some(helper) = helper(&path, &host).await? {
        found |= talk(&helper, "erase", key_of(&host)).await?.is_some();
    }
    let in_file = blocking::run(move || {
        change(&path, |auths| {
            let before = auths.len();
            auths.retain(|name, _| normalised(name) != host);
            auths.len() < before
        })
    });
    Ok(in_file.await? || found)
}

async fn helper(path: &Path, host: &str) -> Result<Option<String>, CredentialError> {
    let path = path.to_owned();
    let config = blocking::run(move || read_config(&path)).await?;
    Ok(helper_of(&config, host).cloned())
}

/// Changes the entries of `config.json`; returns whether there was anything to change.
fn change(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Result<bool, CredentialError> {
    // Its form is checked, and its faults are told without what it says.
    read_config(path)?;
    let fault = |source| CredentialError::Write { path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "{}".to_owned(),
        other => other.map_err(fault)?,
    };
    let mut config: Value =
        serde_json::from_str(&text).map_err(|_| fault(io::ErrorKind::InvalidData.into()))?;
    let all = config.as_object_mut().ok_or_else(|| fault(io::ErrorKind::InvalidData.into()))?;
    let auths = all.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().ok_or_else(|| fault(io::ErrorKind::InvalidData.into()))?;
    if !change(auths) {
        return Ok(false);
    }
    let text = format!("{config:#}\n");
    write_private(path, &text).map_err(fault)?;
    Ok(true)
}

/// Replaces a file that only its owner may read. A link stays one: what it leads to is replaced.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(parent)?;
    let new = path.with_extension(format!("json.{}", std::process::id()));
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::credential::CredentialSource;
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_found_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("docker/config.json");
        let pair = |user: &str| Credentials {
            username: user.to_owned(),
            password: "p:q".to_owned(),
            identity_token: None,
        };
        let kept = keep_credentials(&file, "https://Reg.example:5000/v2/", &pair("a")).await;
        assert_eq!(kept.unwrap(), Keeper::File(file.clone()));
        keep_credentials(&file, "docker.io", &pair("hub")).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("https://index.docker.io/v1/"), "docker finds it too: {text}");
        std::fs::write(&file, text.replacen('{', r#"{"psFormat": "x","#, 1)).unwrap();
        keep_credentials(&file, "reg.example:5000", &pair("b")).await.unwrap();

        let source = CredentialSource::new(BTreeMap::new(), Some(file.clone()));
        for (host, want) in [("reg.example:5000", "b"), ("docker.io", "hub")] {
            assert!(source.find(host).await.unwrap() == Some(pair(want)), "{host}");
        }
        assert!(forget_credentials(&file, "reg.example:5000").await.unwrap());
        assert!(!forget_credentials(&file, "reg.example:5000").await.unwrap());
        assert!(source.find("reg.example:5000").await.unwrap().is_none());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("psFormat"), "{text}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
