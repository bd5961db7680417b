//! Compressed archives read, by what their first bytes are and not by what they are called.
//!
//! Invariant: nobody can make us produce without bound. Every decompressor here is part of this
//! program; none is a program of the host or of an image.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use liblzma::stream::{CONCATENATED, Stream};

/// Output that is allowed whatever the input was: below it a high ratio harms nobody.
const FREE_BYTES: u64 = 1 << 30;

/// Plain bytes for one compressed byte beyond that; gzip cannot reach it, zstd only for holes.
const MAX_RATIO: u64 = 4096;

/// Memory that an xz archive may ask for: four times what `xz -9` does.
const XZ_MEMORY: u64 = 256 << 20;

/// Longest magic number, and what a tar's own first bytes are taken from.
const MAGIC: usize = 6;

/// Why compressed data cannot be read. It arrives inside of an [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// More plain bytes than allowed.
    #[error("the data exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// A decompression bomb.
    #[error("the data expands to more than {MAX_RATIO} times its compressed size")]
    Ratio,
}

/// Ends with an error, not with an end of file, after `limit` bytes.
#[derive(Debug)]
pub struct LimitedReader<R> {
    inner: R,
    read: u64,
    limit: u64,
    /// Bytes that went into a decompressor, where there is one.
    compressed: Option<Arc<AtomicU64>>,
}

impl<R: Read> LimitedReader<R> {
    /// Lets `limit` bytes pass.
    pub fn new(inner: R, limit: u64) -> Self {
        Self { inner, read: 0, limit, compressed: None }
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        if self.read > self.limit {
            return Err(io::Error::other(DecompressError::TooLarge { limit: self.limit }));
        }
        if let Some(compressed) = &self.compressed {
            let allowed = compressed.load(Ordering::Relaxed).saturating_mul(MAX_RATIO);
            if self.read > allowed.saturating_add(FREE_BYTES) {
                return Err(io::Error::other(DecompressError::Ratio));
            }
        }
        Ok(read)
    }
}

/// Counts what a decompressor takes in.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Returns a reader of the plain bytes of `reader`, which may be gzip (of any number of members),
/// zstd, bzip2, xz or none of these, and which yields `limit` bytes at most.
///
/// # Errors
///
/// What `reader` says on its first bytes, and what a decompressor says of its header. What comes
/// later is an error of the returned reader, [`DecompressError`] among them.
pub fn decompress<'a>(
    mut reader: impl Read + Send + 'a,
    limit: u64,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = Vec::with_capacity(MAGIC);
    (&mut reader).take(MAGIC as u64).read_to_end(&mut magic)?;
    let format = format_of(&magic);
    let count = Arc::new(AtomicU64::new(0));
    let inner = Counted { inner: Cursor::new(magic).chain(reader), count: Arc::clone(&count) };
    let plain: Box<dyn Read + Send + 'a> = match format {
        Format::Plain => return Ok(Box::new(LimitedReader::new(inner, limit))),
        Format::Gzip => {
            let inner = BufReader::with_capacity(64 * 1024, inner);
            Box::new(flate2::bufread::MultiGzDecoder::new(inner))
        }
        Format::Zstd => Box::new(zstd::Decoder::new(inner)?),
        Format::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(inner)),
        Format::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::read::XzDecoder::new_stream(inner, stream))
        }
    };
    Ok(Box::new(LimitedReader { inner: plain, read: 0, limit, compressed: Some(count) }))
}

#[derive(Clone, Copy)]
enum Format {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

fn format_of(magic: &[u8]) -> Format {
    match magic {
        [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
        // A frame, or a skippable one before it (RFC 8878, 3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        [b'B', b'Z', b'h', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Format::Xz,
        _ => Format::Plain,
    }
}
