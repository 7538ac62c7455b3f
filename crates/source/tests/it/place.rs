//! A store in a temporary folder, and what asks for sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::SourceOp;
use rbuild_progress::{Progress, VertexInfo};
use rbuild_session::{SessionGroup, SessionManager};
use rbuild_source::{AddressPolicy, HttpLimits, HttpSource, ImageSource, Memo, SourceRequest};
use rbuild_store::{Ref, Store, StoreOptions};

pub(crate) struct Place {
    pub(crate) store: Store,
    pub(crate) progress: Progress,
    sessions: Arc<SessionManager>,
    _dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("root"), StoreOptions::default()).unwrap();
        let sessions = Arc::new(SessionManager::new());
        Self { store, progress: Progress::memory(), sessions, _dir: dir }
    }

    pub(crate) fn http(&self) -> HttpSource {
        HttpSource::new(self.store.clone(), self.sessions.clone()).unwrap()
    }

    pub(crate) fn http_with(&self, policy: AddressPolicy) -> HttpSource {
        let limits = HttpLimits::default();
        HttpSource::with_policy(self.store.clone(), self.sessions.clone(), policy, limits).unwrap()
    }

    /// Servers may keep this one waiting for a moment.
    pub(crate) fn impatient_http(&self) -> HttpSource {
        let moment = std::time::Duration::from_millis(500);
        let limits = HttpLimits { answer: moment, stall: moment, ..HttpLimits::default() };
        let policy = AddressPolicy::default();
        HttpSource::with_policy(self.store.clone(), self.sessions.clone(), policy, limits).unwrap()
    }

    pub(crate) fn image(&self) -> ImageSource {
        let registry = rbuild_registry::Registry::new(Default::default()).unwrap();
        ImageSource::new(self.store.clone(), Arc::new(registry), self.sessions.clone())
    }

    /// A question of a new build.
    pub(crate) fn ask(&self, identifier: &str, attrs: &[(&str, &str)]) -> SourceRequest {
        let attrs: BTreeMap<String, String> =
            attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let info = VertexInfo {
            digest: Digest::of(identifier),
            name: identifier.into(),
            inputs: vec![],
            group: None,
        };
        SourceRequest {
            op: SourceOp { identifier: identifier.to_owned(), attrs },
            platform: None,
            sessions: SessionGroup::new(),
            reporter: self.progress.vertex(info),
            description: identifier.to_owned(),
            memo: Memo::default(),
        }
    }
}

/// A file of a ref: its bytes, permission bits, owner, time.
pub(crate) async fn file(found: &Ref, name: &str) -> (Vec<u8>, u32, u32, u32, i64) {
    let tree = found.tree().await.unwrap();
    let stat = tree.root().stat(name).unwrap();
    let bytes = tree.root().read_limited(name, 1 << 20).unwrap();
    (bytes, stat.mode & 0o7777, stat.uid, stat.gid, stat.mtime_ns)
}

/// Names in the root of a ref.
pub(crate) async fn names(found: &Ref) -> Vec<String> {
    let tree = found.tree().await.unwrap();
    let entries = tree.root().read_dir().unwrap();
    let mut names: Vec<String> = entries.into_iter().map(|e| e.name.into_string().unwrap()).collect();
    names.sort();
    names
}
