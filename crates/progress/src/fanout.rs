use std::sync::Arc;

use parking_lot::RwLock;

use crate::{Reporter, StatusHandle, Warning};

/// Reporters of several builds as one: a vertex that builds share is worked on once and shown in each.
#[derive(Debug, Clone, Default)]
pub struct FanOut {
    reporters: Arc<RwLock<Vec<Reporter>>>,
}

impl FanOut {
    /// These builds, for a start.
    pub fn new(reporters: Vec<Reporter>) -> Self {
        Self { reporters: Arc::new(RwLock::new(reporters)) }
    }

    /// One more build; it sees what happens from now on.
    pub fn add(&self, reporter: Reporter) {
        self.reporters.write().push(reporter);
    }

    fn each(&self, act: impl Fn(&Reporter)) {
        self.reporters.read().iter().for_each(act);
    }

    /// The vertex is part of the builds.
    pub fn known(&self) {
        self.each(Reporter::known);
    }

    /// Work began.
    pub fn started(&self) {
        self.each(Reporter::started);
    }

    /// The result came from the cache.
    pub fn cached(&self) {
        self.each(Reporter::cached);
    }

    /// Work ended, with an error or without.
    pub fn completed(&self, error: Option<String>) {
        self.each(|reporter| reporter.completed(error.clone()));
    }

    /// Begins a sub-step in each build that is there now.
    pub fn status(&self, id: &str, name: &str) -> FanStatus {
        FanStatus { handles: self.reporters.read().iter().map(|r| r.status(id, name)).collect() }
    }

    /// Output of the step.
    pub fn log(&self, stream: i64, bytes: &[u8]) {
        self.each(|reporter| reporter.log(stream, bytes));
    }

    /// The same, at the pace of the slowest disk.
    pub async fn log_paced(&self, stream: i64, bytes: &[u8]) {
        let reporters = self.reporters.read().clone();
        for reporter in reporters {
            reporter.log_paced(stream, bytes).await;
        }
    }

    /// A warning about the vertex.
    pub fn warn(&self, warning: &Warning) {
        self.each(|reporter| reporter.warn(warning.clone()));
    }
}

impl FromIterator<Reporter> for FanOut {
    fn from_iter<I: IntoIterator<Item = Reporter>>(reporters: I) -> Self {
        Self::new(reporters.into_iter().collect())
    }
}

/// A sub-step shown in several builds; dropping it completes it.
#[derive(Debug)]
pub struct FanStatus {
    handles: Vec<StatusHandle>,
}

impl FanStatus {
    /// Sets how far it is; a total of 0 is unknown.
    pub fn set(&self, current: u64, total: u64) {
        self.handles.iter().for_each(|handle| handle.set(current, total));
    }

    /// Adds to how far it is.
    pub fn add(&self, count: u64) {
        self.handles.iter().for_each(|handle| handle.add(count));
    }

    /// Completes it.
    pub fn done(&self) {
        self.handles.iter().for_each(StatusHandle::done);
    }
}
