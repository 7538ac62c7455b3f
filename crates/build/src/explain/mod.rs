//! Why a step ran: what differs from the last time that a step of the same name ran for the same target.
//!
//! While a build runs, [`Explainer`] collects the graphs it solves, which vertices ran, and what content keys were made
//! of. When it ends, each step that ran is compared with what [`Memory`] has of it, and what is remembered is brought up
//! to date. Nothing here takes part in caching: if it is lost, builds are as right as before.

mod compare;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher};
use rbuild_exec::StepUsage;
use rbuild_llb::{Graph, OpKind, Vertex};
use rbuild_worker::{FileList, Witness};
use serde::{Deserialize, Serialize};

use crate::request::What;
use crate::usage::Usages;
pub(crate) use memory::Memory;
use memory::{InputState, StepState, Target};

/// Steps of one build that are explained; a build of more is a generated graph, which nobody reads step by step.
const MAX_STEPS: usize = 2_000;
/// Vertices of a graph whose definitions are compared apart from whose directory is meant.
const MAX_SHAPED: usize = 10_000;
/// Paths kept of one difference.
const MAX_PATHS: usize = 50;
/// An op whose JSON is longer (a large heredoc) is told apart by its digest only.
const MAX_OP_BYTES: usize = 64 << 10;

/// Why one step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Digest of the vertex.
    pub vertex: Digest,
    /// Its shown name.
    pub name: String,
    /// One at least.
    pub causes: Vec<Cause>,
}

impl Explained {
    /// Something about the step itself made it run, not only a step before it.
    pub fn is_root(&self) -> bool {
        self.causes.iter().any(|cause| !matches!(cause, Cause::Before { .. }))
    }
}

/// A reason for a step to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Cause {
    /// No step of this name ran for this target before, as far as is remembered.
    First,
    /// A build argument that the step sees.
    BuildArg {
        /// Its name.
        name: String,
        /// The value last time; `None`: it was not set.
        before: Option<String>,
        /// The value now.
        after: Option<String>,
    },
    /// A field of the step.
    Field {
        /// Which, for instance `command`, `env PATH`, `image`.
        field: String,
        /// Last time; `None`: there was none.
        before: Option<String>,
        /// Now.
        after: Option<String>,
    },
    /// Files that the step reads.
    Files(FileChanges),
    /// A step before it ran.
    Before {
        /// Its name.
        step: String,
    },
    /// An input is another one than last time, though it came from the cache.
    Input {
        /// Its name.
        step: String,
    },
    /// The client wanted it to run.
    CacheSkipped,
    /// Nothing differs: the result is no longer, or was never, in the cache.
    NotKept,
}

/// How files differ. Lists are cut at a bound; the counts are whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileChanges {
    /// New paths.
    pub added: Vec<String>,
    /// Paths that are gone.
    pub removed: Vec<String>,
    /// Paths whose content, mode or owner is another one.
    pub changed: Vec<String>,
    /// Paths in all three, those that were cut included; 0: the files differ, but what they were is not known any more.
    pub total: u64,
}

/// What a build tells while it runs.
#[derive(Debug, Default)]
pub(crate) struct Explainer {
    told: Mutex<Told>,
    usages: Mutex<Usages>,
}

#[derive(Debug, Default)]
struct Told {
    graphs: Vec<Arc<Graph>>,
    ran: HashSet<Digest>,
    reads: HashMap<Digest, BTreeMap<usize, Read>>,
}

#[derive(Debug, Clone)]
struct Read {
    content: Digest,
    files: Option<FileList>,
}

/// What vertices are, by their digest: equal for equal definitions of two builds.
type Shapes = HashMap<Digest, Digest>;

impl Told {
    /// The digest of a vertex tells apart the sessions of local directories; this one does not.
    fn shapes(&self) -> Shapes {
        let mut shapes = Shapes::new();
        let graphs = self.graphs.iter().filter(|graph| graph.vertices().len() <= MAX_SHAPED);
        for (graph, vertex) in graphs.flat_map(|graph| graph.vertices().iter().map(move |v| (graph, v))) {
            let mut hash = Hasher::new();
            hash.field(op_text(vertex));
            for edge in &vertex.inputs {
                let input = graph.vertex(edge.vertex).digest;
                hash.field(shapes.get(&input).unwrap_or(&input).as_bytes());
            }
            shapes.insert(vertex.digest, hash.finish());
        }
        shapes
    }
}

