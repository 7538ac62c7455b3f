//! From what a build knows of its graph to a cache document: [`collect`].
//!
//! Keys come from the graph (definitions) and from the records of its results (content of inputs); imported caches add
//! what they know of the same keys, so that a build that found everything elsewhere exports no less than the one that
//! made it. Nothing is run, and a result that is not at hand is left out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::CompressionOptions;
use rbuild_solver::{Edge, Traced};
use rbuild_store::{LayerBlob, LayerProgress, Ref, RefId};

use crate::LocalCache;
use crate::error::{CacheError, Result};
use crate::format::{self, Config, Link, Outcome, Record, content_key, output_key, time_text};
use crate::remote::RemoteCache;

/// Results whose layers are made at once. Each of them uses all its parents' layers, so most wait for the same.
const PARALLEL: usize = 4;

/// A solved edge with what its job knows of the graph beneath.
#[derive(Debug, Clone)]
pub struct Solution {
    /// By vertex.
    pub vertices: Vec<Option<Traced<Ref>>>,
    /// What was asked for.
    pub root: Edge,
    /// The result.
    pub output: Ref,
}

/// Which results a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers are layers of the build's result.
    Min,
    /// All.
    Max,
}

/// What an export is made from.
#[derive(Debug, Clone)]
pub struct Known {
    /// The build's results.
    pub solutions: Vec<Solution>,
    /// This daemon's records.
    pub local: LocalCache,
    /// What the build imported.
    pub imported: Vec<Arc<RemoteCache>>,
}

/// The keys of a build, and the results to go with them.
#[derive(Debug, Default)]
struct Keys {
    records: Vec<Key>,
    /// By digest and links, so that equal keys are one record.
    places: HashMap<(Digest, Vec<BTreeSet<Link>>), usize>,
}

#[derive(Debug)]
struct Key {
    digest: Digest,
    inputs: Vec<BTreeSet<Link>>,
    result: Option<(Ref, i64)>,
}

impl Keys {
    fn add(&mut self, digest: Digest, inputs: Vec<BTreeSet<Link>>) -> usize {
        let next = self.records.len();
        let place = *self.places.entry((digest, inputs.clone())).or_insert(next);
        if place == next {
            self.records.push(Key { digest, inputs, result: None });
        }
        place
    }

    /// A link to a record without inputs.
    fn root(&mut self, digest: Digest) -> Link {
        link(None, self.add(digest, Vec::new()))
    }
}

fn link(selector: Option<Digest>, to: usize) -> Link {
    let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
    Link { selector, link: i64::try_from(to).unwrap_or(i64::MAX) }
}

/// A cache ready to be written: the document, and the blobs that it names.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) config: Config,
    /// In the order of the document's layers; one blob may stand there more than once.
    pub(crate) blobs: Vec<(LayerBlob, Ref)>,
}

/// Collects keys and results and makes the layers that are missing.
pub(crate) async fn collect(
    known: &Known,
    mode: Mode,
    compression: (&CompressionOptions, bool),
    progress: Option<Arc<dyn LayerProgress>>,
) -> Result<Collected> {
    let keys = keys(known, mode).await?;
    let results = keys.records.iter().enumerate().filter_map(|(at, key)| {
        let (reference, created_ms) = key.result.clone()?;
        let progress = progress.clone();
        Some(async move {
            let layers = reference.layers(compression.0, compression.1, progress).await?;
            Ok::<_, CacheError>((at, reference, layers, created_ms))
        })
    });
    let results: Vec<_> = results.collect();
    let mut made = futures::stream::iter(results).buffered(PARALLEL);
    let mut layers = Layers::default();
    let mut outcomes: HashMap<usize, Vec<Outcome>> = HashMap::new();
    while let Some(result) = made.next().await {
        let (at, reference, chain, created_ms) = result?;
        if let Some(layer) = layers.add(&reference, &chain) {
            outcomes.entry(at).or_default().push(Outcome { layer, created_at: time_text(created_ms) });
        }
    }
    drop(made);
    Ok(sorted(keys, layers, outcomes))
}

