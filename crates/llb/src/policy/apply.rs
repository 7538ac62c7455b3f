//! A definition with other sources: everything that depends on one of them gets another digest.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::{Definition, Graph, Input, Op, OpKind, SourceMap, SourceOp, Vertex};

/// What sources become, by vertex.
#[derive(Debug, Clone, Default)]
pub struct Converted {
    sources: BTreeMap<Digest, SourceOp>,
}

impl Converted {
    /// Says what the source of a vertex becomes.
    pub fn insert(&mut self, vertex: Digest, source: SourceOp) {
        self.sources.insert(vertex, source);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The definition of the same graph with the new sources. Names, places and other metadata go along. Two sources
    /// that become the same are one vertex.
    pub fn apply(&self, definition: &Definition, graph: &Graph) -> Definition {
        if self.is_empty() {
            return definition.clone();
        }
        let mut renamed: HashMap<Digest, Digest> = HashMap::with_capacity(graph.len());
        let mut made = Definition::default();
        let infos = definition.source.as_ref().map_or_else(Vec::new, |source| source.infos.clone());
        let mut source = SourceMap { infos, ..SourceMap::default() };
        // What does not change keeps its very bytes.
        let bytes: HashMap<Digest, &Bytes> =
            definition.ops.iter().map(|bytes| (Digest::of(bytes), bytes)).collect();
        for vertex in graph.vertices() {
            let op = self.changed(vertex, &renamed);
            let bytes = match (op, bytes.get(&vertex.digest)) {
                (Some(op), _) => op.encode(),
                (None, Some(bytes)) => (*bytes).clone(),
                (None, None) => vertex.op.encode(),
            };
            let digest = Digest::of(&bytes);
            renamed.insert(vertex.digest, digest);
            if made.metadata.contains_key(&digest) {
                continue;
            }
            made.ops.push(bytes);
            made.metadata.insert(digest, vertex.metadata.clone());
            if !vertex.locations.is_empty() {
                source.locations.insert(digest, vertex.locations.clone());
            }
        }
        if let Some(edge) = graph.terminal() {
            let input = Input { digest: renamed[&graph.vertex(edge.vertex).digest], index: edge.output };
            let terminal = pb::Op { inputs: vec![input.to_wire()], ..pb::Op::default() };
            made.ops.push(terminal.encode_to_vec().into());
        }
        made.source = definition.source.is_some().then_some(source);
        made
    }

    /// The op of a vertex, if it or one of its inputs has changed.
    fn changed(&self, vertex: &Vertex, renamed: &HashMap<Digest, Digest>) -> Option<Op> {
        let source = self.sources.get(&vertex.digest);
        let renamed = |input: &Input| renamed.get(&input.digest).copied().unwrap_or(input.digest);
        if source.is_none() && vertex.op.inputs.iter().all(|input| renamed(input) == input.digest) {
            return None;
        }
        let mut op = vertex.op.clone();
        if let Some(source) = source {
            op.kind = OpKind::Source(source.clone());
        }
        for input in &mut op.inputs {
            input.digest = renamed(input);
        }
        Some(op)
    }
}