impl Witness for Explainer {
    fn reads(&self, vertex: &Digest, input: usize, content: &Digest, files: Option<&FileList>) {
        let read = Read { content: *content, files: files.cloned() };
        self.told.lock().reads.entry(*vertex).or_default().insert(input, read);
    }

    fn used(&self, vertex: &Digest, usage: &StepUsage) {
        self.usages.lock().add(*vertex, usage);
    }
}

impl Explainer {
    /// A graph that the build solves.
    pub(crate) fn solves(&self, graph: Arc<Graph>) {
        self.told.lock().graphs.push(graph);
    }

    /// What steps have used so far.
    pub(crate) fn usages(&self) -> Usages {
        self.usages.lock().clone()
    }

    /// A vertex that was not found in the cache.
    pub(crate) fn ran(&self, vertex: Digest) {
        self.told.lock().ran.insert(vertex);
    }

    /// A vertex was found in the cache after all, though maybe resolved before.
    pub(crate) fn was_cached(&self, vertex: &Digest) {
        self.told.lock().ran.remove(vertex);
    }

    /// Compares what ran with what is remembered of `target`, and remembers the new state. Blocking.
    pub(crate) fn finish(&self, memory: &Memory, target: &Digest, args: &BuildArgs) -> Vec<Explained> {
        let told = std::mem::take(&mut *self.told.lock());
        if told.ran.is_empty() && told.reads.is_empty() {
            return Vec::new();
        }
        let mut state = memory.load(target);
        let mut steps = Steps { told: &told, memory, args, state: &state, explained: Vec::new() };
        let vertices = steps.vertices();
        let shapes = told.shapes();
        for (graph, vertex) in &vertices {
            if told.ran.contains(&vertex.digest) && steps.explained.len() < MAX_STEPS {
                steps.explain(graph, vertex, &shapes);
            }
        }
        let explained = steps.explained;
        for (graph, vertex) in &vertices {
            if told.ran.contains(&vertex.digest) || told.reads.contains_key(&vertex.digest) {
                remember(&mut state, &told, memory, &shapes, graph, vertex);
            }
        }
        memory.save(target, &state);
        explained
    }
}

/// The build arguments of a request.
#[derive(Debug, Default)]
pub(crate) struct BuildArgs(BTreeMap<String, String>);

impl BuildArgs {
    /// `build-arg:` options without their prefix.
    pub(crate) fn of(what: &What) -> Self {
        let args =
            options(what).iter().filter_map(|(name, value)| Some((name.strip_prefix("build-arg:")?, value)));
        Self(args.map(|(name, value)| (name.to_owned(), value.clone())).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn options(what: &What) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    match what {
        What::Definition(_) => &NONE,
        What::Frontend { options, .. } | What::Client { options, .. } => options,
    }
}

/// What is built, as far as a person would call it the same: which file, which stage.
#[derive(Debug, Clone)]
pub(crate) struct TargetName(Hasher);

impl TargetName {
    pub(crate) fn of(what: &What) -> Self {
        let mut hash = Hasher::new();
        hash.field("rbuild.target.v1");
        let options = options(what);
        for name in ["filename", "target", "platform", "context", "contextsubdir", "source"] {
            hash.field(name).field(options.get(name).map_or("", String::as_str));
        }
        Self(hash)
    }

    /// The target of the client whose directory has `shared_key`.
    pub(crate) fn digest(mut self, shared_key: &str) -> Digest {
        self.0.field(shared_key);
        self.0.finish()
    }
}

/// One comparison on its way.
struct Steps<'a> {
    told: &'a Told,
    memory: &'a Memory,
    args: &'a BuildArgs,
    state: &'a Target,
    explained: Vec<Explained>,
}

impl Steps<'_> {
    /// Every vertex once, inputs before their users. A step that several platforms share is one vertex.
    fn vertices(&self) -> Vec<(Arc<Graph>, Vertex)> {
        let mut seen = HashSet::new();
        let mut vertices = Vec::new();
        for graph in &self.told.graphs {
            for vertex in graph.vertices() {
                if seen.insert(vertex.digest) && !is_local(vertex) {
                    vertices.push((graph.clone(), vertex.clone()));
                }
            }
        }
        vertices
    }

