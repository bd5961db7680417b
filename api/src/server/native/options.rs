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

/// Lists repeat a parameter; objects are texts of JSON, as Docker has them; `null` is none.
fn pairs(name: &str, value: Value) -> Result<Pairs, ApiError> {
    let values = match value {
        Value::Null => Vec::new(),
        // Of a list of objects, the whole is one text.
        Value::Array(list) if !list.iter().any(Value::is_object) => list,
        value => vec![value],
    };
    let pair = |value| {
        let text = match value {
            Value::String(text) => text,
            Value::Bool(flag) => u8::from(flag).to_string(),
            Value::Number(number) => number.to_string(),
            value @ (Value::Object(_) | Value::Array(_)) => value.to_string(),
            Value::Null => return Err(ApiError::parameter(name, "a list cannot hold null")),
        };
        Ok((name.to_owned(), text))
    };
    values.into_iter().map(pair).collect()
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
