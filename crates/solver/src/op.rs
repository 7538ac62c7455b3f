//! What a vertex does: [`Op`], the identity it declares ([`CacheMap`]) and what it is told ([`OpContext`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use rbuild_digest::Digest;
use tokio_util::sync::CancellationToken;

use crate::graph::VertexInfo;
use crate::rt::Mutex;

/// The work of one vertex. One value is shared by all builds that hold the vertex.
#[async_trait]
pub trait Op: Send + Sync + fmt::Debug + 'static {
    /// What an output of the op is; cheap to clone, usually lazy.
    type Output: Clone + Send + Sync + 'static;
    /// What a build gives to its ops (sessions, progress, entitlements); cheap to clone.
    type Scope: Clone + Send + Sync + 'static;
    /// How an op fails.
    type Error: std::error::Error + Clone + Send + Sync + 'static;

    /// The identity of the op apart from its inputs. May resolve names (a tag, a url); never runs a step.
    ///
    /// Memoised per vertex while a job holds it. Cancel: the future may be dropped at any await.
    async fn cache_map(&self, cx: &OpContext<Self::Scope>) -> Result<CacheMap, Self::Error>;

    /// Digest of what the op reads from `input`, whose value is `output`. Asked only for inputs that have
    /// [`InputKey::content`] set, and only after the cheaper keys missed. `None`: no content key after all.
    ///
    /// Cancel: the future may be dropped at any await.
    async fn content_key(
        &self,
        cx: &OpContext<Self::Scope>,
        input: usize,
        output: &Self::Output,
    ) -> Result<Option<Digest>, Self::Error>;

    /// Does the work; `inputs` stand in the order of the vertex's edges. One value per output of the op.
    ///
    /// Cancel: the future is never dropped; when `cx.cancelled()` resolves it has to stop, clean up and return.
    async fn exec(
        &self,
        cx: &OpContext<Self::Scope>,
        inputs: Vec<Self::Output>,
    ) -> Result<Vec<Self::Output>, Self::Error>;

    /// Whether builds may share this vertex by its digest alone. `false` where the digest does not say which
    /// build's data is meant (a local directory without a session id): it and all above it stay in their job.
    fn shareable(&self) -> bool {
        true
    }

    /// How many outputs the op has.
    fn outputs(&self) -> usize {
        1
    }

    /// Whether `cache_map` does I/O that the user should see: it is then announced as started and completed.
    fn resolves(&self) -> bool {
        false
    }
}

/// The identity of an op: what keys are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    /// Digest of all that matters in the op itself.
    pub digest: Digest,
    /// Other digests of the same meaning, under which further stores may know the op. Not part of keys.
    pub aliases: Vec<Digest>,
    /// One entry per input edge; a shorter list leaves the rest at their default.
    pub inputs: Vec<InputKey>,
    /// The result can never be found again by definition (a local source): it is not looked up, not recorded, and
    /// what stands on it can be found by content only.
    pub volatile: bool,
}

impl CacheMap {
    /// A plain identity: every input counts as a whole.
    pub fn new(digest: Digest) -> Self {
        Self { digest, aliases: Vec::new(), inputs: Vec::new(), volatile: false }
    }

    /// How input `index` takes part in the keys.
    pub fn input(&self, index: usize) -> InputKey {
        self.inputs.get(index).copied().unwrap_or_default()
    }
}

/// How one input takes part in the keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputKey {
    /// Digest of the part of the input that is used, when only a part is.
    pub selector: Option<Digest>,
    /// [`Op::content_key`] can name what is read from this input.
    pub content: bool,
}

/// One build that waits for a vertex. Two builds may know the same work as different vertices.
#[derive(Debug, Clone)]
pub struct Waiter<S> {
    /// The vertex as this build knows it.
    pub vertex: Arc<VertexInfo>,
    /// What the build gives to its ops.
    pub scope: S,
    pub(crate) ticket: u64,
}

/// The builds that wait for something right now; changes while the op runs.
#[derive(Debug)]
pub struct Audience<S> {
    waiters: Mutex<Vec<Waiter<S>>>,
    generation: AtomicU64,
}

impl<S> Default for Audience<S> {
    fn default() -> Self {
        Self { waiters: Mutex::new(Vec::new()), generation: AtomicU64::new(0) }
    }
}

impl<S: Clone> Audience<S> {
    /// Those who wait now, longest first.
    pub fn waiters(&self) -> Vec<Waiter<S>> {
        self.waiters.lock().clone()
    }

    /// Changes whenever somebody comes or goes: lets a caller keep what it made of [`Audience::waiters`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, waiter: Waiter<S>) {
        let mut waiters = self.waiters.lock();
        waiters.push(waiter);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes the waiter with `ticket` out and says how many are left.
    pub(crate) fn remove(&self, ticket: u64) -> usize {
        let mut waiters = self.waiters.lock();
        waiters.retain(|waiter| waiter.ticket != ticket);
        self.generation.fetch_add(1, Ordering::Release);
        waiters.len()
    }

    pub(crate) fn has(&self, ticket: u64) -> bool {
        self.waiters.lock().iter().any(|waiter| waiter.ticket == ticket)
    }
}

/// What an op is told when it is called.
#[derive(Debug, Clone)]
pub struct OpContext<S> {
    vertex: Arc<VertexInfo>,
    cancel: CancellationToken,
    audience: Arc<Audience<S>>,
}

impl<S: Clone> OpContext<S> {
    pub(crate) fn new(
        vertex: Arc<VertexInfo>,
        cancel: CancellationToken,
        audience: Arc<Audience<S>>,
    ) -> Self {
        Self { vertex, cancel, audience }
    }

    /// A context outside any solver, with one build waiting: for tests of ops.
    pub fn detached(vertex: Arc<VertexInfo>, scope: S) -> Self {
        let audience = Audience::default();
        audience.add(Waiter { vertex: vertex.clone(), scope, ticket: 0 });
        Self::new(vertex, CancellationToken::new(), Arc::new(audience))
    }

    /// The vertex as the first build that asked knows it.
    pub fn vertex(&self) -> &Arc<VertexInfo> {
        &self.vertex
    }

    /// Set when nobody waits any more.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The builds that wait, changing over time.
    pub fn audience(&self) -> &Arc<Audience<S>> {
        &self.audience
    }

    /// The scopes of the builds that wait now, longest first.
    pub fn scopes(&self) -> Vec<S> {
        self.audience.waiters().into_iter().map(|waiter| waiter.scope).collect()
    }

    /// The scope of the build that has waited longest; `None` once all have gone.
    pub fn first_scope(&self) -> Option<S> {
        self.audience.waiters.lock().first().map(|waiter| waiter.scope.clone())
    }
}
