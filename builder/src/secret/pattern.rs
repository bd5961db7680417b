//! The forms in which a value comes to light: as it is, and as common programs encode it.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

/// Bytes of a pattern that are looked for at once; the rest is compared where they are found. It
/// bounds the memory of the automaton, whatever the length of the secrets.
const HEAD_BYTES: usize = 16;

/// A line of a secret of several lines is masked on its own from this length on.
const LINE_BYTES: usize = 8;

/// Line lengths of base64 programs (coreutils and MIME, PEM).
const BASE64_LINES: [usize; 2] = [76, 64];

/// How far a text that begins like a pattern goes on like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole pattern of this many bytes.
    Whole(usize),
    /// All of the text, which is too short to decide.
    Begun,
    /// Not a pattern.
    Nothing,
}

/// Texts to look for, any number and length of them.
pub(super) struct Patterns {
    texts: Vec<Zeroizing<Vec<u8>>>,
    heads: AhoCorasick,
    longest: usize,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patterns").field("texts", &self.texts.len()).finish_non_exhaustive()
    }
}

impl Patterns {
    /// Makes them of every text of at least `shortest` bytes; `None` if there is none.
    pub(super) fn new(
        texts: impl IntoIterator<Item = Zeroizing<Vec<u8>>>,
        shortest: usize,
    ) -> Option<Self> {
        let mut texts: Vec<_> = texts.into_iter().filter(|it| it.len() >= shortest).collect();
        texts.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
        texts.dedup();
        if texts.is_empty() {
            return None;
        }
        let heads = texts.iter().map(|text| &text[..text.len().min(HEAD_BYTES)]);
        let heads = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(heads);
        let heads = heads.expect("heads are a few bytes each, far from the automaton's limits");
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        Some(Self { texts, heads, longest })
    }

    /// Bytes of the longest.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Finds the first place in `text`, from `from` on, where a pattern may begin.
    pub(super) fn next_head(&self, text: &[u8], from: usize) -> Option<usize> {
        let input = Input::new(text).span(from..text.len());
        self.heads.find(input).map(|found| found.start())
    }

    /// Finds the first place in `text`, from `from` on, whose rest is too short to tell whether a
    /// pattern begins there. Asked only where [`Self::next_head`] has nothing more to say.
    pub(super) fn begun_at_end(&self, text: &[u8], from: usize) -> usize {
        let from = from.max(text.len().saturating_sub(HEAD_BYTES - 1));
        (from..text.len())
            .find(|&at| self.texts.iter().any(|pattern| pattern.starts_with(&text[at..])))
            .unwrap_or(text.len())
    }

    /// Compares the beginning of `text` with every pattern. The longest whole one counts, but one
    /// that is longer still and may yet come true goes first.
    pub(super) fn at_start(&self, text: &[u8]) -> Found {
        let may_come =
            |pattern: &Zeroizing<Vec<u8>>| pattern.len() > text.len() && pattern.starts_with(text);
        if self.texts.iter().any(may_come) { Found::Begun } else { self.whole_at_start(text) }
    }

    /// As [`Self::at_start`], of a text that nothing follows.
    pub(super) fn whole_at_start(&self, text: &[u8]) -> Found {
        let whole = self.texts.iter().filter(|pattern| text.starts_with(pattern));
        whole.map(|pattern| pattern.len()).max().map_or(Found::Nothing, Found::Whole)
    }
}

/// Returns `value` and what common programs make of it, each under its name.
pub(super) fn forms(value: &[u8]) -> Vec<(&'static str, Zeroizing<Vec<u8>>)> {
    let mut forms = vec![("as it is", Zeroizing::new(value.to_vec()))];
    for shift in 0..3 {
        for engine in [&STANDARD, &URL_SAFE] {
            forms.extend(base64(value, shift, engine).map(|text| ("in base64", text)));
        }
    }
    for upper in [false, true] {
        forms.push(("in hex", hex(value, upper)));
        for (kept, space) in [(URI_KEPT, &b"%20"[..]), (FORM_KEPT, b"+"), (PATH_KEPT, b"%20")] {
            forms.push(("URL-encoded", url(value, kept, space, upper)));
        }
    }
    forms.push(("in JSON", json(value)));
    forms
}

