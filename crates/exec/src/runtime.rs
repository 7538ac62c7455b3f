//! [`Runtime`], what runs a process; the streams it is given and the status it returns.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::ExecError;
use crate::spec::{ProcessSpec, TermSize};
use crate::usage::StepUsage;

/// Runs processes in sandboxes.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Runs one process to its end and returns how it ended, whatever that is: a failing program is not an error here.
    ///
    /// It returns when every process of the sandbox is gone, the output has been handed over, and what was made only to
    /// be mounted over is removed.
    /// Errors: [`ExecError::Start`] if there is no such program, [`ExecError::User`], [`ExecError::Setup`], ….
    /// Cancel: `cancel` kills everything in the sandbox and gives [`ExecError::Cancelled`] when it is gone. Dropping
    /// the future kills too, without waiting.
    async fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError>;

    /// Runs another process beside the first one of a sandbox, which [`ProcessIo::sandbox`] has given. It sees what that
    /// one sees; of `spec` only the process itself counts. It is killed when the first one ends.
    ///
    /// Errors and cancel: as for [`Runtime::run`], but `cancel` ends this process only.
    async fn join(
        &self,
        sandbox: &Sandbox,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        drop((sandbox, spec, io, cancel));
        let message = format!("{} runs one process in a container at a time", self.name());
        Err(ExecError::Invalid { field: "container", message })
    }

    /// Name for logs and worker labels.
    fn name(&self) -> &str;
}

/// A sandbox whose first process runs.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) process: OwnedFd,
    pub(crate) cgroups: Vec<PathBuf>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code, if it ended by itself.
    pub code: Option<u8>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed something in the step's cgroup for lack of memory.
    pub oom_killed: bool,
}

impl ExitStatus {
    /// Ended by itself with `code`.
    pub fn exited(code: u8) -> ExitStatus {
        ExitStatus { code: Some(code), signal: None, oom_killed: false }
    }

    /// Was ended by `signal`.
    pub fn signaled(signal: i32) -> ExitStatus {
        ExitStatus { code: None, signal: Some(signal), oom_killed: false }
    }

    /// One number, as shells have it: the exit code, or 128 and the signal.
    pub fn exit_code(&self) -> u32 {
        match (self.code, self.signal) {
            (Some(code), _) => u32::from(code),
            (None, Some(signal)) => 128 + signal.unsigned_abs(),
            (None, None) => 255,
        }
    }

    /// Exit code 0?
    pub fn success(&self) -> bool {
        self.exit_code() == 0
    }
}

/// Where a process's input comes from.
#[derive(Default)]
pub enum Input {
    /// Nothing: `/dev/null` (with a terminal: silence).
    #[default]
    Null,
    /// Bytes until its end.
    Reader(Pin<Box<dyn AsyncRead + Send>>),
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What [`Output::Channel`] says.
    pub tag: i64,
    /// At most [`crate::OUTPUT_BUFFER`] or so.
    pub bytes: bytes::Bytes,
}

/// Where a process's output goes. At most [`crate::OUTPUT_BUFFER`] bytes are held for a stream; a slow sink slows the
/// process down.
#[derive(Default)]
pub enum Output {
    /// Away.
    #[default]
    Null,
    /// Into a writer, which is flushed and shut down at the end.
    Writer(Pin<Box<dyn AsyncWrite + Send>>),
    /// Into a bounded channel, which several streams may share. A receiver that is gone is not an error; the rest goes
    /// away.
    Channel {
        /// The channel.
        to: mpsc::Sender<Chunk>,
        /// Tells the streams apart; comes back in each chunk.
        tag: i64,
    },
}

impl Output {
    /// Into `writer`.
    pub fn writer(writer: impl AsyncWrite + Send + 'static) -> Output {
        Output::Writer(Box::pin(writer))
    }
}

/// The streams and controls of one process.
#[derive(Default)]
pub struct ProcessIo {
    /// Standard input.
    pub stdin: Input,
    /// Standard output, or all output of a terminal.
    pub stdout: Output,
    /// Standard error; unused with a terminal.
    pub stderr: Output,
    /// New sizes for the terminal.
    pub resize: Option<mpsc::Receiver<TermSize>>,
    /// Signals for the process. One that it does not handle is ignored (it is the first of its namespace), except
    /// `SIGKILL`.
    pub signals: Option<mpsc::Receiver<i32>>,
    /// Called once when the sandbox is ready and the program is about to begin.
    pub started: Option<tokio::sync::oneshot::Sender<()>>,
    /// Given the sandbox at the same time, by runtimes that can have further processes in it.
    pub sandbox: Option<tokio::sync::oneshot::Sender<Sandbox>>,
    /// Given what the process and its children used, when they have ended, by runtimes on machines that count it.
    pub usage: Option<tokio::sync::oneshot::Sender<StepUsage>>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::Null => "Null",
            Input::Reader(_) => "Reader",
        })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Output::Null => "Null",
            Output::Writer(_) => "Writer",
            Output::Channel { .. } => "Channel",
        })
    }
}

impl fmt::Debug for ProcessIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessIo")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_from_128() {
        assert_eq!(ExitStatus::signaled(9).exit_code(), 137);
        assert_eq!(ExitStatus::exited(3).exit_code(), 3);
        assert!(ExitStatus::exited(0).success() && !ExitStatus::signaled(15).success());
    }
}
