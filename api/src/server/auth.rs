//! Registry credentials that clients send along: base64 of JSON in a header.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use builder::Credentials;
use serde::Deserialize;

use super::error::ApiError;

/// Registry host to credentials.
pub(crate) type CredentialMap = BTreeMap<String, Credentials>;

/// Docker's `AuthConfig`.
#[derive(Deserialize)]
struct AuthConfig {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// Base64 of `username:password`, as in `config.json`.
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "serveraddress")]
    server_address: String,
}

/// Reads `X-Registry-Config` of `/build`: credentials for all registries that the client knows.
///
/// # Errors
///
/// [`ApiError::Parameter`] for a header that is no base64 or no such JSON.
pub(crate) fn for_build(headers: &HeaderMap) -> Result<CredentialMap, ApiError> {
    const HEADER: &str = "X-Registry-Config";
    let configs = decode::<Option<BTreeMap<String, AuthConfig>>>(headers, HEADER)?.flatten();
    let mut map = CredentialMap::new();
    for (host, config) in configs.unwrap_or_default() {
        if let Some(credentials) = credentials(HEADER, config)? {
            map.insert(registry_host(&host), credentials);
        }
    }
    Ok(map)
}

/// Reads `X-Registry-Auth` of pulls and pushes: credentials for the one registry of `name`.
///
/// # Errors
///
/// [`ApiError::Parameter`] for a header that is no base64 or no such JSON.
pub(crate) fn for_image(headers: &HeaderMap, name: &str) -> Result<CredentialMap, ApiError> {
    const HEADER: &str = "X-Registry-Auth";
    let Some(config) = decode::<Option<AuthConfig>>(headers, HEADER)?.flatten() else {
        return Ok(CredentialMap::new());
    };
    // Credentials for a host of their own stay with that host, whatever the image is called.
    let host = match config.server_address.as_str() {
        "" => registry_of(name),
        address => registry_host(address),
    };
    Ok(credentials(HEADER, config)?.map(|found| (host, found)).into_iter().collect())
}

/// Reads the body of a login: the registry's address, empty for Docker Hub, and the credentials.
///
/// # Errors
///
/// [`ApiError::Parameter`] for what is no such JSON, or names nobody.
pub(crate) fn for_login(body: &[u8]) -> Result<(String, Credentials), ApiError> {
    // What the parser says may quote the secret.
    let config: AuthConfig = serde_json::from_slice(body)
        .map_err(|_| ApiError::parameter("body", "it is not Docker's JSON"))?;
    let address = config.server_address.clone();
    let found = credentials("body", config)?;
    let found = found.ok_or_else(|| ApiError::parameter("body", "it has no user name"))?;
    Ok((address, found))
}

fn decode<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<T>, ApiError> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let bytes = decode_base64(value.as_bytes())
        .ok_or_else(|| ApiError::parameter(name, "it is not base64"))?;
    // What the parser says may quote the secret.
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|_| ApiError::parameter(name, "it is not Docker's JSON"))
}

/// Decodes either alphabet, padded or not: clients differ.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet| GeneralPurpose::new(alphabet, config).decode(text);
    decode(&URL_SAFE).or_else(|_| decode(&STANDARD)).ok()
}

fn credentials(
    header: &'static str,
    mut config: AuthConfig,
) -> Result<Option<Credentials>, ApiError> {
    if config.username.is_empty() && !config.auth.is_empty() {
        let pair = decode_base64(config.auth.as_bytes()).and_then(|b| String::from_utf8(b).ok());
        let (username, password) =
            pair.as_deref().and_then(|pair| pair.split_once(':')).ok_or_else(|| {
                ApiError::parameter(header, "its `auth` is not base64 of user:password")
            })?;
        (config.username, config.password) = (username.to_owned(), password.to_owned());
    }
    if config.username.is_empty() && config.identity_token.is_empty() {
        return Ok(None);
    }
    let identity_token = Some(config.identity_token).filter(|token| !token.is_empty());
    Ok(Some(Credentials { username: config.username, password: config.password, identity_token }))
}

/// Returns the host in a key of Docker's `config.json`: `https://index.docker.io/v1/` stands for
/// `docker.io`.
pub(crate) fn registry_host(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// Returns the registry in an image's name: its first part, if that looks like a host (moby
/// `reference`, "domain").
fn registry_of(name: &str) -> String {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => registry_host(host),
        _ => "docker.io".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE as ENCODER;

    use super::*;

    fn header(name: &'static str, json: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, ENCODER.encode(json).parse().unwrap());
        headers
    }

    fn told(map: &CredentialMap) -> Vec<String> {
        map.iter()
            .map(|(host, c)| {
                let token = c.identity_token.as_deref().unwrap_or("-");
                format!("{host} {} {} {token}", c.username, c.password)
            })
            .collect()
    }

    #[test]
    fn build_credentials_are_by_host() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &[&str]); 5] = [
            ("none",   "{}", &[]),
            ("null",   "null", &[]),
            ("hub",    r#"{"https://index.docker.io/v1/":{"username":"u","password":"p","serveraddress":"x"}}"#, &["docker.io u p -"]),
            ("others", r#"{"reg:5000":{"auth":"dTpwOnE="},"t.io":{"identitytoken":"tok"}}"#, &["reg:5000 u p:q -", "t.io   tok"]),
            ("empty",  r#"{"reg:5000":{}}"#, &[]),
        ];
        for (name, json, want) in cases {
            let got = for_build(&header("X-Registry-Config", json)).unwrap();
            assert_eq!(told(&got), want, "{name}");
        }
        assert!(for_build(&HeaderMap::new()).unwrap().is_empty());
    }

    #[test]
    fn image_credentials_go_to_the_images_registry_only() {
        let auth = r#"{"username":"u","password":"p"}"#;
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 6] = [
            ("none",         "{}", "a:1", &[]),
            ("hub",          auth, "node:14", &["docker.io u p -"]),
            ("hub user",     auth, "me/node", &["docker.io u p -"]),
            ("own registry", auth, "reg.local:5000/a/b:1", &["reg.local:5000 u p -"]),
            ("localhost",    auth, "localhost/a", &["localhost u p -"]),
            ("other host",   r#"{"username":"u","password":"p","serveraddress":"https://a.io"}"#, "b.io/x", &["a.io u p -"]),
        ];
        for (name, json, image, want) in cases {
            let got = for_image(&header("X-Registry-Auth", json), image).unwrap();
            assert_eq!(told(&got), want, "{name}");
        }
    }

    #[test]
    fn damage_is_told_without_the_secret() {
        let mut headers = HeaderMap::new();
        headers.insert("X-Registry-Auth", "%%%".parse().unwrap());
        assert!(for_image(&headers, "a").is_err());
        let error =
            for_image(&header("X-Registry-Auth", r#"{"username":"u","password":hunter2}"#), "a")
                .unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
