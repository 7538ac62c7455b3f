//! Makes one vertex from known inputs: K1, content keys, K2, and then the flight that runs the op.

use std::sync::Arc;

use futures::future::join_all;
use rbuild_digest::Digest;

use crate::cache::{NewRecord, Query, Record, RecordId, RecordInput, lookup};
use crate::engine::Failure;
use crate::event::CANCELLED;
use crate::flight::{Lost, Seat};
use crate::graph::VertexInfo;
use crate::job::{Flown, Held, JobInner, Outcome, SolveError, Stores};
use crate::key::{self, Identity, Known};
use crate::op::{CacheMap, Op, OpContext};

/// What it takes to make one vertex from known inputs.
pub(crate) struct Make<O: Op> {
    pub(crate) job: Arc<JobInner<O>>,
    pub(crate) info: Arc<VertexInfo>,
    pub(crate) held: Arc<Held<O>>,
    pub(crate) map: Arc<CacheMap>,
    pub(crate) virtual_key: Option<Digest>,
    pub(crate) ignore_cache: bool,
    /// Its outputs are needed: to be known by a further store is not enough.
    pub(crate) forced: bool,
    /// `None` for inputs that are known by their key alone.
    pub(crate) values: Vec<Option<O::Output>>,
    pub(crate) identities: Vec<(Identity, usize)>,
}

/// What came of making a vertex.
pub(crate) enum Made<T> {
    /// Its result.
    Flown(Flown<T>),
    /// A further store knows its key; there is no result yet.
    Keyed(Digest),
    /// It has to be worked on, and some inputs are known by their key alone.
    Lacking,
}

impl<O: Op> Make<O> {
    /// Finds the vertex by what its inputs are, else joins or starts the work.
    pub(crate) async fn run(self) -> Result<Made<O::Output>, Failure<O>> {
        let job = self.job.clone();
        // A fresh result has nothing to do with what other caches have under its keys.
        let silent = self.ignore_cache || self.map.volatile;
        let mut tried = Vec::new();
        let virtual_key = self.virtual_key;
        let outcome = self.find_or_fly(&mut tried).await;
        if let (Ok(Made::Flown(flown)), false) = (&outcome, silent) {
            let keys = virtual_key.into_iter().chain(tried.iter().map(|query| query.key));
            job.identify(&flown.known.identity.digest(), &keys.collect::<Vec<_>>());
        }
        outcome
    }

    /// `tried` gets all keys that mean the result.
    async fn find_or_fly(self, tried: &mut Vec<Query>) -> Result<Made<O::Output>, Failure<O>> {
        let cached = |record| Ok(Made::Flown(Flown { known: Known::of(record), cached: true }));
        let mut keys: Vec<Digest> = self.virtual_key.into_iter().collect();
        let mut contents = Vec::new();
        let mut resolved = self.resolve(&contents);
        if self.map.volatile {
            let key = key::volatile_key(&self.held.key.0, self.held.key.1);
            return self.fly(key, None, Vec::new(), contents).await.map(Made::Flown);
        }
        tried.push(resolved.query.clone());
        if let Some(record) = self.look(&resolved, &mut keys).await {
            return cached(record);
        }
        if (0..self.identities.len()).any(|input| self.map.input(input).content) {
            contents = match self.contents().await {
                Ok(contents) => contents,
                // It never comes to work on it, but this is the step that the user has to look at.
                Err(error) => {
                    Shown::start(&self.job, &self.info).end(Some(error.to_string()));
                    return Err(error);
                }
            };
            if contents.iter().any(Option::is_some) {
                resolved = self.resolve(&contents);
                tried.push(resolved.query.clone());
                if let Some(record) = self.look(&resolved, &mut keys).await {
                    return cached(record);
                }
            }
        }
        if !self.forced
            && !self.ignore_cache
            && let Some(key) = self.job.recognised(tried).await
        {
            return Ok(Made::Keyed(key));
        }
        if self.values.iter().any(Option::is_none) {
            return Ok(Made::Lacking);
        }
        let recheck = (resolved.lasting && !self.ignore_cache).then(|| resolved.query.clone());
        self.fly(resolved.query.key, recheck, keys, contents).await.map(Made::Flown)
    }

