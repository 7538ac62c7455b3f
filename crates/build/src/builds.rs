use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_frontend::{BuildError, ErrorCode, Fault};
use rbuild_progress::Progress;
use tokio::sync::Notify;

/// How long `Status` waits for a build that has not registered: clients open both at once. Source: protocol
/// notes, "Control" ("wait for it (6 s, then no such job)").
const STATUS_WAIT: Duration = Duration::from_secs(6);

/// The builds that run.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    state: Mutex<State>,
    changed: Notify,
    /// The last build ended.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    builds: HashMap<String, Progress>,
    draining: bool,
}

/// Takes a build from the list when dropped, however it ended.
#[derive(Debug)]
pub(crate) struct Running {
    builds: Arc<Builds>,
    id: String,
    progress: Progress,
}

impl State {
    fn admit(&self, id: &str) -> Result<(), BuildError> {
        if self.draining {
            let text = "rbuildd is shutting down and takes no new builds: try again in a moment or elsewhere";
            return Err(BuildError::new(ErrorCode::Unavailable, text).fault(Fault::Draining));
        }
        if self.builds.contains_key(id) {
            let text = format!("a build with the id `{id}` is running already");
            return Err(BuildError::new(ErrorCode::AlreadyExists, text));
        }
        Ok(())
    }
}

impl Builds {
    /// Whether a build of that id may begin. Errors: the id is taken, or the daemon is draining.
    pub(crate) fn admit(&self, id: &str) -> Result<(), BuildError> {
        self.state.lock().admit(id)
    }

    /// Enters a build. Errors: as [`Builds::admit`].
    pub(crate) fn register(self: &Arc<Self>, id: &str, progress: &Progress) -> Result<Running, BuildError> {
        let mut state = self.state.lock();
        state.admit(id)?;
        state.builds.insert(id.to_owned(), progress.clone());
        drop(state);
        self.changed.notify_waiters();
        Ok(Running { builds: self.clone(), id: id.to_owned(), progress: progress.clone() })
    }

    /// The events of a build, if it runs.
    pub(crate) fn get(&self, id: &str) -> Option<Progress> {
        self.state.lock().builds.get(id).cloned()
    }

    /// The events of a build; waits a while for one that is about to register.
    pub(crate) async fn wait(&self, id: &str) -> Option<Progress> {
        tokio::time::timeout(STATUS_WAIT, self.wait_for(id)).await.ok()
    }

    async fn wait_for(&self, id: &str) -> Progress {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(progress) = self.get(id) {
                return progress;
            }
            changed.await;
        }
    }

    /// Waits until the last running build ends.
    pub(crate) async fn idle(&self) {
        self.idle.notified().await;
    }

    /// How many run.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().builds.len()
    }

    /// Whether none runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().builds.is_empty()
    }

    /// Refuses builds from now on.
    pub(crate) fn drain(&self) {
        self.state.lock().draining = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.close();
        let mut state = self.builds.state.lock();
        state.builds.remove(&self.id);
        if state.builds.is_empty() {
            self.builds.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_build_is_found_while_it_runs() {
        let builds = Arc::new(Builds::default());
        let progress = Progress::memory();
        let (waited, running) =
            tokio::join!(builds.wait("a"), async { builds.register("a", &progress).unwrap() });
        assert!(waited.is_some());
        assert!(builds.register("a", &progress).is_err(), "the id is taken");
        drop(running);
        assert!(builds.get("a").is_none());
        builds.drain();
        assert!(builds.register("b", &progress).is_err());
    }
}
