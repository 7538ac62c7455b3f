use std::collections::HashMap;

use rbuild_digest::Digest;

use crate::codec::{Decoder, Encoder};
use crate::db::{Table, Tx};
use crate::error::Result;
use crate::filter::Filter;
use crate::id::RefId;
use crate::rows::{NamedKind, NamedRow, RecordType, RefRow, from_json, now_ms, put_ref, to_json};
use crate::store::{Core, Store, blocking};

/// One thing on disk, as `du` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Id of the ref or named directory.
    pub id: String,
    /// Whether it may still change (cache mounts, local contexts).
    pub mutable: bool,
    /// Whether somebody uses it now.
    pub in_use: bool,
    /// Bytes on disk, blobs included.
    pub size: u64,
    /// What it needs to be kept.
    pub parents: Vec<String>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970.
    pub last_used_ms: Option<i64>,
    /// How often it was used.
    pub usage_count: u64,
    /// For people.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// Whether an image of the daemon needs it too.
    pub shared: bool,
}

/// Uses that are not in the database yet: last time and count.
pub(crate) type Touched = HashMap<RefId, (i64, u64)>;

/// Adds uses to what is known of them.
pub(crate) fn write_touched(tx: &mut Tx<'_>, touched: &Touched) -> Result<()> {
    for (id, (last, count)) in touched {
        let known =
            tx.get(Table::Refs, id.as_bytes())?.is_some() || tx.get(Table::Named, id.as_bytes())?.is_some();
        if !known {
            continue;
        }
        let before =
            tx.get(Table::Usage, id.as_bytes())?.and_then(|bytes| read_use(&bytes)).unwrap_or_default();
        let mut out = Encoder::default();
        out.number(last.unsigned_abs().max(before.0.unsigned_abs())).number(before.1 + count);
        tx.put(Table::Usage, id.as_bytes(), &out.0)?;
    }
    Ok(())
}

fn read_use(bytes: &[u8]) -> Option<(i64, u64)> {
    let mut input = Decoder(bytes);
    Some((i64::try_from(input.number()?).ok()?, input.number()?))
}

/// A record and what decides about its removal.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: RefId,
    pub(crate) record: UsageRecord,
    pub(crate) needs: Vec<RefId>,
    pub(crate) is_named: bool,
}

impl Store {
    /// Notes a use, to be written with the next sync.
    pub(crate) fn touch(&self, id: &RefId) {
        let mut touched = self.inner.touched.lock();
        let entry = touched.entry(*id).or_default();
        *entry = (now_ms(), entry.1 + 1);
    }

    /// Everything on disk that matches one of `filters` (all if there are none).
    ///
    /// Errors: [`crate::StoreError::Filter`].
    pub async fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>> {
        let filter = Filter::parse(filters)?;
        let store = self.clone();
        let entries = blocking(move || store.entries()).await?;
        Ok(entries.into_iter().map(|entry| entry.record).filter(|record| filter.matches(record)).collect())
    }

