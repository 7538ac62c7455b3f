//! One solve: the demand-driven walk over a graph, and the two async pieces of a vertex.
//!
//! [`Drive`] owns a [`State`] per vertex and changes it in one place each: [`Drive::demand`] (somebody needs it),
//! [`Drive::expand`] (it was not found by definition, so its inputs are needed), [`Drive::settle`] (its result is
//! known). The pieces are [`find`] (K0) and [`make`] (K1, K2, flight); they know nothing of other vertices. Work to
//! do waits in a queue, so nothing recurses, and at most `options.active` pieces are polled at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use rbuild_digest::Digest;

use crate::cache::{Query, RecordId, lookup};
use crate::graph::{Edge, Graph, Placed, VertexId, VertexInfo};
use crate::job::{Flown, Held, JobInner, SolveError, Solved};
use crate::key::{self, Identity, Known, Virtual};
use crate::make::{Made, Make, Shown};
use crate::op::Op;

/// Steps after which a solve lets other tasks of its thread run; look-ups in memory never pend by themselves.
const STEPS_PER_YIELD: usize = 256;

pub(crate) type Failure<O> = SolveError<<O as Op>::Error>;

/// Where a vertex stands in one solve.
enum State<T> {
    /// Nobody needs it yet.
    Idle,
    /// It is being found by its definition.
    Finding,
    /// It needs the results of this many edges.
    Waiting(u32),
    /// It is being made.
    Making,
    /// A further store knows it by this key; nobody has needed its outputs so far.
    Keyed(Digest),
    /// Its result is known.
    Done(Known<T>),
}

/// What is to be done next.
enum Todo {
    Find(VertexId, Query),
    Expand(VertexId),
    Make(VertexId),
}

/// What came of a piece.
enum Step<O: Op> {
    Missed,
    Found(Known<O::Output>),
    Made(Flown<O::Output>),
    Keyed(Digest),
    Lacking,
    Failed(Failure<O>),
}

impl<O: Op> From<Result<Made<O::Output>, Failure<O>>> for Step<O> {
    fn from(result: Result<Made<O::Output>, Failure<O>>) -> Self {
        match result {
            Ok(Made::Flown(flown)) => Self::Made(flown),
            Ok(Made::Keyed(key)) => Self::Keyed(key),
            Ok(Made::Lacking) => Self::Lacking,
            Err(error) => Self::Failed(error),
        }
    }
}

/// Finds or computes one edge. See [`crate::Job::solve`].
pub(crate) async fn solve<O: Op>(
    job: &Arc<JobInner<O>>,
    graph: &Graph<O>,
    edge: Edge,
) -> Result<Solved<O::Output>, Failure<O>> {
    let Some(root) = graph.vertices.get(edge.vertex.index()) else {
        return Err(SolveError::NoVertex(edge.vertex));
    };
    if let Some(known) = job.result(&job.share_key(root)) {
        return solved(&root.info, &known, edge.output);
    }
    let mut drive = Drive::new(job, graph, edge.vertex).await;
    let mut cancelled = std::pin::pin!(job.cancel.cancelled());
    let known = tokio::select! {
        biased;
        () = &mut cancelled => return Err(SolveError::Cancelled),
        result = async {
            drive.map().await?;
            drive.run(edge.vertex).await
        } => result?,
    };
    solved(&root.info, &known, edge.output)
}

fn solved<T: Clone, E: std::error::Error + 'static>(
    vertex: &Arc<VertexInfo>,
    known: &Known<T>,
    output: usize,
) -> Result<Solved<T>, SolveError<E>> {
    let value = pick(vertex, known, output)?;
    Ok(Solved { output: value, record: known.identity.record(), index: output })
}

fn pick<T: Clone, E: std::error::Error + 'static>(
    vertex: &Arc<VertexInfo>,
    known: &Known<T>,
    output: usize,
) -> Result<T, SolveError<E>> {
    known.outputs.get(output).cloned().ok_or_else(|| SolveError::NoOutput {
        vertex: vertex.clone(),
        output,
        count: known.outputs.len(),
    })
}

