//! A full disk: room is made first, and if that does not help, people are told who holds the space.
//!
//! Removing something needs a little room itself (the transaction that forgets it is written first). A file in the
//! root, `reserve`, keeps that room: it goes before anything else, and comes back when there is room again.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::gc::{GcPolicy, PruneOptions};
use crate::store::{Core, Store, blocking};
use crate::usage::UsageRecord;

/// Bytes kept for the transactions of a collection: the database writes a few pages per removed row, and itself.
const RESERVE: u64 = 8 << 20;
/// On a small disk no more than this part of it.
const RESERVE_PART: u64 = 64;
/// A first collection on a full disk frees this part of it …
const ROOM_PART: u64 = 20;
/// … or this much of a large one, and each further one twice as much.
const ROOM: u64 = 1 << 30;
/// With less than this free, a step that failed may have failed for lack of space.
const FULL: u64 = 1 << 20;

/// Who holds the disk of the root directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    /// The root directory.
    pub root: PathBuf,
    /// Bytes of the disk.
    pub total: u64,
    /// Of these, free.
    pub free: u64,
    /// Results and cache mounts that something uses now.
    pub in_use: u64,
    /// Those that nothing uses: they can be pruned.
    pub reclaimable: u64,
    /// Blobs that only images need.
    pub images: u64,
    /// The history of builds, logs included.
    pub history: u64,
    /// The database and everything else of the daemon.
    pub rest: u64,
}

