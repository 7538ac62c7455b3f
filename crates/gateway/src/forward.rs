use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::random_id;
use rbuild_frontend::{
    Bridge, BridgeContainer, BuildError, ErrorCode, Frontend, FrontendRequest, FrontendResult, SharedRef,
};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a call waits for a build that has not registered yet: clients open Solve and the gateway calls
/// at the same time. Source: protocol notes, "Gateway" ("an unknown id waits a little").
const REGISTER_WAIT: Duration = Duration::from_secs(3);

/// References that one frontend may hold at a time: each holds a definition of up to a message's size.
const MAX_REFS: usize = 10_000;

/// File systems of failed steps that one build may keep at a time.
const MAX_HELD: usize = 1_000;

/// More containers than anyone looks into at once; each holds mounts.
const MAX_CONTAINERS: usize = 100;

/// How a frontend ended its build.
pub(crate) type Outcome = Result<FrontendResult, BuildError>;

/// One build whose frontend runs outside the daemon.
#[derive(Debug)]
pub struct ForwardedBuild {
    bridge: Arc<dyn Bridge>,
    /// By unguessable id; an id of another build finds nothing here.
    refs: Mutex<HashMap<String, SharedRef>>,
    /// What failed steps had and left, for containers only.
    held: Mutex<HashMap<String, SharedRef>>,
    /// By the client's own names.
    containers: Mutex<HashMap<String, KeptContainer>>,
    outcome: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl ForwardedBuild {
    /// A build that waits for calls, and what its frontend will return.
    pub(crate) fn open(bridge: Arc<dyn Bridge>) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (sender, outcome) = oneshot::channel();
        let (refs, held, containers) = (Mutex::default(), Mutex::default(), Mutex::default());
        let build = Self { bridge, refs, held, containers, outcome: Mutex::new(Some(sender)) };
        (Arc::new(build), outcome)
    }

    /// What the frontend may ask of the daemon.
    pub fn bridge(&self) -> &Arc<dyn Bridge> {
        &self.bridge
    }

    /// Keeps a reference for later calls and returns its id; scratch has the empty id.
    pub fn keep(&self, reference: Option<SharedRef>) -> String {
        let Some(reference) = reference else { return String::new() };
        let id = random_id();
        self.refs.lock().insert(id.clone(), reference);
        id
    }

    /// Keeps what a failed step had or left, and returns its id; without room for it, no id.
    pub(crate) fn hold(&self, held: SharedRef) -> String {
        let mut all = self.held.lock();
        if all.len() >= MAX_HELD {
            return String::new();
        }
        let id = random_id();
        all.insert(id.clone(), held);
        id
    }

    /// What a container can have under that id: a result, or what a failed step left.
    pub(crate) fn mountable(&self, id: &str) -> Result<Option<SharedRef>, BuildError> {
        match self.held.lock().get(id) {
            Some(held) => Ok(Some(held.clone())),
            None => self.reference(id),
        }
    }

    /// Errors: the frontend holds as many references as it may.
    pub(crate) fn check_room(&self) -> Result<(), BuildError> {
        if self.refs.lock().len() < MAX_REFS {
            return Ok(());
        }
        let text = format!("the frontend has asked for more than {MAX_REFS} results in one build");
        Err(BuildError::new(ErrorCode::ResourceExhausted, text))
    }

