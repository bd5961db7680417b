//! Bytes that steps write, as texts.

use builder::OutputStream;

/// Takes the whole characters off `bytes`; at most three bytes of a cut one stay. What is no UTF-8
/// comes out as U+FFFD.
pub(super) fn take_text(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) => text.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len() - cut_at_end(bytes),
    };
    let rest = bytes.split_off(whole);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Counts the bytes at the end that may be the beginning of a character.
fn cut_at_end(bytes: &[u8]) -> usize {
    let is_cut = |length: &usize| {
        let tail = &bytes[bytes.len() - length..];
        std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none() && e.valid_up_to() == 0)
    };
    (1..=3.min(bytes.len())).find(is_cut).unwrap_or(0)
}

/// Docker's classic builder marks what went to standard error with red.
pub(super) fn colored(stream: OutputStream, text: &str) -> String {
    match stream {
        OutputStream::Stdout => text.to_owned(),
        OutputStream::Stderr => format!("\x1b[91m{text}\x1b[0m"),
    }
}