impl Space {
    /// What is not the daemon's.
    pub fn others(&self) -> u64 {
        let ours = self.in_use + self.reclaimable + self.images + self.history + self.rest;
        self.total.saturating_sub(self.free).saturating_sub(ours)
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, free, total) = (self.root.display(), Bytes(self.free), Bytes(self.total));
        write!(f, "of the {total} of the disk under `{root}`, {free} are free; ")?;
        let mut holders = [
            (self.in_use, "results and cache mounts in use by running builds"),
            (self.reclaimable, "results and cache mounts that nothing uses (`rbuildctl prune --all`)"),
            (self.images, "images (`rbuildctl rmi`)"),
            (self.history, "the history of builds (`rbuildctl history rm`)"),
            (self.rest, "other files of the daemon"),
            (self.others(), "files that are not the daemon's"),
        ];
        holders.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut told = holders.iter().filter(|(bytes, _)| *bytes >= self.total / 200).peekable();
        while let Some((bytes, who)) = told.next() {
            write!(f, "{} {who}{}", Bytes(*bytes), if told.peek().is_some() { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// For people, as `du` has it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value >= 1000.0 && unit < 4 {
            value /= 1000.0;
            unit += 1;
        }
        let unit = ["B", "kB", "MB", "GB", "TB"][unit];
        if value >= 100.0 || unit == "B" {
            write!(f, "{value:.0} {unit}")
        } else {
            write!(f, "{value:.1} {unit}")
        }
    }
}

impl Store {
    /// Makes room on a full disk: the rules first, then what was not used for longest, more the higher `attempt` is:
    /// nobody knows how much it takes. Gives the bytes that this freed; 0: nothing is left that could go.
    ///
    /// Cancel: safe; the reserve comes back with the next call or start.
    pub async fn make_room(&self, policies: &[GcPolicy], attempt: u32) -> Result<u64> {
        let _one = self.inner.making_room.lock().await;
        let core = self.inner.core.clone();
        let wanted = blocking(move || {
            let (free, total) = rbuild_sys::disk_free(&core.root)?;
            give_reserve(&core.root)?;
            let share = (total / ROOM_PART).min(ROOM);
            Ok(free.saturating_add(share.saturating_mul(1 << attempt.min(16))))
        })
        .await?;
        let mut freed = 0;
        let mut outcome = Ok(());
        let last = GcPolicy { all: true, min_free_space: wanted, ..PruneOptions::default() };
        for policy in policies.iter().chain([&last]) {
            match self.prune(policy).await {
                Ok(pruned) => freed += pruned.bytes,
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        tracing::info!(freed, "the disk was full: what nothing uses was removed");
        let core = self.inner.core.clone();
        blocking(move || {
            take_reserve(&core);
            Ok(())
        })
        .await?;
        match outcome {
            Err(error) if freed == 0 => Err(error),
            _ => Ok(freed),
        }
    }

    /// Who holds the disk.
    pub async fn space(&self) -> Result<Space> {
        let store = self.clone();
        blocking(move || {
            let core = &store.inner.core;
            let (free, total) = rbuild_sys::disk_free(&core.root)?;
            let inventory = store.inventory()?;
            let sum = |wanted: &dyn Fn(&UsageRecord) -> bool| -> u64 {
                let records = inventory.entries.iter().map(|entry| &entry.record);
                records.filter(|record| wanted(record)).map(|record| record.size).sum()
            };
            Ok(Space {
                root: core.root.clone(),
                total,
                free,
                in_use: sum(&|record| record.in_use),
                reclaimable: sum(&|record| !record.in_use),
                images: inventory.images.iter().map(|image| image.size).sum(),
                history: tree_bytes(&core.root.join("history")),
                rest: rest(&core.root),
            })
        })
        .await
    }

    /// Whether the disk is so full that a step may have failed for it.
    pub fn is_disk_full(&self) -> Result<bool> {
        Ok(rbuild_sys::disk_free(&self.inner.root)?.0 < FULL)
    }
}

fn reserve_path(root: &Path) -> PathBuf {
    root.join("reserve")
}

fn give_reserve(root: &Path) -> Result<()> {
    let path = reserve_path(root);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", &path, error))
        }
        _ => Ok(()),
    }
}

/// Takes the reserve if it is not there and there is ample room. Without it everything works but on a full disk.
pub(crate) fn take_reserve(core: &Core) {
    let path = reserve_path(&core.root);
    let taken = (|| -> Result<()> {
        let (free, total) = rbuild_sys::disk_free(&core.root)?;
        let size = RESERVE.min(total / RESERVE_PART);
        let has = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.len() >= size);
        if has || free < size.saturating_mul(2) {
            return Ok(());
        }
        let file = File::create(&path).map_err(|error| StoreError::io("create", &path, error))?;
        Ok(rbuild_sys::allocate(&file, size)?)
    })();
    if let Err(error) = taken {
        tracing::debug!(%error, "no room is kept for collecting on a full disk");
        if let Err(error) = give_reserve(&core.root) {
            tracing::debug!(%error, "removing half a reserve");
        }
    }
}

/// What lies directly in the root, and what explanations keep: all that is in no inventory.
fn rest(root: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    let files = entries.flatten().filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        let known = ["content", "snapshots", "named", "history", "run"];
        if meta.is_dir() {
            let own = !known.iter().any(|name| entry.file_name() == *name);
            return Some(if own { tree_bytes(&entry.path()) } else { 0 });
        }
        Some(meta.blocks() * 512)
    });
    files.sum::<u64>() + tree_bytes(&root.join("content/ingest"))
}

/// Bytes on disk below a directory of the daemon's own. For people: what cannot be read counts nothing.
fn tree_bytes(dir: &Path) -> u64 {
    let mut total = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_holder_is_named_first_and_crumbs_are_left_out() {
        let space = Space {
            root: "/r".into(),
            total: 1_000_000_000,
            free: 0,
            in_use: 1,
            reclaimable: 0,
            images: 700_000_000,
            history: 20_000_000,
            rest: 0,
        };
        let text = space.to_string();
        assert!(
            text.starts_with("of the 1.0 GB of the disk under `/r`, 0 B are free; 700 MB images"),
            "{text}"
        );
        assert!(text.contains(", 280 MB files that are not the daemon's, 20.0 MB the history"), "{text}");
        assert!(!text.contains("in use"), "{text}");
    }
}
