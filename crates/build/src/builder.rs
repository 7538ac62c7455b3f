use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::{Caches, LocalCache, Tier, TieredCache};
use rbuild_exec::{
    Bridge, BridgeOptions, DnsConfig, NativeOptions, NativeRuntime, NetMode, OciOptions, OciRuntime, Runtime,
    StepLimits,
};
use rbuild_exporter::Exporters;
use rbuild_frontend::{BuildError, Detail, ErrorCode, Frontend};
use rbuild_oci::Platform;
use rbuild_progress::StatusStream;
use rbuild_registry::{Registry, RegistryConfig};
use rbuild_session::SessionManager;
use rbuild_solver::{CacheStore, Solver, SolverOptions};
use rbuild_source::{
    AddressPolicy, BlobSource, ClosedAddresses, GitSource, HttpLimits, HttpSource, ImageSource, LocalSource,
    Source,
};
use rbuild_store::{GcPolicy, Ref, SnapshotterKind, Store, StoreOptions};
use rbuild_trace::Tracer;
use rbuild_worker::{DeviceOptions, Entitlements, LlbOp, Worker, WorkerOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builds::Builds;
use crate::explain::{BuildArgs, Explained, Explainer, Memory, TargetName};
use crate::history::{EncodeError, History, HistoryLimits, HistoryRefusal};
use crate::metrics::Metrics;
use crate::request::{BuildOutcome, BuildRequest};
use crate::run;

/// What a builder needs to know.
#[derive(Debug, Clone)]
pub struct BuilderOptions {
    /// State directory.
    pub root: PathBuf,
    /// How layers become directories.
    pub snapshotter: SnapshotterKind,
    /// An OCI runtime to run steps with; `None`: the built-in sandbox.
    pub runtime_binary: Option<PathBuf>,
    /// Steps, unpacking and compressing at once; 0 is no limit.
    pub parallelism: usize,
    /// What no step may exceed.
    pub step_limits: StepLimits,
    /// Whether it is kept what steps use of the machine.
    pub measure: bool,
    /// Bytes that an archive may have unpacked; large archives may have more, in proportion.
    pub max_unpacked_bytes: u64,
    /// Bytes that a git repository may have, and what is checked out of it.
    pub max_repository_bytes: u64,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// What builds may be granted.
    pub entitlements: Vec<String>,
    /// Where devices are looked for.
    pub devices: DeviceOptions,
    /// Resolver configuration of steps.
    pub dns: DnsConfig,
    /// The network of steps that ask for none in particular.
    pub network: StepNetwork,
    /// When and what to collect; `None`: never by itself.
    pub gc: Option<Vec<GcPolicy>>,
    /// A cache that this daemon shares with others.
    pub tier: Option<rbuild_cache::TierOptions>,
    /// How many ended builds are kept.
    pub history: HistoryLimits,
    /// Traces what builds do.
    pub tracer: Tracer,
    /// How errors are kept.
    pub encode_error: EncodeError,
    /// Repositories of frontend images that the Dockerfile frontend in here stands in for.
    pub built_in_frontends: Vec<String>,
    /// Runs frontends that are images (`gateway.v0`), unless they are switched off.
    pub image_frontend: Option<Arc<dyn Frontend>>,
}

/// The network of steps that ask for none in particular.
#[derive(Debug, Clone)]
pub enum StepNetwork {
    /// The host's.
    Host,
    /// None but loopback.
    None,
    /// A bridge of the daemon's, behind address translation.
    Bridge(BridgeOptions),
}

/// The builder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] rbuild_store::StoreError),
    /// What explanations need.
    #[error("the memory of earlier builds: {0}")]
    Explain(#[source] std::io::Error),
    /// The build history.
    #[error("the build history: {0}")]
    History(#[source] std::io::Error),
    /// The registry settings.
    #[error(transparent)]
    Registry(#[from] rbuild_registry::RegistryError),
    /// The limits of steps.
    #[error("steps cannot be limited (step-memory, step-cpus): {0}")]
    StepLimits(#[source] rbuild_exec::ExecError),
    /// The sandbox.
    #[error("preparing the sandbox: {0}")]
    Runtime(#[from] rbuild_exec::ExecError),
    /// The http client of sources.
    #[error(transparent)]
    Source(#[from] rbuild_source::SourceError),
    /// The entitlements.
    #[error(transparent)]
    Worker(#[from] rbuild_worker::OpError),
}

fn open_store(root: &Path, snapshotter: SnapshotterKind) -> Result<Store, OpenError> {
    Ok(Store::open(root, StoreOptions { snapshotter, ..StoreOptions::default() })?)
}

/// The network of steps that ask for none in particular, and what runs them.
fn sandbox(
    network: StepNetwork,
    binary: Option<&Path>,
    run_dir: &Path,
) -> Result<(NetMode, Arc<dyn Runtime>), OpenError> {
    let (network, bridge) = match network {
        StepNetwork::Host => (NetMode::Host, None),
        StepNetwork::None => (NetMode::None, None),
        StepNetwork::Bridge(options) => (NetMode::Bridge, Some(Bridge::create(options)?)),
    };
    let runtime: Arc<dyn Runtime> = match binary {
        Some(binary) => {
            let (binary, state_dir) = (in_path(binary), run_dir.join("oci"));
            Arc::new(OciRuntime::new(OciOptions { binary, state_dir, bridge })?)
        }
        None => {
            let state_dir = run_dir.join("exec");
            Arc::new(NativeRuntime::new(NativeOptions { state_dir, helper: None, bridge })?)
        }
    };
    Ok((network, runtime))
}

/// By the name that a request asks for.
fn frontends(built_in: Vec<String>, image: Option<Arc<dyn Frontend>>) -> BTreeMap<String, Arc<dyn Frontend>> {
    let dockerfile: Arc<dyn Frontend> =
        Arc::new(rbuild_dockerfile::DockerfileFrontend::standing_in_for(built_in));
    let mut frontends = BTreeMap::from([("dockerfile.v0".to_owned(), dockerfile)]);
    frontends.extend(image.map(|frontend| ("gateway.v0".to_owned(), frontend)));
    frontends
}

/// Where the solver looks first, and writes.
fn cache(store: &Store, tier: Option<&Arc<Tier>>) -> Arc<dyn CacheStore<Ref>> {
    let local = LocalCache::new(store.clone());
    match tier {
        None => Arc::new(local),
        Some(tier) => Arc::new(TieredCache::new(local, tier.clone())),
    }
}

/// Builds. One per daemon; everything that is shared by builds hangs on it.
#[derive(Debug)]
pub struct Builder {
    pub(crate) worker: Arc<Worker>,
    pub(crate) solver: Solver<LlbOp>,
    pub(crate) exporters: Exporters,
    pub(crate) sessions: Arc<SessionManager>,
    pub(crate) frontends: Arc<BTreeMap<String, Arc<dyn Frontend>>>,
    pub(crate) entitlements: Entitlements,
    store: Store,
    pub(crate) builds: Arc<Builds>,
    pub(crate) memory: Memory,
    history: History,
    tracer: Tracer,
    pub(crate) metrics: Metrics,
    tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) gc: Option<Vec<GcPolicy>>,
    /// A build ended: there may be something to collect.
    pub(crate) build_ended: Notify,
    worker_id: String,
    http: rbuild_cache::Http,
    closed: ClosedAddresses,
    tier: Option<Arc<Tier>>,
}

impl Builder {
    /// Opens the state directory and prepares everything. Blocks on the disk.
    pub fn open(options: BuilderOptions) -> Result<Self, OpenError> {
        let store = open_store(&options.root, options.snapshotter)?;
        let registry = Arc::new(Registry::new(options.registries)?);
        let sessions = Arc::new(SessionManager::new());
        let (network, runtime) =
            sandbox(options.network, options.runtime_binary.as_deref(), &store.run_dir())?;
        let entitlements = Entitlements::parse(&options.entitlements)?;
        let closed = ClosedAddresses::default();
        let policy = AddressPolicy { denied: closed.clone(), ..AddressPolicy::default() };
        let http = HttpSource::with_policy(store.clone(), sessions.clone(), policy, HttpLimits::default())?;
        let sources: Vec<Arc<dyn Source>> = vec![
            Arc::new(ImageSource::new(store.clone(), registry.clone(), sessions.clone())),
            Arc::new(BlobSource::new(store.clone(), registry.clone(), sessions.clone())),
            Arc::new(LocalSource::new(store.clone(), sessions.clone())),
            Arc::new(GitSource::new(store.clone(), sessions.clone(), options.max_repository_bytes)),
            Arc::new(http),
        ];
        let worker = Worker::new(WorkerOptions {
            store: store.clone(),
            sessions: sessions.clone(),
            sources,
            runtime,
            parallelism: options.parallelism,
            step_limits: options.step_limits.probe().map_err(OpenError::StepLimits)?,
            measure: options.measure,
            max_unpacked_bytes: options.max_unpacked_bytes,
            entitlements: entitlements.clone(),
            dns: options.dns,
            network,
            gc: options.gc.clone(),
            devices: options.devices,
            run_dir: store.run_dir(),
        });
        let http = rbuild_cache::Http::default();
        let tier = options.tier.map(|tier| Tier::start(&store, &http, &registry, &tier)).transpose()?;
        let frontends = frontends(options.built_in_frontends, options.image_frontend);
        let (tracer, encode) = (options.tracer.clone(), options.encode_error);
        let history = History::open(store.clone(), options.history, encode, tracer);
        Ok(Self {
            worker,
            solver: Solver::new(vec![cache(&store, tier.as_ref())], SolverOptions::default()),
            exporters: Exporters { store: store.clone(), sessions: sessions.clone(), registry },
            sessions,
            frontends: Arc::new(frontends),
            entitlements,
            builds: Arc::default(),
            memory: Memory::open(store.root().join("explain")).map_err(OpenError::Explain)?,
            history: history.map_err(OpenError::History)?,
            tracer: options.tracer,
            metrics: Metrics::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            gc: options.gc,
            build_ended: Notify::new(),
            worker_id: worker_id(&store),
            closed,
            http,
            tier,
            store,
        })
    }

    /// Closes an address to sources: one that the daemon listens on.
    pub fn close_address(&self, address: std::net::SocketAddr) {
        self.closed.close(address);
    }

    /// Builds. The work is done in a task of the builder's: when `cancel` is set, it stops its steps and cleans up
    /// even if nobody waits for this future any more.
    pub async fn build(
        self: &Arc<Self>,
        request: BuildRequest,
        cancel: CancellationToken,
    ) -> Result<BuildOutcome, BuildError> {
        self.builds.admit(&request.id)?;
        let begun = self.history.begin(&request).await;
        let (recording, progress) = begun.map_err(|error| log_error(&request.id, error))?;
        let running = self.builds.register(&request.id, &progress)?;
        let builder = self.clone();
        let (tally, internal) = (progress.clone(), request.internal);
        let id = request.id.clone();
        let task = self.tasks.spawn(async move {
            let begun = std::time::Instant::now();
            let explaining = Explaining::new(&request);
            let explainer = Arc::new(Explainer::default());
            let failed = run::FailedRefs::default();
            let outcome = run::build(&builder, request, progress, explainer.clone(), &failed, cancel).await;
            let outcome = match outcome {
                Err(error) => Err(builder.with_holders(without_step(error)).await),
                built => built,
            };
            let left = std::mem::take(&mut *failed.lock());
            builder.discard(left).await;
            let usages = explainer.usages();
            let explained = explaining.finish(&builder, explainer).await;
            if !internal {
                builder.metrics.ended(&outcome, tally.tally(), begun.elapsed());
            }
            recording.finish(&outcome, explained, usages).await;
            drop(running);
            builder.build_ended.notify_one();
            let seconds = begun.elapsed().as_secs_f32();
            match &outcome {
                Ok(_) => tracing::info!(build = %id, seconds, "build finished"),
                Err(error) => tracing::info!(build = %id, seconds, error = %error, "build failed"),
            }
            outcome
        });
        task.await.unwrap_or_else(|error| {
            Err(BuildError::new(ErrorCode::Internal, format!("the build's task ended early: {error}")))
        })
    }

    /// What failed steps left is of use only while their build runs.
    async fn discard(&self, failed: Vec<rbuild_store::RefId>) {
        if failed.is_empty() {
            return;
        }
        if let Err(error) = self.store.discard(failed).await {
            tracing::warn!(%error, "what a failed step left is left to the collection of garbage");
        }
    }

    /// The events of a build from its start, whether it runs or ended; waits a few seconds for one that is about to
    /// register. `None`: there is no such build.
    pub async fn status(&self, id: &str) -> Option<StatusStream> {
        if let Some(progress) = self.builds.get(id) {
            return Some(progress.subscribe());
        }
        match self.history.log(id) {
            Some(Ok(log)) => return Some(log),
            Some(Err(error)) => tracing::warn!(build = id, %error, "the log of a build is unreadable"),
            None => {}
        }
        self.builds.wait(id).await.map(|progress| progress.subscribe())
    }

    /// The builds that ran.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Caches elsewhere.
    /// Does what no build waits for. A drain does, as for builds; the end of the builder ends it.
    pub(crate) fn later(&self, work: crate::caching::Later) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => tracing::warn!("work in the background was cut short"),
            }
        });
    }

    pub(crate) fn caches(&self) -> Caches {
        let (registry, sessions) = (self.exporters.registry.clone(), self.sessions.clone());
        Caches { store: self.store.clone(), registry, sessions, http: self.http.clone() }
    }

    /// Takes spans of clients and steps.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// What happened since the start, and what goes on.
    pub fn metrics(&self) -> &Metrics {
        let running = self.worker.working();
        self.metrics.refresh(self.builds.len(), self.sessions.ids().len(), running);
        &self.metrics
    }

    /// Clients' sessions.
    pub fn sessions(&self) -> &Arc<SessionManager> {
        &self.sessions
    }

    /// Refs, blobs and images.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What can be run here, native first.
    pub fn platforms(&self) -> Vec<Platform> {
        self.worker.platforms()
    }

    /// `overlayfs` or `native`.
    pub fn snapshotter_name(&self) -> &'static str {
        self.store.snapshotter_name()
    }

    /// The worker's id: the same as long as the state directory is.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// Refuses new builds and waits for the running ones, at most for `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.builds.drain();
        self.tasks.close();
        if !self.tasks.is_empty() {
            tracing::info!(builds = self.tasks.len(), "waiting for running builds");
        }
        let begun = std::time::Instant::now();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(builds = self.tasks.len(), "the time to drain is over: cancelling the rest");
        }
        if let Some(tier) = &self.tier {
            tier.flush(limit.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Cancels what still runs and waits for its clean-up.
    pub async fn stop_builds(&self) {
        self.builds.drain();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends all sessions and writes the store's last state to the disk.
    pub async fn close(&self) {
        self.sessions.shutdown().await;
        self.history.close().await;
        self.tracer.close().await;
        if let Err(error) = self.store.sync().await {
            tracing::warn!(error = %error, "closing the store");
        }
    }
}

/// What an explanation needs to know of a request.
struct Explaining {
    session: String,
    args: BuildArgs,
    target: TargetName,
}

impl Explaining {
    fn new(request: &BuildRequest) -> Self {
        Self {
            session: request.session.clone(),
            args: BuildArgs::of(&request.what),
            target: TargetName::of(&request.what),
        }
    }

    async fn finish(self, builder: &Builder, explainer: Arc<Explainer>) -> Vec<Explained> {
        let session = builder.sessions.find(&self.session);
        let target = self.target.digest(session.as_ref().map_or("", |session| session.shared_key()));
        let memory = builder.memory.clone();
        let work = move || explainer.finish(&memory, &target, &self.args);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "explaining a build");
            Vec::new()
        })
    }
}

fn log_error(id: &str, error: HistoryRefusal) -> BuildError {
    let code = match &error {
        HistoryRefusal::Taken(_) => ErrorCode::AlreadyExists,
        HistoryRefusal::Log(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            ErrorCode::ResourceExhausted
        }
        _ => ErrorCode::Internal,
    };
    BuildError::new(code, error.to_string()).context(format!("build {id}"))
}

/// A bare name is looked for in `PATH`, as upstream's setting has it.
fn in_path(binary: &Path) -> PathBuf {
    if binary.components().count() > 1 {
        return binary.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join(binary)).find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| binary.to_owned())
}

/// Kept beside the database; a root that cannot keep it gets a new one at each start.
fn worker_id(store: &Store) -> String {
    let path = store.root().join("worker-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && rbuild_digest::is_safe_id(id.trim())
    {
        return id.trim().to_owned();
    }
    let id = rbuild_digest::random_id();
    if let Err(error) = std::fs::write(&path, &id) {
        tracing::debug!(%error, "keeping the worker's id");
    }
    id
}

/// Without what the failed step left: the build is over.
fn without_step(mut error: BuildError) -> BuildError {
    error.details.retain(|detail| !matches!(detail, Detail::Step(_)));
    error
}
