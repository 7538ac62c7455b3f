//! What things take on disk, and what they take together: files and blobs that several refs need count once.

use std::collections::HashMap;

use rbuild_digest::Digest;
use rbuild_snapshot::{SharedFiles, SnapshotId, Usage};

use crate::codec::{Decoder, Encoder};
use crate::db::{Table, Tx};
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::rows::{RefRow, from_json, put_ref};
use crate::store::Core;
use crate::usage::unless_full;

/// Something on disk that may have several owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    /// A file with names in several snapshots. All snapshots are on one file system.
    Inode(u64),
    /// A blob that several refs or images need.
    Blob(Digest),
}

/// What one thing takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes that are nobody else's.
    pub(crate) own: u64,
    /// What others may have too, with its bytes.
    pub(crate) shared: Vec<(Unit, u64)>,
}

impl Footprint {
    /// All that would be there if nothing else were.
    pub(crate) fn total(&self) -> u64 {
        self.own + self.shared.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn add(&mut self, usage: &Usage) {
        self.own += usage.size_bytes;
        self.shared.extend(usage.shared.iter().map(|(ino, bytes)| (Unit::Inode(*ino), *bytes)));
    }

    /// A blob, if it is here.
    pub(crate) fn add_blob(&mut self, core: &Core, digest: &Digest) -> Result<()> {
        let bytes = core.content.disk_bytes(digest)?;
        self.shared.extend(bytes.map(|bytes| (Unit::Blob(*digest), bytes)));
        Ok(())
    }
}

/// How many have each shared unit.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<Unit, u32>);

impl Owners {
    /// One more owner. Gives the bytes that were nobody's before.
    pub(crate) fn add(&mut self, footprint: &Footprint) -> u64 {
        let new = footprint.shared.iter().filter(|(unit, _)| {
            let owners = self.0.entry(*unit).or_default();
            *owners += 1;
            *owners == 1
        });
        footprint.own + new.map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// One owner less. Gives the bytes that are nobody's now.
    pub(crate) fn remove(&mut self, footprint: &Footprint) -> u64 {
        let freed = footprint.shared.iter().filter(|(unit, _)| {
            let Some(owners) = self.0.get_mut(unit) else { return false };
            *owners = owners.saturating_sub(1);
            *owners == 0
        });
        footprint.own + freed.map(|(_, bytes)| bytes).sum::<u64>()
    }
}

/// What a ref's own layer takes: its snapshots, walked once, and its blobs that are here. Blocking.
pub(crate) fn of_ref(core: &Core, id: &RefId, row: &RefRow) -> Result<Footprint> {
    let mut footprint = Footprint::default();
    if row.snapshot.is_some() {
        match row.own_size {
            Some(own) => {
                footprint.own = own;
                if let Some(bytes) = core.db.get(Table::Shared, id.as_bytes())? {
                    footprint.shared = decode(&bytes)?;
                }
            }
            None => footprint = measure_ref(core, id, row)?,
        }
    }
    for blob in &row.blobs {
        footprint.add_blob(core, &blob.desc.digest)?;
    }
    Ok(footprint)
}

fn measure_ref(core: &Core, id: &RefId, row: &RefRow) -> Result<Footprint> {
    // A step may take a file of it as its own at any time: see `Ref::lends_files`.
    let shared = if row.lends_files() { SharedFiles::All } else { SharedFiles::Found };
    let mut found = Footprint::default();
    for snapshot in row.snapshot.iter().chain(&row.flat) {
        match core.snaps.usage(snapshot, shared) {
            Ok(usage) => found.add(&usage),
            // Removed meanwhile.
            Err(error) if error.is_not_found() => return Ok(Footprint::default()),
            Err(error) => return Err(error.into()),
        }
    }
    unless_full(core.db.update(|tx| set_measured(tx, id, row, &found)))?;
    Ok(found)
}

/// Notes what was found in the row as it is now, unless it shows other files by now.
fn set_measured(tx: &mut Tx<'_>, id: &RefId, measured: &RefRow, found: &Footprint) -> Result<()> {
    let Some(bytes) = tx.get(Table::Refs, id.as_bytes())? else { return Ok(()) };
    let mut row: RefRow = from_json(Table::Refs, &bytes)?;
    if row.snapshot != measured.snapshot || row.flat != measured.flat {
        return Ok(());
    }
    row.own_size = Some(found.own);
    put_ref(tx, id, &row)?;
    if found.shared.is_empty() {
        return tx.delete(Table::Shared, id.as_bytes());
    }
    tx.put(Table::Shared, id.as_bytes(), &encode(&found.shared))
}

/// What a snapshot that may change at any time takes, and the files of its daemon beside it.
pub(crate) fn of_named(core: &Core, id: &RefId, snapshot: &SnapshotId) -> Result<Footprint> {
    let mut footprint = Footprint::default();
    footprint.add(&core.snaps.usage(snapshot, SharedFiles::All)?);
    let dir = core.root.join("named").join(id.as_str());
    for path in [dir.clone(), dir.join("index"), dir.join("index.open")] {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) => footprint.own += std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("stat", &path, error)),
        }
    }
    Ok(footprint)
}

/// Inodes as differences, so that those of one directory take few bytes each.
fn encode(shared: &[(Unit, u64)]) -> Vec<u8> {
    let mut inodes: Vec<(u64, u64)> = shared
        .iter()
        .filter_map(|(unit, bytes)| match unit {
            Unit::Inode(ino) => Some((*ino, *bytes)),
            // Which blobs there are the row says.
            Unit::Blob(_) => None,
        })
        .collect();
    inodes.sort_unstable();
    let mut out = Encoder::default();
    let mut last = 0;
    for (ino, bytes) in inodes {
        out.number(ino - last).number(bytes);
        last = ino;
    }
    out.0
}

fn decode(bytes: &[u8]) -> Result<Vec<(Unit, u64)>> {
    let mut input = Decoder(bytes);
    let mut found = Vec::new();
    let mut last = 0u64;
    while !input.0.is_empty() {
        let pair = input.number().zip(input.number());
        let pair = pair.and_then(|(step, bytes)| Some((last.checked_add(step)?, bytes)));
        let (ino, bytes) = pair.ok_or_else(|| StoreError::corrupt("shared", "a number is cut short"))?;
        found.push((Unit::Inode(ino), bytes));
        last = ino;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_survive_the_way_through_the_database() {
        let shared: Vec<_> = [(3, 4096), (4, 0), (1 << 40, 512)].map(|(i, b)| (Unit::Inode(i), b)).into();
        let bytes = encode(&shared);
        assert_eq!(decode(&bytes).expect("reads"), shared);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err(), "cut short");
        assert!(decode(&[]).expect("reads").is_empty());
    }

    #[test]
    fn what_several_own_is_freed_by_the_last() {
        let mut owners = Owners::default();
        let file = (Unit::Inode(1), 100);
        let a = Footprint { own: 1, shared: vec![file] };
        let b = Footprint { own: 2, shared: vec![file, (Unit::Inode(2), 50)] };
        assert_eq!((owners.add(&a), owners.add(&b)), (101, 52));
        assert_eq!((owners.remove(&a), owners.remove(&b)), (1, 152));
        assert_eq!(b.total(), 152);
    }
}
