//! HEALTHCHECK and Go's durations.

use crate::ast::{Command, HealthcheckSpec, Word};
use crate::flags::{Flags, Known, Takes};
use crate::syntax::{Arguments, Raw};

use super::Typing;

const FLAGS: Known = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

/// The least duration but zero: one millisecond, in nanoseconds.
const LEAST: i64 = 1_000_000;

impl Typing<'_, '_> {
    pub(super) fn healthcheck(&mut self, raw: &Raw) -> Option<HealthcheckSpec> {
        let Arguments::Health { kind: Some(kind), command, is_json } = &raw.arguments else {
            self.error(raw.span, "HEALTHCHECK needs an argument").help =
                Some("write `HEALTHCHECK CMD ...` or `HEALTHCHECK NONE`".to_owned());
            return None;
        };
        let command = match kind.text.to_ascii_uppercase().as_str() {
            "NONE" => {
                self.ignored_flags(raw);
                if let Some(first) = command.first() {
                    self.error(first.span, "HEALTHCHECK NONE takes no arguments");
                    return None;
                }
                return Some(spec(None));
            }
            "CMD" => match command.as_slice() {
                [] => {
                    self.error(kind.span, "HEALTHCHECK CMD needs a command");
                    return None;
                }
                words if *is_json => Command::Exec(words.to_vec()),
                [text, ..] => Command::Shell(text.clone()),
            },
            _ => {
                self.error(kind.span, format!("HEALTHCHECK does not know `{}`", kind.text)).help =
                    Some("write `HEALTHCHECK CMD ...` or `HEALTHCHECK NONE`".to_owned());
                return None;
            }
        };
        let mut flags = self.flags(raw, FLAGS);
        Some(HealthcheckSpec {
            interval: self.duration(&mut flags, "interval"),
            timeout: self.duration(&mut flags, "timeout"),
            start_period: self.duration(&mut flags, "start-period"),
            start_interval: self.duration(&mut flags, "start-interval"),
            retries: self.retries(&mut flags),
            command: Some(command),
        })
    }

    fn duration(&mut self, flags: &mut Flags, name: &str) -> i64 {
        let Some(word) = flags.value(name).filter(|word| !word.text.is_empty()) else { return 0 };
        match parse_duration(&word.text) {
            Some(0) => 0,
            Some(nanoseconds) if nanoseconds >= LEAST => nanoseconds,
            Some(_) => {
                self.error(word.span, format!("`--{name}` cannot be less than 1ms"));
                0
            }
            None => {
                self.bad_duration(&word);
                0
            }
        }
    }

    fn bad_duration(&mut self, word: &Word) {
        self.error(word.span, format!("`{}` is no duration", word.text)).help =
            Some("write a number and its unit: 500ms, 30s, 1m30s, 1h".to_owned());
    }

    fn retries(&mut self, flags: &mut Flags) -> i64 {
        let Some(word) = flags.value("retries").filter(|word| !word.text.is_empty()) else {
            return 0;
        };
        match word.text.parse::<i32>() {
            Ok(retries) if retries >= 0 => i64::from(retries),
            _ => {
                self.error(word.span, format!("`--retries` cannot be `{}`", word.text)).help =
                    Some("it is a number, 0 for the default".to_owned());
                0
            }
        }
    }
}

fn spec(command: Option<Command>) -> HealthcheckSpec {
    HealthcheckSpec {
        command,
        interval: 0,
        timeout: 0,
        start_period: 0,
        start_interval: 0,
        retries: 0,
    }
}

/// Parses a duration in Go's notation (`time.ParseDuration`): nanoseconds.
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(digits, scale)?)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Returns `digits`, which may hold a decimal point, times `scale`, rounded down.
fn scaled(digits: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()? };
    // More than twelve decimals of an hour are less than a nanosecond.
    let fraction = &fraction[..fraction.len().min(15)];
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<i128>().ok()? };
    let decimals = u32::try_from(fraction.len()).ok()?;
    Some(whole * scale + part * scale / 10_i128.pow(decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        #[rustfmt::skip]
        let cases = [
            ("30s", Some(30_000_000_000)), ("1m30s", Some(90_000_000_000)), ("0", Some(0)),
            ("1.5s", Some(1_500_000_000)), (".5s", Some(500_000_000)), ("100us", Some(100_000)),
            ("1h", Some(3_600_000_000_000)), ("-1s", Some(-1_000_000_000)), ("0s", Some(0)),
            ("30", None), ("s", None), ("", None), ("1x", None), ("1 s", None), ("1..5s", None),
            ("99999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text), want, "{text}");
        }
    }
}
