use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use rbuild_digest::Digest;

use crate::db::Table;
use crate::error::{Result, StoreError};
use crate::filter::Filter;
use crate::footprint::Owners;
use crate::id::RefId;
use crate::rows::{RecordType, RefRow, delete_ref, from_json, now_ms};
use crate::store::{Garbage, Store, blocking};
use crate::usage::{Entry, Inventory, UsageRecord};

/// Rows removed in one transaction: small, so that builds wait microseconds for it.
const BATCH: usize = 64;
/// A blob that nothing names is left alone for so long: somebody may be about to name it.
const BLOB_GRACE: Duration = Duration::from_secs(60 * 60);

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only what matches one of these; see [`Filter`].
    pub filters: Vec<String>,
    /// Also what is internal, a frontend's, or needed by an image.
    pub all: bool,
    /// Not what was used within this time.
    pub keep_duration: Duration,
    /// Stop when no more than this many bytes are left. Zero: no limit.
    pub reserved_space: u64,
    /// Begin only above this many bytes, and stop there. Zero: no limit.
    pub max_used_space: u64,
    /// Keep this many bytes of the disk free. Zero: no limit.
    pub min_free_space: u64,
}

/// One rule of what the daemon keeps. Rules are applied in order.
pub type GcPolicy = PruneOptions;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// In the order of their removal.
    pub records: Vec<UsageRecord>,
    /// Their bytes.
    pub bytes: u64,
}

impl PruneOptions {
    /// How many bytes may stay; `None`: everything that matches goes.
    fn keep_bytes(&self, total: u64, free: u64) -> Option<u64> {
        if self.reserved_space == 0 && self.max_used_space == 0 && self.min_free_space == 0 {
            return None;
        }
        let mut keep = if self.max_used_space > 0 { self.max_used_space } else { total };
        if self.max_used_space == 0 && self.min_free_space == 0 {
            keep = 0;
        }
        let excess = self.min_free_space.saturating_sub(free);
        if excess > 0 {
            keep = keep.min(total.saturating_sub(excess));
        }
        Some(keep.max(self.reserved_space))
    }

    fn spares(&self, record: &UsageRecord, now: i64) -> bool {
        let is_inner = matches!(record.record_type, RecordType::Internal | RecordType::Frontend);
        if !self.all && (is_inner || record.shared) {
            return true;
        }
        let keep = i64::try_from(self.keep_duration.as_millis()).unwrap_or(i64::MAX);
        keep > 0 && record.last_used_ms.is_some_and(|last| last > now.saturating_sub(keep))
    }
}

/// What is about to be removed.
struct Doomed {
    id: RefId,
    is_named: bool,
    needs: Vec<RefId>,
}

/// The refs and named directories at one moment.
struct Graph {
    entries: HashMap<RefId, Entry>,
    /// How many entries need each.
    needed: HashMap<RefId, usize>,
    owners: Owners,
    total: u64,
}

impl Graph {
    fn new(inventory: Inventory) -> Self {
        let Inventory { entries, owners, total, .. } = inventory;
        let mut needed = HashMap::new();
        for need in entries.iter().flat_map(|entry| &entry.needs) {
            *needed.entry(*need).or_default() += 1;
        }
        Self { entries: entries.into_iter().map(|entry| (entry.id, entry)).collect(), needed, owners, total }
    }

    fn is_leaf(&self, id: &RefId) -> bool {
        self.needed.get(id).is_none_or(|count| *count == 0)
    }

    /// Counts an entry out; its size is then what that frees. Gives what nothing needs any more then.
    fn count_out(&mut self, id: &RefId) -> Vec<RefId> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        entry.record.size = self.owners.remove(&entry.footprint);
        self.total -= entry.record.size;
        let needs = entry.needs.clone();
        for need in &needs {
            if let Some(count) = self.needed.get_mut(need) {
                *count -= 1;
            }
        }
        needs.into_iter().filter(|need| self.is_leaf(need)).collect()
    }

    /// Takes back [`Self::count_out`] of what somebody has come to use meanwhile.
    fn count_in(&mut self, id: &RefId) {
        let Some(entry) = self.entries.get(id) else { return };
        self.total += self.owners.add(&entry.footprint);
        for need in &entry.needs {
            *self.needed.entry(*need).or_default() += 1;
        }
    }
}

