use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rbuild_api::pb;
use rbuild_digest::Digest;

use super::constraints::{Constraints, MarshalOptions};
use super::file::FilePlan;
use super::state::State;
use super::vertex::{Output, Plan, PlannedVertex};
use crate::source_map::{SourceInfos, SourceLocation, SourceMap};
use crate::{
    Definition, DiffOp, Input, LlbError, MergeOp, Op, OpKind, OpMetadata, PassthroughOp, SourceOp, caps,
};

impl State {
    /// Encodes all that this state needs: inputs before their users, depth first, then the terminal. Scratch
    /// is an empty definition.
    ///
    /// Errors: [`LlbError::Build`] if an op can't be one (no arguments, no identifier…).
    pub fn marshal(&self, options: &MarshalOptions) -> Result<Definition, LlbError> {
        let Some(output) = &self.output else { return Ok(Definition::default()) };
        let mut marshal = Marshal::new(options);
        marshal.visit(&output.vertex)?;
        Ok(marshal.finish(output))
    }

    /// Digest of the vertex that this state is an output of, and which output; `None` for scratch.
    pub fn head(&self, options: &MarshalOptions) -> Result<Option<(Digest, u32)>, LlbError> {
        let Some(output) = &self.output else { return Ok(None) };
        let mut marshal = Marshal::new(options);
        marshal.visit(&output.vertex)?;
        let input = marshal.input(output);
        Ok(Some((input.digest, input.index)))
    }
}

struct Marshal<'a> {
    options: &'a MarshalOptions,
    definition: Definition,
    /// Digests of vertices by identity: each is encoded once.
    digests: HashMap<*const PlannedVertex, Digest>,
    listed: BTreeSet<Digest>,
    infos: SourceInfos,
    locations: BTreeMap<Digest, Vec<SourceLocation>>,
}

impl<'a> Marshal<'a> {
    fn new(options: &'a MarshalOptions) -> Self {
        Self {
            options,
            definition: Definition::default(),
            digests: HashMap::new(),
            listed: BTreeSet::new(),
            infos: SourceInfos::default(),
            locations: BTreeMap::new(),
        }
    }

    /// Post-order walk with a stack of its own.
    fn visit(&mut self, root: &Arc<PlannedVertex>) -> Result<(), LlbError> {
        let mut stack = vec![(root.clone(), 0)];
        while let Some((vertex, next)) = stack.pop() {
            if self.digests.contains_key(&Arc::as_ptr(&vertex)) {
                continue;
            }
            match vertex.order.get(next) {
                Some(input) => {
                    let input = input.vertex.clone();
                    stack.push((vertex, next + 1));
                    stack.push((input, 0));
                }
                None => self.encode(&vertex)?,
            }
        }
        Ok(())
    }

    fn encode(&mut self, vertex: &Arc<PlannedVertex>) -> Result<(), LlbError> {
        let (bytes, metadata) = self.marshalled(vertex)?;
        let digest = Digest::of(&bytes);
        self.digests.insert(Arc::as_ptr(vertex), digest);
        self.definition.metadata.entry(digest).or_default().merge(&metadata);
        self.add_locations(digest, &vertex.constraints.locations);
        if self.listed.insert(digest) {
            self.definition.ops.push(bytes);
        }
        Ok(())
    }

    fn input(&self, output: &Output) -> Input {
        Input { digest: self.digests[&Arc::as_ptr(&output.vertex)], index: output.index }
    }

