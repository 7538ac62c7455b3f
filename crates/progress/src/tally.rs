use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use rbuild_api::moby::buildkit::v1::StatusResponse;
use serde::{Deserialize, Serialize};

/// What the events of a build add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Vertices.
    pub total: u32,
    /// Those that ended without an error, cached ones among them.
    pub completed: u32,
    /// Those that came from a cache.
    pub cached: u32,
    /// Warnings.
    pub warnings: u32,
}

/// The last word on each vertex. A hash stands for the vertex: two of a build's that collide would be counted as one,
/// which no one would notice, and a large graph costs a few bytes a vertex.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    hasher: RandomState,
    vertices: HashMap<u64, Seen>,
    warnings: u32,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    completed: bool,
    cached: bool,
}

impl Counts {
    pub(crate) fn add(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            let completed = vertex.completed.is_some() && vertex.error.is_empty();
            let seen = Seen { completed, cached: vertex.cached };
            self.vertices.insert(self.hasher.hash_one(&vertex.digest), seen);
        }
        self.warnings =
            self.warnings.saturating_add(u32::try_from(status.warnings.len()).unwrap_or(u32::MAX));
    }

    pub(crate) fn tally(&self) -> Tally {
        let count = |matches: fn(&Seen) -> bool| {
            u32::try_from(self.vertices.values().filter(|seen| matches(seen)).count()).unwrap_or(u32::MAX)
        };
        Tally {
            total: count(|_| true),
            completed: count(|seen| seen.completed),
            cached: count(|seen| seen.cached),
            warnings: self.warnings,
        }
    }
}