impl Store {
    /// Removes what `options` say, the longest unused first. What is in use, or needed by what stays, stays.
    pub async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        self.prune_with(options, |_| {}).await
    }

    /// As [`Store::prune`]; tells of each removal as it happens.
    ///
    /// Cancel: safe between two small transactions; what was removed is removed.
    pub async fn prune_with(
        &self,
        options: &PruneOptions,
        mut on_removed: impl FnMut(&UsageRecord) + Send,
    ) -> Result<Pruned> {
        let filter = Filter::parse(&options.filters)?;
        let _one = self.inner.collecting.lock().await;
        let _watch = Watch::begin(self);
        let store = self.clone();
        let (mut graph, free) = blocking(move || {
            let free = rbuild_sys::disk_free(&store.inner.root)?.0;
            Ok((Graph::new(store.inventory()?), free))
        })
        .await?;
        let keep = options.keep_bytes(graph.total, free);
        let now = now_ms();
        let wants = |entry: &Entry| {
            !entry.record.in_use && !options.spares(&entry.record, now) && filter.matches(&entry.record)
        };
        let age =
            |entry: &Entry| Reverse((entry.record.last_used_ms.unwrap_or(entry.record.created_ms), entry.id));
        let mut heap: BinaryHeap<Reverse<(i64, RefId)>> = graph
            .entries
            .values()
            .filter(|entry| graph.is_leaf(&entry.id) && wants(entry))
            .map(age)
            .collect();
        let mut pruned = Pruned::default();
        while !heap.is_empty() {
            let mut batch = Vec::new();
            while batch.len() < BATCH && keep.is_none_or(|keep| graph.total > keep) {
                let Some(Reverse((_, id))) = heap.pop() else { break };
                let Some(entry) = graph.entries.get(&id) else { continue };
                batch.push(Doomed { id, is_named: entry.is_named, needs: entry.needs.clone() });
                // What stood below is as old as its own last use, and may come next.
                for freed in graph.count_out(&id) {
                    heap.extend(graph.entries.get(&freed).filter(|parent| wants(parent)).map(age));
                }
            }
            if batch.is_empty() {
                break;
            }
            let tried: Vec<RefId> = batch.iter().map(|doomed| doomed.id).collect();
            let store = self.clone();
            let removed: HashSet<RefId> =
                blocking(move || store.remove_batch(&batch)).await?.into_iter().collect();
            for id in tried {
                if !removed.contains(&id) {
                    graph.count_in(&id);
                    continue;
                }
                let Some(entry) = graph.entries.remove(&id) else { continue };
                on_removed(&entry.record);
                pruned.bytes += entry.record.size;
                pruned.records.push(entry.record);
            }
        }
        let store = self.clone();
        blocking(move || store.sweep_blobs()).await?;
        // The space is free when this returns.
        self.inner.janitor.settle().await;
        Ok(pruned)
    }

    /// Applies the daemon's rules, one after the other.
    pub async fn gc(&self, policies: &[GcPolicy]) -> Result<Pruned> {
        let mut all = Pruned::default();
        for policy in policies {
            let mut pruned = self.prune(policy).await?;
            all.bytes += pruned.bytes;
            all.records.append(&mut pruned.records);
        }
        Ok(all)
    }

    /// Removes refs of which nobody but their holder ever knew, so that nothing stands on them. What is still held stays.
    pub async fn discard(&self, ids: Vec<RefId>) -> Result<()> {
        let _one = self.inner.collecting.lock().await;
        let store = self.clone();
        blocking(move || {
            let doomed = |id| Doomed { id, is_named: false, needs: Vec::new() };
            let batch: Vec<Doomed> = ids.into_iter().map(doomed).collect();
            store.remove_batch(&batch).map(drop)
        })
        .await
    }

    /// Removes rows of refs and named directories that nobody has come to use meanwhile, nor what needs them.
    /// Children come before their parents.
    fn remove_batch(&self, batch: &[Doomed]) -> Result<Vec<RefId>> {
        let (mut refs, mut named) = (Vec::new(), Vec::new());
        let mut kept: HashSet<RefId> = HashSet::new();
        for doomed in batch {
            let id = &doomed.id;
            let goes = if kept.contains(id) {
                false
            } else if doomed.is_named {
                let row = self.inner.names.take_away(id);
                row.map(|row| named.push((*id, row))).is_some()
            } else {
                let goes = self.inner.live.lock().doom(id);
                if goes {
                    refs.push(*id);
                }
                goes
            };
            if !goes {
                kept.extend(&doomed.needs);
            }
        }
        let mut garbage = Garbage::default();
        let removed = self.inner.db.update(|tx| {
            let mut removed = Vec::new();
            for id in &refs {
                let Some(bytes) = tx.get(Table::Refs, id.as_bytes())? else { continue };
                let row: RefRow = from_json(Table::Refs, &bytes)?;
                garbage.blobs.extend(delete_ref(tx, id, &row)?);
                garbage.snapshots.extend(row.snapshot.into_iter().chain(row.flat));
                removed.push(*id);
            }
            for (id, row) in &named {
                tx.delete(Table::Named, id.as_bytes())?;
                tx.delete(Table::Usage, id.as_bytes())?;
                garbage.snapshots.push(row.snapshot.clone());
                garbage.named.push(*id);
                removed.push(*id);
            }
            Ok(removed)
        });
        let mut live = self.inner.live.lock();
        refs.iter().for_each(|id| live.spare(id));
        drop(live);
        match removed {
            Ok(removed) => {
                let mut trees = self.inner.trees.lock();
                removed.iter().for_each(|id| trees.forget(id));
                drop(trees);
                self.inner.janitor.remove(garbage);
                Ok(removed)
            }
            Err(error) => {
                for (id, row) in named {
                    self.inner.names.put_back(id, row);
                }
                Err(error)
            }
        }
    }

    /// Removes blobs that nothing has named for a while.
    fn sweep_blobs(&self) -> Result<()> {
        let core = &self.inner.core;
        let mut blobs = Vec::new();
        core.content.walk(|digest, _| blobs.push(digest))?;
        let mut free = std::collections::HashSet::new();
        for digest in blobs {
            if core.db.scan(Table::Blobs, digest.as_bytes())?.is_empty() && self.is_old(&digest)? {
                free.insert(digest);
            }
        }
        core.db.step("gc.swept");
        self.inner.janitor.remove(Garbage { blobs: free, ..Garbage::default() });
        Ok(())
    }

    fn is_old(&self, digest: &Digest) -> Result<bool> {
        let path = self.inner.content.path(digest);
        match std::fs::metadata(&path).and_then(|meta| meta.modified()) {
            Ok(time) => Ok(time.elapsed().is_ok_and(|age| age > BLOB_GRACE)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("stat", &path, error)),
        }
    }
}

/// Ends the watch however the collection ends.
struct Watch<'a>(&'a Store);

impl<'a> Watch<'a> {
    fn begin(store: &'a Store) -> Self {
        store.inner.live.lock().watch(true);
        Self(store)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.inner.live.lock().watch(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_how_many_bytes_stay() {
        let options = |reserved_space, max_used_space, min_free_space| PruneOptions {
            reserved_space,
            max_used_space,
            min_free_space,
            ..PruneOptions::default()
        };
        for (reserved, max, min_free, total, free, expected) in [
            (0, 0, 0, 100, 50, None),
            (30, 0, 0, 100, 50, Some(30)),
            (0, 60, 0, 100, 50, Some(60)),
            (0, 0, 40, 100, 50, Some(100)),
            (0, 0, 70, 100, 50, Some(80)),
            (90, 0, 70, 100, 50, Some(90)),
            (10, 60, 90, 100, 50, Some(60)),
            (10, 60, 140, 100, 50, Some(10)),
        ] {
            let keep = options(reserved, max, min_free).keep_bytes(total, free);
            assert_eq!(keep, expected, "{reserved} {max} {min_free}");
        }
    }
}
