use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_llb::ExecOp;
use rbuild_oci::Platform;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::{BuildError, SharedRef};

/// A container that a frontend wants processes to run in.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// Mounts, network, host name and extra hosts count; an input is a position in `inputs`.
    pub exec: ExecOp,
    /// What is mounted.
    pub inputs: Vec<Option<SharedRef>>,
    /// Which platform its programs are for; `None` is the daemon's own.
    pub platform: Option<Platform>,
}

/// Mounts that stay while processes come and go. Dropped: what was written is thrown away.
#[async_trait]
pub trait BridgeContainer: Send + Sync + std::fmt::Debug {
    /// Runs a process to its end and returns its exit code. It has no more rights than a step of the build.
    ///
    /// While one runs, others join it where it is, and end with it.
    ///
    /// Errors: it cannot be started. Cancel: drop the future; the end of the
    /// build ends it as well.
    async fn run(&self, process: ContainerProcess) -> Result<u32, BuildError>;

    /// The files of one of its mounts as they are now; of memory there are none. Errors: there is no such mount.
    fn mounted(self: Arc<Self>, index: usize) -> Result<SharedRef, BuildError>;
}

/// A process in a container, and the ends of its streams.
pub struct ContainerProcess {
    /// Program, environment, directory, user, security mode and secret variables; the mounts are the container's.
    pub exec: ExecOp,
    /// Give it a terminal.
    pub tty: bool,
    /// What it reads; `None`: nothing.
    pub stdin: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Where its output goes, with the number of the stream (1 or 2; of a terminal all is 1).
    pub output: mpsc::Sender<(u32, Bytes)>,
    /// New sizes (rows, columns) of the terminal.
    pub resize: mpsc::Receiver<(u16, u16)>,
    /// Signals for it, by number.
    pub signals: mpsc::Receiver<i32>,
}

impl std::fmt::Debug for ContainerProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may hold what is nobody's business.
        f.debug_struct("ContainerProcess").field("tty", &self.tty).finish_non_exhaustive()
    }
}
