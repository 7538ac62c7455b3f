//! Typed ops, one file per kind: types first, then `from_wire` with all checks, then `to_wire`.

mod exec;
mod file;
mod other;

use bytes::Bytes;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_oci::Platform;

pub use exec::{
    CacheSharing, CdiDevice, ContentCache, ExecMeta, ExecOp, HostIp, Mount, MountKind, NetMode, ProxyEnv,
    SecretEnv, SecretMount, SecurityMode, SshMount, Ulimit,
};
pub use file::{
    Chmod, Chown, CopyAction, FileAction, FileActionKind, FileOp, MkdirAction, MkfileAction, RmAction,
    SymlinkAction, UserRef,
};
pub use other::{BuildOp, DiffOp, MergeOp, PassthroughOp, SourceOp};

use crate::OpError;

/// One op: what a vertex does and what it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// Outputs of other vertices; kinds refer to them by position.
    pub inputs: Vec<Input>,
    /// What it does.
    pub kind: OpKind,
    /// Which platform it is for, where that matters.
    pub platform: Option<Platform>,
    /// Filters that a worker must meet; present but empty in what clients send.
    pub constraints: Option<Vec<String>>,
}

/// An output of another vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input {
    /// Which vertex.
    pub digest: Digest,
    /// Which of its outputs.
    pub index: u32,
}

/// The kinds of ops.
#[derive(Debug, Clone, PartialEq)]
pub enum OpKind {
    /// Runs a process.
    Exec(Box<ExecOp>),
    /// Fetches something from outside.
    Source(SourceOp),
    /// Changes files without a process.
    File(FileOp),
    /// Solves a definition found in an input.
    Build(Box<BuildOp>),
    /// Puts file systems on top of each other.
    Merge(MergeOp),
    /// What one file system adds to another.
    Diff(DiffOp),
    /// Hands inputs on, once all of them are there.
    Passthrough(PassthroughOp),
}

impl OpKind {
    /// One lower-case word: `exec`, `source`…
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Source(_) => "source",
            Self::File(_) => "file",
            Self::Build(_) => "build",
            Self::Merge(_) => "merge",
            Self::Diff(_) => "diff",
            Self::Passthrough(_) => "passthrough",
        }
    }
}

impl Op {
    /// An op on `inputs` without platform or constraints.
    pub fn new(kind: OpKind, inputs: Vec<Input>) -> Self {
        Self { inputs, kind, platform: None, constraints: None }
    }

    /// From the wire, with every rule of the kind checked.
    pub fn from_wire(wire: pb::Op) -> Result<Self, OpError> {
        Self::from_wire_nested(wire, 0)
    }

