//! [`OciRuntime`]: the same steps, run by an OCI runtime binary (runc, crun, …) that the configuration names.
//!
//! Slower than our own sandbox, but replaceable: for runtimes with another kind of wall (virtual machines, gVisor).
//! The daemon mounts what the step sees below its state directory, writes a bundle, and hands it over.

mod bundle;
mod config;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::bundle::Bundle;
use crate::bridge::Bridge;
use crate::error::ExecError;
use crate::runtime::{ExitStatus, ProcessIo, Runtime};
use crate::spec::ProcessSpec;
use crate::streams::{Streams, Terminal};

/// How an [`OciRuntime`] is made.
#[derive(Debug, Clone)]
pub struct OciOptions {
    /// The runtime's binary.
    pub binary: PathBuf,
    /// A directory of its own; leftovers of an earlier daemon in it are unmounted and removed at start.
    pub state_dir: PathBuf,
    /// What steps of [`NetMode::Bridge`](crate::NetMode::Bridge) are connected to.
    pub bridge: Option<Bridge>,
}

/// Runs steps with an OCI runtime binary.
#[derive(Debug)]
pub struct OciRuntime {
    inner: Arc<Inner>,
    /// Owns the tasks that run steps, so that a dropped caller still gets its step killed and cleaned up.
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Inner {
    options: OciOptions,
    /// File name of the binary.
    name: String,
}

impl OciRuntime {
    /// Prepares the state directory.
    ///
    /// Errors: [`ExecError::Invalid`] if there is no such binary.
    pub fn new(options: OciOptions) -> Result<OciRuntime, ExecError> {
        if !options.binary.is_file() {
            let message = format!("there is no runtime at `{}`", options.binary.display());
            return Err(ExecError::Invalid { field: "binary", message });
        }
        bundle::sweep(&options.state_dir)?;
        let name = options.binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let inner = Arc::new(Inner { options, name });
        Ok(OciRuntime { inner, tasks: TaskTracker::new() })
    }
}

#[async_trait]
impl Runtime for OciRuntime {
    async fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        spec.validate()?;
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let (inner, stop) = (self.inner.clone(), cancel.child_token());
        let task = self.tasks.spawn(inner.run(spec, io, stop.clone()));
        let _stop_when_dropped = stop.drop_guard();
        task.await
            .map_err(|err| ExecError::Setup { stage: "run the step".into(), message: err.to_string() })?
    }

    fn name(&self) -> &str {
        &self.inner.name
    }
}

impl Inner {
    async fn run(
        self: Arc<Self>,
        spec: ProcessSpec,
        mut io: ProcessIo,
        stop: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        let id = format!("rbuild-{}", crate::native::step_id());
        let dir = self.options.state_dir.join("run").join(&id);
        let bridge = self.options.bridge.clone();
        let bundle = crate::native::blocking(move || {
            let network = crate::native::attach(bridge.as_ref(), spec.network)?;
            Bundle::create(dir, spec, network)
        });
        let bundle = bundle.await??;
        let outcome = self.run_bundle(&id, &bundle, &mut io, &stop).await;
        let failure = bundle.failure();
        let removed = crate::native::blocking(move || bundle.remove()).await?;
        let status = outcome?;
        removed?;
        if stop.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        match failure {
            Some(message) => Err(self.failed(message)),
            None => Ok(status),
        }
    }

    async fn run_bundle(
        &self,
        id: &str,
        bundle: &Bundle,
        io: &mut ProcessIo,
        stop: &CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        let mut command = self.command(bundle);
        command.arg("run").arg("--bundle").arg(bundle.dir()).arg(id);
        let mut streams = Streams::default();
        let terminal = match bundle.tty() {
            None => None,
            Some(size) => {
                Some(terminal(&mut command, size).map_err(|err| self.error("open a terminal", &err))?)
            }
        };
        if terminal.is_none() {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|err| self.error("start", &err))?;
        // The command holds the step's ends of its streams.
        drop(command);
        let started = self.attach(&mut child, terminal.as_ref(), io, &mut streams);
        let waited = match started {
            Ok(()) => self.wait(id, bundle, &mut child, terminal.as_ref(), io, stop).await,
            Err(err) => {
                self.kill(id, bundle).await;
                Err(err)
            }
        };
        drop(terminal);
        let moved = streams.finish(stop.is_cancelled()).await;
        self.delete(id, bundle).await;
        let status = waited?;
        moved?;
        Ok(status)
    }

