//! The metadata database: tables of bytes, changed one transaction at a time.
//!
//! `meta.db` (redb) is brought to disk only now and then, by [`Db::checkpoint`]; between two checkpoints a transaction
//! is first appended to the journal (one `write`, so it survives a `kill -9` at once) and then committed in memory.
//! Opening replays the journal if it was written since the machine started, and throws it away otherwise: what it
//! names may not be on disk. Why: docs/decisions/003-metadata-durability.md.

mod journal;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableError};

use self::journal::{Change, Journal};
pub(crate) use self::table::Table;
use crate::codec::{Decoder, Encoder};
use crate::error::{Result, StoreError};

/// Version of the rows; docs/formats/store.md says what each means.
pub(crate) const FORMAT: u32 = 1;
/// Feature flags a reader has to know to read, as a list of words; none yet.
const FEATURES: &[&str] = &[];
/// Pages kept in memory: the inner ones of each tree. More only saves reads that the page cache serves anyway, and
/// makes the daemon grow with the number of builds it has seen.
const CACHE_BYTES: usize = 1 << 20;
/// Databases up to this size are checked whole when they are opened: some tenths of a second at most.
const CHECKED_BYTES: u64 = 128 << 20;

const KEY_FORMAT: &[u8] = b"format";
const KEY_FEATURES: &[u8] = b"features";
const KEY_SEQ: &[u8] = b"seq";
const KEY_BOOT: &[u8] = b"boot";

