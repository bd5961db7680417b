//! Values of parameters, read as Docker's daemon reads them: an empty one asks for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use frontend::Platform;

use crate::config::NetworkMode;
use crate::server::error::ApiError;

/// Reads a list of texts in JSON.
pub(super) fn list<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ApiError> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |reason: String| ApiError::parameter(name, reason);
    let texts: Option<Vec<String>> =
        serde_json::from_str(value).map_err(|error| refuse(error.to_string()))?;
    texts.iter().flatten().map(|text| parse(text).map_err(refuse)).collect()
}

/// Reads a flag as Docker's daemon does.
pub(crate) fn boolean(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

pub(super) fn asks_for_something(value: &str) -> bool {
    boolean(value) && !matches!(value.trim(), "null" | "[]" | "{}")
}

pub(super) fn non_empty(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

pub(super) fn json_map<V>(name: &str, value: &str) -> Result<BTreeMap<String, V>, ApiError>
where
    V: serde::de::DeserializeOwned,
{
    if value.is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: Option<BTreeMap<String, V>> = serde_json::from_str(value)
        .map_err(|error| ApiError::parameter(name, error.to_string()))?;
    Ok(map.unwrap_or_default())
}

/// Reads a platform as Docker writes it in `/build` and `/images/create`: plain text.
pub(crate) fn platform(name: &str, value: &str) -> Result<Option<Platform>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    let platform = Platform::parse(value);
    platform.map(Some).map_err(|error| ApiError::parameter(name, error.to_string()))
}

pub(super) fn seconds(name: &str, value: &str) -> Result<Option<Duration>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    let seconds = value.parse().map_err(|_| {
        ApiError::parameter(name, format!("`{value}` is not a whole number of seconds"))
    })?;
    Ok(Some(Duration::from_secs(seconds)))
}

pub(super) fn network(value: &str) -> Result<Option<NetworkMode>, ApiError> {
    match value {
        "" => Ok(None),
        // Docker's name of its own default.
        "default" | "bridge" => Ok(Some(NetworkMode::Default)),
        "none" => Ok(Some(NetworkMode::None)),
        "host" => Ok(Some(NetworkMode::Host)),
        _ => Err(ApiError::parameter(
            "networkmode",
            format!("`{value}` is not default, none or host"),
        )),
    }
}

pub(super) fn extra_host(value: &str) -> Result<Option<(String, String)>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_extra_host(value).map(Some).map_err(|reason| ApiError::parameter("extrahosts", reason))
}

/// Parses a value that may be empty, which asks for nothing.
pub(super) fn parsed<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).map_err(|reason| ApiError::parameter(name, reason))
}

/// Takes one word of a line of resolv.conf(5).
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_word(text: &str) -> Result<String, String> {
    let is_word = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    is_word.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not one word"))
}

/// Parses `name:address` or `name=address`; the address may be in brackets.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse_extra_host(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = pair.ok_or_else(|| format!("`{text}` is not HOST:ADDRESS"))?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{name}` is not a host name"));
    }
    if address == "host-gateway" {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let parsed: IpAddr = bare.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
    Ok((name.to_owned(), parsed.to_string()))
}
