//! Sparse files of archives: only what is not a hole is stored, with a map of where it belongs.
//!
//! Four forms are about, all of them GNU tar's and all read by Go's reader (GNU tar manual, "Storing
//! Sparse Files"): a map in the header and blocks behind it (type `S`), and in PAX records by pairs
//! (0.0) or in one list (0.1), or at the head of the content (1.0). Invariant: a map that does not
//! ascend, reaches beyond the file, or promises another number of bytes than are stored is refused.

use std::collections::VecDeque;

use super::header::{BLOCK, number};
use super::read::TarError;

/// Pieces of one file at most.
const MAX_PIECES: usize = 1 << 16;

/// Prefix of the PAX records.
pub(super) const RECORD: &[u8] = b"GNU.sparse.";

/// Refuses a map.
const BAD_MAP: TarError = TarError::Number { field: "map of a sparse file" };

/// A piece of a file that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

/// What of a file is stored, from the place on that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseMap {
    pieces: VecDeque<Piece>,
    /// Bytes of the file that were read or skipped.
    at: u64,
    /// Size of the whole file.
    size: u64,
}

impl SparseMap {
    /// Takes offsets and lengths, in turn, of a file of `size` bytes of which `stored` are there.
    pub(super) fn new(numbers: &[u64], size: u64, stored: u64) -> Result<Self, TarError> {
        if !numbers.len().is_multiple_of(2) {
            return Err(BAD_MAP);
        }
        let mut pieces = VecDeque::with_capacity(numbers.len() / 2);
        let (mut end, mut sum) = (0_u64, 0_u64);
        for pair in numbers.chunks_exact(2) {
            let piece = Piece { offset: pair[0], length: pair[1] };
            if piece.offset < end {
                return Err(BAD_MAP);
            }
            end = piece.offset.checked_add(piece.length).ok_or(BAD_MAP)?;
            sum += piece.length;
            if piece.length > 0 {
                pieces.push_back(piece);
            }
        }
        if end > size || sum != stored {
            return Err(BAD_MAP);
        }
        Ok(Self { pieces, at: 0, size })
    }

    /// Size of the whole file, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the hole that is next, 0 where stored bytes or the end are.
    pub(super) fn hole(&self) -> u64 {
        self.pieces.front().map_or(self.size, |piece| piece.offset) - self.at
    }

    /// Stored bytes up to the next hole.
    pub(super) fn stored(&self) -> u64 {
        if self.hole() > 0 { 0 } else { self.pieces.front().map_or(0, |piece| piece.length) }
    }

    /// Goes on by bytes that were read or skipped, at most by [`Self::hole`] or [`Self::stored`].
    pub(super) fn advance(&mut self, bytes: u64) {
        let is_stored = self.hole() == 0;
        self.at += bytes;
        if let Some(piece) = self.pieces.front_mut().filter(|_| is_stored) {
            piece.offset += bytes;
            piece.length -= bytes;
            if piece.length == 0 {
                self.pieces.pop_front();
            }
        }
    }
}

/// A map in old GNU headers: four pieces in the first, 21 in each block that follows.
#[derive(Debug)]
pub(super) struct OldMap {
    numbers: Vec<u64>,
    size: u64,
    /// Whether a further block follows.
    pub(super) continues: bool,
}

impl OldMap {
    /// Reads what the header holds.
    pub(super) fn of_header(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let size = field(&block[483..495])?;
        let mut map = Self { numbers: Vec::new(), size, continues: block[482] != 0 };
        map.read(&block[386..482])?;
        Ok(map)
    }

    /// Reads a block that follows.
    pub(super) fn add_block(&mut self, block: &[u8; BLOCK]) -> Result<(), TarError> {
        self.continues = block[504] != 0;
        self.read(&block[..504])
    }

    fn read(&mut self, fields: &[u8]) -> Result<(), TarError> {
        for pair in fields.chunks_exact(24) {
            // The first that is empty ends the map.
            if pair[0] == 0 || pair[12] == 0 {
                break;
            }
            self.numbers.extend([field(&pair[..12])?, field(&pair[12..])?]);
        }
        check_length(self.numbers.len() / 2)
    }

    /// Returns the map of a file of which `stored` bytes are there.
    pub(super) fn finish(self, stored: u64) -> Result<SparseMap, TarError> {
        SparseMap::new(&self.numbers, self.size, stored)
    }
}

fn field(bytes: &[u8]) -> Result<u64, TarError> {
    number(bytes).and_then(|number| u64::try_from(number).ok()).ok_or(BAD_MAP)
}

