//! HTTP by hand over a unix socket: requests that no client would send, and answers byte by byte.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer, to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// Reads a status line, a head and the rest; nothing where there is no answer.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let status = text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some(Self { status, body: body.to_owned() })
    }

    /// Reads the body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request's head and what `body` has of its body: `request` is `METHOD PATH`. HTTP/1.0
/// has the answer end with the connection, and no chunks in it.
pub(crate) fn open(socket: &Path, request: &str, headers: &[&str], body: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the engine listens");
    let mut head = format!("{request} HTTP/1.0\r\nHost: x\r\n");
    for header in headers {
        write!(head, "{header}\r\n").expect("memory takes it");
    }
    head += "\r\n";
    // Who refuses by the head alone may be gone before it has read all of this.
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
    stream
}

/// Sends a request with a whole body, and waits for the end of the answer.
pub(crate) fn ask(socket: &Path, request: &str, headers: &[&str], body: &[u8]) -> Answer {
    let length = format!("Content-Length: {}", body.len());
    let stream = open(socket, request, &[headers, &[&length]].concat(), body);
    let bytes = rest(stream);
    Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer to {request}: {bytes:?}"))
}

/// Reads to the end, however the connection ends.
pub(crate) fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    bytes
}

/// Adds what has come by now to `seen`.
pub(crate) fn read_some(stream: &mut UnixStream, seen: &mut Vec<u8>) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("it is no zero");
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(length) => seen.extend_from_slice(&buffer[..length]),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        Err(error) => panic!("the connection broke: {error}"),
    }
    stream.set_read_timeout(None).expect("none is fine");
}

/// A header of requests with a context.
pub(crate) const TAR: &str = "Content-Type: application/x-tar";

/// A context of the files given as (name, text).
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}