struct Drive<'a, O: Op> {
    job: &'a Arc<JobInner<O>>,
    graph: &'a Graph<O>,
    /// By vertex; `None` for those that the root does not reach.
    held: Vec<Option<Arc<Held<O>>>>,
    state: Vec<State<O::Output>>,
    /// Who waits for a vertex, once per edge.
    dependents: Vec<Vec<VertexId>>,
    /// Vertices whose outputs are needed: to be known by key is not enough for them.
    forced: Vec<bool>,
    /// What was told to be cached because something above it was.
    marked: Vec<bool>,
    queue: VecDeque<Todo>,
    active: FuturesUnordered<BoxFuture<'a, (VertexId, Step<O>)>>,
}

impl<'a, O: Op> Drive<'a, O> {
    /// Holds every vertex under `root`. Vertices stand in topological order, so one walk downwards reaches all.
    async fn new(job: &'a Arc<JobInner<O>>, graph: &'a Graph<O>, root: VertexId) -> Self {
        let size = root.index() + 1;
        let mut reached = vec![false; size];
        reached[root.index()] = true;
        for index in (0..size).rev() {
            if reached[index] {
                for edge in &graph.vertices[index].inputs {
                    reached[edge.vertex.index()] = true;
                }
            }
        }
        let mut held = Vec::with_capacity(size);
        for (index, placed) in graph.vertices[..size].iter().enumerate() {
            held.push(reached[index].then(|| job.hold(placed)));
            if index % STEPS_PER_YIELD == STEPS_PER_YIELD - 1 {
                tokio::task::yield_now().await;
            }
        }
        Self {
            job,
            graph,
            held,
            state: (0..size).map(|_| State::Idle).collect(),
            dependents: vec![Vec::new(); size],
            forced: vec![false; size],
            marked: vec![false; size],
            queue: VecDeque::new(),
            active: FuturesUnordered::new(),
        }
    }

    fn held(&self, id: VertexId) -> &Arc<Held<O>> {
        self.held[id.index()].as_ref().expect("only reached vertices are asked for")
    }

    /// Asks every op for its identity, all at once: none depends on another.
    async fn map(&mut self) -> Result<(), Failure<O>> {
        let mut calls: FuturesUnordered<BoxFuture<'a, Result<(), Failure<O>>>> = FuturesUnordered::new();
        let mut count = 0;
        for index in 0..self.held.len() {
            let Some(held) = self.held[index].clone().filter(|held| held.map.get().is_none()) else {
                continue;
            };
            let (job, graph) = (self.job, self.graph);
            calls.push(Box::pin(async move { cache_map(job, &graph.vertices[index].info, &held).await }));
            if calls.len() >= self.job.solver.options.active
                && let Some(result) = calls.next().await
            {
                result?;
            }
            breathe(&mut count).await;
        }
        while let Some(result) = calls.next().await {
            result?;
            breathe(&mut count).await;
        }
        drop(calls);
        self.virtual_keys().await;
        Ok(())
    }

    /// K0 of every vertex, bottom up.
    async fn virtual_keys(&mut self) {
        let mut count = 0;
        for index in 0..self.held.len() {
            if let Some(held) = &self.held[index]
                && (self.job.has_own_stores() || held.virtual_key.get().is_none())
            {
                let query = self.virtual_query(&self.graph.vertices[index], held);
                held.virtual_key.get_or_init(|| query.as_ref().map(|(_, key)| *key));
                if let Some((query, _)) = query.filter(|(_, key)| key.findable) {
                    self.job.define(&query);
                }
            }
            breathe(&mut count).await;
        }
    }

    fn virtual_query(&self, placed: &Placed<O>, held: &Held<O>) -> Option<(Query, Virtual)> {
        let map = held.map.get().expect("maps come before keys");
        let inputs = placed.inputs.iter().map(|edge| {
            let key = self.held(edge.vertex).virtual_key.get().expect("inputs come before the vertex");
            (*key, edge.output)
        });
        let (query, key) = key::virtual_query(map, inputs, placed.ignore_cache)?;
        Some((query.of_op(map, held.op.outputs()), key))
    }

