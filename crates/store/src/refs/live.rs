use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use crate::error::Result;
use crate::id::RefId;
use crate::refs::{Node, Ref};
use crate::rows::{RefRow, get_ref};
use crate::store::Store;

/// The refs that somebody holds, and those that are being removed. Both change under one lock: a ref is either
/// found and kept, or removed and not found.
#[derive(Debug, Default)]
pub(crate) struct Live {
    nodes: HashMap<RefId, Weak<Node>>,
    doomed: HashSet<RefId>,
    /// While garbage is collected: what has come to be needed since it began to look.
    needed_since: Option<HashSet<RefId>>,
}

impl Live {
    fn get(&self, id: &RefId) -> Option<Arc<Node>> {
        self.nodes.get(id)?.upgrade()
    }

    pub(crate) fn insert(&mut self, node: &Arc<Node>) {
        if let Some(needed) = &mut self.needed_since {
            needed.extend(node.needs.iter().map(|need| need.id));
        }
        self.nodes.insert(node.id, Arc::downgrade(node));
    }

    /// A row has come to need `id`.
    pub(crate) fn note_need(&mut self, id: RefId) {
        if let Some(needed) = &mut self.needed_since {
            needed.insert(id);
        }
    }

    /// From here on it is noted what comes to be needed, until this is called with `false`.
    pub(crate) fn watch(&mut self, on: bool) {
        self.needed_since = on.then(HashSet::new);
    }

    /// Called when a node dies: its place may have been taken by a newer one.
    pub(crate) fn forget(&mut self, id: &RefId) {
        if self.nodes.get(id).is_some_and(|node| node.strong_count() == 0) {
            self.nodes.remove(id);
        }
    }

    pub(crate) fn is_live(&self, id: &RefId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.strong_count() > 0)
    }

    /// Whether a ref that has a row can still be had.
    pub(crate) fn may_live(&self, id: &RefId) -> bool {
        !self.doomed.contains(id)
    }

    /// Claims a ref for removal unless somebody holds it or has come to need it. [`Live::spare`] ends the claim.
    pub(crate) fn doom(&mut self, id: &RefId) -> bool {
        let is_needed = self.needed_since.as_ref().is_some_and(|needed| needed.contains(id));
        !is_needed && !self.is_live(id) && self.doomed.insert(*id)
    }

    pub(crate) fn spare(&mut self, id: &RefId) {
        self.doomed.remove(id);
    }
}

impl Store {
    /// The ref called `id`, if there is one. Reads the database only.
    pub fn get(&self, id: &RefId) -> Result<Option<Ref>> {
        // Nodes that turn out not to be needed are dropped after the lock is let go: their drop takes it too.
        let mut done: HashMap<RefId, Arc<Node>> = HashMap::new();
        let found = self.find(id, &mut done)?;
        Ok(found.map(|node| Ref::new(self, node)))
    }

    fn find(&self, id: &RefId, done: &mut HashMap<RefId, Arc<Node>>) -> Result<Option<Arc<Node>>> {
        let mut live = self.inner.live.lock();
        let mut rows: HashMap<RefId, RefRow> = HashMap::new();
        let mut todo = vec![*id];
        while let Some(&top) = todo.last() {
            if done.contains_key(&top) {
                todo.pop();
                continue;
            }
            if let Some(node) = live.get(&top) {
                done.insert(top, node);
                todo.pop();
                continue;
            }
            if live.doomed.contains(&top) {
                return Ok(None);
            }
            let needs = match rows.entry(top) {
                Entry::Occupied(row) => row.get().needs(),
                Entry::Vacant(empty) => match get_ref(&self.inner.db, &top)? {
                    Some(row) => empty.insert(row).needs(),
                    None => return Ok(None),
                },
            };
            let missing: Vec<RefId> = needs.iter().filter(|id| !done.contains_key(*id)).copied().collect();
            if !missing.is_empty() {
                todo.extend(missing);
                continue;
            }
            let needs = needs.iter().filter_map(|id| done.get(id).cloned()).collect();
            if let Some(row) = rows.remove(&top) {
                let node = Arc::new(Node::new(self, top, row, needs));
                live.insert(&node);
                done.insert(top, node);
            }
            todo.pop();
        }
        Ok(done.get(id).cloned())
    }
}