    fn explain(&mut self, graph: &Graph, vertex: &Vertex, shapes: &Shapes) {
        let name = vertex.name();
        let mut causes = Vec::new();
        if vertex.metadata.ignore_cache {
            causes.push(Cause::CacheSkipped);
        } else if let Some(before) = self.state.find(&name) {
            compare::ops(&before.op, &op_text(vertex), self.args, &mut causes);
            self.inputs(graph, vertex, before, shapes, &mut causes);
            if causes.is_empty() {
                causes.push(Cause::NotKept);
            }
        } else {
            causes.push(Cause::First);
        }
        self.explained.push(Explained { vertex: vertex.digest, name, causes });
    }

    fn inputs(
        &self,
        graph: &Graph,
        vertex: &Vertex,
        before: &StepState,
        shapes: &Shapes,
        causes: &mut Vec<Cause>,
    ) {
        let reads = self.told.reads.get(&vertex.digest);
        let mut named = HashSet::new();
        for (index, edge) in vertex.inputs.iter().enumerate() {
            let input = graph.vertex(edge.vertex);
            let was = before.inputs.get(index);
            if let Some(read) = reads.and_then(|reads| reads.get(&index)) {
                let content = was.and_then(|was| was.content);
                // What a step reads by content decides; that the step before it ran does not matter then.
                if let Some(content) = content.filter(|content| *content != read.content) {
                    causes.push(Cause::Files(self.files(&content, read)));
                }
                continue;
            }
            if is_local(input) || !named.insert(input.digest) {
                continue;
            }
            if self.told.ran.contains(&input.digest) {
                causes.push(Cause::Before { step: input.name() });
            } else if was
                .is_some_and(|was| shapes.get(&input.digest).is_some_and(|shape| *shape != was.shape))
            {
                causes.push(Cause::Input { step: input.name() });
            }
        }
    }

    fn files(&self, before: &Digest, read: &Read) -> FileChanges {
        match (self.memory.files(before), &read.files) {
            (Some(before), Some(after)) => compare::files(&before, after),
            _ => FileChanges::default(),
        }
    }
}

fn is_local(vertex: &Vertex) -> bool {
    matches!(&vertex.op.kind, OpKind::Source(source) if source.scheme() == "local")
}

fn op_text(vertex: &Vertex) -> String {
    let mut op = vertex.op.clone();
    if let OpKind::Source(source) = &mut op.kind {
        source.attrs.retain(|name, _| name != "local.session" && name != "local.unique");
    }
    // Inputs are compared by what they are, not by the digests of their definitions.
    op.inputs.clear();
    let text = rbuild_llb::op_to_json(&op);
    if text.len() <= MAX_OP_BYTES { text } else { format!("{{\"digest\":\"{}\"}}", Digest::of(&text)) }
}

fn remember(
    state: &mut Target,
    told: &Told,
    memory: &Memory,
    shapes: &Shapes,
    graph: &Graph,
    vertex: &Vertex,
) {
    let reads = told.reads.get(&vertex.digest);
    let mut inputs = Vec::with_capacity(vertex.inputs.len());
    for (index, edge) in vertex.inputs.iter().enumerate() {
        let read = reads.and_then(|reads| reads.get(&index));
        if let Some(Read { content, files: Some(files) }) = read {
            memory.keep_files(content, files);
        }
        let input = graph.vertex(edge.vertex).digest;
        let shape = shapes.get(&input).copied().unwrap_or(input);
        inputs.push(InputState { shape, content: read.map(|read| read.content) });
    }
    state.put(vertex.name(), StepState { op: op_text(vertex), inputs });
}