    /// All refs and named directories with their sizes. Blocking; walks what was never measured.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        let core = &self.inner.core;
        core.flush_touched()?;
        let uses: HashMap<Vec<u8>, (i64, u64)> = core
            .db
            .scan(Table::Usage, b"")?
            .into_iter()
            .filter_map(|(id, bytes)| Some((id, read_use(&bytes)?)))
            .collect();
        let used = |id: &RefId| uses.get(id.as_bytes()).copied();
        let mut entries = Vec::new();
        for (id, bytes) in core.db.scan(Table::Refs, b"")? {
            let Some(id) = RefId::from_bytes(&id) else { continue };
            let row: RefRow = from_json(Table::Refs, &bytes)?;
            entries.push(self.ref_entry(id, row, used(&id))?);
        }
        for (id, row, in_use) in self.inner.names.list() {
            entries.push(self.named_entry(id, row, in_use, used(&id))?);
        }
        Ok(entries)
    }

    fn ref_entry(&self, id: RefId, row: RefRow, used: Option<(i64, u64)>) -> Result<Entry> {
        let core = &self.inner.core;
        let needs = row.needs();
        let shared =
            row.blobs.iter().map(|blob| is_shared(core, &blob.desc.digest)).collect::<Result<Vec<_>>>()?;
        let record = UsageRecord {
            id: id.to_string(),
            mutable: false,
            in_use: self.inner.live.lock().is_live(&id),
            size: ref_size(core, &id, &row)?,
            parents: needs.iter().map(RefId::to_string).collect(),
            created_ms: row.created_ms,
            last_used_ms: used.map(|(last, _)| last),
            usage_count: used.map_or(0, |(_, count)| count),
            description: row.description,
            record_type: row.record_type,
            shared: shared.contains(&true),
        };
        Ok(Entry { id, record, needs, is_named: false })
    }

    fn named_entry(&self, id: RefId, row: NamedRow, in_use: bool, used: Option<(i64, u64)>) -> Result<Entry> {
        let size = match row.size {
            Some(size) if !in_use => size,
            _ => {
                let size = self.measure_named(&id, &row)?;
                self.inner.names.set_size(&id, (!in_use).then_some(size));
                size
            }
        };
        let needs: Vec<RefId> = row.base.into_iter().collect();
        let record = UsageRecord {
            id: id.to_string(),
            mutable: true,
            in_use,
            size,
            parents: needs.iter().map(RefId::to_string).collect(),
            created_ms: row.created_ms,
            last_used_ms: used.map(|(last, _)| last),
            usage_count: used.map_or(0, |(_, count)| count),
            description: row.description,
            record_type: match row.kind {
                NamedKind::CacheMount => RecordType::ExecCacheMount,
                NamedKind::LocalContext => RecordType::SourceLocal,
                NamedKind::GitRepository => RecordType::SourceGitCheckout,
            },
            shared: false,
        };
        Ok(Entry { id, record, needs, is_named: true })
    }

    /// Bytes of a named directory. One that vanishes while it is walked has none; files come and go in it.
    fn measure_named(&self, id: &RefId, row: &NamedRow) -> Result<u64> {
        match self.inner.snaps.usage(&row.snapshot) {
            Ok(usage) => Ok(usage.size_bytes),
            Err(error) if error.is_not_found() => {
                tracing::debug!(%error, named = %id, "changed while it was measured");
                Ok(row.size.unwrap_or(0))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes of the whole file system that `path` is on: what a percentage in a [`crate::GcPolicy`] is of.
pub fn disk_size(path: &std::path::Path) -> std::io::Result<u64> {
    Ok(rbuild_sys::disk_free(path).map_err(std::io::Error::from)?.1)
}

/// Whether somebody other than refs needs a blob.
fn is_shared(core: &Core, digest: &Digest) -> Result<bool> {
    let owners = core.db.scan(Table::Blobs, digest.as_bytes())?;
    Ok(owners.iter().any(|(key, _)| key[32..].starts_with(b"image:")))
}

/// Bytes of a ref's own layer: its snapshot, measured once, and its blobs that are here.
pub(crate) fn ref_size(core: &Core, id: &RefId, row: &RefRow) -> Result<u64> {
    let mut total = 0;
    match row.size {
        Some(size) => total += size,
        None if row.snapshot.is_none() => {}
        None => {
            for snapshot in row.snapshot.iter().chain(&row.flat) {
                match core.snaps.usage(snapshot) {
                    Ok(usage) => total += usage.size_bytes,
                    // Removed meanwhile.
                    Err(error) if error.is_not_found() => return Ok(0),
                    Err(error) => return Err(error.into()),
                }
            }
            core.db.update(|tx| set_size(tx, id, total))?;
        }
    }
    for blob in &row.blobs {
        total += core.content.info(&blob.desc.digest)?.unwrap_or(0);
    }
    Ok(total)
}

/// Notes a size in the row as it is now.
fn set_size(tx: &mut Tx<'_>, id: &RefId, size: u64) -> Result<()> {
    let Some(bytes) = tx.get(Table::Refs, id.as_bytes())? else { return Ok(()) };
    let mut row: RefRow = from_json(Table::Refs, &bytes)?;
    row.size = Some(size);
    put_ref(tx, id, &row)
}

/// Writes a named directory's row.
pub(crate) fn put_named(tx: &mut Tx<'_>, id: &RefId, row: &NamedRow) -> Result<()> {
    tx.put(Table::Named, id.as_bytes(), &to_json(row))
}