    /// The reference of an id that [`Self::keep`] gave out; `None` is scratch.
    ///
    /// Errors: `NotFound` for ids of other builds and made-up ones.
    pub fn reference(&self, id: &str) -> Result<Option<SharedRef>, BuildError> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.refs.lock().get(id).cloned();
        let missing =
            || BuildError::new(ErrorCode::NotFound, format!("no such reference `{id}` in this build"));
        found.map(Some).ok_or_else(missing)
    }

    /// Keeps a container for processes to come. Errors: the name is taken.
    pub fn keep_container(&self, id: &str, container: Arc<dyn BridgeContainer>) -> Result<(), BuildError> {
        let mut containers = self.containers.lock();
        if containers.contains_key(id) {
            return Err(BuildError::new(
                ErrorCode::AlreadyExists,
                format!("container `{id}` exists already"),
            ));
        }
        if containers.len() >= MAX_CONTAINERS {
            let text = format!("{MAX_CONTAINERS} containers in one build: release some");
            return Err(BuildError::new(ErrorCode::ResourceExhausted, text));
        }
        let released = CancellationToken::new();
        let kept = KeptContainer { container, released: released.clone(), _guard: released.drop_guard() };
        containers.insert(id.to_owned(), kept);
        Ok(())
    }

    /// The container of that name in this build, and what tells that it was given up.
    pub fn container(&self, id: &str) -> Result<(Arc<dyn BridgeContainer>, CancellationToken), BuildError> {
        let containers = self.containers.lock();
        let kept = containers.get(id).ok_or_else(|| no_container(id))?;
        Ok((kept.container.clone(), kept.released.clone()))
    }

    /// Gives a container up: its processes are killed, its mounts go when the last one has ended.
    pub fn release_container(&self, id: &str) -> Result<(), BuildError> {
        self.containers.lock().remove(id).map(drop).ok_or_else(|| no_container(id))
    }

    /// Ends the build with the frontend's result. Errors: it has ended already.
    pub fn finish(&self, outcome: Outcome) -> Result<(), BuildError> {
        let sender = self.outcome.lock().take();
        let sender = sender.ok_or_else(|| BuildError::invalid("the build has already returned a result"))?;
        // The build may have been cancelled meanwhile; then nobody needs the result.
        if sender.send(outcome).is_err() {
            tracing::debug!("a result arrived after its build was gone");
        }
        Ok(())
    }
}

/// A container, and the means to end its processes: dropped with it.
#[derive(Debug)]
struct KeptContainer {
    container: Arc<dyn BridgeContainer>,
    released: CancellationToken,
    _guard: DropGuard,
}

fn no_container(id: &str) -> BuildError {
    BuildError::new(ErrorCode::NotFound, format!("no such container `{id}` in this build"))
}

/// The builds that wait for calls from outside, by build id.
#[derive(Debug, Default)]
pub struct ForwardedBuilds {
    builds: Mutex<HashMap<String, Arc<ForwardedBuild>>>,
    changed: Notify,
}

impl ForwardedBuilds {
    /// The build of that id; waits a little for one that is about to register.
    pub async fn find(&self, id: &str) -> Option<Arc<ForwardedBuild>> {
        tokio::time::timeout(REGISTER_WAIT, self.wait_for(id)).await.ok()
    }

    async fn wait_for(&self, id: &str) -> Arc<ForwardedBuild> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(build) = self.builds.lock().get(id) {
                return build.clone();
            }
            changed.await;
        }
    }

    fn register(self: &Arc<Self>, id: &str, build: Arc<ForwardedBuild>) -> Result<Registration, BuildError> {
        let mut builds = self.builds.lock();
        if builds.contains_key(id) {
            let text = format!("a build with the id `{id}` is running already");
            return Err(BuildError::new(ErrorCode::AlreadyExists, text));
        }
        builds.insert(id.to_owned(), build);
        drop(builds);
        self.changed.notify_waiters();
        Ok(Registration { builds: self.clone(), id: id.to_owned() })
    }
}

/// Takes the build out of the table when it is over, however it ends.
#[derive(Debug)]
struct Registration {
    builds: Arc<ForwardedBuilds>,
    id: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let build = self.builds.builds.lock().remove(&self.id);
        // Calls that are under way may hold the build a little longer, but none of what it has.
        if let Some(build) = build {
            build.containers.lock().clear();
            build.refs.lock().clear();
            build.held.lock().clear();
        }
    }
}

/// A frontend that runs in the client: it calls the bridge over gRPC under the build's id until it returns.
#[derive(Debug)]
pub struct ClientFrontend {
    builds: Arc<ForwardedBuilds>,
    build_id: String,
}

impl ClientFrontend {
    /// A frontend for the build of that id.
    pub fn new(builds: Arc<ForwardedBuilds>, build_id: impl Into<String>) -> Self {
        Self { builds, build_id: build_id.into() }
    }
}

#[async_trait]
impl Frontend for ClientFrontend {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        _request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        let (build, outcome) = ForwardedBuild::open(bridge);
        let _registration = self.builds.register(&self.build_id, build)?;
        outcome.await.unwrap_or_else(|_| {
            Err(BuildError::new(ErrorCode::Internal, "the build's frontend went away without a result"))
        })
    }
}
