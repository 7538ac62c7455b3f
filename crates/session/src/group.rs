use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The sessions of the live builds that share something: any of them may be asked.
///
/// A cheap handle; all clones see the same list. A session that was added twice stays until it was removed twice.
#[derive(Clone, Debug)]
pub struct SessionGroup {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ids: Mutex<Vec<(String, usize)>>,
    changed: watch::Sender<()>,
}

impl Default for SessionGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionGroup {
    /// An empty group.
    pub fn new() -> Self {
        let inner = Inner { ids: Mutex::new(Vec::new()), changed: watch::Sender::new(()) };
        Self { inner: Arc::new(inner) }
    }

    /// A group of one; of none if the id is empty.
    pub fn of(id: impl Into<String>) -> Self {
        let group = Self::new();
        group.add(id);
        group
    }

    /// Adds a session; an empty id is ignored (a build without a session).
    pub fn add(&self, id: impl Into<String>) {
        let id = id.into();
        if id.is_empty() {
            return;
        }
        let mut ids = self.inner.ids.lock();
        match ids.iter_mut().find(|(known, _)| *known == id) {
            Some((_, count)) => *count += 1,
            None => ids.push((id, 1)),
        }
        drop(ids);
        self.inner.changed.send_replace(());
    }

    /// Takes back one [`SessionGroup::add`].
    pub fn remove(&self, id: &str) {
        let mut ids = self.inner.ids.lock();
        if let Some(at) = ids.iter().position(|(known, _)| known == id) {
            ids[at].1 -= 1;
            if ids[at].1 == 0 {
                ids.remove(at);
            }
        }
    }

    /// The ids in the order they were added.
    pub fn ids(&self) -> Vec<String> {
        self.inner.ids.lock().iter().map(|(id, _)| id.clone()).collect()
    }

    /// Is nobody there to ask?
    pub fn is_empty(&self) -> bool {
        self.inner.ids.lock().is_empty()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_added_twice_survives_one_removal() {
        let group = SessionGroup::of("a");
        group.add("b");
        group.clone().add("a");
        group.remove("a");
        assert_eq!(group.ids(), ["a", "b"]);
        group.remove("a");
        group.remove("nobody");
        assert_eq!(group.ids(), ["b"]);
    }
}
