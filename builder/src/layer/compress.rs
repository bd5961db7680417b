//! Layers compressed for the way out: same input, same bytes, whatever the number of threads.
//!
//! zstd runs with at least one worker: with none it would cut its blocks elsewhere.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;

use zstd::zstd_safe::CParameter;

use super::gzip::{GZIP_LEVEL, GzipWriter, gzip_level_writer};

/// zstd's level: its own default.
const ZSTD_LEVEL: u8 = 3;

/// Plain bytes of one job of zstd's. Its own choice, four windows, is 8 MiB, of which it holds about
/// eight beside each other.
const ZSTD_JOB: u32 = 2 << 20;

/// Entries (as powers of two) of the tables of matches at zstd's own level: half of what it takes
/// itself, so that they fit a core's cache beside what is read. Measured on a layer of programs and
/// noise: a tenth less time in the compressor, 0.4 % more bytes.
const ZSTD_LONG_TABLE: u32 = 16;
const ZSTD_SHORT_TABLE: u32 = 15;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// What every registry and every engine takes.
    #[default]
    Gzip,
    /// gzip whose files can be fetched one by one (stargz-snapshotter, `docs/estargz.md`).
    Estargz,
    /// Smaller and faster; needs a reader of this decade.
    Zstd,
}

impl Compression {
    /// All of them, as they are named.
    pub const ALL: [Self; 4] = [Self::Uncompressed, Self::Gzip, Self::Estargz, Self::Zstd];

    /// Parses the name that BuildKit has for it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == text)
    }

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Estargz => "estargz",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the levels that it has; a level means nothing to a plain tar.
    #[must_use]
    pub const fn levels(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Gzip | Self::Estargz => 0..=12,
            Self::Uncompressed | Self::Zstd => 0..=22,
        }
    }

    /// Returns the level that `asked` comes to. For zstd 0 is its default, as for BuildKit.
    pub(crate) fn level(self, asked: Option<u8>) -> u8 {
        match (self, asked) {
            (Self::Uncompressed, _) => 0,
            (Self::Gzip | Self::Estargz, None) => GZIP_LEVEL,
            (Self::Zstd, None | Some(0)) => ZSTD_LEVEL,
            (_, Some(level)) => level.min(*self.levels().end()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why something cannot be compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The compressor refused its input, which it never should.
    #[error("the compressor failed")]
    Compressor,
    /// The output takes no more.
    #[error("could not write compressed data")]
    Io(#[from] io::Error),
    /// The layer cannot be read as a tar, which only eStargz needs.
    #[error("could not read the layer")]
    Tar(#[from] super::TarError),
}

impl From<CompressError> for io::Error {
    fn from(error: CompressError) -> Self {
        match error {
            CompressError::Io(error) => error,
            other => Self::other(other),
        }
    }
}

/// Compresses a tar as it comes, in any form whose bytes hold the same tar.
pub enum StreamWriter<W: Write> {
    /// As it is.
    Plain(W),
    /// See [`super::gzip_writer`].
    Gzip(GzipWriter<W>),
    /// See [`zstd_writer`].
    Zstd(ZstdWriter<W>),
}

impl<W: Write> fmt::Debug for StreamWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter").finish_non_exhaustive()
    }
}

impl<W: Write> StreamWriter<W> {
    /// Compresses with `compression` at `level` on `threads` threads; eStargz, which needs the
    /// files and not their tar, becomes plain gzip here.
    ///
    /// # Errors
    ///
    /// [`CompressError::Io`] when the compressor cannot be set up.
    pub fn new(
        out: W,
        compression: Compression,
        level: Option<u8>,
        threads: NonZeroUsize,
    ) -> Result<Self, CompressError> {
        let level = compression.level(level);
        Ok(match compression {
            Compression::Uncompressed => Self::Plain(out),
            Compression::Gzip | Compression::Estargz => {
                Self::Gzip(gzip_level_writer(out, level, threads))
            }
            Compression::Zstd => Self::Zstd(zstd_level_writer(out, level, threads)?),
        })
    }

    /// Compresses what is left and returns the output, flushed.
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn finish(self) -> Result<W, CompressError> {
        match self {
            Self::Plain(mut out) => {
                out.flush()?;
                Ok(out)
            }
            Self::Gzip(writer) => writer.finish(),
            Self::Zstd(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for StreamWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(writer) => writer.write(bytes),
            Self::Zstd(writer) => writer.write(bytes),
        }
    }

    /// Writes nothing yet: where blocks end must not depend on who flushes when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses to zstd on `threads` threads. Call [`ZstdWriter::finish`] at the end.
///
/// # Errors
///
/// [`CompressError::Io`] when the compressor cannot be set up.
pub fn zstd_writer<W: Write>(
    out: W,
    threads: NonZeroUsize,
) -> Result<ZstdWriter<W>, CompressError> {
    zstd_level_writer(out, ZSTD_LEVEL, threads)
}

fn zstd_level_writer<W: Write>(
    out: W,
    level: u8,
    threads: NonZeroUsize,
) -> Result<ZstdWriter<W>, CompressError> {
    let mut encoder = zstd::Encoder::new(out, i32::from(level))?;
    encoder.multithread(u32::try_from(threads.get()).unwrap_or(u32::MAX))?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
    if level == ZSTD_LEVEL {
        encoder.set_parameter(CParameter::HashLog(ZSTD_LONG_TABLE))?;
        encoder.set_parameter(CParameter::ChainLog(ZSTD_SHORT_TABLE))?;
    }
    Ok(ZstdWriter { encoder })
}

/// See [`zstd_writer`].
pub struct ZstdWriter<W: Write> {
    encoder: zstd::Encoder<'static, W>,
}

impl<W: Write> fmt::Debug for ZstdWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdWriter").finish_non_exhaustive()
    }
}

impl<W: Write> ZstdWriter<W> {
    /// Compresses what is left and returns the output, flushed.
    ///
    /// # Errors
    ///
    /// [`CompressError::Io`].
    pub fn finish(self) -> Result<W, CompressError> {
        let mut out = self.encoder.finish()?;
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for ZstdWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encoder.write(bytes)
    }

    /// Writes nothing yet: where blocks end must not depend on who flushes when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
