//! The span that a build is part of, as the W3C's `traceparent` names it.

use std::fmt;

/// The span of whoever asked for a build (W3C Trace Context, section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 lower-case hex digits.
    pub(super) trace_id: String,
    /// 16 lower-case hex digits.
    pub(super) span_id: String,
    /// Whether the trace is kept: of one that is not, nothing is sent.
    pub(super) is_sampled: bool,
}

impl TraceParent {
    /// Reads `VERSION-TRACE-SPAN-FLAGS`; `None` for what is none, which the specification wants to be
    /// ignored. Later versions may say more after the flags.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let mut hex = |digits: usize| {
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            parts.next().filter(|part| part.len() == digits && part.bytes().all(is_hex))
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
        let is_more_than_allowed = version == "00" && parts.next().is_some();
        if version == "ff" || is_more_than_allowed || is_zero(trace_id) || is_zero(span_id) {
            return None;
        }
        Some(Self {
            trace_id: trace_id.to_owned(),
            span_id: span_id.to_owned(),
            is_sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1),
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, is_sampled } = self;
        write!(f, "00-{trace_id}-{span_id}-{:02x}", u8::from(*is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_specification_allows_is_a_parent() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        #[rustfmt::skip]
        let cases = [
            ("sampled",       format!("00-{trace}-{span}-01"),        Some(true)),
            ("not sampled",   format!("00-{trace}-{span}-00"),        Some(false)),
            ("other flags",   format!("00-{trace}-{span}-03"),        Some(true)),
            ("later version", format!("cc-{trace}-{span}-01-more-x"), Some(true)),
            ("more",          format!("00-{trace}-{span}-01-more"),   None),
            ("version ff",    format!("ff-{trace}-{span}-01"),        None),
            ("upper case",    format!("00-{}-{span}-01", trace.to_uppercase()), None),
            ("zero trace",    format!("00-{}-{span}-01", "0".repeat(32)), None),
            ("zero span",     format!("00-{trace}-{}-01", "0".repeat(16)), None),
            ("short",         format!("00-{trace}-{span}"),           None),
            ("empty",         String::new(),                          None),
        ];
        for (name, text, want) in cases {
            let got = TraceParent::parse(&text);
            assert_eq!(got.as_ref().map(|parent| parent.is_sampled), want, "{name}");
            if name == "sampled" {
                assert_eq!(got.unwrap().to_string(), text);
            }
        }
    }
}
