//! Cache mounts that travel: what is in one as an archive, and one made from an archive.
//!
//! A mount that is being filled has no name: nobody sees it before it is complete, and a crash leaves a snapshot that no
//! row names, which the next start sweeps.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rbuild_snapshot::{Applier, Attributes, DiffOptions, Differ, LayerForm, SnapshotId};

use crate::cache_mount::{CacheMount, CachePurpose};
use crate::context::Hold;
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::refs::{ActiveSnapshot, Node, Ref, TreeGuard};
use crate::rows::{NamedKind, NamedRow};
use crate::store::{Store, blocking};
use crate::usage::put_named;

/// A cache mount of steps that is there.
#[derive(Debug)]
pub struct FoundMount {
    /// Taken, beside others that share it. Whoever wants it alone waits or gets another one, so keep it for a short time.
    pub mount: CacheMount,
    /// Whether it lies over files that its steps put there.
    pub over_base: bool,
}

impl Store {
    /// The cache mounts of steps of this name that nobody has for himself: one without a base, one over a base.
    pub async fn find_cache_mounts(&self, id: &str) -> Result<Vec<FoundMount>> {
        let taken = self.take_named(id);
        let mut found = Vec::with_capacity(taken.len());
        for (hold, row) in taken {
            let over_base = row.base.is_some();
            let base = match &row.base {
                None => None,
                Some(base) => match self.get(base)? {
                    Some(base) => Some(base.node.clone()),
                    None => {
                        self.inner.names.release(&hold);
                        continue;
                    }
                },
            };
            found.push(FoundMount { mount: self.open_mount(hold, row, base).await?, over_base });
        }
        Ok(found)
    }

    fn take_named(&self, id: &str) -> Vec<(Hold, NamedRow)> {
        let over = format!("{id}:");
        let mut all = self.inner.names.all.lock();
        let mut best: [Option<(RefId, i64)>; 2] = [None, None];
        for (ref_id, named) in all.iter() {
            let based = named.row.base.is_some();
            let is_it = match based {
                false => named.row.key == id,
                true => named.row.key.strip_prefix(&over).is_some_and(|base| RefId::parse(base).is_some()),
            };
            let slot = &mut best[usize::from(based)];
            // The oldest, as steps take it.
            let is_older = slot.is_none_or(|(_, created)| named.row.created_ms < created);
            if is_it && named.row.kind == NamedKind::CacheMount && !named.exclusive && is_older {
                *slot = Some((*ref_id, named.row.created_ms));
            }
        }
        let mut taken = Vec::new();
        for (ref_id, _) in best.into_iter().flatten() {
            if let Some(named) = all.get_mut(&ref_id) {
                named.holders += 1;
                taken.push((Hold { id: ref_id }, named.row.clone()));
            }
        }
        taken
    }

    /// Whether there is a cache mount of steps of this name over this base.
    pub fn has_cache_mount(&self, id: &str, base: Option<&Ref>) -> bool {
        let key = key(id, base.map(|base| &base.node));
        let all = self.inner.names.all.lock();
        all.values().any(|named| named.row.kind == NamedKind::CacheMount && named.row.key == key)
    }

    /// Makes a cache mount of steps from an archive. Nobody sees it before it is complete.
    ///
    /// `archive`: uncompressed, read to its end; an error of it leaves nothing. Cancel: by the reader, with an error.
    pub async fn fill_cache_mount(
        &self,
        id: &str,
        base: Option<&Ref>,
        description: &str,
        archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let base = base.map(|base| base.node.clone());
        if let Some(base) = &base {
            self.load(base, None).await?;
        }
        let (store, id, description) = (self.clone(), id.to_owned(), description.to_owned());
        blocking(move || store.fill_now(&id, base, description, archive)).await
    }

    fn fill_now(
        &self,
        id: &str,
        base: Option<Arc<Node>>,
        description: String,
        mut archive: impl Read,
    ) -> Result<()> {
        let core = &self.inner.core;
        let key = key(id, base.as_ref());
        let ref_id = RefId::fresh();
        let (parents, view) = match &base {
            None => (Vec::new(), None),
            Some(node) => {
                self.make_permanent(node)?;
                (self.snapshots(node)?, Some(TreeGuard::open(&self.view(node)?, Some(node.clone()))?))
            }
        };
        let active = ActiveSnapshot::prepare(self, SnapshotId::parse(ref_id.as_str())?, &parents)?;
        let dest = core.snaps.dir(active.id())?;
        let form = core.snaps.form();
        let mut applier = Applier::new(&dest, form);
        if let (LayerForm::Overlay, Some(view)) = (form, &view) {
            applier = applier.with_parents(view.root());
        }
        applier.apply(&mut archive)?;
        // What comes after the end mark says whether all arrived.
        io::copy(&mut archive, &mut io::sink()).map_err(|error| {
            StoreError::io("read", std::path::Path::new("the archive of a cache mount"), error)
        })?;
        let row = NamedRow {
            kind: CachePurpose::Steps.kind(),
            key,
            snapshot: active.id().clone(),
            base: base.as_ref().map(|node| node.id),
            created_ms: self.inner.names.next_created_ms(),
            description,
        };
        core.db.update(|tx| put_named(tx, &ref_id, &row))?;
        active.keep();
        if let Some(base) = base {
            self.inner.live.lock().note_need(base.id);
        }
        let hold = self.inner.names.add_taken(ref_id, row, false);
        self.inner.names.release(&hold);
        self.touch(&ref_id);
        Ok(())
    }
}

impl CacheMount {
    /// Writes what is in it as an uncompressed archive: equal contents are equal bytes. Blocking.
    ///
    /// Errors: also those of a step that changes files while they are read.
    pub fn archive(&self, out: impl Write) -> Result<()> {
        let options = DiffOptions { attributes: Attributes::Users, ..DiffOptions::default() };
        Differ::new(None, options).diff_trees(&self.root()?, out)?;
        Ok(())
    }
}

/// What it is found by.
pub(crate) fn key(id: &str, base: Option<&Arc<Node>>) -> String {
    match base {
        None => id.to_owned(),
        Some(base) => format!("{id}:{}", base.id),
    }
}
