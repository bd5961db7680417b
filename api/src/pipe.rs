//! Bytes between async bodies and blocking readers and writers, through bounded channels.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Chunks on their way: enough to keep both ends busy, few enough to bound memory.
const CHUNKS: usize = 16;

/// Bytes written before a chunk is sent.
const CHUNK_BYTES: usize = 64 << 10;

/// A sender that is silent for longer has gone away.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// What travels towards a [`ChunkReader`]. The end is told, so that a sender which vanished is not
/// taken for one which is done.
type Incoming = Option<io::Result<Bytes>>;

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// How long the sender may be waited for in all.
    pub(crate) time: Duration,
}

/// Makes a reader of `chunks`, and the future that feeds it: both must run at once.
pub(crate) fn reader<S, E>(chunks: S, limit: u64) -> (ChunkReader, impl Future<Output = ()> + Send)
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: std::error::Error,
{
    upload(chunks, Upload { bytes: limit, time: Duration::MAX })
}

/// Makes a [`reader`] whose sender is given up when it takes too long.
pub(crate) fn upload<S, E>(
    chunks: S,
    limit: Upload,
) -> (ChunkReader, impl Future<Output = ()> + Send)
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: std::error::Error,
{
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (ChunkReader { receiver, chunk: Bytes::new(), is_done: false }, feed(chunks, limit, sender))
}

async fn feed<S, E>(chunks: S, limit: Upload, sender: mpsc::Sender<Incoming>)
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: std::error::Error,
{
    let mut chunks = pin!(chunks);
    let Upload { bytes: mut left, time: mut patience } = limit;
    loop {
        let since = Instant::now();
        let next = tokio::time::timeout(IDLE_LIMIT.min(patience), chunks.next()).await;
        let next = next.map(|next| next.map(|chunk| chunk.map_err(|error| broken(&error))));
        // What the reader takes its time for is not the sender's.
        patience = patience.saturating_sub(since.elapsed());
        let incoming = match next {
            Err(_) => Some(Err(late(patience, limit.time))),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some(Err(error)),
            Ok(Some(Ok(chunk))) => match left.checked_sub(chunk.len() as u64) {
                Some(rest) => {
                    left = rest;
                    Some(Ok(chunk))
                }
                None => Some(Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("the upload is larger than the limit of {} bytes", limit.bytes),
                ))),
            },
        };
        let is_last = !matches!(incoming, Some(Ok(_)));
        // A reader that left has read all that it wants.
        if sender.send(incoming).await.is_err() || is_last {
            return;
        }
    }
}

fn broken(error: &dyn std::error::Error) -> io::Error {
    let what = format!("the upload broke off: {}", builder::causes(error).join(": "));
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

fn late(patience: Duration, limit: Duration) -> io::Error {
    let what = if patience.is_zero() {
        format!("the upload took longer than {} seconds", limit.as_secs())
    } else {
        format!("nothing was sent for {} seconds", IDLE_LIMIT.as_secs())
    };
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Reads what arrives; for blocking code only.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    receiver: mpsc::Receiver<Incoming>,
    chunk: Bytes,
    is_done: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.is_done {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Some(Ok(chunk))) => self.chunk = chunk,
                Some(Some(Err(error))) => return Err(error),
                Some(None) => self.is_done = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the sender of the bytes went away",
                    ));
                }
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

/// Makes a writer and the stream of what is written. `fail` on the second half ends the stream
/// with an error, so that a half-written body is not taken for a whole one.
pub(crate) fn writer() -> (ChunkWriter, WriterEnd, mpsc::Receiver<io::Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let end = WriterEnd(sender.clone());
    (ChunkWriter { sender, chunk: BytesMut::new() }, end, receiver)
}

/// Sends what is written; for blocking code only.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: BytesMut,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = self.chunk.split().freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader went away"))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES);
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Tells the reader of a [`ChunkWriter`]'s stream how the writing ended.
#[derive(Debug)]
pub(crate) struct WriterEnd(mpsc::Sender<io::Result<Bytes>>);