/// Called with the name of each step of a commit: tests copy the root there, as a kill would leave it.
type Hook = Arc<dyn Fn(&'static str) + Send + Sync>;

pub(crate) struct Db {
    /// `None` only while it cannot be opened again after an error.
    redb: RwLock<Option<Database>>,
    /// redb refuses everything after a failed write (a full disk, say): it has to be opened again.
    is_broken: AtomicBool,
    path: PathBuf,
    writer: Mutex<Journal>,
    hook: Option<Hook>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What opening found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The machine has not been restarted since the last writer: everything written is there.
    SameBoot,
    /// It has: what is marked unsynced may be damaged.
    OtherBoot,
}

impl Db {
    /// Opens or creates `root/meta.db` and replays the journal.
    pub(crate) fn open(root: &Path, boot: &str, hook: Option<Hook>) -> Result<(Self, Opened)> {
        let path = root.join("meta.db");
        let redb = checked(&path)?;
        let known = prepare(&redb, &path, boot)?;
        add_tables(&redb)?;
        let (journal, changes) = Journal::open(&root.join("journal"), boot)?;
        let same = known.as_deref() == Some(boot.as_bytes());
        let db = Self {
            redb: RwLock::new(Some(redb)),
            is_broken: AtomicBool::new(false),
            path,
            writer: Mutex::new(journal),
            hook,
        };
        db.replay(&changes)?;
        // A number is never used twice, or the next replay would take a new transaction for an old one.
        db.writer.lock().start_after(db.seq()?);
        if !same {
            db.apply(Durability::Immediate, |tx| tx.put(Table::Meta, KEY_BOOT, boot.as_bytes()), None)?;
        }
        Ok((db, if same { Opened::SameBoot } else { Opened::OtherBoot }))
    }

    fn replay(&self, changes: &[(u64, Vec<Change>)]) -> Result<()> {
        let done = self.seq()?;
        let new: Vec<_> = changes.iter().filter(|(seq, _)| *seq > done).collect();
        let Some((last, _)) = new.last() else { return Ok(()) };
        tracing::debug!(transactions = new.len(), "journal replayed");
        self.apply(
            Durability::None,
            |tx| {
                for change in new.iter().flat_map(|(_, changes)| changes) {
                    match &change.value {
                        Some(value) => tx.put(change.table, &change.key, value)?,
                        None => tx.delete(change.table, &change.key)?,
                    }
                }
                tx.put(Table::Meta, KEY_SEQ, &last.to_be_bytes())
            },
            None,
        )
    }

    /// Opens the database again after an error and brings it to where it was.
    fn mend(&self, journal: &mut Journal) -> Result<()> {
        if !self.is_broken.load(Ordering::Acquire) {
            return Ok(());
        }
        {
            let mut redb = self.redb.write();
            // Closed first: a file can be open once only.
            *redb = None;
            *redb = Some(open_redb(&self.path)?);
        }
        let entries = journal.entries()?;
        self.replay(&entries)?;
        self.is_broken.store(false, Ordering::Release);
        tracing::info!("the metadata database was opened again after an error");
        Ok(())
    }

    /// Notes that the database has to be opened again if this is what failed.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(StoreError::Database { .. } | StoreError::NoSpace { .. }) = &result {
            self.is_broken.store(true, Ordering::Release);
        }
        result
    }

    fn mend_to_read(&self) -> Result<()> {
        if self.is_broken.load(Ordering::Acquire) {
            return self.mend(&mut self.writer.lock());
        }
        Ok(())
    }

    fn seq(&self) -> Result<u64> {
        let bytes = self.read(Table::Meta, |rows| get_row(rows, KEY_SEQ))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    fn read<T>(&self, table: Table, f: impl FnOnce(&Rows) -> Result<T>) -> Result<T> {
        let redb = self.redb.read();
        let redb = redb.as_ref().ok_or_else(closed)?;
        let txn = redb.begin_read().map_err(|error| StoreError::database("begin to read", error))?;
        let rows =
            txn.open_table(table.definition()).map_err(|error| StoreError::database("open table", error))?;
        f(&rows)
    }

    /// The value of a key. Microseconds: may be called from async code.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.mend_to_read()?;
        self.noted(self.read(table, |rows| get_row(rows, key)))
    }

    /// All rows whose key begins with `prefix`, in order.
    pub(crate) fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.mend_to_read()?;
        self.noted(self.read(table, |rows| collect(rows, prefix)))
    }

    /// Runs `f` in one transaction: all of its changes are kept, or none if it fails.
    ///
    /// Blocking (≤ 0.1 ms, longer behind a checkpoint): from async code only through `spawn_blocking`. When it
    /// returns, a kill of the process cannot undo it.
    pub(crate) fn update<T>(&self, f: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let mut journal = self.writer.lock();
        self.mend(&mut journal)?;
        self.noted(self.apply(Durability::None, f, Some(&mut journal)))
    }

    fn apply<T>(
        &self,
        durability: Durability,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T>,
        journal: Option<&mut Journal>,
    ) -> Result<T> {
        let redb = self.redb.read();
        let redb = redb.as_ref().ok_or_else(closed)?;
        let mut txn = redb.begin_write().map_err(|error| StoreError::database("begin to write", error))?;
        if matches!(durability, Durability::Immediate) {
            txn.set_quick_repair(true);
        }
        txn.set_durability(durability).map_err(|error| StoreError::database("set durability", error))?;
        let mut tx = Tx { txn: &txn, log: Encoder::default(), stamp: 0 };
        tx.stamp = journal.as_ref().map_or(0, |journal| journal.next_seq());
        let value = f(&mut tx)?;
        if tx.log.0.is_empty() {
            return Ok(value);
        }
        let (stamp, log) = (tx.stamp, std::mem::take(&mut tx.log.0));
        let Some(journal) = journal else {
            txn.commit().map_err(|error| StoreError::database("commit", error))?;
            return Ok(value);
        };
        tx.put(Table::Meta, KEY_SEQ, &stamp.to_be_bytes())?;
        self.at("journal.before");
        let mark = journal.append(stamp, &log)?;
        self.at("journal.after");
        if let Err(error) = txn.commit() {
            journal.rewind(mark);
            return Err(StoreError::database("commit", error));
        }
        self.at("commit.after");
        Ok(value)
    }

    /// Makes everything so far survive a power cut. `sync` brings the files that the rows name to disk; it runs
    /// without a lock, and marks set meanwhile stay.
    pub(crate) fn checkpoint(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let marks = self.scan(Table::Unsynced, b"")?;
        if marks.is_empty() && self.writer.lock().is_empty() {
            return Ok(());
        }
        sync()?;
        let mut journal = self.writer.lock();
        self.mend(&mut journal)?;
        let forget = |tx: &mut Tx<'_>| {
            for (key, value) in &marks {
                if tx.get(Table::Unsynced, key)?.as_deref() == Some(value) {
                    tx.delete(Table::Unsynced, key)?;
                }
            }
            // An empty transaction would not be written, and the point of this one is that it is.
            let seq = tx.get(Table::Meta, KEY_SEQ)?.unwrap_or_default();
            tx.put(Table::Meta, KEY_SEQ, &seq)
        };
        self.noted(self.apply(Durability::Immediate, forget, None))?;
        self.at("checkpoint.committed");
        journal.clear()?;
        self.at("checkpoint.cleared");
        Ok(())
    }

    fn at(&self, step: &'static str) {
        if let Some(hook) = &self.hook {
            hook(step);
        }
    }

    /// Tells the tests' hook that a step was reached.
    pub(crate) fn step(&self, step: &'static str) {
        if self.hook.is_some() {
            // Nobody writes to the database while the test copies it.
            let _writer = self.writer.lock();
            self.at(step);
        }
    }
}

