use std::collections::BTreeMap;

use rbuild_api::pb;

use super::{index_to_wire, optional_index, required_index};
use crate::{Definition, OpError};

/// Fetches something from outside: what an identifier names, shaped by attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceOp {
    /// `docker-image://…`, `local://…`, `git://…`, `https://…`, `oci-layout://…`.
    pub identifier: String,
    /// Options by name, for instance `local.followpaths`.
    pub attrs: BTreeMap<String, String>,
}

/// Solves a definition that lies in an input.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildOp {
    /// The input that builds; `None` is the daemon itself.
    pub builder: Option<u32>,
    /// Inputs by name.
    pub inputs: BTreeMap<String, u32>,
    /// The definition itself, if it isn't in an input.
    pub definition: Option<Definition>,
    /// Options, for instance `llbbuild.filename`.
    pub attrs: BTreeMap<String, String>,
}

/// Puts file systems on top of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeOp {
    /// Inputs, bottom first.
    pub inputs: Vec<u32>,
}

/// What `upper` adds to `lower`; `None` is scratch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffOp {
    /// Input that is taken away.
    pub lower: Option<u32>,
    /// Input that it is taken from.
    pub upper: Option<u32>,
}

/// Hands inputs on once all inputs are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassthroughOp {
    /// Distinguishes otherwise equal ops.
    pub id: String,
    /// Which input each output is.
    pub outputs: Vec<u32>,
}

impl SourceOp {
    /// A source with attributes.
    pub fn new(identifier: impl Into<String>, attrs: BTreeMap<String, String>) -> Self {
        Self { identifier: identifier.into(), attrs }
    }

    /// The identifier's scheme: what stands before `://`.
    pub fn scheme(&self) -> &str {
        self.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// From the wire. Errors: an empty identifier.
    pub fn from_wire(wire: pb::SourceOp) -> Result<Self, OpError> {
        if wire.identifier.is_empty() {
            return Err(OpError::Missing("identifier of the source"));
        }
        Ok(Self { identifier: wire.identifier, attrs: wire.attrs })
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::SourceOp {
        pb::SourceOp { identifier: self.identifier.clone(), attrs: self.attrs.clone() }
    }
}

impl BuildOp {
    pub(super) fn from_wire(wire: pb::BuildOp, count: usize, depth: u32) -> Result<Self, OpError> {
        let mut inputs = BTreeMap::new();
        for (name, input) in wire.inputs {
            inputs.insert(name, required_index("input of the build", input.input, count)?);
        }
        let definition = match wire.def {
            Some(definition) => Some(
                Definition::from_wire_nested(definition, depth + 1)
                    .map_err(|err| OpError::Nested(Box::new(err)))?,
            ),
            None => None,
        };
        let builder = optional_index("builder", wire.builder, count)?;
        Ok(Self { builder, inputs, definition, attrs: wire.attrs })
    }

    pub(super) fn to_wire(&self) -> pb::BuildOp {
        let inputs = self.inputs.iter();
        pb::BuildOp {
            builder: index_to_wire(self.builder),
            inputs: inputs.map(|(k, v)| (k.clone(), pb::BuildInput { input: i64::from(*v) })).collect(),
            def: self.definition.as_ref().map(Definition::to_wire),
            attrs: self.attrs.clone(),
        }
    }
}

impl MergeOp {
    pub(super) fn from_wire(wire: &pb::MergeOp, count: usize) -> Result<Self, OpError> {
        let inputs = wire.inputs.iter().map(|i| required_index("input of the merge", i.input, count));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() {
            return Err(OpError::Missing("input of the merge"));
        }
        Ok(Self { inputs })
    }

    pub(super) fn to_wire(&self) -> pb::MergeOp {
        pb::MergeOp { inputs: self.inputs.iter().map(|i| pb::MergeInput { input: i64::from(*i) }).collect() }
    }
}

impl DiffOp {
    pub(super) fn from_wire(wire: &pb::DiffOp, count: usize) -> Result<Self, OpError> {
        let lower = wire.lower.ok_or(OpError::Missing("lower input of the diff"))?;
        let upper = wire.upper.ok_or(OpError::Missing("upper input of the diff"))?;
        Ok(Self {
            lower: optional_index("lower input of the diff", lower.input, count)?,
            upper: optional_index("upper input of the diff", upper.input, count)?,
        })
    }

    pub(super) fn to_wire(self) -> pb::DiffOp {
        pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: index_to_wire(self.lower) }),
            upper: Some(pb::UpperDiffInput { input: index_to_wire(self.upper) }),
        }
    }
}

impl PassthroughOp {
    pub(super) fn from_wire(wire: pb::PassthroughOp, count: usize) -> Result<Self, OpError> {
        if wire.id.is_empty() {
            return Err(OpError::Missing("id of the passthrough"));
        }
        if wire.outputs.is_empty() {
            return Err(OpError::Missing("output of the passthrough"));
        }
        let outputs = wire.outputs.iter().map(|i| required_index("output of the passthrough", *i, count));
        Ok(Self { id: wire.id, outputs: outputs.collect::<Result<_, _>>()? })
    }

    pub(super) fn to_wire(&self) -> pb::PassthroughOp {
        pb::PassthroughOp {
            id: self.id.clone(),
            outputs: self.outputs.iter().map(|i| i64::from(*i)).collect(),
        }
    }
}
