//! Values of options: what is typed in two parts, or in a shape of its own.

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

pub(crate) fn mirror(text: &str) -> Result<(String, String), String> {
    let (host, url) = pair(text).map_err(|_| "expected HOST=URL".to_owned())?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(format!("`{url}` begins with neither http:// nor https://"));
    }
    Ok((host, url))
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
pub(crate) fn split_value(text: &str) -> Result<(String, Option<String>), String> {
    Ok(match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    })
}

pub(crate) fn named_value(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = split_value(text)?;
    if name.is_empty() { Err("the name is empty".to_owned()) } else { Ok((name, value)) }
}

/// Parses when to ask for newer images: docker's switch, and buildah's words.
pub(crate) fn pull(text: &str) -> Result<bool, String> {
    match text {
        "always" | "ifnewer" | "true" => Ok(true),
        "missing" | "false" => Ok(false),
        _ => Err("it is always or missing".to_owned()),
    }
}

pub(crate) fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("it is not absolute".to_owned()) }
}

pub(crate) fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0);
    let pair = text.split_once(':').and_then(|(host, inside)| Some((port(host)?, port(inside)?)));
    pair.ok_or_else(|| "expected HOST:CONTAINER, two ports such as 8081:3000".to_owned())
}

pub(crate) fn target(text: &str) -> Result<(String, Option<String>), String> {
    let (stage, name) = split_value(text)?;
    match (stage.as_str(), name.as_deref()) {
        ("", _) => Err("the stage is empty".to_owned()),
        (_, Some("")) => Err("the name is empty".to_owned()),
        _ => Ok((stage, name)),
    }
}
