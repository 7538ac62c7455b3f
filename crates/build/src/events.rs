use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_llb::ProgressGroup;
use rbuild_progress::{Progress, Reporter, VertexInfo};
use rbuild_solver::{Event, EventSink};

use crate::explain::Explainer;

/// Writes what the solver says about a build's vertices into the build's event log.
#[derive(Debug)]
pub(crate) struct SolverEvents {
    progress: Progress,
    groups: Mutex<HashMap<Digest, ProgressGroup>>,
    reporters: Mutex<HashMap<Digest, Reporter>>,
    explainer: Arc<Explainer>,
}

impl SolverEvents {
    pub(crate) fn new(progress: Progress, explainer: Arc<Explainer>) -> Self {
        Self { progress, groups: Mutex::default(), reporters: Mutex::default(), explainer }
    }

    /// Remembers which vertices of a definition are shown as one.
    pub(crate) fn add_groups(&self, graph: &rbuild_llb::Graph) {
        let grouped = graph.vertices().iter().filter_map(|vertex| {
            vertex.metadata.progress_group.as_ref().map(|group| (vertex.digest, group.clone()))
        });
        self.groups.lock().extend(grouped);
    }

    fn reporter(&self, vertex: &rbuild_solver::VertexInfo) -> Reporter {
        let mut reporters = self.reporters.lock();
        let make = || {
            self.progress.vertex(VertexInfo {
                digest: vertex.digest,
                name: vertex.name.clone(),
                inputs: vertex.inputs.clone(),
                group: self.groups.lock().get(&vertex.digest).map(ProgressGroup::to_wire),
            })
        };
        reporters.entry(vertex.digest).or_insert_with(make).clone()
    }
}

impl EventSink for SolverEvents {
    fn event(&self, event: Event) {
        match event {
            Event::Known(vertex) => self.reporter(&vertex).known(),
            Event::Started(vertex) => self.reporter(&vertex).started(),
            Event::Completed { vertex, cached: true, .. } => {
                self.explainer.was_cached(&vertex.digest);
                self.reporter(&vertex).cached();
            }
            Event::Completed { vertex, error, .. } => {
                if error.as_deref() != Some(rbuild_solver::CANCELLED) {
                    self.explainer.ran(vertex.digest);
                }
                self.reporter(&vertex).completed(error);
            }
        }
    }
}