    /// Walks until the root is known.
    async fn run(&mut self, root: VertexId) -> Result<Known<O::Output>, Failure<O>> {
        self.demand(root)?;
        let mut count = 0;
        loop {
            match &self.state[root.index()] {
                State::Done(known) => {
                    let known = known.clone();
                    self.mark_keyed();
                    return Ok(known);
                }
                State::Keyed(_) => self.force(root),
                _ => {}
            }
            self.launch()?;
            debug_assert!(
                !self.active.is_empty(),
                "a vertex that is not done has something going on beneath it"
            );
            if let Some((id, step)) = self.active.next().await {
                self.step(id, step)?;
            }
            breathe(&mut count).await;
        }
    }

    fn step(&mut self, id: VertexId, step: Step<O>) -> Result<(), Failure<O>> {
        match step {
            Step::Missed => self.queue.push_front(Todo::Expand(id)),
            Step::Found(known) => {
                self.mark_cached(id);
                self.settle(id, known);
            }
            Step::Keyed(key) => {
                // Whoever set it first has set the same: it is made of definitions and contents.
                self.held(id).keyed.get_or_init(|| key);
                self.state[id.index()] = State::Keyed(key);
                self.wake(id);
            }
            Step::Lacking => self.gather(id),
            Step::Made(flown) => {
                if flown.cached {
                    self.job.story.cached(&self.graph.at(id).info);
                }
                self.settle(id, flown.known);
            }
            Step::Failed(error) => {
                self.job.failed(self.held(id).key, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Starts what is queued, as long as there is room.
    fn launch(&mut self) -> Result<(), Failure<O>> {
        while self.active.len() < self.job.solver.options.active {
            let Some(todo) = self.queue.pop_front() else { break };
            match todo {
                Todo::Find(id, query) => {
                    let job = self.job;
                    let forced = self.forced[id.index()];
                    self.active.push(Box::pin(async move { (id, find(job, &query, forced).await) }));
                }
                Todo::Expand(id) => self.expand(id)?,
                Todo::Make(id) => {
                    let make = self.prepare(id)?;
                    self.active.push(Box::pin(async move { (id, Step::from(make.run().await)) }));
                }
            }
        }
        Ok(())
    }

    /// Somebody needs the vertex.
    fn demand(&mut self, id: VertexId) -> Result<(), Failure<O>> {
        if !matches!(self.state[id.index()], State::Idle) {
            return Ok(());
        }
        let held = self.held(id).clone();
        if let Some(known) = held.result.get() {
            if let Some(key) = held.virtual_key.get().copied().flatten().filter(|key| key.findable) {
                self.job.identify(&known.identity.digest(), &[key.key]);
            }
            self.settle(id, known.clone());
            return Ok(());
        }
        if let Some(error) = self.job.failure(&held.key) {
            return Err(error);
        }
        self.state[id.index()] = State::Finding;
        let todo = match self.virtual_query(self.graph.at(id), &held) {
            Some((query, key)) if key.findable => Todo::Find(id, query),
            _ => Todo::Expand(id),
        };
        self.queue.push_back(todo);
        Ok(())
    }

    /// The vertex was not found by its definition: its inputs are needed.
    fn expand(&mut self, id: VertexId) -> Result<(), Failure<O>> {
        let graph = self.graph;
        let mut missing = 0;
        for edge in &graph.at(id).inputs {
            self.demand(edge.vertex)?;
            if !matches!(self.state[edge.vertex.index()], State::Done(_) | State::Keyed(_)) {
                self.dependents[edge.vertex.index()].push(id);
                missing += 1;
            }
        }
        self.state[id.index()] = State::Waiting(missing);
        if missing == 0 {
            self.ready(id);
        }
        Ok(())
    }

    fn ready(&mut self, id: VertexId) {
        self.state[id.index()] = State::Making;
        self.queue.push_back(Todo::Make(id));
    }

    /// The result of the vertex is known: those who waited go on.
    fn settle(&mut self, id: VertexId, known: Known<O::Output>) {
        let held = self.held(id);
        let known = held.result.get_or_init(|| known).clone();
        self.state[id.index()] = State::Done(known);
        self.wake(id);
    }

    /// Those who waited for the vertex go on.
    fn wake(&mut self, id: VertexId) {
        for dependent in std::mem::take(&mut self.dependents[id.index()]) {
            if let State::Waiting(missing) = &mut self.state[dependent.index()] {
                *missing -= 1;
                if *missing == 0 {
                    self.ready(dependent);
                }
            }
        }
    }

    /// Somebody needs the outputs of a vertex that is known by its key alone: what it stands on is needed now.
    fn force(&mut self, id: VertexId) {
        self.forced[id.index()] = true;
        self.state[id.index()] = State::Finding;
        self.queue.push_back(Todo::Expand(id));
    }

    /// The vertex has to be worked on, so the outputs of its inputs are needed.
    fn gather(&mut self, id: VertexId) {
        let graph = self.graph;
        let mut missing = 0;
        for edge in &graph.at(id).inputs {
            if matches!(self.state[edge.vertex.index()], State::Keyed(_)) {
                self.force(edge.vertex);
            }
            if !matches!(self.state[edge.vertex.index()], State::Done(_)) {
                self.dependents[edge.vertex.index()].push(id);
                missing += 1;
            }
        }
        self.state[id.index()] = State::Waiting(missing);
        if missing == 0 {
            self.ready(id);
        }
    }

    /// What was known by its key to the end was not needed.
    fn mark_keyed(&mut self) {
        for index in 0..self.state.len() {
            if matches!(self.state[index], State::Keyed(_))
                && let Ok(id) = u32::try_from(index)
            {
                self.mark_cached(VertexId(id));
            }
        }
    }

    /// Tells that a vertex and all beneath it were not needed, each once.
    fn mark_cached(&mut self, id: VertexId) {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut self.marked[id.index()], true) {
                continue;
            }
            let placed = self.graph.at(id);
            self.job.story.cached(&placed.info);
            stack.extend(placed.inputs.iter().map(|edge| edge.vertex));
        }
    }

    fn prepare(&self, id: VertexId) -> Result<Make<O>, Failure<O>> {
        let placed = self.graph.at(id);
        let held = self.held(id).clone();
        let mut values = Vec::with_capacity(placed.inputs.len());
        let mut identities = Vec::with_capacity(placed.inputs.len());
        for edge in &placed.inputs {
            match &self.state[edge.vertex.index()] {
                State::Done(known) => {
                    values.push(Some(pick(&self.graph.at(edge.vertex).info, known, edge.output)?));
                    identities.push((known.identity, edge.output));
                }
                State::Keyed(key) => {
                    values.push(None);
                    identities.push((Identity::Record(RecordId(*key)), edge.output));
                }
                _ => unreachable!("a vertex is made when its inputs are known"),
            }
        }
        Ok(Make {
            job: self.job.clone(),
            info: placed.info.clone(),
            ignore_cache: placed.ignore_cache,
            forced: self.forced[id.index()],
            map: held.map.get().expect("maps come before work").clone(),
            virtual_key: held.virtual_key.get().copied().flatten().map(|key| key.key),
            held,
            values,
            identities,
        })
    }
}

async fn breathe(count: &mut usize) {
    *count += 1;
    if count.is_multiple_of(STEPS_PER_YIELD) {
        tokio::task::yield_now().await;
    }
}

async fn cache_map<O: Op>(
    job: &Arc<JobInner<O>>,
    info: &Arc<VertexInfo>,
    held: &Held<O>,
) -> Result<(), Failure<O>> {
    if let Some(error) = job.failure(&held.key) {
        return Err(error);
    }
    let call = held.map.get_or_try_init(|| async {
        let cx = job.context(info, held);
        held.op.cache_map(&cx).await.map(Arc::new)
    });
    let result = if held.op.resolves() {
        let shown = Shown::start(job, info);
        let result = call.await;
        match &result {
            Ok(_) => shown.resolved(),
            Err(error) => shown.end(Some(error.to_string())),
        }
        result
    } else {
        call.await
    };
    match result {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = SolveError::Op { vertex: info.clone(), error };
            job.failed(held.key, &error);
            Err(error)
        }
    }
}

/// Looks a vertex up by its virtual key.
async fn find<O: Op>(job: &JobInner<O>, query: &Query, forced: bool) -> Step<O> {
    match lookup(&job.stores(), query, &[]).await {
        Some(record) => {
            job.identify(&record.id.0, &[query.key]);
            Step::Found(Known::of(record))
        }
        None if forced => Step::Missed,
        None => match job.recognised(std::slice::from_ref(query)).await {
            Some(key) => Step::Keyed(key),
            None => Step::Missed,
        },
    }
}
