//! The low-level build graph as data: what a client or a frontend asks the daemon to compute.
//!
//! Central types: [`Definition`] (marshalled ops, as they travel and as digests are taken of them), [`Graph`]
//! (the same, checked and linked, in topological order) and [`State`] (a pure builder that yields
//! definitions). Kinds of ops:
//!
//! | kind | inputs | outputs |
//! |---|---|---|
//! | [`SourceOp`] | none | what an identifier names: an image, a local directory, a git commit, a file over http |
//! | [`ExecOp`] | what is mounted | one per writable mount, in the order of mounts |
//! | [`FileOp`] | what actions start from or copy from | one per action that says so |
//! | [`MergeOp`] | layers, bottom first | their union |
//! | [`DiffOp`] | lower, upper | what upper adds to lower |
//! | [`BuildOp`] | where the definition's file lies | the result of a nested definition |
//! | [`PassthroughOp`] | things that must exist | some of the inputs, unchanged |
//!
//! This crate does not know how anything is solved, executed or fetched. Invariant: every value that leaves
//! [`Definition::from_wire`] is fully checked (bounds, indices, enums, digests, no cycle, bounded sizes), and
//! nothing here recurses on the depth of a graph. Marshalling equals upstream's byte for byte: fields by
//! number, oneofs last, maps sorted, indices of -1 spelt out.
#![forbid(unsafe_code)]

mod builder;
pub mod caps;
mod definition;
mod encode;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod git;
mod graph;
mod json;
mod metadata;
mod op;
mod policy;
mod proto_json;
mod source_map;
mod steps;

pub use builder::{
    Attached, Constraints, DefaultPath, ExecOptions, ExecState, FileActions, GitOptions, HttpOptions,
    ImageOptions, ImageResolveMode, LocalDiffer, LocalOptions, MarshalOptions, MountOptions,
    OciLayoutOptions, SecretOptions, SshOptions, State,
};
pub use definition::{Definition, MAX_OP_BYTES, MAX_OPS};
pub use error::{BuildProblem, LlbError, OpError};
pub use graph::{Edge, Graph, Vertex, VertexId};
pub use json::{
    definition_to_dot, definition_to_json, definition_to_json_lines, exec_to_json, file_action_to_json,
    go_escaped, op_to_json,
};
pub use metadata::{LinuxResources, OpMetadata, ProgressGroup};
pub use op::{
    BuildOp, CacheSharing, CdiDevice, Chmod, Chown, ContentCache, CopyAction, DiffOp, ExecMeta, ExecOp,
    FileAction, FileActionKind, FileOp, HostIp, Input, MergeOp, MkdirAction, MkfileAction, Mount, MountKind,
    NetMode, Op, OpKind, PassthroughOp, ProxyEnv, RmAction, SecretEnv, SecretMount, SecurityMode, SourceOp,
    SshMount, SymlinkAction, Ulimit, UserRef, platform_from_wire, platform_to_wire,
};
pub use policy::{Converted, PolicyError, SourcePolicy, shown_identifier};
pub use proto_json::op_to_proto_json;
pub use source_map::{Position, Range, SourceInfo, SourceLocation, SourceMap};
pub use steps::{Redact, Steps};
