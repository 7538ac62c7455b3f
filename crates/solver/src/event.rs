//! What a job tells about its vertices, and the book-keeping that keeps the story in order.
//!
//! Per job and vertex the sink sees `Known`, then any number of (`Started`, `Completed`) pairs; a vertex served from
//! the cache, though maybe resolved before, gets one `Completed { cached: true }`. Late joiners of shared work get their own `Started`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::Digest;

use crate::graph::VertexInfo;

/// The error text of a vertex that was cancelled. Clients recognise a cancelled vertex by this ending.
pub const CANCELLED: &str = "context canceled";

/// Something happened to a vertex of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The vertex belongs to the build.
    Known(Arc<VertexInfo>),
    /// Work on it began, or the job joined work that was going on.
    Started(Arc<VertexInfo>),
    /// Work on it ended, or it turned out not to be needed.
    Completed {
        /// Which vertex.
        vertex: Arc<VertexInfo>,
        /// The result came from a cache.
        cached: bool,
        /// What went wrong; [`CANCELLED`] if the job lost interest.
        error: Option<String>,
    },
}

/// Receives the events of one job, in order per vertex.
pub trait EventSink: Send + Sync + fmt::Debug {
    /// Called from short synchronous sections: must not block.
    fn event(&self, event: Event);
}

/// A sink for those who do not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn event(&self, _event: Event) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Known,
    Running(u32),
    /// Only asked what it is; whether it is needed is still open.
    Resolved,
    Completed,
}

/// The vertices of one job as its sink has seen them.
#[derive(Debug)]
pub(crate) struct Story {
    sink: Arc<dyn EventSink>,
    phases: Mutex<HashMap<Digest, Phase>>,
}

impl Story {
    pub(crate) fn new(sink: Arc<dyn EventSink>) -> Self {
        Self { sink, phases: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn known(&self, vertex: &Arc<VertexInfo>) {
        if vertex.hidden {
            return;
        }
        let mut phases = self.phases.lock();
        phases.entry(vertex.digest).or_insert_with(|| {
            self.sink.event(Event::Known(vertex.clone()));
            Phase::Known
        });
    }

    pub(crate) fn started(&self, vertex: &Arc<VertexInfo>) {
        if vertex.hidden {
            return;
        }
        let mut phases = self.phases.lock();
        match phases.entry(vertex.digest).or_insert(Phase::Known) {
            Phase::Running(count) => *count += 1,
            phase => {
                *phase = Phase::Running(1);
                self.sink.event(Event::Started(vertex.clone()));
            }
        }
    }

    /// Ends one `started`; the last one to end is told to the sink.
    pub(crate) fn completed(&self, vertex: &Arc<VertexInfo>, cached: bool, error: Option<String>) {
        self.ended(vertex, cached, error, Phase::Completed);
    }

    /// As [`Story::completed`], for work that only found out what the vertex is.
    pub(crate) fn resolved(&self, vertex: &Arc<VertexInfo>) {
        self.ended(vertex, false, None, Phase::Resolved);
    }

    fn ended(&self, vertex: &Arc<VertexInfo>, cached: bool, error: Option<String>, next: Phase) {
        if vertex.hidden {
            return;
        }
        let mut phases = self.phases.lock();
        let Some(phase) = phases.get_mut(&vertex.digest) else { return };
        match phase {
            Phase::Running(count) if *count > 1 => *count -= 1,
            Phase::Running(_) => {
                *phase = next;
                self.sink.event(Event::Completed { vertex: vertex.clone(), cached, error });
            }
            Phase::Known | Phase::Resolved | Phase::Completed => {}
        }
    }

    /// Says that the result came from a cache, unless work on the vertex was shown already.
    pub(crate) fn cached(&self, vertex: &Arc<VertexInfo>) {
        if vertex.hidden {
            return;
        }
        let mut phases = self.phases.lock();
        let phase = phases.entry(vertex.digest).or_insert(Phase::Known);
        if matches!(phase, Phase::Known | Phase::Resolved) {
            *phase = Phase::Completed;
            self.sink.event(Event::Completed { vertex: vertex.clone(), cached: true, error: None });
        }
    }
}
