//! Names of Linux signals, as STOPSIGNAL takes them.

use crate::nearest::did_you_mean;
use crate::{Diagnostic, Span};

/// In the order of their numbers, from 1 (signal(7), x86 and arm).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Other names of the same signals.
const ALIASES: [&str; 5] = ["IOT", "CLD", "POLL", "UNUSED", "RTMIN"];

/// Real-time signals beyond RTMIN and below RTMAX: `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX`.
const RT_ABOVE: std::ops::RangeInclusive<u8> = 1..=15;
const RT_BELOW: std::ops::RangeInclusive<u8> = 1..=14;

/// Whether `text` names a signal: a number but zero, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |text: &str| text.parse::<u8>().ok();
    let is_real_time = name == "RTMAX"
        || name.strip_prefix("RTMIN+").and_then(number).is_some_and(|n| RT_ABOVE.contains(&n))
        || name.strip_prefix("RTMAX-").and_then(number).is_some_and(|n| RT_BELOW.contains(&n));
    NAMES.contains(&name) || ALIASES.contains(&name) || is_real_time
}

/// Refuses what is no signal, with the nearest that is one.
pub(crate) fn check(text: &str, span: Span) -> Result<(), Box<Diagnostic>> {
    if is_signal(text) {
        return Ok(());
    }
    let names: Vec<String> = NAMES.iter().map(|name| format!("SIG{name}")).collect();
    let mut error = Diagnostic::error(span, format!("`{text}` is no signal"));
    error.help = did_you_mean(text, names.iter().map(String::as_str));
    Err(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for text in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-14", "SIGRTMAX", "SIGIOT"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["SIGTREM", "0", "", "RTMIN+16", "SIG", "TERM "] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