    /// K1, or K2 from `contents`; further stores are told what it is made of.
    fn resolve(&self, contents: &[Option<Digest>]) -> key::Resolved {
        let mut resolved = key::resolved(&self.map, &self.identities, contents);
        resolved.query = resolved.query.of_op(&self.map, self.held.op.outputs());
        if !self.ignore_cache && !self.map.volatile {
            self.job.define(&resolved.query);
        }
        resolved
    }

    /// Looks a resolved key up and, if it may be stored, adds it to `keys`.
    async fn look(&self, resolved: &key::Resolved, keys: &mut Vec<Digest>) -> Option<Record<O::Output>> {
        if !resolved.lasting {
            return None;
        }
        if !self.ignore_cache
            && let Some(record) = lookup(&self.job.stores(), &resolved.query, keys).await
        {
            return Some(record);
        }
        keys.push(resolved.query.key);
        None
    }

    async fn contents(&self) -> Result<Vec<Option<Digest>>, Failure<O>> {
        let cx = self.job.context(&self.info, &self.held);
        let calls = (0..self.values.len()).map(|input| self.content(&cx, input));
        let calls: Vec<_> = calls.collect();
        let fail = |error| SolveError::Op { vertex: self.info.clone(), error };
        join_all(calls).await.into_iter().collect::<Result<_, _>>().map_err(fail)
    }

    async fn content(&self, cx: &OpContext<O::Scope>, input: usize) -> Result<Option<Digest>, O::Error> {
        match &self.values[input] {
            Some(value) if self.map.input(input).content => self.held.op.content_key(cx, input, value).await,
            _ => Ok(None),
        }
    }

    /// Joins the flight of `key` or starts it, and waits for its end.
    async fn fly(
        self,
        key: Digest,
        recheck: Option<Query>,
        keys: Vec<Digest>,
        contents: Vec<Option<Digest>>,
    ) -> Outcome<O> {
        let job = self.job.clone();
        let info = self.info.clone();
        let ignore_cache = self.ignore_cache;
        let inputs = key::record_inputs(&self.map, &self.identities, &contents);
        let work = Arc::new(Work {
            stores: job.stores(),
            op: self.held.op.clone(),
            map: self.map.digest,
            values: self.values.into_iter().flatten().collect(),
            inputs,
            keys,
            recheck,
        });
        loop {
            let work = work.clone();
            let flights = &job.solver.flights;
            let seat = flights.board(key, info.clone(), job.scope.clone(), |cx| work.run(cx)).await;
            let shown = Shown::start(&job, &info);
            let guard = Leaving { job: &job, seat: Some(seat) };
            let landed = guard.seat().landed().await;
            let orphaned = guard.seat().orphaned();
            guard.stay();
            let outcome = match landed {
                Ok(outcome) => outcome,
                Err(Lost) => Err(SolveError::Panicked { vertex: info.clone() }),
            };
            match &outcome {
                // Somebody else's flight ended in a look-up, which is what we are to skip.
                Ok(flown) if flown.cached && ignore_cache => {
                    shown.end(None);
                    continue;
                }
                // Who started it has gone, and maybe its session with it: that is no reason for us to fail.
                Err(_) if orphaned => {
                    shown.end(None);
                    continue;
                }
                Ok(flown) if flown.cached => shown.cached(),
                Ok(_) => shown.end(None),
                Err(error) => shown.end(Some(error.to_string())),
            }
            return outcome.map_err(|error| renamed(error, &info));
        }
    }
}

