use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_progress::Progress;
use tokio::sync::Notify;

/// How long `Status` waits for a build that has not registered: clients open both at once. Source: protocol
/// notes, "Control" ("wait for it (6 s, then no such job)").
const STATUS_WAIT: Duration = Duration::from_secs(6);
/// Builds whose events are still there for a `Status` that comes after the end of a quick build.
const KEPT_ENDED: usize = 32;
/// How long, at most: events cost a file and memory, and clients ask at once or never.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The builds that run, and the last few that ended.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    builds: HashMap<String, Progress>,
    ended: VecDeque<(String, Instant)>,
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

    /// Drops the events of builds that ended a while ago.
    pub(crate) fn forget_ended(&self) {
        self.state.lock().forget_ended();
    }

    /// Refuses builds from now on.
    pub(crate) fn drain(&self) {
        self.state.lock().draining = true;
    }
}

impl State {
    fn forget_ended(&mut self) {
        while let Some((id, since)) = self.ended.front()
            && (self.ended.len() > KEPT_ENDED || since.elapsed() > KEPT_FOR)
        {
            self.builds.remove(id);
            self.ended.pop_front();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.close();
        let mut state = self.builds.state.lock();
        state.ended.push_back((self.id.clone(), Instant::now()));
        state.forget_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_events_of_the_last_builds_stay_and_older_ones_go() {
        let builds = Arc::new(Builds::default());
        for index in 0..=KEPT_ENDED {
            drop(builds.register(&format!("b{index}"), Progress::memory()).unwrap());
        }
        assert!(builds.state.lock().builds.contains_key("b1"));
        assert!(!builds.state.lock().builds.contains_key("b0"), "one more than are kept");
        let running = builds.register("running", Progress::memory()).unwrap();
        let long_ago = Instant::now().checked_sub(KEPT_FOR + Duration::from_secs(1)).unwrap();
        for (_, since) in &mut builds.state.lock().ended {
            *since = long_ago;
        }
        builds.forget_ended();
        assert_eq!(builds.state.lock().builds.len(), 1, "what runs stays");
        assert!(builds.progress("running").await.is_some());
        drop(running);
    }
}
