//! Synthetic ops with a value semantics, the world that watches them, and the naive evaluator.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher};
use rbuild_solver::{
    CacheMap, Edge, Event, EventSink, Graph, InputKey, MemoryCache, Op, OpContext, Solver, SolverOptions,
    Vertex, VertexId,
};
use tokio::sync::Notify;

/// A value has a content, and a salt that tells apart copies of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub content: Digest,
    pub salt: u64,
}

/// Watches all executions.
#[derive(Debug, Default)]
pub struct World {
    pub execs: AtomicUsize,
    pub maps: AtomicUsize,
    pub contents: AtomicUsize,
    pub running: Mutex<HashMap<Digest, usize>>,
    pub overlaps: AtomicUsize,
    pub names: Mutex<Vec<String>>,
    pub tick: Notify,
}

impl World {
    pub fn execs(&self) -> usize {
        self.execs.load(Ordering::SeqCst)
    }

    pub fn ran(&self, name: &str) -> usize {
        self.names.lock().iter().filter(|ran| *ran == name).count()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0} failed")]
    Failed(String),
    #[error("stopped")]
    Stopped,
}

/// What an op does besides computing its value.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Times it yields while it runs.
    pub delay: u8,
    /// Times it yields to clean up when cancelled.
    pub cleanup: u8,
    pub fails: bool,
    pub panics: bool,
    pub volatile: bool,
    pub salt: u64,
    /// Bit i: input i is named by content and only its content matters.
    pub content: u32,
    pub unshared: bool,
    pub resolves: bool,
    /// Waits for this before it ends, or for cancel.
    pub gate: Option<Arc<Notify>>,
}

#[derive(Debug)]
pub struct TestOp {
    pub name: String,
    pub behaviour: Behaviour,
    pub world: Arc<World>,
}

impl TestOp {
    pub fn by_content(&self, input: usize) -> bool {
        self.behaviour.content & (1 << input.min(31)) != 0
    }

    pub fn compute(&self, inputs: &[Value]) -> Value {
        let mut hasher = Hasher::new();
        hasher.field(&self.name);
        for (index, input) in inputs.iter().enumerate() {
            hasher.field(input.content.as_bytes());
            if !self.by_content(index) {
                hasher.field(input.salt.to_le_bytes());
            }
        }
        Value { content: hasher.finish(), salt: self.behaviour.salt }
    }

    async fn work(&self, cx: &OpContext<Digest>) -> Result<(), Failure> {
        for _ in 0..self.behaviour.delay {
            tokio::task::yield_now().await;
            if cx.cancel().is_cancelled() {
                return Err(Failure::Stopped);
            }
        }
        if let Some(gate) = &self.behaviour.gate {
            tokio::select! {
                () = gate.notified() => {}
                () = cx.cancel().cancelled() => return Err(Failure::Stopped),
            }
        }
        assert!(!self.behaviour.panics, "told to panic");
        if self.behaviour.fails {
            return Err(Failure::Failed(self.name.clone()));
        }
        Ok(())
    }
}

#[async_trait]
impl Op for TestOp {
    type Output = Value;
    type Scope = Digest;
    type Error = Failure;

    async fn cache_map(&self, _cx: &OpContext<Digest>) -> Result<CacheMap, Failure> {
        self.world.maps.fetch_add(1, Ordering::SeqCst);
        let inputs =
            (0..32).map(|input| InputKey { selector: None, content: self.by_content(input) }).collect();
        Ok(CacheMap { inputs, volatile: self.behaviour.volatile, ..CacheMap::new(Digest::of(&self.name)) })
    }

    async fn content_key(
        &self,
        _cx: &OpContext<Digest>,
        input: usize,
        output: &Value,
    ) -> Result<Option<Digest>, Failure> {
        assert!(self.by_content(input));
        self.world.contents.fetch_add(1, Ordering::SeqCst);
        Ok(Some(output.content))
    }

