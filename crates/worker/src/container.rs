//! Mounts over which a client's processes run beside the steps of its build.

use std::sync::Arc;

use rbuild_exec::{ExecError, ExitStatus, ProcessIo, ProcessSpec, Sandbox, TermSize};
use rbuild_llb::{ExecOp, OpKind};
use rbuild_oci::Platform;
use rbuild_store::Ref;
use rbuild_sys::{MountTree, Root};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::OpError;
use crate::mounts::{self, Prepared};
use crate::op::LlbOp;
use crate::ops::exec::{add_devices, emulate, spec};
use crate::scope::Scope;
use crate::worker::Worker;

/// What a container is made of.
#[derive(Debug)]
pub struct ContainerSpec {
    /// Mounts, network, host name and extra hosts.
    pub exec: ExecOp,
    /// What is mounted.
    pub inputs: Vec<Ref>,
    /// Which platform its programs are for.
    pub platform: Option<Platform>,
    /// Shown in `du`.
    pub description: String,
}

/// Prepared mounts. What processes write there is thrown away with it.
#[derive(Debug)]
pub struct Container {
    op: LlbOp,
    exec: ExecOp,
    scope: Scope,
    prepared: Prepared,
    first: watch::Sender<First>,
    /// Only held: what is mounted stays on disk.
    _inputs: Vec<Ref>,
}

/// The files of a mount, open for reading.
#[derive(Debug)]
pub struct MountedTree {
    root: Root,
    /// Holds the mount; gone with it.
    _mount: Option<MountTree>,
}

impl MountedTree {
    /// Its root directory.
    pub fn root(&self) -> &Root {
        &self.root
    }
}

/// The process whose sandbox others share: two sandboxes cannot have one writable tree mounted.
#[derive(Debug, Clone, Default)]
enum First {
    #[default]
    None,
    Starting,
    Running(Arc<Sandbox>),
    /// The runtime lets nobody else in.
    Alone,
}

/// Where a process runs.
enum Place<'a> {
    First(Turn<'a>),
    Beside(Arc<Sandbox>),
}

/// Held by the first process; the next one may be first when it is gone.
struct Turn<'a>(&'a watch::Sender<First>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.send_replace(First::None);
    }
}

impl Worker {
    /// Prepares the mounts of a container.
    ///
    /// Errors: a mount cannot be made, a grant is missing, or the platform is not the daemon's.
    pub async fn container(
        self: &Arc<Self>,
        scope: &Scope,
        spec: ContainerSpec,
    ) -> Result<Container, OpError> {
        scope.entitlements.check_exec(&spec.exec)?;
        if let Some(platform) = &spec.platform
            && !self.platforms().iter().any(|known| known.architecture == platform.architecture)
        {
            let (os, architecture) = (&platform.os, &platform.architecture);
            return Err(OpError::unsupported(format!("containers for {os}/{architecture}")));
        }
        let op = LlbOp {
            worker: self.clone(),
            kind: OpKind::Exec(Box::new(spec.exec.clone())),
            inputs: spec.inputs.len(),
            urls: Vec::new(),
            platform: spec.platform,
            resources: None,
            way_ms: 0,
            name: spec.description,
        };
        emulate(&op).await?;
        // The process may not write to a read-only root, but what has to be there for the sandbox is made in it.
        let mut shown = spec.exec.clone();
        shown.mounts.iter_mut().filter(|mount| mount.dest == "/").for_each(|root| root.readonly = false);
        let prepared =
            mounts::prepare(&op, &shown, &spec.inputs, std::slice::from_ref(scope), &scope.sessions).await?;
        let (exec, scope, first) = (spec.exec, scope.clone(), watch::Sender::default());
        Ok(Container { op, exec, scope, prepared, first, _inputs: spec.inputs })
    }
}

impl Container {
    /// How many mounts it has.
    pub fn mounts(&self) -> usize {
        self.exec.mounts.len()
    }

    /// Opens the files of a mount as they are now, processes running or not; `None`: they are in memory only.
    pub async fn tree(&self, mount: usize) -> Result<Option<MountedTree>, OpError> {
        let Some(source) = self.prepared.sources.get(mount).cloned().flatten() else { return Ok(None) };
        let open = move || match source {
            rbuild_sys::Mount::Bind { source, .. } => {
                Ok(Some(MountedTree { root: Root::open(source)?, _mount: None }))
            }
            // What is written lies in the uppermost layer, which is a lower one of this view.
            other => {
                let mount = MountTree::new(&other.into_readonly())?;
                Ok(Some(MountedTree { root: mount.root()?, _mount: Some(mount) }))
            }
        };
        tokio::task::spawn_blocking(open).await?
    }

    /// Runs a process to its end. `process`: what runs; of it, mounts and network are the container's. While one runs,
    /// others join its sandbox, and end with it.
    ///
    /// It takes no permit: somebody may sit in front of it for hours. Errors: it cannot be started; how it ended is no
    /// error. Cancel: by the token.
    pub async fn run(
        &self,
        process: ExecOp,
        tty: Option<TermSize>,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, OpError> {
        let mut exec = ExecOp { mounts: self.exec.mounts.clone(), network: self.exec.network, ..process };
        exec.meta.hostname.clone_from(&self.exec.meta.hostname);
        exec.meta.extra_hosts.extend(self.exec.meta.extra_hosts.iter().cloned());
        self.scope.entitlements.check_exec(&exec)?;
        let mut spec = spec(&self.op, &exec, &self.prepared, &self.scope.sessions).await?;
        let granted = |name: &str| self.scope.entitlements.has_device(name);
        add_devices(&self.op, &exec, granted, &mut spec).await?;
        spec.tty = tty;
        let runtime = &self.op.worker.options.runtime;
        let ran = match self.place(&cancel).await? {
            Place::First(turn) => self.run_first(turn, spec, io, cancel).await,
            Place::Beside(sandbox) => runtime.join(&sandbox, spec, io, cancel).await,
        };
        ran.map_err(|error| match error {
            ExecError::Cancelled => OpError::Cancelled,
            error => OpError::Exec { command: exec.meta.args.join(" "), error: Arc::new(error), left: None },
        })
    }

    async fn place(&self, cancel: &CancellationToken) -> Result<Place<'_>, OpError> {
        let mut first = self.first.subscribe();
        loop {
            let claimed = self.first.send_if_modified(|first| {
                let free = matches!(first, First::None);
                if free {
                    *first = First::Starting;
                }
                free
            });
            if claimed {
                return Ok(Place::First(Turn(&self.first)));
            }
            match &*first.borrow_and_update() {
                First::Running(sandbox) => return Ok(Place::Beside(sandbox.clone())),
                First::Alone => {
                    let runtime = self.op.worker.options.runtime.name();
                    return Err(OpError::unsupported(format!(
                        "a second process in a container of {runtime}"
                    )));
                }
                First::None => continue,
                First::Starting => {}
            }
            tokio::select! {
                // The sender is ours, so there is always a next state.
                _ = first.changed() => {}
                () = cancel.cancelled() => return Err(OpError::Cancelled),
            }
        }
    }

    async fn run_first(
        &self,
        turn: Turn<'_>,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        let (given, sandbox) = oneshot::channel();
        let io = ProcessIo { sandbox: Some(given), ..io };
        let running = self.op.worker.options.runtime.run(spec, io, cancel);
        tokio::pin!(running);
        let sandbox = tokio::select! {
            ran = &mut running => return ran,
            sandbox = sandbox => sandbox,
        };
        turn.0.send_replace(sandbox.map_or(First::Alone, |sandbox| First::Running(Arc::new(sandbox))));
        running.await
    }
}