type Rows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

fn open_redb(path: &Path) -> Result<Database> {
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    opened.map_err(|error| StoreError::database("open", error))
}

/// Opens the database and checks every page against its checksum: redb panics, or believes, what it finds in a page
/// that has changed on disk.
fn checked(path: &Path) -> Result<Database> {
    let is_small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= CHECKED_BYTES);
    if !is_small {
        return open_redb(path);
    }
    let damaged = |detail: String| StoreError::Damaged { path: path.to_owned(), detail };
    // Nothing is shared with what may panic: it is dropped with the panic.
    let opened = std::panic::catch_unwind(|| {
        let mut redb = open_redb(path)?;
        match redb.check_integrity() {
            Ok(true) => Ok(redb),
            // It has been put back to an earlier state, of which nobody knows what it is.
            Ok(false) => Err(damaged("pages do not match their checksums".into())),
            Err(error) => Err(damaged(error.to_string())),
        }
    });
    match opened {
        Ok(Err(StoreError::Database { source, .. })) if matches!(*source, redb::Error::Corrupted(_)) => {
            Err(damaged(source.to_string()))
        }
        Ok(opened) => opened,
        Err(_) => Err(damaged("a page makes no sense".into())),
    }
}

fn closed() -> StoreError {
    StoreError::database("use", redb::Error::DatabaseClosed)
}

/// Creates the tables of a new database and checks the version of an old one; gives back the boot id it was last
/// written under.
fn prepare(redb: &Database, path: &Path, boot: &str) -> Result<Option<Vec<u8>>> {
    let txn = redb.begin_read().map_err(|error| StoreError::database("begin to read", error))?;
    let meta = match txn.open_table(Table::Meta.definition()) {
        Err(TableError::TableDoesNotExist(_)) => return create(redb, boot),
        other => other.map_err(|error| StoreError::database("open table", error))?,
    };
    let read = |key: &[u8]| -> Result<Option<Vec<u8>>> {
        let value = meta.get(key).map_err(|error| StoreError::database("read", error))?;
        Ok(value.map(|value| value.value().to_vec()))
    };
    let format = read(KEY_FORMAT)?.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let features = String::from_utf8_lossy(&read(KEY_FEATURES)?.unwrap_or_default()).into_owned();
    let newer = |found: String| StoreError::Version { path: path.to_owned(), found, supported: FORMAT };
    match format {
        Some(format) if format <= FORMAT => {}
        Some(format) => return Err(newer(format.to_string())),
        None => return Err(StoreError::corrupt("meta", "no format version")),
    }
    if let Some(unknown) = features.split_whitespace().find(|word| !FEATURES.contains(word)) {
        return Err(newer(format!("{FORMAT} with feature `{unknown}`")));
    }
    read(KEY_BOOT)
}

