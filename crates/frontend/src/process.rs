use std::pin::Pin;

use rbuild_llb::NetMode;
use tokio::io::{AsyncRead, AsyncWrite};

/// A frontend that is a program, and the ends of its standard streams.
pub struct FrontendProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside.
    pub cwd: String,
    /// Which network it sees.
    pub network: NetMode,
    /// Name of the progress step that shows what it writes to standard error; the step is only there if it does.
    pub log_name: String,
    /// What it reads.
    pub stdin: Pin<Box<dyn AsyncRead + Send>>,
    /// Where its output goes.
    pub stdout: Pin<Box<dyn AsyncWrite + Send>>,
}

impl std::fmt::Debug for FrontendProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Options of a build are no secrets, but they are long.
        f.debug_struct("FrontendProcess").field("args", &self.args).finish_non_exhaustive()
    }
}