    /// Waits for the end; signals, sizes and the wish to stop are passed on meanwhile.
    async fn wait(
        &self,
        id: &str,
        bundle: &Bundle,
        child: &mut Child,
        terminal: Option<&Terminal>,
        io: &mut ProcessIo,
        stop: &CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        use crate::streams::next;
        // The runtime does not tell when the program begins; this is as near as it gets.
        io.started.take().map(|started| started.send(()));
        let mut stopped = false;
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_err(|err| self.error("wait for", &err))?;
                    return Ok(exit_status(status));
                }
                () = stop.cancelled(), if !stopped => {
                    stopped = true;
                    self.kill(id, bundle).await;
                }
                Some(number) = next(&mut io.signals) => self.signal(id, bundle, number).await,
                Some(size) = next(&mut io.resize) => {
                    if let Some(terminal) = terminal
                        && let Err(err) = terminal.resize(size)
                    {
                        tracing::debug!(error = %err, "terminal not resized");
                    }
                }
            }
        }
    }

    fn attach(
        &self,
        child: &mut Child,
        terminal: Option<&Terminal>,
        io: &mut ProcessIo,
        streams: &mut Streams,
    ) -> Result<(), ExecError> {
        let stage = |err: std::io::Error| self.error("watch the streams of", &err);
        if let Some(terminal) = terminal {
            streams.output("terminal", terminal.reader().map_err(stage)?, std::mem::take(&mut io.stdout));
            streams.input(std::mem::take(&mut io.stdin), terminal.writer().map_err(stage)?);
            return Ok(());
        }
        if let Some(stdout) = child.stdout.take() {
            streams.output("stdout", stdout, std::mem::take(&mut io.stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            streams.output("stderr", stderr, std::mem::take(&mut io.stderr));
        }
        if let Some(stdin) = child.stdin.take() {
            let fd = stdin.into_owned_fd().map_err(stage)?;
            streams.input(std::mem::take(&mut io.stdin), pipe::Sender::from_owned_fd(fd).map_err(stage)?);
        }
        Ok(())
    }

    fn command(&self, bundle: &Bundle) -> Command {
        let mut command = Command::new(&self.options.binary);
        command.arg("--root").arg(self.options.state_dir.join("state"));
        command.arg("--log").arg(bundle.log()).arg("--log-format").arg("json");
        command.kill_on_drop(true);
        command
    }

    async fn kill(&self, id: &str, bundle: &Bundle) {
        // Until it is there to be killed, or gone: a runtime that has not made the container yet knows none of that id.
        self.signal(id, bundle, 9).await;
        self.delete(id, bundle).await;
    }

    async fn signal(&self, id: &str, bundle: &Bundle, number: i32) {
        let mut command = self.command(bundle);
        command.arg("kill").arg(id).arg(number.to_string());
        quietly(command).await;
    }

    async fn delete(&self, id: &str, bundle: &Bundle) {
        let mut command = self.command(bundle);
        command.arg("delete").arg("--force").arg(id);
        quietly(command).await;
    }

    fn error(&self, what: &str, err: &std::io::Error) -> ExecError {
        ExecError::Runtime { binary: self.shown(), message: format!("{what} it: {err}") }
    }

    fn shown(&self) -> String {
        self.options.binary.display().to_string()
    }

    /// An error of the runtime in our terms: what it says about the program is the user's affair.
    fn failed(&self, message: String) -> ExecError {
        let missing = ["executable file not found", "no such file or directory"];
        let words = ["permission denied", "exec format error"];
        let about_program = message.find("exec: ").or_else(|| message.find("exec /"));
        match about_program {
            Some(at) if missing.iter().any(|text| message.contains(text)) => {
                ExecError::Start { message: message[at..].to_owned(), exit_code: 127 }
            }
            Some(at) if words.iter().any(|text| message.contains(text)) => {
                ExecError::Start { message: message[at..].to_owned(), exit_code: 126 }
            }
            _ => ExecError::Runtime { binary: self.shown(), message },
        }
    }
}

/// Runs a command whose success is not ours to judge: the container may be gone already.
async fn quietly(mut command: Command) {
    let run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(err) = run.await {
        tracing::warn!(error = %err, "runtime not started");
    }
}

/// A terminal whose other end is the command's standard streams.
fn terminal(command: &mut Command, size: crate::spec::TermSize) -> std::io::Result<Terminal> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let terminal = Terminal::new(ours)?;
    terminal.resize(size)?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    Ok(terminal)
}

/// The runtime passes the program's status on, signals as 128 and their number.
fn exit_status(status: std::process::ExitStatus) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::exited(code as u8),
        (None, Some(signal)) => ExitStatus::signaled(signal),
        (None, None) => ExitStatus::exited(255),
    }
}

/// The specification of `spec` as an OCI `config.json`, for a bundle in `dir`. Pure; for golden tests and `debug`.
pub fn config_json(spec: &ProcessSpec, dir: &Path) -> serde_json::Value {
    config::config(spec, &config::Prepared::preview(spec, dir))
}
