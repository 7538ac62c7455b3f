//! The [`Solver`], the builds in it ([`Job`]), and the vertices that they hold together.
//!
//! A vertex is *held* under its digest by the jobs that know it (or, if it is private, by one job): that is where its
//! cache map, its virtual key and its result are remembered. The last job to go takes the entry with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{CacheStore, Query, RecordId};
use crate::engine;
use crate::event::{EventSink, Story};
use crate::flight::{Flight, Flights};
use crate::graph::{Edge, Graph, Placed, VertexId, VertexInfo};
use crate::key::{Known, Virtual};
use crate::op::{Audience, CacheMap, Op, OpContext, Waiter};
use crate::trace::Traced;

/// How a solver behaves.
#[derive(Debug, Clone)]
pub struct SolverOptions {
    /// Vertices of one solve that are looked up or worked on at a time. Bounds memory on wide graphs; how much
    /// real work runs at once is for the ops to limit. Too small a number hides parallelism.
    pub active: usize,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self { active: 1024 }
    }
}

/// What comes of a flight.
pub(crate) type Outcome<O> = Result<Flown<<O as Op>::Output>, SolveError<<O as Op>::Error>>;
pub(crate) type FlightsOf<O> = Flights<<O as Op>::Scope, Outcome<O>>;
type FlightOf<O> = Flight<<O as Op>::Scope, Outcome<O>>;

/// The result of a flight and whether it came from a cache after all.
#[derive(Debug)]
pub(crate) struct Flown<T> {
    pub(crate) known: Known<T>,
    pub(crate) cached: bool,
}

impl<T> Clone for Flown<T> {
    fn clone(&self) -> Self {
        Self { known: self.known.clone(), cached: self.cached }
    }
}

/// A solve on its way.
pub type Solving<'a, O> = BoxFuture<'a, Result<Solved<<O as Op>::Output>, SolveError<<O as Op>::Error>>>;

/// Digest of a vertex, and the job if it must not be shared.
pub(crate) type ShareKey = (Digest, Option<u64>);

/// A vertex as all its jobs share it. Has no links to other vertices, so dropping one is never recursive.
pub(crate) struct Held<O: Op> {
    pub(crate) key: ShareKey,
    pub(crate) op: Arc<O>,
    pub(crate) map: OnceCell<Arc<CacheMap>>,
    pub(crate) virtual_key: OnceLock<Option<Virtual>>,
    pub(crate) result: OnceLock<Known<O::Output>>,
    /// A key under which a further store knows the vertex, without a result.
    pub(crate) keyed: OnceLock<Digest>,
    pub(crate) audience: Arc<Audience<O::Scope>>,
}

pub(crate) struct Shared<O: Op> {
    pub(crate) stores: Vec<Arc<dyn CacheStore<O::Output>>>,
    pub(crate) options: SolverOptions,
    pub(crate) flights: Arc<FlightsOf<O>>,
    vertices: Mutex<HashMap<ShareKey, Arc<Held<O>>>>,
    jobs: AtomicU64,
}

/// Solves graphs of one kind of op for many builds at once. Cheap to clone.
pub struct Solver<O: Op> {
    shared: Arc<Shared<O>>,
}

impl<O: Op> Clone for Solver<O> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<O: Op> fmt::Debug for Solver<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").field("census", &self.census()).finish()
    }
}

/// What a solver holds at the moment; all zero when no job is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Vertices held by jobs.
    pub vertices: usize,
    /// Work going on, or going down.
    pub flights: usize,
}

