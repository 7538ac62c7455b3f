//! What a directory holds after a transfer.
//!
//! Stored form (docs/formats/tree-index.md), integers little endian:
//! ```text
//! "rbuild tree index" 0x00 | version u32 | entries u64 | entry… | sha256 of all before (32 bytes)
//! entry: length u32 | Stat as protobuf (length bytes) | digest (32 bytes)
//! ```
//! A reader refuses other versions; the copy is then transferred anew, so no migration is needed.

use std::io::{self, BufReader, BufWriter, Read, Write};

use prost::Message;
use rbuild_digest::{Digest, Hasher};

use super::{Stat, compare_paths};
use crate::{Result, SessionError};

const MAGIC: &[u8; 18] = b"rbuild tree index\0";
const VERSION: u32 = 1;
/// A stat holds one path, one link target and small attributes; xattr values are at most 64 KiB each.
const MAX_STAT: usize = 8 * 1024 * 1024;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// As the sender described it.
    pub stat: Stat,
    /// Digest of header and content; a hard link has that of the file it links to.
    pub digest: Digest,
}

/// All entries below a directory in walk order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TreeIndex {
    entries: Vec<Entry>,
}

impl TreeIndex {
    /// `entries` must be in walk order.
    pub(crate) fn from_sorted(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// The entries in walk order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of exactly this path.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Entry> {
        let path = path.as_ref();
        let found = self.entries.binary_search_by(|entry| compare_paths(&entry.stat.path, path));
        found.ok().map(|at| &self.entries[at])
    }

    /// Writes the stored form. Blocking.
    pub fn write_to(&self, writer: impl Write) -> io::Result<()> {
        let mut out = Hashing { inner: BufWriter::new(writer), hasher: Hasher::new() };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.entries.len() as u64).to_le_bytes())?;
        for entry in &self.entries {
            let stat = entry.stat.encode_to_vec();
            out.write_all(&(stat.len() as u32).to_le_bytes())?;
            out.write_all(&stat)?;
            out.write_all(entry.digest.as_bytes())?;
        }
        let digest = out.hasher.finish();
        out.inner.write_all(digest.as_bytes())?;
        out.inner.flush()
    }

    /// Reads the stored form. Blocking.
    ///
    /// Errors: [`SessionError::Index`] for anything but a whole, undamaged index of this version.
    pub fn read_from(reader: impl Read) -> Result<Self> {
        let mut input = Hashing { inner: BufReader::new(reader), hasher: Hasher::new() };
        let mut magic = [0; MAGIC.len()];
        input.fill(&mut magic)?;
        if &magic != MAGIC || u32::from_le_bytes(input.array()?) != VERSION {
            return Err(SessionError::Index { what: "not an index of this version" });
        }
        let count = u64::from_le_bytes(input.array()?);
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            let len = u32::from_le_bytes(input.array()?) as usize;
            if len > MAX_STAT {
                return Err(SessionError::Index { what: "an entry is too long" });
            }
            let mut bytes = vec![0; len];
            input.fill(&mut bytes)?;
            let stat = Stat::decode(bytes.as_slice())
                .map_err(|_| SessionError::Index { what: "an entry is malformed" })?;
            let digest = Digest::from_bytes(input.array()?);
            if entries.last().is_some_and(|last| compare_paths(&last.stat.path, &stat.path).is_ge()) {
                return Err(SessionError::Index { what: "entries are not sorted" });
            }
            entries.push(Entry { stat, digest });
        }
        let expected = std::mem::take(&mut input.hasher).finish();
        if Digest::from_bytes(input.array()?) != expected {
            return Err(SessionError::Index { what: "its checksum does not fit" });
        }
        Ok(Self { entries })
    }
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hasher: Hasher,
}

impl<W: Write> Hashing<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<R: Read> Hashing<R> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        self.inner.read_exact(buf).map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => SessionError::Index { what: "it ends early" },
            _ => SessionError::io("tree index", err),
        })?;
        self.hasher.update(&*buf);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TreeIndex {
        let entry = |path: &str| Entry {
            stat: Stat {
                path: path.as_bytes().to_vec(),
                mode: 0o644,
                mod_time: -5,
                xattrs: [("user.a".to_owned(), vec![0, 1])].into(),
                ..Stat::default()
            },
            digest: Digest::of(path),
        };
        TreeIndex::from_sorted(["a", "a/b", "a.c", "z"].map(entry).into())
    }

    #[test]
    fn stored_form_round_trips_and_finds_paths() {
        let (index, mut bytes) = (sample(), Vec::new());
        index.write_to(&mut bytes).unwrap();
        let again = TreeIndex::read_from(bytes.as_slice()).unwrap();
        assert_eq!(again, index);
        assert_eq!(again.get("a.c").unwrap().digest, Digest::of("a.c"));
        assert!(again.get("a.d").is_none() && again.get("").is_none());
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let mut bytes = Vec::new();
        sample().write_to(&mut bytes).unwrap();
        for at in 0..bytes.len() {
            assert!(TreeIndex::read_from(&bytes[..at]).is_err(), "cut at {at}");
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            assert!(TreeIndex::read_from(bad.as_slice()).is_err(), "flipped {at}");
        }
    }
}