    pub(crate) fn from_wire_nested(wire: pb::Op, depth: u32) -> Result<Self, OpError> {
        let inputs = wire.inputs.iter().map(input_from_wire).collect::<Result<Vec<_>, _>>()?;
        let count = inputs.len();
        let kind = match wire.op.ok_or(OpError::UnknownKind)? {
            pb::op::Op::Exec(exec) => OpKind::Exec(Box::new(ExecOp::from_wire(exec, count)?)),
            pb::op::Op::Source(source) => OpKind::Source(SourceOp::from_wire(source)?),
            pb::op::Op::File(file) => OpKind::File(FileOp::from_wire(file, count)?),
            pb::op::Op::Build(build) => OpKind::Build(Box::new(BuildOp::from_wire(build, count, depth)?)),
            pb::op::Op::Merge(merge) => OpKind::Merge(MergeOp::from_wire(&merge, count)?),
            pb::op::Op::Diff(diff) => OpKind::Diff(DiffOp::from_wire(&diff, count)?),
            pb::op::Op::Passthrough(op) => OpKind::Passthrough(PassthroughOp::from_wire(op, count)?),
        };
        let platform = wire.platform.as_ref().map(platform_from_wire);
        Ok(Self { inputs, kind, platform, constraints: wire.constraints.map(|c| c.filter) })
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::Op {
        let kind = match &self.kind {
            OpKind::Exec(op) => pb::op::Op::Exec(op.to_wire()),
            OpKind::Source(op) => pb::op::Op::Source(op.to_wire()),
            OpKind::File(op) => pb::op::Op::File(op.to_wire()),
            OpKind::Build(op) => pb::op::Op::Build(op.to_wire()),
            OpKind::Merge(op) => pb::op::Op::Merge(op.to_wire()),
            OpKind::Diff(op) => pb::op::Op::Diff(op.to_wire()),
            OpKind::Passthrough(op) => pb::op::Op::Passthrough(op.to_wire()),
        };
        pb::Op {
            inputs: self.inputs.iter().map(|input| input.to_wire()).collect(),
            platform: self.platform.as_ref().map(platform_to_wire),
            constraints: self.constraints.clone().map(|filter| pb::WorkerConstraints { filter }),
            op: Some(kind),
        }
    }

    /// The bytes that its digest is taken of, equal to upstream's.
    pub fn encode(&self) -> Bytes {
        crate::encode::op_bytes(&self.to_wire()).into()
    }

    /// Digest of [`Op::encode`].
    pub fn digest(&self) -> Digest {
        Digest::of(self.encode())
    }

    /// How many outputs it has.
    pub fn output_count(&self) -> u32 {
        match &self.kind {
            OpKind::Exec(op) => op.output_count(),
            OpKind::File(op) => op.output_count(),
            OpKind::Passthrough(op) => u32::try_from(op.outputs.len()).unwrap_or(u32::MAX),
            OpKind::Source(_) | OpKind::Build(_) | OpKind::Merge(_) | OpKind::Diff(_) => 1,
        }
    }

    /// A name for people, for vertices without one.
    pub fn describe(&self) -> String {
        match &self.kind {
            OpKind::Exec(op) => op.meta.args.join(" "),
            OpKind::Source(op) => op.identifier.clone(),
            OpKind::File(op) => op.describe(),
            OpKind::Build(_) => "build".to_owned(),
            OpKind::Merge(_) => "merge".to_owned(),
            OpKind::Diff(_) => "diff".to_owned(),
            OpKind::Passthrough(op) => format!("passthrough {}", op.id),
        }
    }
}

impl Input {
    /// To the wire.
    pub fn to_wire(self) -> pb::Input {
        pb::Input { digest: self.digest.to_string(), index: i64::from(self.index) }
    }
}

pub(crate) fn input_from_wire(input: &pb::Input) -> Result<Input, OpError> {
    let digest = Digest::parse(&input.digest)?;
    let index = u32::try_from(input.index)
        .map_err(|_| OpError::Range { field: "input's output index", value: input.index })?;
    Ok(Input { digest, index })
}

/// From the wire's platform.
pub fn platform_from_wire(p: &pb::Platform) -> Platform {
    Platform {
        os: p.os.clone(),
        architecture: p.architecture.clone(),
        variant: p.variant.clone(),
        os_version: p.os_version.clone(),
        os_features: p.os_features.clone(),
    }
}

/// To the wire's platform.
pub fn platform_to_wire(p: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        variant: p.variant.clone(),
        os_version: p.os_version.clone(),
        os_features: p.os_features.clone(),
    }
}

/// Checks an index that may be -1 for "none" and otherwise is below `count`.
fn optional_index(field: &'static str, index: i64, count: usize) -> Result<Option<u32>, OpError> {
    if index == NONE { Ok(None) } else { required_index(field, index, count).map(Some) }
}

/// Checks an index that is below `count`.
fn required_index(field: &'static str, index: i64, count: usize) -> Result<u32, OpError> {
    u32::try_from(index).ok().filter(|i| (*i as usize) < count).ok_or(OpError::Index { field, index, count })
}

/// The wire's spelling of "no input" and "no output".
const NONE: i64 = -1;

fn index_to_wire(index: Option<u32>) -> i64 {
    index.map_or(NONE, i64::from)
}
