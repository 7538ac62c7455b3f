use std::collections::HashMap;

use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex};

/// Totals of a build so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Vertices that were named.
    pub total: usize,
    /// Vertices that completed, from the cache or not.
    pub completed: usize,
    /// Vertices that came from the cache.
    pub cached: usize,
    /// Vertices that failed.
    pub failed: usize,
    /// Warnings.
    pub warnings: usize,
}

/// Keeps totals up to date as events pass.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    vertices: HashMap<String, State>,
    warnings: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    completed: bool,
    cached: bool,
    failed: bool,
}

impl Tally {
    pub(crate) fn add(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            self.add_vertex(vertex);
        }
        self.warnings += status.warnings.len();
    }

    fn add_vertex(&mut self, vertex: &Vertex) {
        let state = self.vertices.entry(vertex.digest.clone()).or_default();
        state.completed = vertex.completed.is_some();
        state.cached |= vertex.cached;
        state.failed = !vertex.error.is_empty();
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |of: fn(&State) -> bool| self.vertices.values().filter(|state| of(state)).count();
        Counts {
            total: self.vertices.len(),
            completed: count(|s| s.completed),
            cached: count(|s| s.cached),
            failed: count(|s| s.failed),
            warnings: self.warnings,
        }
    }
}
