//! Merge, diff and passthrough: ops whose work is the store's, and the build op, which this daemon does not have yet.

use rbuild_digest::{Digest, Hasher};
use rbuild_llb::{DiffOp, MergeOp, PassthroughOp};
use rbuild_solver::CacheMap;
use rbuild_store::Ref;

use crate::error::OpError;
use crate::op::LlbOp;

fn identity(kind: &str, parts: impl IntoIterator<Item = Option<u32>>) -> CacheMap {
    let mut hasher = Hasher::new();
    hasher.field(kind);
    for part in parts {
        hasher.field(part.map_or(-1, i64::from).to_le_bytes());
    }
    CacheMap::new(hasher.finish())
}

pub(crate) fn merge_map(op: &MergeOp) -> CacheMap {
    identity("buildkit.merge.v0", op.inputs.iter().copied().map(Some))
}

pub(crate) fn diff_map(op: DiffOp) -> CacheMap {
    identity("buildkit.diff.v0", [op.lower, op.upper])
}

pub(crate) fn passthrough_map(op: &PassthroughOp) -> CacheMap {
    let mut map = identity("buildkit.passthrough.v0", op.outputs.iter().copied().map(Some));
    map.digest = Digest::of(format!("{} {}", map.digest, op.id));
    map
}

pub(crate) async fn merge(op: &LlbOp, merge: &MergeOp, inputs: &[Ref]) -> Result<Vec<Ref>, OpError> {
    let parts: Vec<Ref> =
        merge.inputs.iter().filter_map(|input| inputs.get(*input as usize)).cloned().collect();
    Ok(vec![op.worker.options.store.merge(&parts, &op.name).await?])
}

pub(crate) async fn diff(op: &LlbOp, diff: DiffOp, inputs: &[Ref]) -> Result<Vec<Ref>, OpError> {
    let side = |input: Option<u32>| input.and_then(|input| inputs.get(input as usize));
    Ok(vec![op.worker.options.store.diff(side(diff.lower), side(diff.upper), &op.name).await?])
}

pub(crate) fn passthrough(op: &PassthroughOp, inputs: &[Ref]) -> Vec<Ref> {
    op.outputs.iter().filter_map(|input| inputs.get(*input as usize)).cloned().collect()
}

pub(crate) fn build_op_refused() -> OpError {
    OpError::unsupported("the build op (a definition solved from within a graph)")
}
