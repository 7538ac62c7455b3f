//! An imported cache in memory, ready to be asked: records by key and link, results as chains of layers.
//!
//! Built from documents that anybody may have written. What does not fit together (unknown layers and records,
//! layers over themselves) is left out and counted; the rest is as good as before. Links that go round in
//! circles do no harm: a record is reached from what it stands on, starting at keys of the build itself.

use std::collections::HashMap;

use rbuild_digest::Digest;
use rbuild_oci::Descriptor;

use crate::format::{Annotations, Config, Part, parse_time};
use crate::mounts::MountEntry;

/// A record's place in the index.
pub(crate) type RecordIx = u32;

/// One layer with what it takes to fetch it.
#[derive(Debug, Clone)]
pub(crate) struct IndexLayer {
    pub(crate) desc: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) created_ms: Option<i64>,
    parent: Option<u32>,
}

/// One way to get a result.
#[derive(Debug, Clone)]
struct Outcome {
    /// Layers by index, lowest first.
    layers: Layers,
    created_ms: i64,
}

#[derive(Debug, Clone)]
enum Layers {
    Top(u32),
    List(Box<[u32]>),
}

/// From a record through an input of an op to a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Step {
    from: RecordIx,
    input: u32,
    selector: Option<Digest>,
    to: Digest,
}

/// Records and layers of one import.
#[derive(Debug, Default)]
pub(crate) struct Index {
    digests: Vec<Digest>,
    outcomes: Vec<Vec<Outcome>>,
    /// Per record and input the records without inputs that stand there: contents, for the most part.
    contents: HashMap<(RecordIx, u32), Vec<Digest>>,
    roots: HashMap<Digest, Vec<RecordIx>>,
    steps: HashMap<Step, Vec<RecordIx>>,
    layers: Vec<IndexLayer>,
    mounts: Vec<MountEntry>,
    broken: usize,
}

impl Index {
    /// Adds a document. `part` is from outside: nothing of it is believed before it was looked at.
    pub(crate) fn add(&mut self, part: &Part) {
        self.mounts.extend(part.config.mounts.iter().cloned());
        let layers = self.add_layers(part);
        let first = self.digests.len();
        let config = &part.config;
        if u32::try_from(first + config.records.len()).is_err() {
            self.broken += config.records.len();
            return;
        }
        for record in &config.records {
            self.digests.push(record.digest);
            let ix =
                |layer: &i64| usize::try_from(*layer).ok().and_then(|at| layers.get(at).copied().flatten());
            let mut outcomes = Vec::new();
            for result in &record.results {
                let Some(top) = ix(&result.layer) else {
                    self.broken += 1;
                    continue;
                };
                let created_ms = parse_time(&result.created_at).unwrap_or_default();
                outcomes.push(Outcome { layers: Layers::Top(top), created_ms });
            }
            for chain in &record.chains {
                let list: Option<Box<[u32]>> = chain.layers.iter().map(ix).collect();
                let Some(list) = list.filter(|list| !list.is_empty()) else {
                    self.broken += 1;
                    continue;
                };
                let created_ms = parse_time(&chain.created_at).unwrap_or_default();
                outcomes.push(Outcome { layers: Layers::List(list), created_ms });
            }
            // The youngest first: what was made last is most likely to be there still.
            outcomes.sort_by_key(|outcome| std::cmp::Reverse(outcome.created_ms));
            self.outcomes.push(outcomes);
        }
        self.add_links(config, first);
    }

    fn add_links(&mut self, config: &Config, first: usize) {
        for (at, record) in config.records.iter().enumerate() {
            let this = to_ix(first + at);
            if record.inputs.is_empty() {
                self.roots.entry(record.digest).or_default().push(this);
            }
            for (input, links) in record.inputs.iter().enumerate() {
                let input = to_ix(input);
                for link in links {
                    let to = usize::try_from(link.link).ok().filter(|to| *to < config.records.len());
                    let selector = match link.selector.as_str() {
                        "" => Ok(None),
                        text => Digest::parse(text).map(Some),
                    };
                    let (Some(to), Ok(selector)) = (to, selector) else {
                        self.broken += 1;
                        continue;
                    };
                    if selector.is_none() && config.records[to].inputs.is_empty() {
                        self.contents.entry((this, input)).or_default().push(config.records[to].digest);
                    }
                    let step = Step { from: to_ix(first + to), input, selector, to: record.digest };
                    self.steps.entry(step).or_default().push(this);
                }
            }
        }
    }