fn check_length(pieces: usize) -> Result<(), TarError> {
    if pieces > MAX_PIECES {
        return Err(TarError::Limit { what: "pieces of a sparse file", limit: MAX_PIECES as u64 });
    }
    Ok(())
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    /// The file's name, where that of the header is a stand-in.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    numbers: Vec<u64>,
    version: (Option<u64>, Option<u64>),
}

impl SparseRecords {
    /// Takes one record, its key without [`RECORD`].
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = || decimal(value).ok_or(BAD_MAP);
        match key {
            b"major" => self.version.0 = Some(number()?),
            b"minor" => self.version.1 = Some(number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            // Each piece has two records of its own, which no other parser of PAX allows for.
            b"offset" | b"numbytes" => {
                if (key == b"offset") != self.numbers.len().is_multiple_of(2) {
                    return Err(BAD_MAP);
                }
                self.numbers.push(number()?);
            }
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').map(decimal);
                self.numbers = numbers.collect::<Option<_>>().ok_or(BAD_MAP)?;
            }
            // The count follows from the map itself.
            _ => {}
        }
        check_length(self.numbers.len() / 2)
    }

    /// Whether the map stands at the head of the content.
    pub(super) fn is_in_content(&self) -> Result<bool, TarError> {
        match self.version {
            (None, None) | (Some(0), Some(0 | 1)) => Ok(false),
            (Some(1), Some(0)) => Ok(true),
            _ => Err(TarError::Number { field: "version of a sparse file" }),
        }
    }

    /// Returns the map of a file of which `stored` bytes are there, with `head` for its numbers
    /// where they stand in the content.
    pub(super) fn finish(self, head: Option<&[u64]>, stored: u64) -> Result<SparseMap, TarError> {
        let size = self.size.ok_or(BAD_MAP)?;
        SparseMap::new(head.unwrap_or(&self.numbers), size, stored)
    }
}

/// Reads the map at the head of a content, block by block: a count and as many pairs, each number on
/// a line.
#[derive(Debug, Default)]
pub(super) struct HeadMap {
    numbers: Vec<u64>,
    /// Digits of a number that a block cut.
    digits: Vec<u8>,
    /// Numbers that the map has; unknown before the first.
    count: Option<usize>,
}

impl HeadMap {
    /// Takes the next block; returns whether the map is complete.
    pub(super) fn add_block(&mut self, block: &[u8; BLOCK]) -> Result<bool, TarError> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err(BAD_MAP);
                }
                continue;
            }
            let number = decimal(&std::mem::take(&mut self.digits)).ok_or(BAD_MAP)?;
            match self.count {
                None => {
                    let pieces = usize::try_from(number).map_err(|_| BAD_MAP)?;
                    check_length(pieces)?;
                    self.count = Some(pieces * 2);
                }
                Some(_) => self.numbers.push(number),
            }
            // What follows in the block is padding.
            if self.count == Some(self.numbers.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The numbers that were read.
    pub(super) fn numbers(&self) -> &[u64] {
        &self.numbers
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_fit_the_file() {
        #[rustfmt::skip]
        let cases: [(&str, &[u64], u64, u64, bool); 10] = [
            ("nothing",             &[],                    0,  0,  true),
            ("all hole",            &[],                    9,  0,  true),
            ("a piece",             &[2, 3],                9,  3,  true),
            ("to the end",          &[0, 1, 8, 1],          9,  2,  true),
            ("an empty one",        &[9, 0],                9,  0,  true),
            ("beyond the end",      &[8, 2],                9,  2,  false),
            ("over each other",     &[0, 3, 2, 1],          9,  4,  false),
            ("more is stored",      &[0, 3],                9,  4,  false),
            ("half a pair",         &[0],                   9,  0,  false),
            ("wrapping",            &[u64::MAX, 2],         9,  2,  false),
        ];
        for (name, numbers, size, stored, want) in cases {
            assert_eq!(SparseMap::new(numbers, size, stored).is_ok(), want, "{name}");
        }
    }

    #[test]
    fn a_map_is_walked() {
        let mut map = SparseMap::new(&[2, 3, 5, 1], 9, 4).unwrap();
        let mut steps = Vec::new();
        loop {
            let (hole, stored) = (map.hole(), map.stored());
            if hole + stored == 0 {
                break;
            }
            steps.push((hole, stored));
            map.advance(if hole > 0 { hole } else { stored.min(2) });
        }
        assert_eq!(steps, [(2, 0), (0, 3), (0, 1), (0, 1), (3, 0)]);
    }
}