/// A shared failure, told about the vertex as this job knows it.
fn renamed<E: std::error::Error + 'static>(error: SolveError<E>, info: &Arc<VertexInfo>) -> SolveError<E> {
    match error {
        SolveError::Op { error, .. } => SolveError::Op { vertex: info.clone(), error },
        other => other,
    }
}

/// Notes with the job that it left a flight before its end.
struct Leaving<'a, O: Op> {
    job: &'a JobInner<O>,
    seat: Option<Seat<O::Scope, Outcome<O>>>,
}

impl<O: Op> Leaving<'_, O> {
    fn seat(&self) -> &Seat<O::Scope, Outcome<O>> {
        self.seat.as_ref().expect("the seat is held until `stay` or drop")
    }

    fn stay(mut self) {
        self.seat = None;
    }
}

impl<O: Op> Drop for Leaving<'_, O> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            let flight = seat.flight().clone();
            drop(seat);
            if flight.is_going_down() {
                self.job.left(flight);
            }
        }
    }
}

/// What a flight does: look once more (another flight may have landed in between), run the op, commit.
struct Work<O: Op> {
    stores: Stores<O::Output>,
    op: Arc<O>,
    map: Digest,
    values: Vec<O::Output>,
    inputs: Vec<RecordInput>,
    keys: Vec<Digest>,
    recheck: Option<Query>,
}

impl<O: Op> Work<O> {
    async fn run(self: Arc<Self>, cx: OpContext<O::Scope>) -> Outcome<O> {
        if let (Some(query), Some(local)) = (&self.recheck, self.stores.first())
            && let Some(record) = lookup(std::slice::from_ref(local), query, &self.keys).await
        {
            return Ok(Flown { known: Known::of(record), cached: true });
        }
        let values = self.values.clone();
        let outputs = self.op.exec(&cx, values).await;
        let outputs = outputs.map_err(|error| SolveError::Op { vertex: cx.vertex().clone(), error })?;
        let identity = self.commit(cx.vertex(), &outputs).await;
        Ok(Flown { known: Known { outputs: outputs.into(), identity }, cached: false })
    }

    /// A result that cannot be remembered is still a result.
    async fn commit(&self, vertex: &VertexInfo, outputs: &[O::Output]) -> Identity {
        let passing = || Identity::Passing(RecordId::fresh().0);
        let Some(local) = self.stores.first().filter(|_| !self.keys.is_empty()) else { return passing() };
        let record = NewRecord {
            id: None,
            keys: &self.keys,
            name: &vertex.name,
            vertex: vertex.digest,
            op: self.map,
            inputs: &self.inputs,
            outputs,
        };
        match local.commit(record).await {
            Ok(id) => Identity::Record(id),
            Err(error) => {
                tracing::warn!(vertex = %vertex.digest.short(), %error, "result could not be remembered");
                passing()
            }
        }
    }
}

/// A vertex that the job's sink sees running; if it is dropped before its end, the job lost interest.
pub(crate) struct Shown<'a, O: Op> {
    job: &'a JobInner<O>,
    info: &'a Arc<VertexInfo>,
    ended: bool,
}

impl<'a, O: Op> Shown<'a, O> {
    pub(crate) fn start(job: &'a JobInner<O>, info: &'a Arc<VertexInfo>) -> Self {
        job.story.started(info);
        Self { job, info, ended: false }
    }

    pub(crate) fn end(mut self, error: Option<String>) {
        self.ended = true;
        self.job.story.completed(self.info, false, error);
    }

    pub(crate) fn resolved(mut self) {
        self.ended = true;
        self.job.story.resolved(self.info);
    }

    pub(crate) fn cached(mut self) {
        self.ended = true;
        self.job.story.completed(self.info, true, None);
    }
}

impl<O: Op> Drop for Shown<'_, O> {
    fn drop(&mut self) {
        if !self.ended {
            self.job.story.completed(self.info, false, Some(CANCELLED.to_owned()));
        }
    }
}
