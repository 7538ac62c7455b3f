//! A worker in a temporary directory, an image with busybox, and shorthand for graphs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use rbuild_exec::{DnsConfig, NativeOptions, NativeRuntime};
use rbuild_llb::{ExecOptions, MarshalOptions, SourceOp, State};
use rbuild_oci::Platform;
use rbuild_progress::{Progress, Reporter, VertexInfo};
use rbuild_session::{SessionGroup, SessionManager};
use rbuild_solver::{Event, EventSink, Job, MemoryCache, SolveError, Solver, SolverOptions};
use rbuild_source::{Memo, Pin, PinDetail, Source, SourceError, SourceRequest};
use rbuild_store::{NewMutable, Ref, Store, StoreOptions};
use rbuild_worker::{Entitlements, LlbOp, OpError, Scope, Worker, WorkerOptions};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// `docker-image://busybox`, made on the spot.
#[derive(Debug)]
struct Busybox {
    store: Store,
    fetched: Arc<AtomicUsize>,
}

#[async_trait]
impl Source for Busybox {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image"]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        Ok(Pin {
            key: request.rest().to_owned(),
            aliases: Vec::new(),
            volatile: false,
            detail: PinDetail::Local,
        })
    }

    async fn fetch(&self, _request: &SourceRequest, _pin: &Pin) -> Result<Ref, SourceError> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let tree = self.store.new_mutable(None, NewMutable::regular("busybox")).await?;
        {
            let files = tree.tree().await?;
            let root = files.root();
            for dir in ["bin", "etc", "tmp", "root", "dev", "proc", "sys"] {
                root.mkdir(dir, 0o755).unwrap();
            }
            let busybox = root.create_file("bin/busybox", 0o755, true).unwrap();
            let host = std::fs::File::open(BUSYBOX).unwrap();
            rbuild_sys::copy_file(&host, &busybox, u64::MAX).unwrap();
            for name in
                ["sh", "cat", "echo", "ls", "sleep", "true", "id", "stat", "touch", "mkdir", "date", "env"]
            {
                root.symlink("busybox", format!("bin/{name}")).unwrap();
            }
            let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:App:/:/bin/sh\n";
            write(root, "etc/passwd", passwd);
            write(root, "etc/group", "root:x:0:\nusers:x:100:\n");
        }
        Ok(tree.commit().await?)
    }
}

fn write(root: &rbuild_sys::Root, path: &str, text: &str) {
    use std::io::Write;
    root.create_file(path, 0o644, true).unwrap().write_all(text.as_bytes()).unwrap();
}

pub struct Fixture {
    pub worker: Arc<Worker>,
    pub solver: Solver<LlbOp>,
    pub fetched: Arc<AtomicUsize>,
    _dir: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let state_dir = dir.path().join("exec");
        std::fs::create_dir(&state_dir).unwrap();
        let runtime = NativeRuntime::new(NativeOptions { state_dir, ..NativeOptions::default() }).unwrap();
        let fetched = Arc::<AtomicUsize>::default();
        let worker = Worker::new(WorkerOptions {
            store: store.clone(),
            sessions: Arc::new(SessionManager::new()),
            sources: vec![Arc::new(Busybox { store, fetched: fetched.clone() })],
            runtime: Arc::new(runtime),
            max_unpacked_bytes: 1 << 30,
            parallelism: 4,
            step_limits: rbuild_exec::StepLimits::default(),
            measure: false,
            entitlements: Entitlements::none(),
            network: rbuild_exec::NetMode::Host,
            dns: DnsConfig::default(),
            gc: None,
            devices: rbuild_worker::DeviceOptions::default(),
            run_dir: dir.path().to_owned(),
        });
        let solver = Solver::new(vec![Arc::new(MemoryCache::default())], SolverOptions::default());
        Self { worker, solver, fetched, _dir: dir }
    }

    pub fn build(&self) -> Build {
        self.build_with(Entitlements::none())
    }

    pub fn build_with(&self, entitlements: Entitlements) -> Build {
        let progress = Progress::memory();
        let scope = Scope {
            progress: progress.clone(),
            sessions: SessionGroup::new(),
            entitlements: Arc::new(entitlements),
            memo: Memo::default(),
            build_id: rbuild_digest::random_id().into(),
            failed: None,
            nested: None,
            witness: None,
            mount_caches: None,
        };
        let job = self.solver.job(scope, Arc::new(Events(progress.clone())));
        Build { job, progress, worker: self.worker.clone() }
    }

    /// Builds `state` alone and gives the content of `path` in it.
    pub async fn read(&self, state: &State, path: &str) -> String {
        let build = self.build();
        let done = build.solve(state).await;
        let done = match done {
            Ok(done) => done,
            Err(error) => panic!("{error}\n{}", build.end().await),
        };
        let text = read(&done, path).await;
        build.end().await;
        text
    }
}

pub async fn read(done: &Ref, path: impl AsRef<Path>) -> String {
    let tree = done.tree().await.unwrap();
    let bytes = tree.root().read_limited(path.as_ref(), 1 << 20).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// One build.
pub struct Build {
    pub job: Job<LlbOp>,
    pub progress: Progress,
    worker: Arc<Worker>,
}

impl Build {
    pub async fn solve(&self, state: &State) -> Result<Ref, SolveError<OpError>> {
        let options = MarshalOptions {
            platform: Platform::host(),
            local_unique_id: "test".into(),
            worker_filters: Vec::new(),
            metadata: Default::default(),
            default_path: Default::default(),
        };
        let definition = state.marshal(&options).unwrap();
        let graph = rbuild_llb::Graph::from_definition(&definition).unwrap();
        let (graph, head) = self.worker.graph(&graph).unwrap();
        Ok(self.job.solve(&graph, head.unwrap()).await?.output)
    }

    /// Ends the build and gives all that was logged.
    pub async fn end(self) -> String {
        self.job.close().await;
        self.progress.close();
        let mut events = std::pin::pin!(self.progress.subscribe());
        let mut logs = Vec::new();
        while let Some(event) = events.next().await {
            for log in event.logs {
                logs.extend(log.msg);
            }
        }
        String::from_utf8_lossy(&logs).into_owned()
    }
}

#[derive(Debug)]
struct Events(Progress);

impl Events {
    fn reporter(&self, vertex: &rbuild_solver::VertexInfo) -> Reporter {
        let (digest, name, inputs) = (vertex.digest, vertex.name.clone(), vertex.inputs.clone());
        self.0.vertex(VertexInfo { digest, name, inputs, group: None })
    }
}

impl EventSink for Events {
    fn event(&self, event: Event) {
        match event {
            Event::Known(vertex) => self.reporter(&vertex).known(),
            Event::Started(vertex) => self.reporter(&vertex).started(),
            Event::Completed { vertex, cached: true, .. } => self.reporter(&vertex).cached(),
            Event::Completed { vertex, error, .. } => self.reporter(&vertex).completed(error),
        }
    }
}

pub fn busybox() -> State {
    State::source(SourceOp::new("docker-image://busybox", Default::default()), Default::default())
}

pub fn sh(script: &str) -> ExecOptions {
    let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecOptions { args, ..ExecOptions::default() }
}
