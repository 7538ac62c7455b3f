//! Output of a step to all builds that wait for it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rbuild_digest::Digest;
use rbuild_exec::Chunk;
use rbuild_progress::{Progress, Reporter, VertexInfo};
use rbuild_solver::OpContext;
use tokio::sync::mpsc;

use crate::scope::Scope;

/// Bytes of a running step's newest output that are kept for builds that join it.
const KEPT: usize = 256 << 10;
/// How long a build that joins a silent step waits for what the step wrote before.
const LOOK: Duration = Duration::from_millis(200);

/// A reporter about a vertex of the solver's. Log events name the vertex by digest alone.
pub(crate) fn reporter(progress: &Progress, vertex: &rbuild_solver::VertexInfo) -> Reporter {
    progress.vertex(VertexInfo {
        digest: vertex.digest,
        name: vertex.name.clone(),
        inputs: vertex.inputs.clone(),
        group: None,
    })
}

/// Hands all that comes to whoever waits at that moment, at the pace of the slowest disk; who joins later gets what
/// came before. Ends when the senders are gone.
pub(crate) async fn forward(cx: &OpContext<Scope>, mut chunks: mpsc::Receiver<Chunk>) {
    let mut logs = Logs::new(cx);
    let mut look = tokio::time::interval(LOOK);
    loop {
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            _ = look.tick() => {
                logs.catch_up().await;
                continue;
            }
        };
        logs.catch_up().await;
        let Some(chunk) = chunk else { return };
        logs.write(chunk).await;
    }
}

/// A build and the vertex as it knows the step: shown once, however often the build waits for it.
type Viewer = (Arc<str>, Digest);

struct Logs<'a> {
    cx: &'a OpContext<Scope>,
    generation: Option<u64>,
    viewers: HashSet<Viewer>,
    reporters: Vec<Reporter>,
    kept: VecDeque<Chunk>,
    size: usize,
    clipped: bool,
}

impl<'a> Logs<'a> {
    fn new(cx: &'a OpContext<Scope>) -> Self {
        Self {
            cx,
            generation: None,
            viewers: HashSet::new(),
            reporters: Vec::new(),
            kept: VecDeque::new(),
            size: 0,
            clipped: false,
        }
    }

    /// Looks who waits now; newcomers get what is kept.
    async fn catch_up(&mut self) {
        let generation = self.cx.audience().generation();
        if self.generation.replace(generation) == Some(generation) {
            return;
        }
        let mut viewers = HashSet::new();
        self.reporters.clear();
        for waiter in self.cx.audience().waiters() {
            let viewer = (waiter.scope.build_id.clone(), waiter.vertex.digest);
            if !viewers.insert(viewer.clone()) {
                continue;
            }
            let reporter = reporter(&waiter.scope.progress, &waiter.vertex);
            if !self.viewers.contains(&viewer) {
                self.replay(&reporter).await;
            }
            self.reporters.push(reporter);
        }
        self.viewers = viewers;
    }

    async fn replay(&self, reporter: &Reporter) {
        if let (true, Some(first)) = (self.clipped, self.kept.front()) {
            reporter.log_paced(first.tag, b"[earlier output of this step is not shown]\n").await;
        }
        for chunk in &self.kept {
            reporter.log_paced(chunk.tag, &chunk.bytes).await;
        }
    }

    async fn write(&mut self, chunk: Chunk) {
        for reporter in &self.reporters {
            reporter.log_paced(chunk.tag, &chunk.bytes).await;
        }
        self.size += chunk.bytes.len();
        self.kept.push_back(chunk);
        while self.size > KEPT {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.size -= oldest.bytes.len();
            self.clipped = true;
        }
    }
}
