//! Output of a step to all builds that wait for it.

use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_progress::{FanOut, Progress, Reporter, VertexInfo};
use rbuild_solver::OpContext;

use crate::scope::{Scope, reporters_of};

/// A reporter about a vertex of the solver's. Log events name the vertex by digest alone.
pub(crate) fn reporter(progress: &Progress, vertex: &rbuild_solver::VertexInfo) -> Reporter {
    progress.vertex(VertexInfo {
        digest: vertex.digest,
        name: vertex.name.clone(),
        inputs: vertex.inputs.clone(),
        group: None,
    })
}

/// Writes to whoever waits at that moment. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    cx: OpContext<Scope>,
    known: Arc<Mutex<(u64, FanOut)>>,
}

impl Logs {
    pub(crate) fn new(cx: &OpContext<Scope>) -> Self {
        let generation = cx.audience().generation();
        let fan = FanOut::new(reporters_of(cx));
        Self { cx: cx.clone(), known: Arc::new(Mutex::new((generation, fan))) }
    }

    pub(crate) fn write(&self, stream: i64, bytes: &[u8]) {
        let mut known = self.known.lock();
        let generation = self.cx.audience().generation();
        if generation != known.0 {
            *known = (generation, FanOut::new(reporters_of(&self.cx)));
        }
        known.1.log(stream, bytes);
    }
}
