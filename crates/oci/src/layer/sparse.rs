//! Sparse files of GNU tar, read as the plain files they stand for.

use std::io::{self, Read};

use super::{BLOCK, numeric};

/// Pieces of one sparse file. GNU tar makes one per hole; a million would be a map of 16 MB.
const MAX_PIECES: usize = 1 << 20;

/// Where the stored bytes of a sparse file belong: ascending, not overlapping, within `size`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// `(offset, length)` of each piece of data.
    pub(super) pieces: Vec<(u64, u64)>,
    /// Bytes of the whole file.
    pub(super) size: u64,
}

impl SparseMap {
    /// Checks order, overlap, bounds, and that the pieces add up to what is `stored`.
    pub(super) fn check(self, stored: u64) -> Option<Self> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for (offset, length) in &self.pieces {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        (end <= self.size && sum == stored && self.pieces.len() <= MAX_PIECES).then_some(self)
    }
}

/// The old GNU form: four pieces in the header, more in blocks that follow it.
pub(super) fn read_old_gnu(header: &[u8; BLOCK], mut reader: impl Read) -> io::Result<Option<SparseMap>> {
    let Some(size) = unsigned(&header[483..495]) else { return Ok(None) };
    let mut pieces = Vec::new();
    if !push_pieces(&header[386..482], &mut pieces) {
        return Ok(None);
    }
    let mut more = header[482] != 0;
    while more {
        let mut block = [0; BLOCK];
        reader.read_exact(&mut block)?;
        if !push_pieces(&block[..504], &mut pieces) || pieces.len() > MAX_PIECES {
            return Ok(None);
        }
        more = block[504] != 0;
    }
    Ok(Some(SparseMap { pieces, size }))
}

fn push_pieces(fields: &[u8], pieces: &mut Vec<(u64, u64)>) -> bool {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        match (unsigned(&field[..12]), unsigned(&field[12..])) {
            (Some(offset), Some(length)) => pieces.push((offset, length)),
            _ => return false,
        }
    }
    true
}

fn unsigned(field: &[u8]) -> Option<u64> {
    numeric::parse(field).and_then(|value| u64::try_from(value).ok())
}

/// The PAX forms 0.0 (repeated `offset`, `numbytes`) and 0.1 (`map`): numbers in order.
pub(super) fn from_numbers(numbers: &[u64], size: u64) -> Option<SparseMap> {
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    Some(SparseMap { pieces: numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), size })
}

/// The PAX form 1.0: the map stands before the data, as decimal lines, padded to a block. Also returns how many
/// bytes of the entry it took.
pub(super) fn read_pax_1_0(
    mut reader: impl Read,
    size: u64,
    stored: u64,
) -> io::Result<Option<(SparseMap, u64)>> {
    let mut lines = Lines { reader: &mut reader, block: [0; BLOCK], at: BLOCK, taken: 0, stored };
    let Some(count) = lines.number()? else { return Ok(None) };
    if count > MAX_PIECES as u64 {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (lines.number()?, lines.number()?) else { return Ok(None) };
        pieces.push((offset, length));
    }
    let taken = lines.taken;
    Ok(Some((SparseMap { pieces, size }, taken)))
}

struct Lines<'a, R> {
    reader: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut value = 0u64;
        for digits in 0..20 {
            if self.at == BLOCK {
                if self.taken + BLOCK as u64 > self.stored {
                    return Ok(None);
                }
                self.reader.read_exact(&mut self.block)?;
                self.taken += BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return Ok((digits > 0).then_some(value)),
                b'0'..=b'9' => {
                    let next = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(byte - b'0')));
                    let Some(next) = next else { return Ok(None) };
                    value = next;
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}
