//! Numbers and tables for people.

use std::fmt::Write as _;

/// Writes `bytes` with decimal units and three figures, as Docker does (`1.02GB`).
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be rounded to four figures.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let places = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let mut text = format!("{value:.places$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + UNITS[unit]
}

/// Writes wall time in milliseconds: `0.3s`, `12.0s`, `2m 05s`, `1h 02m`.
pub(crate) fn millis(millis: u64) -> String {
    let tenths = millis.saturating_add(50) / 100;
    let seconds = tenths / 10;
    match seconds {
        0..60 => format!("{seconds}.{}s", tenths % 10),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Writes how long ago `then` was, both in Unix seconds, in the words of Docker.
pub(crate) fn ago(then: i64, now: i64) -> String {
    let seconds = now.saturating_sub(then).max(0);
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    let text = match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 730 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    };
    text + " ago"
}

/// Tells a place in a queue of builds.
pub(crate) fn queued(place: usize) -> String {
    format!("waiting for other builds: number {place} in the queue")
}

/// Returns the time in Unix seconds.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Returns the first 12 hex digits of a `sha256:<hex>` text, as people write digests.
pub(crate) fn short_id(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// Returns `text` cut to `width` characters, the last of them `…` if any is gone.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Returns `text` without control characters and without terminal escape sequences: what came
/// from outside must not drive the terminal, nor break a line of a table.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => skip_escape(&mut chars),
            '\t' => clean.push(' '),
            char if char.is_control() => {}
            char => clean.push(char),
        }
    }
    clean
}

/// Skips what follows ESC: a control sequence up to its final byte, an operating system command up
/// to its end, else one character (ECMA-48, 5.4 and 8.3.89).
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            let _final_byte = chars.find(|char| ('\x40'..='\x7e').contains(char));
        }
        Some(']') => {
            while let Some(char) = chars.next() {
                if char == '\x07' || (char == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

/// Lays `rows` out below `headings`, three spaces between columns, as Docker's tables do.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let mut push = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            write!(line, "{cell:<width$}   ").expect("a String takes all that is written");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    push(headings);
    for row in rows {
        push(std::array::from_fn(|column| row[column].as_str()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_figures() {
        #[rustfmt::skip]
        let cases = [
            (0, "0B"), (999, "999B"), (1000, "1kB"), (1234, "1.23kB"), (12_345, "12.3kB"),
            (123_456, "123kB"), (999_499, "999kB"), (999_500, "1MB"), (77_880_000, "77.9MB"),
            (1_020_000_000, "1.02GB"), (u64::MAX, "18447PB"),
        ];
        for (bytes, want) in cases {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn durations_are_short() {
        #[rustfmt::skip]
        let cases = [
            (0, "0.0s"), (49, "0.0s"), (50, "0.1s"), (12_000, "12.0s"), (59_949, "59.9s"),
            (59_950, "1m 00s"), (125_000, "2m 05s"), (3_720_000, "1h 02m"), (u64::MAX, "5124095576030h 25m"),
        ];
        for (time, want) in cases {
            assert_eq!(millis(time), want);
        }
    }

    #[test]
    fn ages_are_in_dockers_words() {
        #[rustfmt::skip]
        let cases = [
            (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
            (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
            (5399, "About an hour"), (5400, "2 hours"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"), (60 * 86400, "2 months"), (730 * 86400, "2 years"), (-5, "Less than a second"),
        ];
        for (seconds, want) in cases {
            assert_eq!(ago(1_000_000_000 - seconds, 1_000_000_000), format!("{want} ago"));
        }
    }

    #[test]
    fn control_characters_do_not_pass() {
        #[rustfmt::skip]
        let cases = [
            ("plain",          "añb",                    "añb"),
            ("colour",         "\x1b[31mred\x1b[0m",     "red"),
            ("title",          "\x1b]0;own\x07ed",       "ed"),
            ("title, ST",      "\x1b]0;own\x1b\\ed",     "ed"),
            ("cut sequence",   "a\x1b[31",               "a"),
            ("line breaks",    "a\r\nb\tc",              "ab c"),
            ("c1",             "a\u{9b}31mb",            "a31mb"),
        ];
        for (name, text, want) in cases {
            assert_eq!(printable(text), want, "{name}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(ellipsis("añb", 3), "añb");
        assert_eq!(ellipsis("añbc", 3), "añ…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("sha256:01"), "01");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".into(), "long cell".into()], ["ñññ".into(), String::new()]];
        let want = "X     HEADING\na     long cell\nñññ\n";
        assert_eq!(table(["X", "HEADING"], &rows), want);
    }
}