/// Makes the tables that an older daemon did not know.
fn add_tables(redb: &Database) -> Result<()> {
    let txn = redb.begin_read().map_err(|error| StoreError::database("begin to read", error))?;
    let is_missing =
        |table: &Table| matches!(txn.open_table(table.definition()), Err(TableError::TableDoesNotExist(_)));
    let missing: Vec<Table> = Table::ALL.into_iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let txn = redb.begin_write().map_err(|error| StoreError::database("begin to write", error))?;
    for table in missing {
        txn.open_table(table.definition()).map_err(|error| StoreError::database("create table", error))?;
    }
    txn.commit().map_err(|error| StoreError::database("commit", error))
}

fn create(redb: &Database, boot: &str) -> Result<Option<Vec<u8>>> {
    let txn = redb.begin_write().map_err(|error| StoreError::database("begin to write", error))?;
    for table in Table::ALL {
        let mut rows = txn
            .open_table(table.definition())
            .map_err(|error| StoreError::database("create table", error))?;
        if table == Table::Meta {
            for (key, value) in [
                (KEY_FORMAT, &FORMAT.to_be_bytes()[..]),
                (KEY_FEATURES, FEATURES.join(" ").as_bytes()),
                (KEY_BOOT, boot.as_bytes()),
            ] {
                rows.insert(key, value).map_err(|error| StoreError::database("write", error))?;
            }
        }
    }
    txn.commit().map_err(|error| StoreError::database("commit", error))?;
    Ok(Some(boot.as_bytes().to_vec()))
}

/// One transaction in the making.
pub(crate) struct Tx<'a> {
    txn: &'a redb::WriteTransaction,
    log: Encoder,
    /// Number of the transaction; marks carry it so that an older one is told from a newer.
    stamp: u64,
}

impl Tx<'_> {
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let rows = self
            .txn
            .open_table(table.definition())
            .map_err(|error| StoreError::database("open table", error))?;
        let value = rows.get(key).map_err(|error| StoreError::database("read", error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    pub(crate) fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let rows = self
            .txn
            .open_table(table.definition())
            .map_err(|error| StoreError::database("open table", error))?;
        collect(&rows, prefix)
    }

    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let mut rows = self
            .txn
            .open_table(table.definition())
            .map_err(|error| StoreError::database("open table", error))?;
        rows.insert(key, value).map_err(|error| StoreError::database("write", error))?;
        journal::encode(&mut self.log, table, key, Some(value));
        Ok(())
    }

    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) -> Result<()> {
        let mut rows = self
            .txn
            .open_table(table.definition())
            .map_err(|error| StoreError::database("open table", error))?;
        rows.remove(key).map_err(|error| StoreError::database("delete", error))?;
        journal::encode(&mut self.log, table, key, None);
        Ok(())
    }

    /// Deletes all rows whose key begins with `prefix`.
    pub(crate) fn delete_prefix(&mut self, table: Table, prefix: &[u8]) -> Result<()> {
        for (key, _) in self.scan(table, prefix)? {
            self.delete(table, &key)?;
        }
        Ok(())
    }

    /// Marks something on disk as not yet synced: a reboot before the next checkpoint drops it.
    pub(crate) fn unsynced(&mut self, key: &[u8]) -> Result<()> {
        let stamp = self.stamp.to_be_bytes();
        self.put(Table::Unsynced, key, &stamp)
    }
}

fn get_row(rows: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let value = rows.get(key).map_err(|error| StoreError::database("read", error))?;
    Ok(value.map(|value| value.value().to_vec()))
}

fn collect(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for row in rows.range(prefix..).map_err(|error| StoreError::database("read", error))? {
        let (key, value) = row.map_err(|error| StoreError::database("read", error))?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(found)
}

/// Reads what [`journal::encode`] wrote.
fn decode_changes(payload: &[u8]) -> Option<Vec<Change>> {
    let mut input = Decoder(payload);
    let mut changes = Vec::new();
    while !input.0.is_empty() {
        changes.push(journal::decode(&mut input)?);
    }
    Some(changes)
}

#[cfg(test)]
mod tests;
