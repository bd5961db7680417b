//! The exec form: a JSON array of strings, with the place of each element.
//!
//! Go's decoder decides what is JSON for the peers; it differs from stricter ones in reading an
//! unpaired surrogate escape as U+FFFD.

use std::ops::Range;

/// What an argument text is, seen as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exec {
    /// An array of strings, each with its range in the text, quotes included.
    Array(Vec<(String, Range<usize>)>),
    /// Valid JSON, an array, but one that holds something else than strings.
    NotStrings,
    /// Text.
    Text,
}

/// Reads `text` as a JSON array of strings.
pub(crate) fn parse(text: &str) -> Exec {
    let start = text.len() - text.trim_start().len();
    if !text[start..].starts_with('[') {
        return Exec::Text;
    }
    let mut reader = Reader { bytes: text.as_bytes(), at: start + 1 };
    if let Some(array) = reader.array(text) {
        return Exec::Array(array);
    }
    if !text.trim_end().ends_with(']') {
        return Exec::Text;
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(&text[start..]) {
        Ok(_) => Exec::NotStrings,
        Err(_) => Exec::Text,
    }
}

/// Says whether a text that is not JSON was probably meant to be: `['a']`, `["a",]`.
///
/// `[ "$a" = b ]` is a shell's test command and stays unsuspected.
pub(crate) fn is_meant(text: &str) -> bool {
    let Some(body) = text.trim_start().strip_prefix('[') else { return false };
    if body.starts_with(['"', '\'']) {
        return true;
    }
    body.trim_start().starts_with(['"', '\'']) && (body.contains("\",") || body.contains("',"))
}

struct Reader<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Reads elements up to the closing bracket and the end of the text.
    fn array(&mut self, text: &str) -> Option<Vec<(String, Range<usize>)>> {
        let mut elements = Vec::new();
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                self.blanks();
                let start = self.at;
                let value = self.string(text)?;
                elements.push((value, start..self.at));
                self.blanks();
                self.at += 1;
                match self.bytes.get(self.at - 1) {
                    Some(b',') => {}
                    Some(b']') => break,
                    _ => return None,
                }
            }
        }
        self.blanks();
        (self.at == self.bytes.len()).then_some(elements)
    }

    fn string(&mut self, text: &str) -> Option<String> {
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        let mut value = String::new();
        let mut plain = self.at;
        loop {
            match self.peek()? {
                b'"' => {
                    value.push_str(&text[plain..self.at]);
                    self.at += 1;
                    return Some(value);
                }
                b'\\' => {
                    value.push_str(&text[plain..self.at]);
                    self.at += 1;
                    value.push(self.escape()?);
                    plain = self.at;
                }
                byte if byte < 0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let pair = matches!(first, 0xd800..=0xdbff)
                    .then(|| self.low_surrogate())
                    .flatten()
                    .and_then(|low| char::from_u32(0x10000 + ((first - 0xd800) << 10) + low));
                pair.or_else(|| char::from_u32(first)).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return None,
        })
    }

    /// Reads the second half of a surrogate pair, if it follows; otherwise reads nothing.
    fn low_surrogate(&mut self) -> Option<u32> {
        let back = self.at;
        if self.bytes.get(self.at..self.at + 2) == Some(b"\\u") {
            self.at += 2;
            if let Some(low @ 0xdc00..=0xdfff) = self.hex() {
                return Some(low - 0xdc00);
            }
        }
        self.at = back;
        None
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        let value = digits
            .iter()
            .try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))?;
        self.at += 4;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_form_or_text() {
        let array = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        #[rustfmt::skip]
        let cases: [(&str, &str, Option<Vec<String>>); 14] = [
            ("words",              r#"["a", "b c"]"#,      array(&["a", "b c"])),
            ("empty",              "[]",                   array(&[])),
            ("blanks",             "  [ \"a\" ]  ",        array(&["a"])),
            ("escapes",            r#"["\"\\\/\n\u0041"]"#, array(&["\"\\/\nA"])),
            ("surrogate pair",     r#"["\ud83d\ude00"]"#,  array(&["\u{1f600}"])),
            ("lone surrogate",     r#"["\ud83dx"]"#,       array(&["\u{fffd}x"])),
            ("non-ascii",          r#"["é"]"#,             array(&["é"])),
            ("single quotes",      "['a']",                None),
            ("trailing comma",     r#"["a",]"#,            None),
            ("text behind",        r#"["a"] && b"#,        None),
            ("unclosed",           r#"["a""#,              None),
            ("bare word",          r#"["a", b]"#,          None),
            ("raw tab",            "[\"a\tb\"]",           None),
            ("a test command",     "[ -f x ]",             None),
        ];
        for (name, text, want) in cases {
            let got = match parse(text) {
                Exec::Array(words) => Some(words.into_iter().map(|(word, _)| word).collect()),
                Exec::NotStrings | Exec::Text => None,
            };
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(parse("[1]"), Exec::NotStrings);
        assert_eq!(parse(r#"["a", ["b"]]"#), Exec::NotStrings);
        assert_eq!(parse("[1, a]"), Exec::Text);
    }

    #[test]
    fn meant_as_json() {
        #[rustfmt::skip]
        let cases = [
            ("['a', 'b']", true), (r#"["a",]"#, true), (r#"[ "a", b ]"#, true),
            (r#"[ "$a" = b ] && c"#, false), ("[ -f x ]", false), ("echo [", false),
        ];
        for (text, want) in cases {
            assert_eq!(is_meant(text), want, "{text}");
        }
    }
}
