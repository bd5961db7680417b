//! The events of a build, read while they are written.
//!
//! Invariant: a reader gets whole lines only, each once and in order, whoever writes them and
//! whenever it comes back: its place is a number of bytes, which it can name again.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::build_record::{header_line, is_running};
use crate::error::{AtPath, Result, found};

/// Bytes of the longest line that is read: one holds a Dockerfile.
const MAX_LINE: usize = 16 << 20;

/// A place in the events of a build.
#[derive(Debug)]
pub struct EventTail {
    dir: PathBuf,
    file: File,
    offset: u64,
}

/// Some events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLines {
    /// Whole lines; empty when there are no further ones yet.
    pub bytes: Vec<u8>,
    /// Where they begin in the record, in bytes.
    pub offset: u64,
    /// Whether the build had ended before they were read: then nothing follows an empty answer.
    pub is_over: bool,
}

impl EventTail {
    pub(crate) fn open(dir: &Path, after: Option<u64>) -> Result<Option<Self>> {
        let path = dir.join("events");
        let Some(file) = found(File::open(&path)).at("open", &path)? else { return Ok(None) };
        let header = header_line(&mut BufReader::new(&file)).at("read", &path)?.len() as u64;
        let length = file.metadata().at("read", &path)?.len();
        let offset = after.unwrap_or(header);
        let mut byte = [0];
        let is_line_end = (header.max(1)..=length).contains(&offset)
            && file.read_at(&mut byte, offset - 1).at("read", &path)? == 1
            && byte == *b"\n";
        Ok(is_line_end.then(|| Self { dir: dir.to_owned(), file, offset }))
    }

    /// Reads the next lines: about `limit` bytes, or one line that is longer. Blocking; waits for
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`](crate::StoreError::Io).
    pub fn read(&mut self, limit: usize) -> Result<EventLines> {
        let path = self.dir.join("events");
        // Asked first: what is written before the end is then seen.
        let is_over = !self.dir.exists() || !is_running(&self.dir)?;
        let offset = self.offset;
        // No more than what is there: many wait for a few lines each.
        let there = self.file.metadata().at("read", &path)?.len().saturating_sub(offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).saturating_add(1);
        let mut bytes = vec![0; there.min(limit).clamp(1, MAX_LINE)];
        loop {
            let count = read_full(&self.file, &mut bytes, offset).at("read", &path)?;
            let end = bytes[..count].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if end > 0 || count < bytes.len() || bytes.len() >= MAX_LINE {
                bytes.truncate(end);
                self.offset += end as u64;
                return Ok(EventLines { bytes, offset, is_over });
            }
            bytes.resize(MAX_LINE.min(bytes.len() * 4), 0);
        }
    }
}

/// Fills `buffer` as far as the file goes.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
