use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_progress::Progress;
use tokio::sync::Notify;

/// How long `Status` waits for a build that has not registered: clients open both at once. Source: protocol
/// notes, "Control" ("wait for it (6 s, then no such job)").
const STATUS_WAIT: Duration = Duration::from_secs(6);
/// Builds whose events are still there for a `Status` that comes after the end of a quick build.
const KEPT_ENDED: usize = 32;

/// The builds that run, and the last few that ended.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    builds: HashMap<String, Progress>,
    ended: VecDeque<String>,
    draining: bool,
}

/// Marks a build as ended when dropped, however it ended.
#[derive(Debug)]
pub(crate) struct Running {
    builds: Arc<Builds>,
    id: String,
    progress: Progress,
}

impl Builds {
    /// Enters a build. Errors: the id is taken, or the daemon is draining.
    pub(crate) fn register(self: &Arc<Self>, id: &str, progress: Progress) -> Result<Running, BuildError> {
        let mut state = self.state.lock();
        if state.draining {
            let text = "rbuildd is shutting down and takes no new builds: try again in a moment or elsewhere";
            return Err(BuildError::new(ErrorCode::Unavailable, text));
        }
        if state.builds.contains_key(id) {
            let text = format!("a build with the id `{id}` exists already");
            return Err(BuildError::new(ErrorCode::AlreadyExists, text));
        }
        state.builds.insert(id.to_owned(), progress.clone());
        drop(state);
        self.changed.notify_waiters();
        Ok(Running { builds: self.clone(), id: id.to_owned(), progress })
    }

    /// The events of a build; waits a while for one that is about to register.
    pub(crate) async fn progress(&self, id: &str) -> Option<Progress> {
        tokio::time::timeout(STATUS_WAIT, self.wait_for(id)).await.ok()
    }

    async fn wait_for(&self, id: &str) -> Progress {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(progress) = self.state.lock().builds.get(id) {
                return progress.clone();
            }
            changed.await;
        }
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
        state.ended.push_back(self.id.clone());
        if state.ended.len() > KEPT_ENDED
            && let Some(oldest) = state.ended.pop_front()
        {
            state.builds.remove(&oldest);
        }
    }
}
