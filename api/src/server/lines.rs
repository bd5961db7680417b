//! The lines of Docker's streams: each a JSON object.

use serde::Serialize;
use serde_json::{Value, json};

/// Ends every object, as in Docker's daemon.
const LINE_END: &str = "\r\n";

/// Makes one line of a stream.
pub(super) fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_value(value).map(|value: Value| value.to_string());
    text.expect("texts and numbers are JSON") + LINE_END
}

/// Makes the line of a text that is shown as it is. Logs are made of these.
pub(super) fn stream_line(text: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        stream: &'a str,
    }
    serde_json::to_string(&Line { stream: text }).expect("texts are JSON") + LINE_END
}

/// Makes the line that ends a stream with an error; `code` 0 is none.
pub(super) fn error_line(message: &str, code: i32) -> String {
    let detail = match code {
        0 => json!({ "message": message }),
        code => json!({ "code": code, "message": message }),
    };
    line(&json!({ "errorDetail": detail, "error": message }))
}
