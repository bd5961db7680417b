//! Go's ways of writing values, which histories and dumps of the peers show.

use std::fmt::Write as _;

/// Writes strings as Go's `%q` does: `["a" "b"]`.
pub(crate) fn quoted_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Writes one string as Go's `strconv.Quote` does.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            _ if is_printable(char) => out.push(char),
            _ => {
                let code = u32::from(char);
                let _ = match code {
                    0..=0x7f => write!(out, "\\x{code:02x}"),
                    0x80..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// Go prints letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(char: char) -> bool {
    if char.is_ascii() {
        return !char.is_ascii_control();
    }
    // `Debug` of a string escapes what cannot be printed; a combining mark only when it is first.
    !char.is_whitespace() && !format!("{:?}", format_args!("a{char}").to_string()).contains("\\u{")
}

/// Writes nanoseconds as Go's `Duration.String` does: `1m30s`, `500ms`, `0s`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |unit: u64| {
        let (whole, rest) = (total / unit, total % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(1_000_000)),
        _ => {
            let seconds = total / 1_000_000_000;
            let rest = total % 1_000_000_000;
            let digits = format!("{rest:09}");
            let digits = digits.trim_end_matches('0');
            let point = if digits.is_empty() { "" } else { "." };
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let mut text = sign.to_owned();
            if hours > 0 {
                let _ = write!(text, "{hours}h");
            }
            if hours > 0 || minutes > 0 {
                let _ = write!(text, "{minutes}m");
            }
            let _ = write!(text, "{}{point}{digits}s", seconds % 60);
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        #[rustfmt::skip]
        let cases = [
            (0, "0s"), (30_000_000_000, "30s"), (90_000_000_000, "1m30s"), (500_000_000, "500ms"),
            (3_600_000_000_000, "1h0m0s"), (1_500_000, "1.5ms"), (1_500_000_000, "1.5s"), (7, "7ns"),
        ];
        for (nanoseconds, want) in cases {
            assert_eq!(duration(nanoseconds), want);
        }
    }

    #[test]
    fn quotes_as_go_writes_them() {
        #[rustfmt::skip]
        let cases = [
            ("a b", "\"a b\""), ("a\"b\\", "\"a\\\"b\\\\\""), ("a\nb\t", "\"a\\nb\\t\""),
            ("\u{1}", "\"\\x01\""), ("é", "\"é\""), ("\u{200b}", "\"\\u200b\""), ("\u{a0}", "\"\\u00a0\""),
        ];
        for (text, want) in cases {
            assert_eq!(quoted(text), want);
        }
    }
}
