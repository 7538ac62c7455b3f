use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::source_map::SourceMap;
use crate::{Edge, Graph, LlbError, OpMetadata, SourceLocation};

/// Most ops of one definition. Real builds have hundreds; a definition of 16 MiB (the largest message) has
/// at most some 200,000 of the smallest useful ops.
pub const MAX_OPS: usize = 200_000;
/// Most bytes of one op: no message on the wire is larger.
pub const MAX_OP_BYTES: usize = 16 << 20;
/// Definitions may hold definitions (build ops, source maps); real ones go one or two levels deep.
const MAX_NESTING: u32 = 16;

/// Marshalled ops with their metadata: what travels, and what digests are taken of. Without ops it is
/// scratch. The last op is the terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// Marshalled ops; inputs usually stand before their users, but only the terminal's place is fixed.
    pub ops: Vec<Bytes>,
    /// Metadata by vertex.
    pub metadata: BTreeMap<Digest, OpMetadata>,
    /// Where the vertices were written.
    pub source: Option<SourceMap>,
}

impl Definition {
    /// Checks a definition from outside: sizes, digests, indices, enums, cycles.
    ///
    /// Errors: the first rule that is broken; never panics. Cost is linear in the size.
    pub fn from_wire(wire: pb::Definition) -> Result<Self, LlbError> {
        Self::from_wire_nested(wire, 0)
    }

    pub(crate) fn from_wire_nested(wire: pb::Definition, depth: u32) -> Result<Self, LlbError> {
        if depth > MAX_NESTING {
            return Err(LlbError::NestedTooDeep(MAX_NESTING));
        }
        let mut metadata = BTreeMap::new();
        for (key, value) in wire.metadata {
            let vertex = Digest::parse(&key).map_err(|source| LlbError::Key { map: "metadata", source })?;
            metadata.insert(vertex, OpMetadata::from_wire(value));
        }
        let source = wire.source.map(|source| SourceMap::from_wire(&source, depth)).transpose()?;
        let definition = Self { ops: wire.def.into_iter().map(Bytes::from).collect(), metadata, source };
        Graph::from_definition_nested(&definition, depth)?;
        Ok(definition)
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::Definition {
        pb::Definition {
            def: self.ops.iter().map(|op| op.to_vec()).collect(),
            metadata: self.metadata.iter().map(|(k, v)| (k.to_string(), v.to_wire())).collect(),
            source: self.source.as_ref().map(SourceMap::to_wire),
        }
    }

    /// Decodes and checks the protobuf encoding of a definition, as `buildctl debug dump-llb` reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, LlbError> {
        let wire = pb::Definition::decode(bytes).map_err(|source| LlbError::Decode { index: 0, source })?;
        Self::from_wire(wire)
    }

    /// The protobuf encoding.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Whether it stands for an empty file system.
    pub fn is_scratch(&self) -> bool {
        self.ops.is_empty()
    }

    /// The vertex that the terminal names, and its output; `None` for scratch.
    pub fn head(&self) -> Result<Option<(Digest, u32)>, LlbError> {
        let graph = Graph::from_definition(self)?;
        Ok(graph.terminal().map(|Edge { vertex, output }| (graph.vertex(vertex).digest, output)))
    }

    /// Where `vertex` was written; empty if nobody said.
    pub fn locations(&self, vertex: &Digest) -> &[SourceLocation] {
        self.source.as_ref().and_then(|s| s.locations.get(vertex)).map_or(&[], Vec::as_slice)
    }
}
