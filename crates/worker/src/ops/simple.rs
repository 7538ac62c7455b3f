//! Merge, diff and passthrough: ops whose work is the store's.

use rbuild_digest::Digest;
use rbuild_llb::{DiffOp, MergeOp, PassthroughOp};
use rbuild_solver::CacheMap;
use rbuild_store::Ref;

use crate::error::OpError;
use crate::op::LlbOp;

/// Upstream's identity of an op that is nothing but its wiring: a JSON object of the type's name and the op.
fn identity(kind: &str, field: &str, op: &str) -> CacheMap {
    CacheMap::new(Digest::of(format!("{{\"Type\":\"{kind}\",\"{field}\":{op}}}")))
}

pub(crate) fn merge_map(op: &MergeOp) -> CacheMap {
    let inputs = op.inputs.iter().map(|input| number(*input));
    let inputs: Vec<String> = inputs.collect();
    let inputs = if inputs.is_empty() { String::new() } else { format!("\"inputs\":[{}]", inputs.join(",")) };
    identity("buildkit.merge.v0", "Merge", &format!("{{{inputs}}}"))
}

/// An input by its number; zero is left out, and so is what is not there.
fn number(input: u32) -> String {
    if input == 0 { "{}".into() } else { format!("{{\"input\":{input}}}") }
}

pub(crate) fn diff_map(op: DiffOp) -> CacheMap {
    // An end that is not there is an input of the number -1.
    let end = |input: Option<u32>| input.map_or_else(|| "{\"input\":-1}".to_owned(), number);
    let text = format!("{{\"lower\":{},\"upper\":{}}}", end(op.lower), end(op.upper));
    identity("buildkit.diff.v0", "Diff", &text)
}

pub(crate) fn passthrough_map(op: &PassthroughOp) -> CacheMap {
    let outputs: Vec<String> = op.outputs.iter().map(ToString::to_string).collect();
    let text = format!("{{\"id\":{:?},\"outputs\":[{}]}}", op.id, outputs.join(","));
    identity("buildkit.passthrough.v0", "Passthrough", &text)
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