/// Returns the parts of a value that are masked on their own: its lines, and the lines that
/// base64 programs write.
pub(super) fn pieces(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let lines = value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let mut pieces: Vec<_> = lines
        .filter(|line| line.len() >= LINE_BYTES && line.len() < value.len())
        .map(|line| Zeroizing::new(line.to_vec()))
        .collect();
    let encoded = Zeroizing::new(STANDARD.encode(value));
    for width in BASE64_LINES {
        if encoded.len() > width {
            let lines = encoded.as_bytes().chunks(width).filter(|line| line.len() >= LINE_BYTES);
            pieces.extend(lines.map(|line| Zeroizing::new(line.to_vec())));
        }
    }
    pieces
}

/// Returns what stands for `value` in base64 when `shift` bytes come before it: the characters
/// that depend on nothing else, and those with the last one, which whatever follows may change.
fn base64(
    value: &[u8],
    shift: usize,
    engine: &base64::engine::GeneralPurpose,
) -> [Zeroizing<Vec<u8>>; 2] {
    let mut padded = Zeroizing::new(vec![0; shift]);
    padded.extend_from_slice(value);
    let text = Zeroizing::new(engine.encode(&*padded));
    // Six bits a character: one that holds a bit of what comes before says nothing.
    let start = (8 * shift).div_ceil(6);
    let certain = padded.len() * 8 / 6;
    let whole = (padded.len() * 8).div_ceil(6);
    [certain, whole]
        .map(|end| Zeroizing::new(text.as_bytes().get(start..end).unwrap_or_default().to_vec()))
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn digits(byte: u8, upper: bool) -> [u8; 2] {
    let table = if upper { UPPER } else { LOWER };
    [table[usize::from(byte >> 4)], table[usize::from(byte & 15)]]
}

fn hex(value: &[u8], upper: bool) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(value.iter().flat_map(|&byte| digits(byte, upper)).collect())
}

/// Kept as they are by RFC 3986 encoders (`encodeURIComponent`, `jq @uri`, Python's `quote`).
const URI_KEPT: &[u8] = b"-_.~";

/// Kept by form encoders (URL Standard, "application/x-www-form-urlencoded").
const FORM_KEPT: &[u8] = b"-_.*";

/// Kept by encoders of whole paths.
const PATH_KEPT: &[u8] = b"-_.~/";

fn url(value: &[u8], kept: &[u8], space: &[u8], upper: bool) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(3 * value.len()));
    for &byte in value {
        match byte {
            b' ' => text.extend_from_slice(space),
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => text.push(byte),
            _ => {
                text.push(b'%');
                text.extend_from_slice(&digits(byte, upper));
            }
        }
    }
    text
}

/// Escapes as JSON writers must (RFC 8259, section 7).
fn json(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * value.len()));
    for &byte in value {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            _ => text.push(byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_of_base64_is_found() {
        let value = b"s3cr3t/v@lue+";
        let forms = forms(value);
        for before in 0..7 {
            for after in 0..7 {
                let (x, y) = (b"xxxxxxx", b"yyyyyyy");
                let text = [&x[..before], value, &y[..after]];
                for engine in [&STANDARD, &URL_SAFE] {
                    let text = engine.encode(text.concat());
                    let is_found = forms.iter().any(|(name, form)| {
                        *name == "in base64"
                            && form.len() > 15
                            && text.as_bytes().windows(form.len()).any(|at| at == &form[..])
                    });
                    assert!(is_found, "{before} before, {after} after: {text}");
                }
            }
        }
    }

    #[test]
    fn encodings() {
        let value = b"a b/\"~\xff";
        let forms = forms(value);
        for want in [
            "6120622f227eff",
            "6120622F227EFF",
            "a%20b%2F%22~%FF",
            "a%20b%2f%22~%ff",
            "a+b%2F%22%7E%FF",
            "a%20b/%22~%FF",
        ] {
            assert!(forms.iter().any(|(_, form)| &form[..] == want.as_bytes()), "{want}");
        }
        assert!(forms.iter().any(|(_, form)| &form[..] == b"a b/\\\"~\xff"));
    }

    #[test]
    fn lines_are_pieces() {
        let text = |piece: &Zeroizing<Vec<u8>>| String::from_utf8(piece.to_vec()).unwrap();
        let pieces: Vec<String> =
            pieces(b"{\n  \"password\": \"x\"\n}\n").iter().map(text).collect();
        assert_eq!(pieces, ["\"password\": \"x\""]);
    }
}
