//! Bytes of a step, cut anywhere, to lines.

/// A line longer than this (bytes) is shown in parts, so that memory stays bounded whatever a step
/// writes.
const LINE_LIMIT: usize = 64 << 10;

/// Holds the line that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// Takes `bytes` and hands every line that they complete to `show`, lossily decoded. Of a line
    /// that overwrites itself by carriage returns the last state is shown.
    pub(crate) fn push(&mut self, bytes: &[u8], mut show: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in part.chunks(LINE_LIMIT) {
                self.0.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.0.len() >= LINE_LIMIT {
                    show(&self.take());
                }
            }
        }
    }

    /// Hands the last line to `show`, if it has no line break at its end.
    pub(crate) fn finish(&mut self, mut show: impl FnMut(&str)) {
        if !self.0.is_empty() {
            show(&self.take());
        }
    }

    fn take(&mut self) -> String {
        let line = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let last = line.rsplit(|&byte| byte == b'\r').next().unwrap_or(line);
        let text = String::from_utf8_lossy(last).into_owned();
        self.0.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_taken_apart() {
        type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [&'a str]);
        #[rustfmt::skip]
        let cases: [Case<'_>; 8] = [
            ("whole",            &[b"a\nb\n"],             &["a", "b"]),
            ("cut",              &[b"a", b"b\nc", b"d\n"], &["ab", "cd"]),
            ("no break at end",  &[b"a\nb"],               &["a", "b"]),
            ("empty lines",      &[b"\n\na\n"],            &["", "", "a"]),
            ("crlf",             &[b"a\r", b"\nb\r\n"],    &["a", "b"]),
            ("overwritten",      &[b"10%\r100%\n"],        &["100%"]),
            ("invalid utf-8",    &[b"a\xffb\n"],           &["a\u{fffd}b"]),
            ("nothing",          &[b""],                   &[]),
        ];
        for (name, input, want) in cases {
            let mut got = Vec::new();
            let mut buffer = LineBuffer::default();
            for bytes in input {
                buffer.push(bytes, |line| got.push(line.to_owned()));
            }
            buffer.finish(|line| got.push(line.to_owned()));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn an_endless_line_comes_out_whole_in_parts() {
        let mut got = String::new();
        let mut buffer = LineBuffer::default();
        for _ in 0..5 {
            buffer.push(&vec![b'x'; LINE_LIMIT / 2 + 7], |part| {
                assert!(part.len() <= 2 * LINE_LIMIT);
                got.push_str(part);
            });
        }
        buffer.finish(|part| got.push_str(part));
        assert_eq!(got.len(), 5 * (LINE_LIMIT / 2 + 7));
    }
}
