//! Durations as people type them.

use std::time::Duration;

/// Seconds in each unit that may be written.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60)];

/// Parses whole numbers with their units, the larger first: `90s`, `12h`, `1h30m`, `7d`.
///
/// # Errors
///
/// A sentence for the one who typed it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 90s, 30m, 12h, 1h30m or 7d");
    let mut seconds = 0_u64;
    let mut rest = text;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next().ok_or_else(wrong)?;
        let (_, worth) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if worth >= last {
            return Err(wrong());
        }
        last = worth;
        let more = number.checked_mul(worth).and_then(|more| seconds.checked_add(more));
        seconds = more.ok_or_else(wrong)?;
        rest = &rest[end + unit.len_utf8()..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        #[rustfmt::skip]
        let cases = [
            ("90s",     Some(90)),
            ("0s",      Some(0)),
            ("30m",     Some(30 * 60)),
            ("1h30m",   Some(90 * 60)),
            ("7d",      Some(7 * 24 * 3600)),
            ("1d1h1m1s", Some(90_061)),
            ("",        None),
            ("5",       None),
            ("h",       None),
            ("1.5h",    None),
            ("1m1h",    None),
            ("1m1m",    None),
            ("-1s",     None),
            ("5 m",     None),
            ("99999999999999999999d", None),
            ("9999999999999999999d",  None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text).ok(), want.map(Duration::from_secs), "{text}");
        }
    }
}