/// The document of the cache that travels in an image whose layers are `layers`: records only.
pub(crate) async fn inline(known: &Known, reference: &Ref, layers: &[LayerBlob]) -> Result<Vec<u8>> {
    let mut known = known.clone();
    known.solutions.retain(|solution| solution.output == *reference);
    let keys = keys(&known, Mode::Min).await?;
    let chain: Vec<RefId> = reference.chain().iter().map(Ref::id).collect();
    let mut outcomes: HashMap<usize, Vec<Outcome>> = HashMap::new();
    for (at, key) in keys.records.iter().enumerate() {
        let Some((result, created_ms)) = &key.result else { continue };
        let ids: Vec<RefId> = result.chain().iter().map(Ref::id).collect();
        if !ids.is_empty() && chain.starts_with(&ids) && ids.len() <= layers.len() {
            let layer = i64::try_from(ids.len() - 1).unwrap_or(i64::MAX);
            outcomes.entry(at).or_default().push(Outcome { layer, created_at: time_text(*created_ms) });
        }
    }
    let sorted = sorted(keys, Layers::default(), outcomes);
    Ok(serde_json::to_vec(&sorted.config.records)?)
}

/// All keys, with the results of `mode`.
async fn keys(known: &Known, mode: Mode) -> Result<Keys> {
    let mut keys = Keys::default();
    let mut seen: HashMap<(Digest, usize), usize> = HashMap::new();
    for solution in &known.solutions {
        // Per solution: what a client's directory stands for may differ from one to the other.
        seen.clear();
        let chain: Vec<RefId> = solution.output.chain().iter().map(Ref::id).collect();
        let wanted = outputs(solution);
        for (at, vertex) in solution.vertices.iter().enumerate() {
            let Some(vertex) = vertex else { continue };
            for output in &wanted[at] {
                let Some(place) = add_key(known, solution, vertex, *output, &seen, &mut keys) else {
                    continue;
                };
                seen.insert((vertex.digest, *output), place);
                if keys.records[place].result.is_some() {
                    continue;
                }
                let Some((reference, created_ms)) = result(known, vertex, *output).await? else { continue };
                let fits = mode == Mode::Max || {
                    let ids: Vec<RefId> = reference.chain().iter().map(Ref::id).collect();
                    chain.starts_with(&ids)
                };
                // A source can be had from where it is, and its key says which it is.
                if fits && !vertex.inputs.is_empty() {
                    keys.records[place].result = Some((reference, created_ms));
                }
            }
        }
    }
    Ok(keys)
}

/// Which outputs of which vertex are used.
fn outputs(solution: &Solution) -> Vec<BTreeSet<usize>> {
    let mut wanted = vec![BTreeSet::new(); solution.vertices.len()];
    let inputs = solution.vertices.iter().flatten().flat_map(|vertex| &vertex.inputs);
    for edge in inputs.chain([&solution.root]) {
        if let Some(outputs) = wanted.get_mut(edge.vertex.0 as usize) {
            outputs.insert(edge.output);
        }
    }
    wanted
}

/// The record of a vertex's output; `None` if nothing lasting leads to it.
fn add_key(
    known: &Known,
    solution: &Solution,
    vertex: &Traced<Ref>,
    output: usize,
    seen: &HashMap<(Digest, usize), usize>,
    keys: &mut Keys,
) -> Option<usize> {
    if vertex.map.volatile {
        return None;
    }
    let names: Vec<Digest> = vertex.virtual_key.into_iter().chain(vertex.record.map(|id| id.0)).collect();
    let row = row_of(known, vertex);
    let mut inputs = Vec::with_capacity(vertex.inputs.len());
    for (at, edge) in vertex.inputs.iter().enumerate() {
        let mut links = BTreeSet::new();
        let input = solution.vertices.get(edge.vertex.0 as usize)?.as_ref()?;
        if let Some(place) = seen.get(&(input.digest, edge.output)) {
            links.insert(link(vertex.map.input(at).selector, *place));
            for alias in aliases(input, edge.output) {
                let place = keys.add(alias, Vec::new());
                links.insert(link(vertex.map.input(at).selector, place));
            }
        }
        let content = row.as_ref().and_then(|row| row.inputs.get(at)).and_then(|input| input.content);
        if let Some(content) = content {
            links.insert(keys.root(content_key(&content)));
        }
        if vertex.map.input(at).content {
            for imported in &known.imported {
                for name in &names {
                    for digest in imported.contents(name, output, at) {
                        links.insert(keys.root(digest));
                    }
                }
            }
        }
        if links.is_empty() {
            return None;
        }
        inputs.push(links);
    }
    Some(keys.add(output_key(&vertex.map.digest, output), inputs))
}

/// Other records of a source: upstream may know it by one of its names only.
fn aliases(vertex: &Traced<Ref>, output: usize) -> Vec<Digest> {
    if !vertex.inputs.is_empty() {
        return Vec::new();
    }
    vertex.map.aliases.iter().map(|alias| output_key(alias, output)).collect()
}

