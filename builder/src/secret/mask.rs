//! Blotting secrets out of a step's output, whatever borders its pieces have.

use std::sync::Arc;

use super::pattern::{Found, Patterns, forms, pieces};
use super::{MASKED_BYTES, Secrets};

/// What stands in place of a value.
const MASK: &[u8] = b"***";

/// What is masked in every output of one build.
#[derive(Clone, Debug)]
pub(crate) struct Masker(Arc<Patterns>);

impl Masker {
    /// Takes all of a build's secrets: a value may come to a step by other ways than its mount.
    /// `None` if there is nothing to mask.
    pub(crate) fn new(secrets: &Secrets) -> Option<Self> {
        let texts = secrets.values().flat_map(|secret| {
            let value = secret.trimmed();
            let forms = forms(value).into_iter().map(|(_, text)| text);
            let wanted = value.len() >= MASKED_BYTES;
            forms.chain(pieces(value)).filter(move |_| wanted)
        });
        Patterns::new(texts, MASKED_BYTES).map(|patterns| Self(Arc::new(patterns)))
    }
}

/// One stream of output on its way through. Bytes that may be the beginning of a secret wait for
/// those after them; everything else passes at once.
#[derive(Debug)]
pub(crate) struct OutputMask {
    masker: Option<Masker>,
    held: Vec<u8>,
    /// How many of the held bytes belong to a secret that a mask stands for already.
    covered: usize,
    out: Vec<u8>,
}

impl OutputMask {
    /// Begins a stream; without a masker everything passes.
    pub(crate) fn new(masker: Option<Masker>) -> Self {
        Self { masker, held: Vec::new(), covered: 0, out: Vec::new() }
    }

    /// Takes the next bytes, and gives to `pass` what is sure by now.
    pub(crate) fn push(&mut self, bytes: &[u8], pass: impl FnMut(&[u8])) {
        self.advance(bytes, false, pass);
    }

    /// Gives to `pass` what was held back.
    pub(crate) fn finish(&mut self, pass: impl FnMut(&[u8])) {
        self.advance(b"", true, pass);
    }

    fn advance(&mut self, bytes: &[u8], is_last: bool, mut pass: impl FnMut(&[u8])) {
        let Some(masker) = &self.masker else {
            if !bytes.is_empty() {
                pass(bytes);
            }
            return;
        };
        self.out.clear();
        if self.held.is_empty() {
            let (kept, covered) = masker.0.blot(bytes, self.covered, is_last, &mut self.out);
            self.held.extend_from_slice(&bytes[kept..]);
            self.covered = covered;
        } else {
            self.held.extend_from_slice(bytes);
            let (kept, covered) = masker.0.blot(&self.held, self.covered, is_last, &mut self.out);
            self.held.drain(..kept);
            self.covered = covered;
        }
        debug_assert!(self.held.len() < masker.0.longest(), "only a beginning is held");
        if !self.out.is_empty() {
            pass(&self.out);
        }
    }
}

impl Patterns {
    /// Writes `text` to `out` with every pattern masked, up to where the end of the text leaves it
    /// open whether one begins. Returns that place, and how many bytes from there on belong to a
    /// pattern masked already; `covered` is the same of `text`.
    fn blot(
        &self,
        text: &[u8],
        covered: usize,
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> (usize, usize) {
        // Everything before `end` is written or masked.
        let (mut end, mut from) = (covered, 0);
        let open = loop {
            let Some(start) = self.next_head(text, from) else {
                break if is_last { text.len() } else { self.begun_at_end(text, from) };
            };
            let mut found = self.at_start(&text[start..]);
            if is_last && found == Found::Begun {
                found = self.whole_at_start(&text[start..]);
            }
            match found {
                Found::Begun => break start,
                Found::Nothing => {}
                Found::Whole(length) => {
                    if start >= end {
                        out.extend_from_slice(&text[end..start]);
                        out.extend_from_slice(MASK);
                    }
                    end = end.max(start + length);
                }
            }
            // Patterns may overlap: the next may begin inside this one.
            from = start + 1;
        };
        if open > end {
            out.extend_from_slice(&text[end..open]);
        }
        (open, end.saturating_sub(open))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::secret::Secret;

    fn masker(values: &[&str]) -> Masker {
        let secrets = values.iter().map(|&value| (value.to_owned(), Secret::from(value)));
        Masker::new(&secrets.collect()).unwrap()
    }

    fn mask_whole(masker: &Masker, text: &[u8]) -> Vec<u8> {
        let mut mask = OutputMask::new(Some(masker.clone()));
        let mut out = Vec::new();
        mask.push(text, |bytes| out.extend_from_slice(bytes));
        mask.finish(|bytes| out.extend_from_slice(bytes));
        out
    }

    /// Masks `text` in pieces of every size and checks that the borders change nothing.
    fn mask(values: &[&str], text: &[u8]) -> String {
        let masker = masker(values);
        let whole = mask_whole(&masker, text);
        for size in 1..=text.len() {
            let mut mask = OutputMask::new(Some(masker.clone()));
            let mut out = Vec::new();
            for piece in text.chunks(size) {
                mask.push(piece, |bytes| out.extend_from_slice(bytes));
            }
            mask.finish(|bytes| out.extend_from_slice(bytes));
            assert_eq!(out, whole, "in pieces of {size}");
        }
        String::from_utf8_lossy(&whole).into_owned()
    }

    #[test]
    fn values_are_masked_whatever_the_borders() {
        #[rustfmt::skip]
        let cases: &[(&str, &[&str], &str, &str)] = &[
            ("plain",           &["hunter2"],             "a hunter2 b",                 "a *** b"),
            ("twice",           &["hunter2"],             "hunter2hunter2",              "******"),
            ("begun only",      &["hunter2"],             "hunter hunter",               "hunter hunter"),
            ("line end",        &["hunter2\n"],           "x=hunter2;",                  "x=***;"),
            ("nested",          &["abcd", "abcdefgh"],    "abcdefgh abcdefg",            "*** ***efg"),
            ("overlapping",     &["abcdef", "defghi"],    "xabcdefghix",                 "x***x"),
            ("overlap begun",   &["abcdef", "defghi"],    "xabcdefghx",                  "x***ghx"),
            ("self-similar",    &["aaaa"],                "baaaaaaab",                   "b***b"),
            ("too short",       &["abc", "long enough"],  "abc",                         "abc"),
            ("longer than head", &["0123456789abcdefXYZ"], "0123456789abcdefXY 0123456789abcdefXYZ", "0123456789abcdefXY ***"),
            ("hex",             &["hunter2"],             "68756e74657232 68756E74657232", "*** ***"),
            ("url",             &["a b&c/d"],             "q=a%20b%26c%2Fd a+b%26c%2fd", "q=*** ***"),
            ("lines",           &["first line\nsecond line"], "> first line\n> second line\n", "> ***\n> ***\n"),
        ];
        for (name, values, text, want) in cases {
            assert_eq!(mask(values, text.as_bytes()), *want, "{name}");
        }
    }

    #[test]
    fn base64_is_masked_at_every_alignment() {
        for before in 0..3 {
            let text = STANDARD.encode(format!("{}correct horse battery!", "u".repeat(before)));
            let masked = mask(&["correct horse battery"], text.as_bytes());
            assert!(masked.contains("***"), "{masked}");
            assert!(masked.len() <= 9, "at most the border characters are left: {masked}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let masker = masker(&["hunter2"]);
        let text = b"\xff\xfe\x00 hunter2 \x1b[31m\xc3";
        assert_eq!(mask_whole(&masker, text), b"\xff\xfe\x00 *** \x1b[31m\xc3");
    }
}
