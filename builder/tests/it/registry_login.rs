//! Logins whose registry gives a token to be kept in the password's place.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use builder::{Credentials, Keeper, RegistryConfig, keep_credentials};

use crate::registry_support::*;

/// Query and form of a request for a token, and its `Authorization`.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// Logs in to `HOST`, keeps what came of it in `CONFIG`, and pulls with what was kept.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by `a_token_is_kept_and_the_password_is_not` with a PATH of its own"]
async fn login_and_pull() {
    let [host, file] = ["HOST", "CONFIG"].map(|name| std::env::var(name).unwrap());
    let file = Path::new(&file).to_owned();
    let bench = Bench::new(RegistryConfig::default());
    let (username, password) = ("me".to_owned(), "s3cret".to_owned());
    let mut given = Credentials { username, password, identity_token: None };
    let all = BTreeMap::from([(host.clone(), given.clone())]);
    let registry = bench.sources.registry().with_credentials(all);
    given.identity_token = registry.login(&host).await.unwrap();
    let kept = keep_credentials(&file, &host, &given).await.unwrap();
    let is_helper = matches!(kept, Keeper::Helper(_));
    println!("kept by {}", if is_helper { "a helper" } else { "the file" });

    let config = RegistryConfig { auth_file: Some(file), ..RegistryConfig::default() };
    let bench = Bench::new(config);
    let name = reference(&format!("{host}/x/y:1"));
    bench.sources.pull(&name, &amd64(), &bench.events).await.unwrap();
}

/// A helper that keeps what it is given beside itself.
fn helper(directory: &Path) {
    let script = "#!/bin/sh\nkept=${0%/*}/kept\ncase $1 in\nstore) cat > $kept;;\n\
                  get) cat $kept;;\nerase) rm $kept;;\nesac\n";
    let path = directory.join("docker-credential-test");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A registry whose token service gives a token to keep to who comes with a password.
async fn registry(asked: &Asked) -> FakeRegistry {
    let image = TinyImage::new("a");
    let asked = Arc::clone(asked);
    FakeRegistry::start(move |seen, _| -> Response {
        if seen.path == "/token" {
            let form = String::from_utf8(seen.body.to_vec()).unwrap();
            let secret = seen.header("authorization").unwrap_or_default().to_owned();
            asked.lock().unwrap().push((seen.query.clone() + &form, secret));
            let more = if seen.method == "GET" { r#","refresh_token":"k3ep""# } else { "" };
            return status(200, &format!(r#"{{"access_token":"t","expires_in":300{more}}}"#));
        }
        if seen.header("authorization") == Some("Bearer t") {
            return if seen.path == "/v2/" { status(200, "{}") } else { image.answer(seen) };
        }
        let realm = format!("http://{}/token", seen.header("host").unwrap());
        with_header(401, "www-authenticate", &format!(r#"Bearer realm="{realm}",service="s""#))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_and_the_password_is_not() {
    for (config, keeper) in [("{}", "the file"), (r#"{"credsStore":"test"}"#, "a helper")] {
        let asked = Asked::default();
        let fake = registry(&asked).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        helper(dir.path());
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "--nocapture", "registry_login::login_and_pull"]);
        child.env("PATH", path).env("HOST", fake.host()).env("CONFIG", &file);
        let output = child.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("1 passed"), "{keeper}: {text}{errors}");
        assert!(text.contains(&format!("kept by {keeper}")), "{keeper}: {text}");

        let asked = asked.lock().unwrap();
        let [(login, basic), (pull, none)] = asked.as_slice() else {
            panic!("{keeper}: {asked:?}");
        };
        assert!(login.contains("service=s") && login.contains("offline_token=true"), "{login}");
        assert_eq!(basic, "Basic bWU6czNjcmV0", "{keeper}");
        let fields =
            ["grant_type=refresh_token", "refresh_token=k3ep", "scope=repository%3Ax%2Fy%3Apull"];
        assert!(fields.iter().all(|field| pull.contains(field)), "{keeper}: {pull}");
        assert_eq!(none, "", "{keeper}: the token is all that is shown");

        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("s3cret") && !text.contains("bWU6czNjcmV0"), "{text}");
        if keeper == "the file" {
            let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(kept["auths"][fake.host()]["identitytoken"], "k3ep", "{text}");
        } else {
            let kept = std::fs::read_to_string(dir.path().join("kept")).unwrap();
            let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
            assert_eq!((&kept["Username"], &kept["Secret"]), (&"<token>".into(), &"k3ep".into()));
            assert!(!text.contains("k3ep"), "{text}");
        }
    }
}