/// What this daemon remembers of a vertex's result.
fn row_of(known: &Known, vertex: &Traced<Ref>) -> Option<rbuild_store::RecordRow> {
    let store = known.local.store();
    let by_record = vertex.record.and_then(|id| store.record(&id.0).ok().flatten());
    let row = by_record.or_else(|| store.record_by_key(&vertex.virtual_key?).ok().flatten())?;
    (row.inputs.len() == vertex.inputs.len()).then_some(row)
}

/// A vertex's output, if it is at hand, here or in an imported cache, and when it was made.
async fn result(known: &Known, vertex: &Traced<Ref>, output: usize) -> Result<Option<(Ref, i64)>> {
    if let Some(outputs) = &vertex.outputs {
        return Ok(outputs.get(output).map(|output| (output.clone(), created(known, vertex, output))));
    }
    let Some(key) = vertex.virtual_key else { return Ok(None) };
    if let Some(record) = known.local.find(&key)? {
        let output = record.outputs.get(output);
        return Ok(output.map(|output| (output.clone(), created(known, vertex, output))));
    }
    for imported in &known.imported {
        if let Some(found) = imported.output(&key, output).await {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn created(known: &Known, vertex: &Traced<Ref>, output: &Ref) -> i64 {
    row_of(known, vertex).map_or_else(|| output.created_ms(), |row| row.created_ms)
}

/// Layers of the document, each over its parent once.
#[derive(Debug, Default)]
struct Layers {
    entries: Vec<(Digest, i64)>,
    blobs: Vec<(LayerBlob, Ref)>,
    places: HashMap<(Digest, i64), i64>,
}

impl Layers {
    /// The place of the chain's top; `None` if it has no layers.
    fn add(&mut self, reference: &Ref, chain: &[LayerBlob]) -> Option<i64> {
        let mut parent = -1;
        for blob in chain {
            let next = i64::try_from(self.entries.len()).unwrap_or(i64::MAX);
            let key = (blob.desc.digest, parent);
            parent = *self.places.entry(key).or_insert(next);
            if parent == next {
                self.entries.push(key);
                self.blobs.push((blob.clone(), reference.clone()));
            }
        }
        (parent >= 0).then_some(parent)
    }
}

/// The document in an order that depends on its content alone.
fn sorted(keys: Keys, layers: Layers, mut outcomes: HashMap<usize, Vec<Outcome>>) -> Collected {
    let (layer_order, layer_places) = order(layers.entries.len(), |at| layers.entries[at].0);
    // Layers that are not the document's own (those of an image) stay where they are.
    let own = !layer_places.is_empty();
    let moved = |at: i64| usize::try_from(at).ok().filter(|_| own).map_or(at, |at| place(&layer_places, at));
    let mut blobs: Vec<Option<(LayerBlob, Ref)>> = layers.blobs.into_iter().map(Some).collect();
    let entry = |at: &usize| format::Layer {
        blob: layers.entries[*at].0,
        parent: moved(layers.entries[*at].1),
        annotations: None,
    };
    let config_layers = layer_order.iter().map(entry).collect();
    let blobs = layer_order.iter().filter_map(|at| blobs[*at].take()).collect();
    let (record_order, record_places) = order(keys.records.len(), |at| keys.records[at].digest);
    let record = |at: &usize| {
        let key = &keys.records[*at];
        let mut results = outcomes.remove(at).unwrap_or_default();
        for result in &mut results {
            result.layer = moved(result.layer);
        }
        let links = key.inputs.iter().map(|links| {
            let moved = links.iter().map(|link| Link {
                selector: link.selector.clone(),
                link: usize::try_from(link.link).map_or(link.link, |at| place(&record_places, at)),
            });
            let mut links: Vec<Link> = moved.collect();
            links.sort();
            links
        });
        Record { results, chains: Vec::new(), digest: key.digest, inputs: links.collect() }
    };
    let records = record_order.iter().map(record).collect();
    let config = Config { layers: config_layers, records, mounts: Vec::new() };
    Collected { config, blobs }
}

/// The order by digest, and where each entry went.
fn order(count: usize, digest: impl Fn(usize) -> Digest) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| (digest(*at), *at));
    let mut places = vec![0; count];
    for (place, at) in order.iter().enumerate() {
        places[*at] = place;
    }
    (order, places)
}

fn place(places: &[usize], at: usize) -> i64 {
    places.get(at).and_then(|place| i64::try_from(*place).ok()).unwrap_or(-1)
}