impl WriterEnd {
    /// Ends the stream with `error`.
    pub(crate) async fn fail(self, error: impl std::error::Error) {
        let error = io::Error::other(builder::causes(&error).join(": "));
        // A reader that left needs no reason.
        drop(self.0.send(Err(error)).await);
    }
}

/// Turns the receiving end of a channel into a stream.
pub(crate) fn stream<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

#[cfg(test)]
mod tests {
    use builder::blocking;
    use futures_util::stream;

    use super::*;

    async fn read_all(chunks: Vec<Result<Bytes, io::Error>>, limit: u64) -> io::Result<Vec<u8>> {
        let (mut reader, feed) = reader(stream::iter(chunks), limit);
        let read = blocking::run(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let (read, ()) = tokio::join!(read, feed);
        read
    }

    #[tokio::test]
    async fn chunks_are_read_in_order_and_to_their_end() {
        let chunk = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        let broken = || Err(io::Error::other("reset"));
        #[rustfmt::skip]
        let cases = [
            ("two",        vec![chunk("ab"), chunk(""), chunk("c")], 10, Ok("abc")),
            ("none",       vec![],                                   10, Ok("")),
            ("at limit",   vec![chunk("abc")],                       3,  Ok("abc")),
            ("over limit", vec![chunk("ab"), chunk("cd")],           3,  Err("the upload is larger than the limit of 3 bytes")),
            ("broken",     vec![chunk("ab"), broken()],              10, Err("the upload broke off: reset")),
        ];
        for (name, chunks, limit, want) in cases {
            let got = read_all(chunks, limit).await;
            let got = got.map(|bytes| String::from_utf8(bytes).unwrap());
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{name}");
        }
    }

    #[tokio::test]
    async fn a_sender_that_vanished_is_an_error() {
        let (mut reader, feed) = reader(stream::empty::<Result<Bytes, io::Error>>(), 1);
        drop(feed);
        let error = blocking::run(move || reader.read(&mut [0; 1]).unwrap_err()).await;
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_sender_is_given_up() {
        let (sender, receiver) = mpsc::channel(1);
        let limit = Upload { bytes: 1, time: Duration::MAX };
        feed(stream::pending::<Result<Bytes, io::Error>>(), limit, sender).await;
        let mut receiver = receiver;
        let error = receiver.recv().await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_only_dawdles_is_given_up_in_the_end() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(IDLE_LIMIT / 2).await;
            Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
        });
        let (sender, mut receiver) = mpsc::channel(100);
        feed(drip, Upload { bytes: 100, time: 3 * IDLE_LIMIT }, sender).await;
        let mut last = None;
        while let Some(incoming) = receiver.recv().await {
            last = incoming;
        }
        let error = last.unwrap().unwrap_err();
        assert!(error.to_string().contains("longer than 180 seconds"), "{error}");
    }

    #[tokio::test]
    async fn what_is_written_is_streamed_and_failures_are_told() {
        let (mut writer, end, receiver) = writer();
        let written = blocking::run(move || {
            writer.write_all(&vec![7; 3 * CHUNK_BYTES + 5])?;
            writer.flush()
        });
        let failing = async { end.fail(io::Error::other("disk full")).await };
        let reading = stream(receiver).collect::<Vec<_>>();
        let (written, (), chunks) =
            tokio::join!(written, failing, tokio::time::timeout(IDLE_LIMIT, reading));
        written.unwrap();
        let chunks = chunks.unwrap();
        let bytes: usize = chunks.iter().flatten().map(Bytes::len).sum();
        assert_eq!(bytes, 3 * CHUNK_BYTES + 5);
        assert_eq!(chunks.iter().filter(|chunk| chunk.is_err()).count(), 1);
    }

    #[tokio::test]
    async fn a_writer_whose_reader_left_stops() {
        let (mut writer, _end, receiver) = writer();
        drop(receiver);
        let error =
            blocking::run(move || writer.write_all(&vec![0; CHUNK_BYTES]).unwrap_err()).await;
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