    fn marshalled(&self, vertex: &PlannedVertex) -> Result<(Bytes, OpMetadata), LlbError> {
        let mut constraints = vertex.constraints.clone();
        let mut inputs: Vec<Input> = Vec::new();
        let number = |output: &Output| numbered(&mut inputs, self.input(output));
        let mut platform = None;
        let kind = match &vertex.plan {
            Plan::Source(source) => {
                let source = self.source(source, &mut constraints)?;
                if is_platform_specific(&source) {
                    platform = Some(constraints.platform.as_ref().unwrap_or(&self.options.platform).clone());
                }
                OpKind::Source(source)
            }
            Plan::Exec(exec) => {
                let own = constraints.platform.as_ref().or(exec.environment().platform.as_ref());
                let chosen = own.unwrap_or(&self.options.platform).clone();
                for cap in exec.caps(self.options, &constraints) {
                    constraints.add_cap(cap);
                }
                let op = exec.op(self.options, &chosen.os, number)?;
                platform = Some(chosen);
                OpKind::Exec(Box::new(op))
            }
            Plan::File(file) => {
                constraints.add_cap(caps::FILE_BASE);
                let mut op = file.op(number)?;
                FilePlan::chain(&mut op, inputs.len());
                OpKind::File(op)
            }
            Plan::Merge(outputs) => {
                // Not deduplicated: merging a state with itself names it twice.
                inputs.extend(outputs.iter().map(|output| self.input(output)));
                OpKind::Merge(MergeOp { inputs: (0..count(&inputs)).collect() })
            }
            Plan::Diff { lower, upper } => {
                let mut place = |output: &Option<Output>| {
                    output.as_ref().map(|output| {
                        inputs.push(self.input(output));
                        count(&inputs) - 1
                    })
                };
                OpKind::Diff(DiffOp { lower: place(lower), upper: place(upper) })
            }
            Plan::Passthrough { id, inputs: needed, outputs } => {
                inputs.extend(needed.iter().map(|output| self.input(output)));
                OpKind::Passthrough(PassthroughOp { id: id.clone(), outputs: outputs.clone() })
            }
            Plan::Encoded { bytes, metadata } => return Ok((bytes.clone(), (**metadata).clone())),
        };
        let mut metadata = self.options.metadata.clone();
        metadata.merge(&constraints.metadata);
        let filters = self.options.worker_filters.iter().cloned().chain(constraints.worker_filters);
        let op = Op { inputs, kind, platform, constraints: Some(filters.collect()) };
        Ok((op.encode(), metadata))
    }

    fn source(&self, source: &SourceOp, constraints: &mut Constraints) -> Result<SourceOp, LlbError> {
        let mut source = source.clone();
        if source.identifier.is_empty() {
            return Err(LlbError::Build(crate::BuildProblem::NoIdentifier));
        }
        if source.scheme() == "local" && !source.attrs.contains_key("local.session") {
            let own = constraints.local_unique_id.as_ref();
            let id = own.unwrap_or(&self.options.local_unique_id).clone();
            source.attrs.insert("local.unique".to_owned(), id);
            constraints.add_cap(caps::SOURCE_LOCAL_UNIQUE);
        }
        Ok(source)
    }

    fn add_locations(&mut self, vertex: Digest, locations: &[SourceLocation]) {
        let mut places = Vec::with_capacity(locations.len());
        for location in locations {
            let index = self.infos.index(&location.info);
            let info = self.infos.list[index].clone();
            places.push(SourceLocation { info, ranges: location.ranges.clone() });
        }
        self.locations.entry(vertex).or_default().extend(places);
    }

    fn finish(mut self, output: &Output) -> Definition {
        let terminal = pb::Op { inputs: vec![self.input(output).to_wire()], ..pb::Op::default() };
        let bytes = terminal.encode_to_vec();
        let digest = Digest::of(&bytes);
        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        for metadata in self.definition.metadata.values() {
            if metadata.ignore_cache {
                needed.push(caps::META_IGNORE_CACHE);
            }
            if !metadata.description.is_empty() {
                needed.push(caps::META_DESCRIPTION);
            }
            if metadata.export_cache.is_some() {
                needed.push(caps::META_EXPORT_CACHE);
            }
        }
        let caps = needed.into_iter().map(|cap| (cap.to_owned(), true)).collect();
        self.definition.ops.push(bytes.into());
        self.definition.metadata.entry(digest).or_default().caps = caps;
        self.definition.source = Some(SourceMap { infos: self.infos.list, locations: self.locations });
        self.definition
    }
}

/// The position of `input` in the list, which it joins if it is new.
fn numbered(inputs: &mut Vec<Input>, input: Input) -> u32 {
    let known = inputs.iter().position(|seen| *seen == input);
    let position = known.unwrap_or_else(|| {
        inputs.push(input);
        inputs.len() - 1
    });
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn count(inputs: &[Input]) -> u32 {
    u32::try_from(inputs.len()).unwrap_or(u32::MAX)
}

fn is_platform_specific(source: &SourceOp) -> bool {
    matches!(source.scheme(), "docker-image" | "oci-layout")
}
