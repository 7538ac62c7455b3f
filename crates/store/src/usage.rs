use std::collections::HashMap;
use std::sync::Arc;

use rbuild_digest::Digest;

use crate::codec::{Decoder, Encoder};
use crate::db::{Table, Tx};
use crate::error::{Result, StoreError};
use crate::filter::Filter;
use crate::footprint::{Footprint, Owners};
use crate::id::RefId;
use crate::rows::{NamedKind, NamedRow, RecordType, RefRow, from_json, now_ms, to_json};
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
    /// Bytes on disk, blobs included; what others have too counts with one of them. Of what was removed: the bytes that
    /// this freed.
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
    pub(crate) footprint: Arc<Footprint>,
}

/// Everything on disk at one moment, each byte counted once.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// Refs, then named directories; what several have too is counted with the first of them.
    pub(crate) entries: Vec<Entry>,
    /// Blobs that nothing but images needs, by image.
    pub(crate) images: Vec<UsageRecord>,
    /// Who has what, images among them.
    pub(crate) owners: Owners,
    /// All bytes.
    pub(crate) total: u64,
}

impl Store {
    /// Notes a use, to be written with the next sync.
    pub(crate) fn touch(&self, id: &RefId) {
        let mut touched = self.inner.touched.lock();
        let entry = touched.entry(*id).or_default();
        *entry = (now_ms(), entry.1 + 1);
    }

    /// Everything on disk that matches one of `filters` (all if there are none). What several things have in common
    /// counts with the oldest of them, so sizes add up to what is really used.
    ///
    /// Errors: [`crate::StoreError::Filter`].
    pub async fn usage(&self, filters: &[String]) -> Result<Vec<UsageRecord>> {
        let filter = Filter::parse(filters)?;
        let store = self.clone();
        let inventory = blocking(move || store.inventory()).await?;
        let records = inventory.entries.into_iter().map(|entry| entry.record).chain(inventory.images);
        Ok(records.filter(|record| filter.matches(record)).collect())
    }

    /// All refs, named directories and images with their sizes. Blocking; walks what was never measured.
    pub(crate) fn inventory(&self) -> Result<Inventory> {
        let core = &self.inner.core;
        unless_full(core.flush_touched())?;
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
        entries.sort_by_key(|entry| (entry.is_named, entry.record.created_ms, entry.id));
        let mut owners = Owners::default();
        for entry in &mut entries {
            entry.record.size = owners.add(&entry.footprint);
        }
        let images = self.image_records(&mut owners)?;
        let total =
            entries.iter().map(|entry| entry.record.size).chain(images.iter().map(|image| image.size));
        Ok(Inventory { total: total.sum(), entries, images, owners })
    }

    fn ref_entry(&self, id: RefId, row: RefRow, used: Option<(i64, u64)>) -> Result<Entry> {
        let core = &self.inner.core;
        let needs = row.needs();
        let shared =
            row.blobs.iter().map(|blob| is_shared(core, &blob.desc.digest)).collect::<Result<Vec<_>>>()?;
        let footprint = Arc::new(crate::footprint::of_ref(core, &id, &row)?);
        let record = UsageRecord {
            id: id.to_string(),
            mutable: false,
            in_use: self.inner.live.lock().is_live(&id),
            size: 0,
            parents: needs.iter().map(RefId::to_string).collect(),
            created_ms: row.created_ms,
            last_used_ms: used.map(|(last, _)| last),
            usage_count: used.map_or(0, |(_, count)| count),
            description: row.description,
            record_type: row.record_type,
            shared: shared.contains(&true),
        };
        Ok(Entry { id, record, needs, is_named: false, footprint })
    }

    fn named_entry(&self, id: RefId, row: NamedRow, in_use: bool, used: Option<(i64, u64)>) -> Result<Entry> {
        let footprint = self.measure_named(&id, &row)?;
        let needs: Vec<RefId> = row.base.into_iter().collect();
        let record = UsageRecord {
            id: id.to_string(),
            mutable: true,
            in_use,
            size: 0,
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
        Ok(Entry { id, record, needs, is_named: true, footprint })
    }

    /// What a named directory takes. One that vanishes while it is walked has nothing; files come and go in it.
    fn measure_named(&self, id: &RefId, row: &NamedRow) -> Result<Arc<Footprint>> {
        if let Some(known) = self.inner.names.measured(id) {
            return Ok(known);
        }
        match crate::footprint::of_named(&self.inner.core, id, &row.snapshot) {
            Ok(footprint) => {
                let footprint = Arc::new(footprint);
                self.inner.names.set_measured(id, &footprint);
                Ok(footprint)
            }
            Err(StoreError::Snapshot(error)) if error.is_not_found() => {
                tracing::debug!(%error, named = %id, "changed while it was measured");
                Ok(Arc::default())
            }
            Err(error) => Err(error),
        }
    }

    /// The daemon's images, as far as they have blobs that no ref counts. They go by name only, never by themselves.
    fn image_records(&self, owners: &mut Owners) -> Result<Vec<UsageRecord>> {
        let mut records = Vec::new();
        for image in self.images()? {
            let mut footprint = Footprint::default();
            for digest in &image.blobs {
                footprint.add_blob(&self.inner.core, digest)?;
            }
            let size = owners.add(&footprint);
            if size == 0 {
                continue;
            }
            records.push(UsageRecord {
                id: format!("image:{}", image.name),
                mutable: false,
                in_use: true,
                size,
                parents: Vec::new(),
                created_ms: image.created_ms,
                last_used_ms: None,
                usage_count: 0,
                description: format!("image {}", image.name),
                record_type: RecordType::Internal,
                shared: true,
            });
        }
        Ok(records)
    }
}

/// On a full disk what is only noted for later is not: to look at what is there has to work then above all.
pub(crate) fn unless_full(noted: Result<()>) -> Result<()> {
    match noted {
        Err(error) if error.is_no_space() => {
            tracing::debug!(%error, "looked at without a note");
            Ok(())
        }
        noted => noted,
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

/// Writes a named directory's row.
pub(crate) fn put_named(tx: &mut Tx<'_>, id: &RefId, row: &NamedRow) -> Result<()> {
    tx.put(Table::Named, id.as_bytes(), &to_json(row))
}
