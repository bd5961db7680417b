//! `filters=`: a map from a name to values, in the two forms that clients send
//! (`{"reference":{"app-*":true}}` and `{"reference":["app-*"]}`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::ApiError;

/// Filter names with their values.
pub(super) type FilterMap = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    Set(BTreeMap<String, bool>),
    List(Vec<String>),
}

/// Reads the parameter; values that are switched off are left out.
///
/// # Errors
///
/// [`ApiError::Parameter`] for what has neither form.
pub(super) fn parse(text: Option<&str>) -> Result<FilterMap, ApiError> {
    let Some(text) = text else { return Ok(FilterMap::new()) };
    let map: Option<BTreeMap<String, FilterValues>> = serde_json::from_str(text)
        .map_err(|error| ApiError::parameter("filters", error.to_string()))?;
    let values = |values| match values {
        FilterValues::Set(set) => set.into_iter().filter(|(_, on)| *on).map(|(v, _)| v).collect(),
        FilterValues::List(list) => list,
    };
    Ok(map.unwrap_or_default().into_iter().map(|(name, set)| (name, values(set))).collect())
}

/// Refuses filter `name`.
pub(super) fn unsupported<T>(name: &str) -> Result<T, ApiError> {
    Err(ApiError::Unsupported { name: format!("filters.{name}"), instead: None })
}

/// Tells whether labels have what a `label` filter wants: a name, or `name=value`.
pub(super) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}
