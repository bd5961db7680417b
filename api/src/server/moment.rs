//! Points in time as Docker's clients write them: Unix seconds with a fraction, RFC 3339, or a
//! duration before now (`10m`, `1h30m`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::ApiError;

/// Nanoseconds since 1970.
pub(super) type Nanos = i128;

/// Returns now.
pub(super) fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Reads parameter `name`.
///
/// # Errors
///
/// [`ApiError::Parameter`] for a text in none of the forms.
pub(super) fn parse(name: &str, text: &str, now: Nanos) -> Result<Nanos, ApiError> {
    let parsed = unix(text).or_else(|| rfc3339(text)).or_else(|| Some(now - ago(text)?));
    parsed.ok_or_else(|| {
        ApiError::parameter(
            name,
            format!("`{text}` is neither Unix seconds, nor RFC 3339, nor a duration such as 10m"),
        )
    })
}

fn unix(text: &str) -> Option<Nanos> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Nanos::from(seconds) * 1_000_000_000 + Nanos::from(nanos))
}

fn rfc3339(text: &str) -> Option<Nanos> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond)
}

fn ago(text: &str) -> Option<Nanos> {
    duration(text).and_then(|duration| Nanos::try_from(duration.as_nanos()).ok())
}

/// Reads a duration as Go writes them: numbers, each with its unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] =
        [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&end| end > 0)?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_all_forms() {
        const SECOND: Nanos = 1_000_000_000;
        let now = 10_000 * SECOND;
        #[rustfmt::skip]
        let cases = [
            ("seconds",       "1136073600",             Some(1_136_073_600 * SECOND)),
            ("with fraction", "1136073600.000000001",   Some(1_136_073_600 * SECOND + 1)),
            ("short fraction", "1.5",                   Some(SECOND + SECOND / 2)),
            ("rfc 3339",      "1970-01-01T00:00:05Z",   Some(5 * SECOND)),
            ("duration",      "1h30m",                  Some(now - 5400 * SECOND)),
            ("small units",   "1.5s500ms",              Some(now - 2 * SECOND)),
            ("nonsense",      "soon",                   None),
            ("no unit",       "1h5",                    None),
            ("empty",         "",                       None),
        ];
        for (name, text, want) in cases {
            assert_eq!(parse("since", text, now).ok(), want, "{name}");
        }
    }
}
