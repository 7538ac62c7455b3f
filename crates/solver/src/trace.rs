//! What a job knows of a solved graph: what the export of a cache is made from.

use std::sync::Arc;

use rbuild_digest::Digest;

use crate::cache::RecordId;
use crate::graph::{Edge, Graph};
use crate::job::JobInner;
use crate::op::{CacheMap, Op};

/// A vertex as its job knows it.
#[derive(Debug, Clone)]
pub struct Traced<T> {
    /// Digest of the vertex.
    pub digest: Digest,
    /// Shown to people.
    pub name: String,
    /// Its identity.
    pub map: Arc<CacheMap>,
    /// Where its inputs come from, in the same graph.
    pub inputs: Vec<Edge>,
    /// The key made from definitions alone, if the vertex may be found by it.
    pub virtual_key: Option<Digest>,
    /// Its result, if it was needed.
    pub outputs: Option<Arc<[T]>>,
    /// The record that the result is, if a store has it; or the key under which an imported cache knows it.
    pub record: Option<RecordId>,
}

pub(crate) fn trace<O: Op>(
    job: &JobInner<O>,
    graph: &Graph<O>,
    edge: Edge,
) -> Vec<Option<Traced<O::Output>>> {
    let size = (edge.vertex.index() + 1).min(graph.len());
    let mut traced: Vec<Option<Traced<O::Output>>> = (0..size).map(|_| None).collect();
    let mut reached = vec![false; size];
    if let Some(root) = reached.get_mut(edge.vertex.index()) {
        *root = true;
    }
    for index in (0..size).rev() {
        if !reached[index] {
            continue;
        }
        let placed = &graph.vertices[index];
        for input in &placed.inputs {
            reached[input.vertex.index()] = true;
        }
        let Some(held) = job.known(&job.share_key(placed)) else { continue };
        let Some(map) = held.map.get() else { continue };
        let known = held.result.get();
        traced[index] = Some(Traced {
            digest: placed.info.digest,
            name: placed.info.name.clone(),
            map: map.clone(),
            inputs: placed.inputs.to_vec(),
            virtual_key: held
                .virtual_key
                .get()
                .copied()
                .flatten()
                .filter(|key| key.findable)
                .map(|key| key.key),
            outputs: known.map(|known| known.outputs.clone()),
            record: known
                .and_then(|known| known.identity.record())
                .or_else(|| held.keyed.get().copied().map(RecordId)),
        });
    }
    traced
}
