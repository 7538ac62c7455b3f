use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_llb::Definition;
use rbuild_progress::Progress;
use rbuild_session::SessionGroup;
use rbuild_solver::OpContext;
use rbuild_source::Memo;
use rbuild_store::{Ref, RefId};

use crate::entitlements::Entitlements;
use crate::error::OpError;

/// What a build gives to its ops. What changes a result is in the op; what doesn't is here. Cheap to clone.
///
/// Several builds may wait for one op. Then logs go to all of them ([`crate::logs`]), sessions are asked in the order in
/// which the builds came ([`sessions_of`]), and whatever needs a grant was checked for each of them when its graph was
/// made.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The build's event log.
    pub progress: Progress,
    /// Its clients' sessions.
    pub sessions: SessionGroup,
    /// What it was granted.
    pub entitlements: Arc<Entitlements>,
    /// What it has resolved already.
    pub memo: Memo,
    /// Which build.
    pub build_id: Arc<str>,
    /// Set if whoever drives the build may look at what failed steps leave; told what was made for that. Whoever set it
    /// discards that in the end.
    pub failed: Option<Arc<Mutex<Vec<RefId>>>>,
    /// Solves definitions that ops find.
    pub nested: Option<Arc<dyn Nested>>,
    /// Is told what steps read.
    pub witness: Option<Arc<dyn Witness>>,
    /// Has cache mounts from elsewhere.
    pub mount_caches: Option<Arc<dyn MountSource>>,
}

/// Where cache mounts of steps may come from when they are not here.
#[async_trait]
pub trait MountSource: Send + Sync + fmt::Debug {
    /// Called before a step takes the cache mount `id` over `base`. Returns when it is filled, or when nobody has it.
    async fn prepare(&self, id: &str, base: Option<&Ref>);
}

/// Solves definitions within a build: under its grants and its policy, shown in its progress.
#[async_trait]
pub trait Nested: Send + Sync + fmt::Debug {
    /// Computes the head of a definition; `None` is scratch. Cancel: drop the future.
    async fn solve(&self, definition: &Definition) -> Result<Option<Ref>, OpError>;
}

/// Paths and the digests of what is there.
pub type FileList = std::collections::BTreeMap<Vec<u8>, Digest>;

/// Told what the content keys of a build's steps were made of, so that somebody can say later why a step ran.
pub trait Witness: Send + Sync + fmt::Debug {
    /// A step reads `content` from its input number `input`; `files` says what that is made of, if it is known.
    fn reads(&self, vertex: &Digest, input: usize, content: &Digest, files: Option<&FileList>);

    /// A step's process has ended, however that was, and this is what it used.
    fn used(&self, vertex: &Digest, usage: &rbuild_exec::StepUsage);
}

/// The sessions of all builds that wait, as one group.
pub(crate) fn sessions_of(cx: &OpContext<Scope>) -> SessionGroup {
    let scopes = cx.scopes();
    match scopes.as_slice() {
        [one] => one.sessions.clone(),
        scopes => {
            let group = SessionGroup::new();
            for id in scopes.iter().flat_map(|scope| scope.sessions.ids()) {
                group.add(id);
            }
            group
        }
    }
}