    /// The layers that can be used, by their place in the document.
    fn add_layers(&mut self, part: &Part) -> Vec<Option<u32>> {
        let layers = &part.config.layers;
        // Beneath a usable layer all is usable: parents first, whatever the order; a ring never gets its turn.
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut ready: Vec<usize> = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            match usize::try_from(layer.parent) {
                Ok(parent) => children.entry(parent).or_default().push(at),
                Err(_) if layer.parent == -1 => ready.push(at),
                Err(_) => {}
            }
        }
        let mut places: Vec<Option<u32>> = vec![None; layers.len()];
        while let Some(at) = ready.pop() {
            let Some(mut usable) = usable(part, at) else { continue };
            usable.parent = usize::try_from(layers[at].parent).ok().and_then(|parent| places[parent]);
            places[at] = Some(to_ix(self.layers.len()));
            self.layers.push(usable);
            ready.extend(children.remove(&at).unwrap_or_default());
        }
        self.broken += places.iter().filter(|place| place.is_none()).count();
        places
    }

    /// The newest cache mount of this name, platform and kind.
    pub(crate) fn mount(&self, id: &str, platform: &str, over_base: bool) -> Option<&MountEntry> {
        let fits = |entry: &&MountEntry| {
            entry.id == id && entry.platform == platform && entry.over_base == over_base
        };
        self.mounts.iter().filter(fits).max_by(|a, b| a.created_at.cmp(&b.created_at))
    }

    /// How many entries were left out.
    pub(crate) fn broken(&self) -> usize {
        self.broken
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }

    /// Blobs of all layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.desc.digest)
    }

    /// Records without inputs of this digest.
    pub(crate) fn roots(&self, digest: &Digest) -> &[RecordIx] {
        self.roots.get(digest).map_or(&[], Vec::as_slice)
    }

    /// Records of the digest `to` that have `from` at `input`.
    pub(crate) fn over(
        &self,
        from: RecordIx,
        input: usize,
        selector: Option<Digest>,
        to: Digest,
    ) -> &[RecordIx] {
        let Ok(input) = u32::try_from(input) else { return &[] };
        self.steps.get(&Step { from, input, selector, to }).map_or(&[], Vec::as_slice)
    }

    /// Digests of the records without inputs that may stand at `input` of `record`.
    pub(crate) fn contents(&self, record: RecordIx, input: usize) -> &[Digest] {
        let Ok(input) = u32::try_from(input) else { return &[] };
        self.contents.get(&(record, input)).map_or(&[], Vec::as_slice)
    }

    /// Whether there is a result.
    pub(crate) fn has_result(&self, record: RecordIx) -> bool {
        self.outcomes.get(record as usize).is_some_and(|outcomes| !outcomes.is_empty())
    }

    /// The results of a record, best first, each as layers from the lowest up.
    pub(crate) fn results(&self, record: RecordIx) -> impl Iterator<Item = (Vec<&IndexLayer>, i64)> {
        let outcomes = self.outcomes.get(record as usize).map_or(&[][..], Vec::as_slice);
        outcomes.iter().map(|outcome| (self.chain(&outcome.layers), outcome.created_ms))
    }

    fn chain(&self, layers: &Layers) -> Vec<&IndexLayer> {
        match layers {
            Layers::List(list) => list.iter().map(|at| &self.layers[*at as usize]).collect(),
            Layers::Top(top) => {
                let mut chain = Vec::new();
                let mut next = Some(*top);
                while let Some(at) = next {
                    let layer = &self.layers[at as usize];
                    chain.push(layer);
                    next = layer.parent;
                }
                chain.reverse();
                chain
            }
        }
    }
}

fn to_ix(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A layer of a document, if it can be fetched.
fn usable(part: &Part, at: usize) -> Option<IndexLayer> {
    let layer = &part.config.layers[at];
    let told = layer.annotations.as_ref().and_then(|annotations| described(layer.blob, annotations));
    let desc = part.blobs.get(&layer.blob).cloned().or(told)?;
    rbuild_oci::media::compression_of(&desc.media_type)?;
    let diff_id = desc.diff_id()?;
    let created = desc.annotations.get(rbuild_oci::media::ANNOTATION_CREATED_AT);
    let created_ms = created.and_then(|text| parse_time(text));
    let desc = Descriptor::new(desc.media_type, desc.digest, desc.size);
    Some(IndexLayer { desc, diff_id, created_ms, parent: None })
}

fn described(blob: Digest, annotations: &Annotations) -> Option<Descriptor> {
    let desc = Descriptor::new(annotations.media_type.clone(), blob, annotations.size);
    let desc =
        desc.with_annotation(rbuild_oci::media::ANNOTATION_UNCOMPRESSED, annotations.diff_id?.to_string());
    Some(desc.with_annotation(rbuild_oci::media::ANNOTATION_CREATED_AT, annotations.created_at.clone()))
}

#[cfg(test)]
mod tests;
