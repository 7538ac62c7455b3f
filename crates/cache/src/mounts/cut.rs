//! Cuts a stream where its content says so: equal stretches of two streams give equal pieces, wherever they stand.
//! Source: the gear hash of "FastCDC", Xia et al., USENIX ATC 2016.

use std::io::{self, Write};

/// No piece is smaller, but the last.
const MIN_BYTES: usize = 256 << 10;
/// No piece is larger: it is held in memory.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// One place in 2^20 is a cut, so that a piece has about 1 MiB more than the least. Another mask or table makes other
/// pieces of the same stream: everything is sent once more, nothing else happens.
const MASK: u64 = ((1 << 20) - 1) << 40;

/// A number for each byte, as random as need be.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    let mut state: u64 = 0x7262_7569_6c64;
    while at < 256 {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = z ^ (z >> 31);
        at += 1;
    }
    table
};

/// Takes a stream and gives away its pieces.
#[derive(Debug)]
pub(super) struct Cutter<F> {
    piece: Vec<u8>,
    hash: u64,
    give: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Cutter<F> {
    pub(super) fn new(give: F) -> Self {
        Self { piece: Vec::new(), hash: 0, give }
    }

    /// Gives away what is left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { (self.give)(self.piece) }
    }

    /// How many of `bytes` belong to the piece, and whether it ends there.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        let before = self.piece.len();
        // Nothing is looked for in what is too small anyway.
        let skip = MIN_BYTES.saturating_sub(before).min(bytes.len());
        let room = MAX_BYTES - before;
        for (at, byte) in bytes.iter().enumerate().skip(skip) {
            self.hash = (self.hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
            if self.hash & MASK == 0 || at + 1 == room {
                return (at + 1, true);
            }
        }
        (bytes.len(), false)
    }
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Cutter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, ends) = self.scan(bytes);
        self.piece.extend_from_slice(&bytes[..taken]);
        if ends {
            self.hash = 0;
            (self.give)(std::mem::take(&mut self.piece))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rbuild_digest::Digest;

    use super::*;

    fn noise(bytes: usize, mut state: u64) -> Vec<u8> {
        let mut made = Vec::with_capacity(bytes);
        while made.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            made.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
        }
        made
    }

    fn pieces(stream: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut cutter = Cutter::new(|piece| {
            found.push(piece);
            Ok(())
        });
        stream.chunks(step).for_each(|part| cutter.write_all(part).unwrap());
        cutter.finish().unwrap();
        found
    }

    #[test]
    fn pieces_do_not_depend_on_how_the_stream_comes_and_make_it_again() {
        let stream = noise(6 << 20, 7);
        let found = pieces(&stream, 1 << 20);
        assert!(found.len() > 2, "{} pieces", found.len());
        assert_eq!(found, pieces(&stream, 777));
        assert_eq!(found.concat(), stream);
        let zeros = vec![0; MAX_BYTES + 5];
        assert_eq!(pieces(&zeros, 1 << 20).concat(), zeros);
    }

    #[test]
    fn an_insertion_changes_the_pieces_around_it_only() {
        let before = noise(16 << 20, 9);
        let mut after = before.clone();
        after.splice(3_000_000..3_000_000, noise(1000, 3));
        let known: HashSet<Digest> = pieces(&before, 1 << 20).iter().map(Digest::of).collect();
        let new = pieces(&after, 1 << 20).into_iter().filter(|piece| !known.contains(&Digest::of(piece)));
        let new: usize = new.map(|piece| piece.len()).sum();
        assert!(new < after.len() / 3, "{new} bytes are new");
    }
}
