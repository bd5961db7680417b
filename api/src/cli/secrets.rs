//! `--secret`: what was typed, then the values.

use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use builder::{SECRET_LIMIT, Secret, Secrets, blocking};

use crate::config::Environment;
use crate::fault::Fault;

/// `id=ID[,src=FILE|,env=NAME][,type=file|env]` (docker buildx, "--secret").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretArg {
    id: String,
    source: Option<SecretSource>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SecretSource {
    File(PathBuf),
    Environment(String),
}

/// Parses the value of `--secret`.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse(text: &str) -> Result<SecretArg, String> {
    let (mut id, mut src, mut env, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (name, value) = field
            .split_once('=')
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| format!("`{field}` has no value"))?;
        match name.to_ascii_lowercase().as_str() {
            "id" => id = Some(value),
            "src" | "source" => src = Some(value),
            "env" => env = Some(value),
            "type" if matches!(value, "file" | "env") => kind = Some(value),
            "type" => {
                return Err(format!("there is no type `{value}`; the types are file and env"));
            }
            _ => {
                return Err(format!(
                    "there is no option `{name}`; the options are id, src, env and type"
                ));
            }
        }
    }
    let id = id.ok_or("`id` is missing: the name that the Dockerfile uses")?.to_owned();
    let environment = |name: &str| Some(SecretSource::Environment(name.to_owned()));
    let source = match (kind, src, env) {
        (_, Some(_), Some(_)) => return Err("`src` and `env` cannot both be given".to_owned()),
        (Some("file"), _, Some(_)) => return Err("a secret of type file has no `env`".to_owned()),
        (_, None, Some(name)) => environment(name),
        (Some("env"), name, None) => environment(name.unwrap_or(&id)),
        (_, Some(path), None) => Some(SecretSource::File(path.into())),
        (Some(_), None, None) => Some(SecretSource::File((&id).into())),
        (None, None, None) => None,
    };
    Ok(SecretArg { id, source })
}

/// Reads the values. A secret with an id alone is the variable of that name, or else the file.
pub(super) async fn read(given: &[SecretArg], environment: &Environment) -> Result<Secrets, Fault> {
    let mut secrets = Secrets::new();
    for SecretArg { id, source } in given {
        let source = source.clone().unwrap_or_else(|| {
            if environment.raw(id).is_some() {
                SecretSource::Environment(id.clone())
            } else {
                SecretSource::File(id.into())
            }
        });
        let value = match source {
            SecretSource::Environment(name) => {
                let value = environment.raw(&name).ok_or_else(|| {
                    Fault::user(format!("secret `{id}`: the variable `{name}` is not set"))
                })?;
                Secret::from(value.as_bytes())
            }
            SecretSource::File(path) => blocking::run(move || read_file(&path)).await?,
        };
        if value.bytes().len() > SECRET_LIMIT {
            let what = format!("secret `{id}` is larger than {} KiB", SECRET_LIMIT / 1024);
            return Err(Fault::user(what));
        }
        if secrets.insert(id.clone(), value).is_some() {
            return Err(Fault::user(format!("secret `{id}` is given twice")));
        }
    }
    Ok(secrets)
}

/// Reads no more than what shows that there is too much.
fn read_file(path: &Path) -> Result<Secret, Fault> {
    let read = || {
        // In one piece that is never moved: copies could not be wiped.
        let mut value = Vec::with_capacity(SECRET_LIMIT + 1);
        let file = std::fs::File::open(path)?;
        file.take(SECRET_LIMIT as u64 + 1).read_to_end(&mut value)?;
        Ok(Secret::new(value))
    };
    read().map_err(|error: std::io::Error| Fault::file("read the secret in", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildx_takes_is_understood() {
        let file = |path: &str| Some(SecretSource::File(path.into()));
        let env = |name: &str| Some(SecretSource::Environment(name.into()));
        #[rustfmt::skip]
        let cases = [
            ("id alone",    "id=a",                   Ok(None)),
            ("file",        "id=a,src=/x/y",          Ok(file("/x/y"))),
            ("long name",   "id=a,source=y",          Ok(file("y"))),
            ("typed file",  "type=file,id=a,src=y",   Ok(file("y"))),
            ("file by id",  "type=file,id=a",         Ok(file("a"))),
            ("env",         "id=a,env=B",             Ok(env("B"))),
            ("typed env",   "id=a,type=env,src=B",    Ok(env("B"))),
            ("env by id",   "id=a,type=env",          Ok(env("a"))),
            ("no id",       "src=y",                  Err("`id` is missing: the name that the Dockerfile uses")),
            ("both",        "id=a,src=y,env=B",       Err("`src` and `env` cannot both be given")),
            ("file of env", "id=a,type=file,env=B",   Err("a secret of type file has no `env`")),
            ("bad type",    "id=a,type=vault",        Err("there is no type `vault`; the types are file and env")),
            ("unknown",     "id=a,value=x",           Err("there is no option `value`; the options are id, src, env and type")),
            ("no value",    "id",                     Err("`id` has no value")),
        ];
        for (name, text, want) in cases {
            let want = want.map(|source| SecretArg { id: "a".to_owned(), source });
            assert_eq!(parse(text), want.map_err(str::to_owned), "{name}");
        }
    }

    #[tokio::test]
    async fn values_come_from_variables_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "of a file\n").unwrap();
        let large = dir.path().join("large");
        std::fs::write(&large, vec![b'x'; SECRET_LIMIT + 1]).unwrap();
        let environment = Environment::new(false, &[("TOKEN", "of env")]);
        let read = async |texts: &[String]| {
            let given: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
            read(&given, &environment).await
        };
        let from_file = format!("id=f,src={}", file.display());
        let secrets = read(&["id=TOKEN".to_owned(), from_file.clone()]).await.unwrap();
        assert_eq!(secrets["TOKEN"].bytes(), b"of env");
        assert_eq!(secrets["f"].bytes(), b"of a file\n");
        for (given, want) in [
            (vec!["id=a,env=NONE".to_owned()], "the variable `NONE` is not set"),
            (vec![from_file.clone(), from_file], "secret `f` is given twice"),
            (vec![format!("id=l,src={}", large.display())], "secret `l` is larger than 500 KiB"),
            (vec!["id=m,src=/no/such".to_owned()], "could not read the secret in `/no/such`"),
        ] {
            let error = read(&given).await.unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
