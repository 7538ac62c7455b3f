//! A private `rbuildd` for one build, when there is no other: its state stays in the user's state directory, so
//! the next build finds its cache.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbuild_frontend::Fault;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::errors::{CommandError, os_text};
use crate::ui;

/// A daemon that opens a large state directory still answers well within this.
const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running private daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct PrivateDaemon {
    child: Child,
    socket: PathBuf,
    dir: PathBuf,
}

impl PrivateDaemon {
    /// Starts it and waits until it answers.
    pub(crate) async fn start() -> Result<Self, CommandError> {
        let root = state_dir()?;
        let dir = std::env::temp_dir().join(format!("rbuild-{}", rbuild_digest::random_id()));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir).map_err(|error| {
            CommandError::new(format!("{}: {}", dir.display(), os_text(&error))).fault(Fault::LocalFile)
        })?;
        let socket = dir.join("rbuildd.sock");
        ui::note(&format!(
            "no daemon found: starting a private rbuildd with its state in {}",
            root.display()
        ));
        let log_path = dir.join("rbuildd.log");
        let log = std::fs::File::create(&log_path)?;
        let mut command = Command::new(daemon_binary());
        command.arg("--root").arg(&root).arg("--addr").arg(format!("unix://{}", socket.display()));
        // Of its own group, so that Ctrl-C reaches the client first, which ends the daemon in order. A client that is
        // killed takes the daemon along: the pipe closes.
        command.process_group(0).kill_on_drop(true);
        command.arg("--until-stdin-closes").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| {
            CommandError::new(format!("starting rbuildd: {}", os_text(&error)))
                .fault(Fault::PrivateDaemon)
                .hint("is rbuildd installed beside rbuildctl or in PATH?")
        })?;
        let mut daemon = Self { child, socket, dir };
        daemon.wait_until_ready(&log_path).await?;
        Ok(daemon)
    }

    async fn wait_until_ready(&mut self, log: &Path) -> Result<(), CommandError> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while UnixStream::connect(&self.socket).await.is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let last = log.lines().next_back().unwrap_or("it said nothing");
                return Err(CommandError::new(format!("the private rbuildd does not start: {last}"))
                    .fault(Fault::PrivateDaemon)
                    .hint("builds need root: use sudo, or name a running daemon with --addr"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            tracing::debug!(%error, "ending the private daemon");
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!("the private daemon does not end: killing it");
        }
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(%error, "removing the private daemon's directory");
        }
    }
}

/// `rbuildd` beside this binary, else the one in PATH.
fn daemon_binary() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("rbuildd")));
    beside.filter(|path| path.exists()).unwrap_or_else(|| "rbuildd".into())
}

/// `$XDG_STATE_HOME/rbuild`, else `~/.local/state/rbuild`.
fn state_dir() -> Result<PathBuf, CommandError> {
    let base = match std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => match std::env::var_os("HOME").filter(|dir| !dir.is_empty()) {
            Some(home) => Path::new(&home).join(".local/state"),
            None => {
                let error =
                    CommandError::new("neither HOME nor XDG_STATE_HOME is set").fault(Fault::PrivateDaemon);
                return Err(error
                    .hint("a private daemon keeps its cache there: set one, or name a daemon with --addr"));
            }
        },
    };
    Ok(base.join("rbuild"))
}