impl<O: Op> Solver<O> {
    /// A solver that looks into `stores` in order and writes to the first.
    pub fn new(stores: Vec<Arc<dyn CacheStore<O::Output>>>, options: SolverOptions) -> Self {
        let shared = Shared {
            stores,
            options,
            flights: Flights::new(),
            vertices: Mutex::new(HashMap::new()),
            jobs: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a build. `scope` is what its ops are given, `sink` is told what happens.
    pub fn job(&self, scope: O::Scope, sink: Arc<dyn EventSink>) -> Job<O> {
        self.job_with(scope, sink, Vec::new())
    }

    /// Opens a build that also looks into stores of its own (imported caches), after the solver's.
    pub fn job_with(
        &self,
        scope: O::Scope,
        sink: Arc<dyn EventSink>,
        further: Vec<Arc<dyn CacheStore<O::Output>>>,
    ) -> Job<O> {
        let stores = Mutex::new(self.shared.stores.iter().cloned().chain(further).collect());
        let inner = JobInner {
            solver: self.shared.clone(),
            stores,
            id: self.shared.jobs.fetch_add(1, Ordering::Relaxed),
            scope,
            story: Story::new(sink),
            cancel: CancellationToken::new(),
            held: Mutex::new(HashMap::new()),
            failed: Mutex::new(HashMap::new()),
            leaving: Mutex::new(Vec::new()),
            solves: TaskTracker::new(),
        };
        Job { inner: Arc::new(inner) }
    }

    /// Counts what the solver holds.
    pub fn census(&self) -> Census {
        Census { vertices: self.shared.vertices.lock().len(), flights: self.shared.flights.len() }
    }
}

/// Cache stores in the order in which they are asked.
pub(crate) type Stores<T> = Arc<[Arc<dyn CacheStore<T>>]>;

pub(crate) struct JobInner<O: Op> {
    pub(crate) solver: Arc<Shared<O>>,
    /// The solver's, then the job's own. Taken as they are now: what is added later counts from then on.
    stores: Mutex<Stores<O::Output>>,
    pub(crate) id: u64,
    pub(crate) scope: O::Scope,
    pub(crate) story: Story,
    pub(crate) cancel: CancellationToken,
    held: Mutex<HashMap<ShareKey, Arc<Held<O>>>>,
    /// A vertex that failed in this job is not tried again by its later solves.
    failed: Mutex<HashMap<ShareKey, SolveError<O::Error>>>,
    /// Flights that this job left; `close` waits for those that go down.
    leaving: Mutex<Vec<Arc<FlightOf<O>>>>,
    solves: TaskTracker,
}

/// One build: a scope, a sink of events, and any number of solves. Cheap to clone; cancelled and released when
/// the last clone goes.
pub struct Job<O: Op> {
    inner: Arc<JobInner<O>>,
}

impl<O: Op> Clone for Job<O> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<O: Op> fmt::Debug for Job<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl<O: Op> Job<O> {
    /// Finds or computes the output `edge` of `graph`. Results are remembered while the job is open, so solving
    /// a grown graph again costs its look at the new part.
    ///
    /// Errors: the first failure; other work of this solve is let go at once.
    /// Cancel: drop the future, or [`Job::cancel`].
    pub fn solve<'a>(&'a self, graph: &'a Graph<O>, edge: Edge) -> Solving<'a, O> {
        // Boxed so that the future's `Send` is settled here and not at every caller.
        Box::pin(async move {
            let _open = self.inner.solves.token();
            if self.inner.cancel.is_cancelled() {
                return Err(SolveError::Cancelled);
            }
            engine::solve(&self.inner, graph, edge).await
        })
    }

    /// What the job knows of everything beneath `edge`, by vertex of `graph`; `None` where `edge` does not reach or
    /// the job never came. For cache export, after the edge was solved. Runs nothing.
    pub fn trace(&self, graph: &Graph<O>, edge: Edge) -> Vec<Option<Traced<O::Output>>> {
        crate::trace::trace(&self.inner, graph, edge)
    }

    /// Lets what is solved from now on look into another store, too.
    pub fn add_store(&self, store: Arc<dyn CacheStore<O::Output>>) {
        let mut stores = self.inner.stores.lock();
        *stores = stores.iter().cloned().chain([store]).collect();
    }

    /// Ends all solves with [`SolveError::Cancelled`]. Work that other jobs wait for goes on.
    pub fn cancel(&self) {
        self.inner.cancel.cancel();
    }

    /// The token that [`Job::cancel`] sets.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    /// Cancels, then waits until all solves have returned and all work that only this job wanted is cleaned up.
    /// Solve futures must be polled to their end or dropped for this to return.
    pub async fn close(&self) {
        self.cancel();
        self.inner.solves.close();
        self.inner.solves.wait().await;
        self.inner.release();
        let leaving = std::mem::take(&mut *self.inner.leaving.lock());
        for flight in leaving {
            flight.ended().await;
        }
    }
}

impl<O: Op> JobInner<O> {
    /// Where the job looks results up.
    pub(crate) fn stores(&self) -> Stores<O::Output> {
        self.stores.lock().clone()
    }

    /// Whether the job looks into stores of its own.
    pub(crate) fn has_own_stores(&self) -> bool {
        self.stores.lock().len() > self.solver.stores.len()
    }

    /// Tells the job's own stores what a key is made of.
    pub(crate) fn define(&self, query: &Query) {
        self.stores()[self.solver.stores.len()..].iter().for_each(|store| store.define(query));
    }

    /// A key of `queries` that one of the job's own stores knows.
    pub(crate) async fn recognised(&self, queries: &[Query]) -> Option<Digest> {
        for store in &self.stores()[self.solver.stores.len()..] {
            for query in queries {
                if store.recognises(query).await {
                    return Some(query.key);
                }
            }
        }
        None
    }

    /// Tells the job's own stores which keys lead to a result.
    pub(crate) fn identify(&self, identity: &Digest, keys: &[Digest]) {
        self.stores()[self.solver.stores.len()..].iter().for_each(|store| store.identify(identity, keys));
    }

    pub(crate) fn share_key(&self, placed: &Placed<O>) -> ShareKey {
        (placed.info.digest, placed.private.then_some(self.id))
    }

    /// The result of a vertex if the job holds one already.
    pub(crate) fn result(&self, key: &ShareKey) -> Option<Known<O::Output>> {
        self.held.lock().get(key).and_then(|held| held.result.get().cloned())
    }

    /// A vertex that the job holds.
    pub(crate) fn known(&self, key: &ShareKey) -> Option<Arc<Held<O>>> {
        self.held.lock().get(key).cloned()
    }

    /// Holds a vertex, together with the other jobs that know it.
    pub(crate) fn hold(&self, placed: &Placed<O>) -> Arc<Held<O>> {
        let key = self.share_key(placed);
        let mut mine = self.held.lock();
        if let Some(held) = mine.get(&key) {
            return held.clone();
        }
        let held = {
            let mut all = self.solver.vertices.lock();
            let held = all.entry(key).or_insert_with(|| {
                Arc::new(Held {
                    key,
                    op: placed.op.clone(),
                    map: OnceCell::new(),
                    virtual_key: OnceLock::new(),
                    result: OnceLock::new(),
                    keyed: OnceLock::new(),
                    audience: Arc::new(Audience::default()),
                })
            });
            held.audience.add(Waiter {
                vertex: placed.info.clone(),
                scope: self.scope.clone(),
                ticket: self.id,
            });
            held.clone()
        };
        mine.insert(key, held.clone());
        self.story.known(&placed.info);
        held
    }

    pub(crate) fn context(&self, vertex: &Arc<VertexInfo>, held: &Held<O>) -> OpContext<O::Scope> {
        OpContext::new(vertex.clone(), self.cancel.clone(), held.audience.clone())
    }

    pub(crate) fn failure(&self, key: &ShareKey) -> Option<SolveError<O::Error>> {
        self.failed.lock().get(key).cloned()
    }

    pub(crate) fn failed(&self, key: ShareKey, error: &SolveError<O::Error>) {
        if !matches!(error, SolveError::Cancelled) {
            self.failed.lock().insert(key, error.clone());
        }
    }

    /// Notes a flight that is going down because the job gave it up, so that `close` can wait for it.
    pub(crate) fn left(&self, flight: Arc<FlightOf<O>>) {
        let mut leaving = self.leaving.lock();
        leaving.retain(|flight| !flight.is_over());
        leaving.push(flight);
    }

    fn release(&self) {
        let mine = std::mem::take(&mut *self.held.lock());
        for (key, held) in mine {
            let mut all = self.solver.vertices.lock();
            if held.audience.remove(self.id) == 0 {
                all.remove(&key);
            }
        }
    }
}

impl<O: Op> Drop for JobInner<O> {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.release();
    }
}

/// The value of an edge.
#[derive(Debug, Clone)]
pub struct Solved<T> {
    /// The output; usually lazy.
    pub output: T,
    /// The record it belongs to; `None` if no store has it (above a local source that nothing read by content).
    pub record: Option<RecordId>,
    /// Which output of the record.
    pub index: usize,
}

/// A solve did not give a result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// The op of a vertex failed.
    #[error("{error}")]
    Op {
        /// Which one.
        vertex: Arc<VertexInfo>,
        /// How.
        #[source]
        error: E,
    },
    /// The op of a vertex panicked.
    #[error("internal error: step `{}` panicked", vertex.name)]
    Panicked {
        /// Which one.
        vertex: Arc<VertexInfo>,
    },
    /// An edge names an output that the vertex does not have.
    #[error("step `{}` has {count} outputs, asked for output {output}", vertex.name)]
    NoOutput {
        /// Which one.
        vertex: Arc<VertexInfo>,
        /// The output that was asked for.
        output: usize,
        /// How many it has.
        count: usize,
    },
    /// The edge names a vertex that is not in the graph.
    #[error("vertex {0} is not in the graph")]
    NoVertex(VertexId),
    /// The job was cancelled.
    #[error("{}", crate::event::CANCELLED)]
    Cancelled,
}

impl<E: std::error::Error + 'static> SolveError<E> {
    /// The vertex that failed.
    pub fn vertex(&self) -> Option<&Arc<VertexInfo>> {
        match self {
            Self::Op { vertex, .. } | Self::Panicked { vertex } | Self::NoOutput { vertex, .. } => {
                Some(vertex)
            }
            Self::NoVertex(_) | Self::Cancelled => None,
        }
    }
}
