use std::collections::{BTreeMap, HashMap};

use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Dfs;
use prost::Message;
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::definition::{MAX_OP_BYTES, MAX_OPS};
use crate::{Definition, LlbError, Op, OpMetadata, SourceLocation};

/// A vertex of one [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(u32);

impl VertexId {
    /// Position in [`Graph::vertices`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One output of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// Which vertex.
    pub vertex: VertexId,
    /// Which of its outputs.
    pub output: u32,
}

/// An op within a graph.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// Digest of its marshalled bytes.
    pub digest: Digest,
    /// What it does.
    pub op: Op,
    /// What it needs, in the op's order.
    pub inputs: Vec<Edge>,
    /// What was said about it.
    pub metadata: OpMetadata,
    /// Where it was written.
    pub locations: Vec<SourceLocation>,
}

impl Vertex {
    /// The name to show: the custom one, or what the op does.
    pub fn name(&self) -> String {
        match self.metadata.custom_name() {
            Some(name) => name.to_owned(),
            None => self.op.describe(),
        }
    }
}

/// A checked definition: the vertices that its terminal needs, inputs before their users.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
    by_digest: BTreeMap<Digest, VertexId>,
    terminal: Option<Edge>,
}

/// What was decoded, before order is known.
struct Loaded {
    digest: Digest,
    op: Op,
}

impl Graph {
    /// Decodes, checks and links a definition. Vertices that the terminal doesn't need are checked, then left
    /// out.
    pub fn from_definition(definition: &Definition) -> Result<Self, LlbError> {
        Self::from_definition_nested(definition, 0)
    }

    pub(crate) fn from_definition_nested(definition: &Definition, depth: u32) -> Result<Self, LlbError> {
        let Some((terminal, ops)) = definition.ops.split_last() else { return Ok(Self::default()) };
        let count = definition.ops.len();
        if count > MAX_OPS {
            return Err(LlbError::TooManyOps { count, limit: MAX_OPS });
        }
        let mut loaded = Vec::with_capacity(ops.len());
        for (index, bytes) in ops.iter().enumerate() {
            let wire = decode_op(index, bytes)?;
            let digest = Digest::of(bytes);
            let op = Op::from_wire_nested(wire, depth)
                .map_err(|source| LlbError::Op { vertex: digest, source })?;
            loaded.push(Loaded { digest, op });
        }
        let head = decode_terminal(ops.len(), terminal)?;
        let (digraph, nodes) = link(&loaded, Digest::of(terminal), &head)?;
        let order = petgraph::algo::toposort(&digraph, None)
            .map_err(|cycle| LlbError::Cycle(loaded[cycle.node_id().index()].digest))?;
        Ok(assemble(definition, loaded, &digraph, &order, nodes[&head.0], head.1))
    }

    /// All vertices, inputs before their users.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// All vertices with their ids, inputs before their users.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (VertexId, &Vertex)> {
        let id = |index| VertexId(u32::try_from(index).unwrap_or(u32::MAX));
        self.vertices.iter().enumerate().map(move |(index, vertex)| (id(index), vertex))
    }

    /// One vertex.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.index()]
    }

    /// The vertex with this digest, if the terminal needs it.
    pub fn find(&self, digest: &Digest) -> Option<VertexId> {
        self.by_digest.get(digest).copied()
    }

    /// What the definition stands for; `None` is scratch.
    pub fn terminal(&self) -> Option<Edge> {
        self.terminal
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there is no vertex (scratch).
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }
}

fn decode_op(index: usize, bytes: &[u8]) -> Result<pb::Op, LlbError> {
    if bytes.len() > MAX_OP_BYTES {
        return Err(LlbError::OpTooLarge { index, size: bytes.len(), limit: MAX_OP_BYTES });
    }
    pb::Op::decode(bytes).map_err(|source| LlbError::Decode { index, source })
}

fn decode_terminal(index: usize, bytes: &[u8]) -> Result<(Digest, u32), LlbError> {
    let wire = decode_op(index, bytes)?;
    let ([input], None) = (wire.inputs.as_slice(), &wire.op) else { return Err(LlbError::NoTerminal) };
    let vertex = Digest::of(bytes);
    let input = crate::op::input_from_wire(input).map_err(|source| LlbError::Op { vertex, source })?;
    Ok((input.digest, input.index))
}

type Links = DiGraph<(), ()>;

/// Resolves inputs to vertices. Edges point from an input to its user.
fn link(
    loaded: &[Loaded],
    terminal: Digest,
    head: &(Digest, u32),
) -> Result<(Links, HashMap<Digest, NodeIndex>), LlbError> {
    let mut digraph = Links::with_capacity(loaded.len(), loaded.len());
    let mut nodes = HashMap::with_capacity(loaded.len());
    for vertex in loaded {
        if nodes.insert(vertex.digest, digraph.add_node(())).is_some() {
            return Err(LlbError::DuplicateOp(vertex.digest));
        }
    }
    let resolve = |vertex: Digest, input: Digest, index: u32| {
        let node = *nodes.get(&input).ok_or(LlbError::MissingInput { vertex, input })?;
        let outputs = loaded[node.index()].op.output_count();
        if index >= outputs {
            return Err(LlbError::NoSuchOutput { vertex, input, index, outputs });
        }
        Ok(node)
    };
    for vertex in loaded {
        let user = nodes[&vertex.digest];
        for input in &vertex.op.inputs {
            let node = resolve(vertex.digest, input.digest, input.index)?;
            digraph.add_edge(node, user, ());
        }
    }
    resolve(terminal, head.0, head.1)?;
    Ok((digraph, nodes))
}

/// Keeps what the terminal needs, in topological order.
fn assemble(
    definition: &Definition,
    loaded: Vec<Loaded>,
    digraph: &Links,
    order: &[NodeIndex],
    head: NodeIndex,
    output: u32,
) -> Graph {
    let mut needed = vec![false; loaded.len()];
    let reversed = petgraph::visit::Reversed(digraph);
    let mut walk = Dfs::new(reversed, head);
    while let Some(node) = walk.next(reversed) {
        needed[node.index()] = true;
    }
    let mut slots: Vec<Option<Loaded>> = loaded.into_iter().map(Some).collect();
    let mut graph = Graph::default();
    for node in order.iter().filter(|node| needed[node.index()]) {
        let Some(Loaded { digest, op }) = slots[node.index()].take() else { continue };
        let inputs = op
            .inputs
            .iter()
            .filter_map(|i| graph.find(&i.digest).map(|vertex| Edge { vertex, output: i.index }))
            .collect();
        let id = VertexId(u32::try_from(graph.vertices.len()).unwrap_or(u32::MAX));
        let metadata = definition.metadata.get(&digest).cloned().unwrap_or_default();
        let locations = definition.locations(&digest).to_vec();
        graph.vertices.push(Vertex { digest, op, inputs, metadata, locations });
        graph.by_digest.insert(digest, id);
        if *node == head {
            graph.terminal = Some(Edge { vertex: id, output });
        }
    }
    graph
}