    async fn exec(&self, cx: &OpContext<Digest>, inputs: Vec<Value>) -> Result<Vec<Value>, Failure> {
        let value = self.compute(&inputs);
        let mut signature = Hasher::new();
        signature.field(value.content.as_bytes()).field(value.salt.to_le_bytes());
        let signature = signature.finish();
        {
            let mut running = self.world.running.lock();
            let count = running.entry(signature).or_default();
            *count += 1;
            if *count > 1 {
                self.world.overlaps.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.world.execs.fetch_add(1, Ordering::SeqCst);
        self.world.names.lock().push(self.name.clone());
        self.world.tick.notify_waiters();
        let _running = Running(&self.world, signature);
        let result = self.work(cx).await;
        if result == Err(Failure::Stopped) {
            for _ in 0..self.behaviour.cleanup {
                tokio::task::yield_now().await;
            }
        }
        result.map(|()| vec![value])
    }

    fn shareable(&self) -> bool {
        !self.behaviour.unshared
    }

    fn resolves(&self) -> bool {
        self.behaviour.resolves
    }
}

struct Running<'a>(&'a World, Digest);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running.lock();
        if let Some(count) = running.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.1);
            }
        }
    }
}

/// Builds graphs whose vertex digests follow from name, salt and inputs, as a definition's do.
#[derive(Debug, Default)]
pub struct Sketch {
    pub graph: Graph<TestOp>,
    pub world: Arc<World>,
    digests: Vec<Digest>,
    known: HashSet<Digest>,
}

impl Sketch {
    pub fn new(world: &Arc<World>) -> Self {
        Self { graph: Graph::new(), world: world.clone(), ..Self::default() }
    }

    pub fn add(&mut self, name: &str, inputs: &[u32], behaviour: Behaviour) -> u32 {
        self.add_with(name, inputs, behaviour, false)
    }

    pub fn add_with(&mut self, name: &str, inputs: &[u32], behaviour: Behaviour, ignore_cache: bool) -> u32 {
        let mut hasher = Hasher::new();
        hasher.field(name).field(behaviour.salt.to_le_bytes());
        for input in inputs {
            hasher.field(self.digests[*input as usize].as_bytes());
        }
        let digest = hasher.finish();
        self.digests.push(digest);
        self.known.insert(digest);
        let op = TestOp { name: name.to_owned(), behaviour, world: self.world.clone() };
        let vertex = Vertex {
            digest,
            name: name.to_owned(),
            op: Arc::new(op),
            inputs: inputs.iter().map(|input| edge(*input)).collect(),
            ignore_cache,
            hidden: false,
        };
        self.graph.add(vertex).unwrap().0
    }

    /// The reference: no cache, no sharing, no concurrency.
    pub fn naive(&self, vertices: &[(String, Vec<u32>, Behaviour)], id: u32) -> Result<Value, Failure> {
        let (name, inputs, behaviour) = &vertices[id as usize];
        let values =
            inputs.iter().map(|input| self.naive(vertices, *input)).collect::<Result<Vec<_>, _>>()?;
        let op = TestOp { name: name.clone(), behaviour: behaviour.clone(), world: self.world.clone() };
        if behaviour.fails {
            return Err(Failure::Failed(name.clone()));
        }
        Ok(op.compute(&values))
    }
}

pub fn edge(id: u32) -> Edge {
    Edge { vertex: VertexId(id), output: 0 }
}

pub fn solver() -> Solver<TestOp> {
    Solver::new(vec![Arc::new(MemoryCache::default())], SolverOptions::default())
}

/// Keeps all events of a job as short lines.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Vec<String>>);

impl Lines {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

impl EventSink for Lines {
    fn event(&self, event: Event) {
        let line = match event {
            Event::Known(vertex) => format!("{} known", vertex.name),
            Event::Started(vertex) => format!("{} started", vertex.name),
            Event::Completed { vertex, cached: true, .. } => format!("{} cached", vertex.name),
            Event::Completed { vertex, error: Some(error), .. } => format!("{} error: {error}", vertex.name),
            Event::Completed { vertex, .. } => format!("{} done", vertex.name),
        };
        self.0.lock().push(line);
    }
}
