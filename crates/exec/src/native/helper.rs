//! The helper as the daemon sees it: started when needed, again if it died.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;
use rbuild_sys::MountTree;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::io_error;
use crate::error::ExecError;
use crate::init::{ARGV0, wire};

/// Starts and speaks to the helper process.
#[derive(Debug)]
pub(super) struct Helper {
    binary: Option<PathBuf>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Helper {
    pub(super) fn new(binary: Option<PathBuf>) -> Helper {
        Helper { binary, running: Mutex::new(None) }
    }

    /// Starts it, if it does not run.
    pub(super) fn start(&self) -> Result<(), ExecError> {
        let mut running = self.running.lock();
        if running.is_none() {
            *running = Some(self.spawn()?);
        }
        Ok(())
    }

    /// Sends it one step. The lock is held for one message, so requests do not mix.
    pub(super) fn send(&self, flags: u8, fds: &[BorrowedFd<'_>]) -> Result<(), ExecError> {
        let mut running = self.running.lock();
        for _ in 0..2 {
            if running.is_none() {
                *running = Some(self.spawn()?);
            }
            let socket = running.as_ref().and_then(|running| running.socket.as_ref()).expect("just started");
            match wire::send(socket, &[flags], fds, SendFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    tracing::warn!("the sandbox helper is gone, starting another");
                    *running = None;
                }
                Err(errno) => return Err(io_error("ask the sandbox helper", &errno.into())),
            }
        }
        Err(ExecError::HelperGone)
    }

    fn spawn(&self) -> Result<Running, ExecError> {
        let path = self.binary.clone().unwrap_or_else(|| "/proc/self/exe".into());
        let exe = File::open(&path).map_err(|err| io_error(&format!("open {}", path.display()), &err))?;
        // A read-only mount of the file alone: a step that gets hold of `/proc/1/exe` before its program begins cannot
        // write to it (CVE-2019-5736).
        let exe: OwnedFd = match MountTree::bind_fd(&exe, true) {
            Ok(tree) => tree.into_fd(),
            Err(err) => {
                tracing::warn!(error = %err, "the sandbox helper runs from a writable file");
                exe.into()
            }
        };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|err| io_error("make a socket pair", &err.into()))?;
        let child = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
            .arg0(ARGV0)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|err| io_error("start the sandbox helper", &err))?;
        Ok(Running { socket: Some(ours), child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends when its socket closes, after killing what runs; a few milliseconds at most.
        self.socket = None;
        if let Err(err) = self.child.wait() {
            tracing::debug!(error = %err, "the sandbox helper was not there to wait for");
        }
    }
}
