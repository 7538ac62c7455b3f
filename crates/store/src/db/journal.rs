//! The journal: transactions since the last checkpoint.
//!
//! ```text
//! "rbuild journal 1\n" <boot id> "\n"
//! entry*: length of payload u32 | check u64 | transaction u64 | payload        (little endian)
//! payload = change*: table u8 | key (varint length, bytes) | 0, or varint length + 1 and the value
//! check = first 8 bytes of sha256(transaction ‖ payload)
//! ```
//! An entry that is cut off or whose check is wrong ends the journal: it was being written when the process died.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rbuild_digest::Hasher;

use super::{Table, decode_changes};
use crate::codec::{Decoder, Encoder};
use crate::error::{Result, StoreError};

const MAGIC: &str = "rbuild journal 1\n";
const ENTRY_HEAD: usize = 4 + 8 + 8;

/// One row that is put or (without a value) deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

pub(super) fn encode(log: &mut Encoder, table: Table, key: &[u8], value: Option<&[u8]>) {
    log.0.push(table as u8);
    log.bytes(key);
    match value {
        None => {
            log.number(0);
        }
        Some(value) => {
            log.number(value.len() as u64 + 1);
            log.0.extend_from_slice(value);
        }
    }
}

pub(super) fn decode(input: &mut Decoder<'_>) -> Option<Change> {
    let table = Table::from_number(*input.take(1)?.first()?)?;
    let key = input.bytes()?.to_vec();
    let value = match input.number()? {
        0 => None,
        length => Some(input.take(usize::try_from(length - 1).ok()?)?.to_vec()),
    };
    Some(Change { table, key, value })
}

/// Numbered transactions read back.
pub(super) type Entries = Vec<(u64, Vec<Change>)>;

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    head: u64,
    end: u64,
    seq: u64,
}

impl Journal {
    /// Opens or creates the journal and reads what is in it. One of an earlier boot counts as empty.
    pub(super) fn open(path: &Path, boot: &str) -> Result<(Self, Entries)> {
        let fail = |error| StoreError::io("open", path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let head = format!("{MAGIC}{boot}\n");
        let mut journal = Self { file, path: path.to_owned(), head: head.len() as u64, end: 0, seq: 0 };
        let Some(body) = bytes.strip_prefix(head.as_bytes()) else {
            journal.file.set_len(0).map_err(fail)?;
            journal.write_at_end(head.as_bytes())?;
            return Ok((journal, Vec::new()));
        };
        let (entries, used) = read_entries(body);
        journal.end = journal.head + used as u64;
        journal.file.set_len(journal.end).map_err(fail)?;
        journal.seq = entries.last().map_or(0, |(seq, _)| *seq);
        Ok((journal, entries))
    }

    /// What is in the journal now.
    pub(super) fn entries(&mut self) -> Result<Entries> {
        let mut body = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.head)).and_then(|_| self.file.read_to_end(&mut body));
        read.map_err(|error| StoreError::io("read", &self.path, error))?;
        Ok(read_entries(&body).0)
    }

    /// Numbers go on from what the database has seen.
    pub(super) fn start_after(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == self.head
    }

    /// Appends a transaction; gives back where it begins. On failure the journal is as before.
    pub(super) fn append(&mut self, seq: u64, payload: &[u8]) -> Result<u64> {
        let mark = self.end;
        let length = u32::try_from(payload.len())
            .map_err(|_| StoreError::corrupt("journal", "a transaction of more than 4 GiB"))?;
        let mut entry = Vec::with_capacity(ENTRY_HEAD + payload.len());
        entry.extend_from_slice(&length.to_le_bytes());
        entry.extend_from_slice(&check(seq, payload));
        entry.extend_from_slice(&seq.to_le_bytes());
        entry.extend_from_slice(payload);
        if let Err(error) = self.write_at_end(&entry) {
            self.rewind(mark);
            return Err(error);
        }
        self.seq = seq;
        Ok(mark)
    }

    /// Takes the last entry back.
    pub(super) fn rewind(&mut self, mark: u64) {
        self.end = mark;
        if let Err(error) = self.file.set_len(mark) {
            // The check of the next entry will not fit what is there, so a replay ends here at worst.
            tracing::error!(%error, path = %self.path.display(), "the journal cannot be cut back");
        }
    }

    /// Empties the journal after a checkpoint.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.file.set_len(self.head).map_err(|error| StoreError::io("truncate", &self.path, error))?;
        self.end = self.head;
        Ok(())
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|error| StoreError::io("write", &self.path, error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn check(seq: u64, payload: &[u8]) -> [u8; 8] {
    let mut hash = Hasher::new();
    hash.update(seq.to_le_bytes()).update(payload);
    let mut short = [0; 8];
    short.copy_from_slice(&hash.finish().as_bytes()[..8]);
    short
}

/// The whole entries at the beginning of `body`, and how many bytes they take.
fn read_entries(body: &[u8]) -> (Entries, usize) {
    let mut entries = Vec::new();
    let mut input = Decoder(body);
    let mut used = 0;
    while let Some(entry) = read_entry(&mut input) {
        entries.push(entry);
        used = body.len() - input.0.len();
    }
    (entries, used)
}

fn read_entry(input: &mut Decoder<'_>) -> Option<(u64, Vec<Change>)> {
    let length = u32::from_le_bytes(input.take(4)?.try_into().ok()?);
    let sum: [u8; 8] = input.take(8)?.try_into().ok()?;
    let seq = u64::from_le_bytes(input.take(8)?.try_into().ok()?);
    let payload = input.take(usize::try_from(length).ok()?)?;
    (check(seq, payload) == sum).then(|| decode_changes(payload)).flatten().map(|changes| (seq, changes))
}
