//! Options as a JSON object: the parameters of the query by their names, with values of JSON.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::server::error::ApiError;
use crate::server::query::Pairs;

/// Bytes of a body of options.
const BODY_LIMIT: usize = 4 << 20;

/// Whether the body calls itself JSON.
pub(in crate::server) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

/// Reads the options of a body, to be added to those of the query.
///
/// # Errors
///
/// [`ApiError::Parameter`] for what is no JSON object, or has values of no use.
pub(in crate::server) async fn read(body: Body) -> Result<Pairs, ApiError> {
    let refuse = |reason: String| ApiError::parameter("body", reason);
    let bytes = axum::body::to_bytes(body, BODY_LIMIT).await;
    let bytes = bytes.map_err(|error| refuse(builder::causes(&error).join(": ")))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(members)) => {
            let pairs = members.into_iter().map(|(name, value)| pairs(&name, value));
            Ok(pairs.collect::<Result<Vec<_>, _>>()?.concat())
        }
        Ok(_) => Err(refuse("it is no JSON object".to_owned())),
        Err(error) => Err(refuse(format!("it is no JSON: {error}"))),
    }
}

/// Parameters that are numbers, and those that are yes or no.
const NUMBERS: [&str; 9] = [
    "memory",
    "memswap",
    "pidslimit",
    "cpushares",
    "cpuquota",
    "cpuperiod",
    "shmsize",
    "cachettl",
    "keep_bytes",
];
const FLAGS: [&str; 6] = ["squash", "nocache", "pull", "q", "all", "dry_run"];

/// Parameters that may be there several times, and those whose texts are JSON in Docker's API too.
const LISTS: [&str; 8] =
    ["t", "extrahosts", "dns", "dnssearch", "dnsoption", "allow", "annotation", "output"];
const DOCUMENTS: [&str; 8] = [
    "buildargs",
    "labels",
    "ulimits",
    "cachefrom",
    "cacheto",
    "moretargets",
    "buildcontexts",
    "ssh",
];

/// Makes parameters of a member; `null` is none.
fn pairs(name: &str, value: Value) -> Result<Pairs, ApiError> {
    let refuse = |what: &str| ApiError::parameter(name, format!("it is not {what}"));
    let texts = match value {
        Value::Null => Vec::new(),
        value if DOCUMENTS.contains(&name) => match value {
            Value::Object(_) | Value::Array(_) => vec![value.to_string()],
            _ => return Err(refuse("an object or a list")),
        },
        Value::Number(number) if NUMBERS.contains(&name) => vec![whole(&number)],
        _ if NUMBERS.contains(&name) => return Err(refuse("a number")),
        Value::Bool(flag) if FLAGS.contains(&name) => vec![u8::from(flag).to_string()],
        _ if FLAGS.contains(&name) => return Err(refuse("true or false")),
        Value::Array(list) if LISTS.contains(&name) => {
            let text = |value| match value {
                Value::String(text) => Ok(text),
                _ => Err(refuse("a list of texts")),
            };
            list.into_iter().map(text).collect::<Result<_, _>>()?
        }
        _ if LISTS.contains(&name) => return Err(refuse("a list of texts")),
        Value::String(text) => vec![text],
        _ => return Err(refuse("a text")),
    };
    Ok(texts.into_iter().map(|text| (name.to_owned(), text)).collect())
}

/// To JSON, 19.0 is as whole a number as 19.
fn whole(number: &serde_json::Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_are_parameters() {
        #[rustfmt::skip]
        let cases = [
            ("{}",                            Some("")),
            (r#"{"t":["a:1","b"],"q":true}"#, Some("q=1&t=a:1&t=b")),
            (r#"{"pull":false,"target":"x"}"#, Some("pull=0&target=x")),
            (r#"{"memory":5,"target":null}"#, Some("memory=5")),
            (r#"{"buildargs":{"A":null}}"#,   Some(r#"buildargs={"A":null}"#)),
            (r#"{"ulimits":[{"Name":"n"}]}"#, Some(r#"ulimits=[{"Name":"n"}]"#)),
            (r#"{"memory":19.0}"#,            Some("memory=19")),
            (r#"{"memory":"19"}"#,            None),
            (r#"{"pull":1}"#,                 None),
            (r#"{"t":"a"}"#,                  None),
            (r#"{"remote":1}"#,               None),
            (r#"{"labels":"{}"}"#,            None),
            (r#"{"t":[null]}"#,               None),
            ("[]",                            None),
            ("{",                             None),
            ("",                              None),
        ];
        for (text, want) in cases {
            let got = read(Body::from(text)).await.ok().map(|pairs| {
                let texts: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
                texts.join("&")
            });
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }
}
