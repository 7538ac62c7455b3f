//! From `llb::Graph` to a solver graph. Nowhere else do the two meet.

use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::{OpKind, Vertex};
use rbuild_solver::{Edge, Graph, VertexId};

use crate::entitlements::Entitlements;
use crate::error::OpError;
use crate::op::LlbOp;
use crate::worker::Worker;

impl Worker {
    /// The same graph with ops that this worker performs, and the edge it stands for (`None`: scratch).
    ///
    /// Errors: an op that this daemon does not have. Grants are checked separately, see [`Worker::check`].
    pub fn graph(
        self: &Arc<Self>,
        graph: &rbuild_llb::Graph,
    ) -> Result<(Graph<LlbOp>, Option<Edge>), OpError> {
        let mut solved = Graph::new();
        let names: Vec<String> = graph.vertices().iter().map(Vertex::name).collect();
        let own_ms: Vec<u64> = names.iter().map(|name| self.durations.of(name)).collect();
        let inputs = |vertex: usize| {
            graph.vertices()[vertex].inputs.iter().map(|input| input.vertex.index()).collect()
        };
        let ways = crate::durations::ways(&own_ms, inputs);
        for ((vertex, name), way_ms) in graph.vertices().iter().zip(names).zip(ways) {
            solved
                .add(self.vertex(vertex, urls(graph, vertex), name, way_ms))
                .map_err(|error| OpError::invalid(error.to_string()))?;
        }
        Ok((solved, graph.terminal().map(edge)))
    }

    /// Checks the grants that the ops of a graph need. A build that joins another's work, or finds it in the cache,
    /// needs them no less.
    ///
    /// Errors: [`OpError::Denied`], with the vertex that lacks a grant.
    pub fn check(graph: &rbuild_llb::Graph, granted: &Entitlements) -> Result<(), Box<(Digest, OpError)>> {
        let check = |vertex: &Vertex| {
            granted.check_op(&vertex.op.kind).map_err(|error| Box::new((vertex.digest, error)))
        };
        graph.vertices().iter().try_for_each(check)
    }

    fn vertex(
        self: &Arc<Self>,
        vertex: &Vertex,
        urls: Vec<Option<String>>,
        name: String,
        way_ms: u64,
    ) -> rbuild_solver::Vertex<LlbOp> {
        let op = LlbOp {
            worker: self.clone(),
            kind: vertex.op.kind.clone(),
            inputs: vertex.inputs.len(),
            urls,
            platform: vertex.op.platform.clone(),
            resources: vertex.metadata.linux_resources.clone(),
            way_ms,
            name: name.clone(),
        };
        rbuild_solver::Vertex {
            digest: vertex.digest,
            name,
            op: Arc::new(op),
            inputs: vertex.inputs.iter().copied().map(edge).collect(),
            ignore_cache: vertex.metadata.ignore_cache,
            hidden: false,
        }
    }
}

/// The URLs of a file op's inputs. The build's own: the same file may have come to the store from elsewhere.
fn urls(graph: &rbuild_llb::Graph, vertex: &Vertex) -> Vec<Option<String>> {
    let url = |input: &rbuild_llb::Edge| match &graph.vertex(input.vertex).op.kind {
        OpKind::Source(source) => rbuild_source::shown_url(source.identifier.as_str()),
        _ => None,
    };
    match &vertex.op.kind {
        OpKind::File(_) => vertex.inputs.iter().map(url).collect(),
        _ => Vec::new(),
    }
}

fn edge(edge: rbuild_llb::Edge) -> Edge {
    let vertex = u32::try_from(edge.vertex.index()).expect("llb numbers vertices with u32");
    Edge { vertex: VertexId(vertex), output: edge.output as usize }
}
