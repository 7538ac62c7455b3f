//! Mounts over which a client's processes run beside the steps of its build.

use std::sync::Arc;

use rbuild_exec::{ExecError, ExitStatus, ProcessIo, TermSize};
use rbuild_llb::{ExecOp, OpKind};
use rbuild_oci::Platform;
use rbuild_store::Ref;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::OpError;
use crate::mounts::{self, Prepared};
use crate::op::LlbOp;
use crate::ops::exec::{emulate, spec};
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
    /// Locked while a process runs: two sandboxes cannot have one writable tree mounted.
    prepared: Mutex<Prepared>,
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
            platform: spec.platform,
            resources: None,
            way_ms: 0,
            name: spec.description,
        };
        // The process may not write to a read-only root, but what has to be there for the sandbox is made in it.
        let mut shown = spec.exec.clone();
        shown.mounts.iter_mut().filter(|mount| mount.dest == "/").for_each(|root| root.readonly = false);
        let prepared =
            mounts::prepare(&op, &shown, &spec.inputs, std::slice::from_ref(scope), &scope.sessions).await?;
        emulate(&op).await?;
        let (exec, scope, prepared) = (spec.exec, scope.clone(), Mutex::new(prepared));
        Ok(Container { op, exec, scope, prepared })
    }
}

impl Container {
    /// Runs a process to its end. `process`: what runs; of it, mounts and network are the container's.
    ///
    /// It takes no permit: somebody may sit in front of it for hours. Errors: it cannot be started, or another process
    /// runs; how it ended is no error. Cancel: by the token.
    pub async fn run(
        &self,
        process: ExecOp,
        tty: Option<TermSize>,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, OpError> {
        let busy = |_| OpError::unsupported("a second process in a container while the first one runs");
        let prepared = self.prepared.try_lock().map_err(busy)?;
        let mut exec = ExecOp { mounts: self.exec.mounts.clone(), network: self.exec.network, ..process };
        exec.meta.hostname.clone_from(&self.exec.meta.hostname);
        exec.meta.extra_hosts.extend(self.exec.meta.extra_hosts.iter().cloned());
        self.scope.entitlements.check_exec(&exec)?;
        let mut spec = spec(&self.op, &exec, &prepared, &self.scope.sessions).await?;
        spec.tty = tty;
        let ran = self.op.worker.options.runtime.run(spec, io, cancel).await;
        ran.map_err(|error| match error {
            ExecError::Cancelled => OpError::Cancelled,
            error => OpError::Exec { command: exec.meta.args.join(" "), error: Arc::new(error), left: None },
        })
    }
}
