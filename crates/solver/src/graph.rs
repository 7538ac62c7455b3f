//! The graph that a job is asked to solve: vertices in topological order, named by `u32` ids.
//!
//! A vertex can only name vertices that were added before it, so a cycle cannot be written down.

use std::fmt;
use std::sync::Arc;

use rbuild_digest::Digest;

/// Index of a vertex in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

impl VertexId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One output of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The vertex.
    pub vertex: VertexId,
    /// Which of its outputs, from 0.
    pub output: usize,
}

/// What events, errors and ops say about a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VertexInfo {
    /// Digest of the op's definition, inputs included.
    pub digest: Digest,
    /// Shown to the user.
    pub name: String,
    /// Digests of the input vertices, in order.
    pub inputs: Vec<Digest>,
    /// Emits no events.
    pub hidden: bool,
}

/// A vertex as the caller describes it.
#[derive(Debug)]
pub struct Vertex<O> {
    /// Digest of the op's definition, inputs included: equal digests mean equal work.
    pub digest: Digest,
    /// Shown to the user.
    pub name: String,
    /// What it does.
    pub op: Arc<O>,
    /// Where its inputs come from.
    pub inputs: Vec<Edge>,
    /// Skip all look-ups for this vertex and give its result a fresh identity.
    pub ignore_cache: bool,
    /// Emit no events.
    pub hidden: bool,
}

/// A vertex in place.
#[derive(Debug)]
pub(crate) struct Placed<O> {
    pub(crate) info: Arc<VertexInfo>,
    pub(crate) op: Arc<O>,
    pub(crate) inputs: Box<[Edge]>,
    pub(crate) ignore_cache: bool,
    /// It or something beneath it must not be shared with other jobs by digest.
    pub(crate) private: bool,
}

/// A directed acyclic graph of ops, immutable once it is solved.
#[derive(Debug)]
pub struct Graph<O> {
    pub(crate) vertices: Vec<Placed<O>>,
}

impl<O> Default for Graph<O> {
    fn default() -> Self {
        Self { vertices: Vec::new() }
    }
}

impl<O: crate::Op> Graph<O> {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex whose inputs were added before.
    ///
    /// Errors: [`GraphError::UnknownInput`], [`GraphError::TooLarge`].
    pub fn add(&mut self, vertex: Vertex<O>) -> Result<VertexId, GraphError> {
        let Ok(id) = u32::try_from(self.vertices.len()) else { return Err(GraphError::TooLarge) };
        let mut inputs = Vec::with_capacity(vertex.inputs.len());
        let mut private = vertex.ignore_cache || !vertex.op.shareable();
        for edge in &vertex.inputs {
            let Some(input) = self.vertices.get(edge.vertex.index()) else {
                return Err(GraphError::UnknownInput { vertex: vertex.digest, input: edge.vertex.0 });
            };
            inputs.push(input.info.digest);
            private |= input.private;
        }
        let info = VertexInfo { digest: vertex.digest, name: vertex.name, inputs, hidden: vertex.hidden };
        self.vertices.push(Placed {
            info: Arc::new(info),
            op: vertex.op,
            inputs: vertex.inputs.into(),
            ignore_cache: vertex.ignore_cache,
            private,
        });
        Ok(VertexId(id))
    }

    /// Number of vertices.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there is no vertex.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// What is known about a vertex.
    pub fn info(&self, id: VertexId) -> Option<&Arc<VertexInfo>> {
        self.vertices.get(id.index()).map(|placed| &placed.info)
    }

    /// The op of a vertex.
    pub fn op(&self, id: VertexId) -> Option<&Arc<O>> {
        self.vertices.get(id.index()).map(|placed| &placed.op)
    }

    pub(crate) fn at(&self, id: VertexId) -> &Placed<O> {
        &self.vertices[id.index()]
    }
}

/// The graph cannot be built as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An edge names a vertex that was not added before.
    #[error("vertex {vertex} has input {input}, which is not in the graph yet")]
    UnknownInput {
        /// The vertex that names it.
        vertex: Digest,
        /// The index it names.
        input: u32,
    },
    /// More than `u32::MAX` vertices.
    #[error("graph has more than {} vertices", u32::MAX)]
    TooLarge,
}

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
