//! Processes that serve a build without being a step of it: frontends that are images.

use std::sync::Arc;

use rbuild_exec::{ExecError, ExitStatus, ProcessIo, ProcessSpec};
use rbuild_llb::NetMode;
use rbuild_store::{NewMutable, Ref};
use tokio_util::sync::CancellationToken;

use crate::error::OpError;
use crate::worker::Worker;

/// What to run beside the steps of a build.
#[derive(Debug, Clone, Default)]
pub struct HelperProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside.
    pub cwd: String,
    /// Which network it sees.
    pub network: NetMode,
    /// Shown in `du` while it runs.
    pub description: String,
}

impl Worker {
    /// Runs a process over `root`, sandboxed; what it writes there is thrown away.
    ///
    /// It takes no permit: it waits for steps of its own build, which need the permits. Errors: the process cannot be
    /// started; how it ended is no error. Cancel: by the token, or by dropping the future, which kills it too.
    pub async fn run_helper(
        &self,
        root: &Ref,
        process: HelperProcess,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, OpError> {
        if process.network == NetMode::Host {
            return Err(OpError::invalid("a process beside the steps gets no more rights than a step"));
        }
        let command = process.args.join(" ");
        let tree = self.options.store.new_mutable(Some(root), NewMutable::regular(&process.description));
        let tree = tree.await?;
        let spec = ProcessSpec {
            env: process.env,
            cwd: process.cwd,
            network: self.net_mode(process.network),
            dns: self.options.dns.clone(),
            ..ProcessSpec::new(tree.mount()?, process.args)
        };
        let status = self.options.runtime.run(spec, io, cancel).await;
        drop(tree);
        status.map_err(|error| match error {
            ExecError::Cancelled => OpError::Cancelled,
            error => OpError::Exec { command, error: Arc::new(error), left: None },
        })
    }
}
