//! One running step: its reports, its streams, its end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Kept, Launched, blocking, io_error};
use crate::cgroup::Cgroup;
use crate::error::{ExecError, Failure};
use crate::init::wire::{self, REPORT_MAX, Report};
use crate::runtime::{ExitStatus, Input, Output, ProcessIo, Sandbox};
use crate::spec::TermSize;
use crate::streams::{Streams, Terminal, next};
use crate::stubs;
use crate::usage::{Meter, StepUsage};

const SIGKILL: i32 = 9;

/// Watches a step to its end and cleans up after it.
pub(super) async fn run(
    mut launched: Launched,
    mut io: ProcessIo,
    cancel: CancellationToken,
) -> Result<ExitStatus, ExecError> {
    let mut watch = Watch {
        streams: Streams::default(),
        stubs: Vec::new(),
        failure: None,
        exited: None,
        terminal: None,
        started: io.started.take(),
        sandbox: io.sandbox.take(),
        process: None,
        cgroups: launched.kept.cgroup.as_ref().map(Cgroup::procs).unwrap_or_default(),
        terminal_io: None,
    };
    if launched.tty {
        watch.terminal_io = Some((std::mem::take(&mut io.stdin), std::mem::take(&mut io.stdout)));
    } else {
        pipes(&mut watch.streams, &mut launched, &mut io)?;
    }
    let ctl = reactor_socket(launched.ctl).map_err(|err| io_error("watch the step", &err))?;
    let following = watch.follow(&ctl, &mut io.resize, &mut io.signals, &cancel);
    let cancelled = match &mut launched.kept.meter {
        None => following.await?,
        Some(meter) => tokio::select! {
            followed = following => followed?,
            never = meter.watch() => match never {},
        },
    };
    let streams = watch.streams.finish(cancelled).await;
    let (oom_killed, usage) = clean_up(launched.kept, watch.stubs).await?;
    if let (Some(told), Some(usage)) = (io.usage.take(), usage) {
        // Nobody needs to be waiting for it.
        told.send(usage).ok();
    }
    if cancelled {
        return Err(ExecError::Cancelled);
    }
    if let Some(failure) = watch.failure {
        return Err(failure.into());
    }
    streams?;
    let status = watch.exited.ok_or(ExecError::HelperGone)?;
    Ok(ExitStatus { oom_killed, ..status })
}

/// The ctl socket in the reactor. It keeps message bounds as a datagram socket does, and it notices a hang-up.
fn reactor_socket(fd: OwnedFd) -> io::Result<UnixDatagram> {
    let socket = std::os::unix::net::UnixDatagram::from(fd);
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

struct Watch {
    streams: Streams,
    stubs: Vec<PathBuf>,
    failure: Option<Failure>,
    exited: Option<ExitStatus>,
    terminal: Option<Terminal>,
    started: Option<oneshot::Sender<()>>,
    /// Whoever wants to have further processes in the step.
    sandbox: Option<oneshot::Sender<Sandbox>>,
    process: Option<OwnedFd>,
    cgroups: Vec<PathBuf>,
    /// Waits for the terminal to be reported.
    terminal_io: Option<(Input, Output)>,
}

impl Watch {
    /// Takes reports until the step is gone; true if it was cancelled.
    async fn follow(
        &mut self,
        ctl: &UnixDatagram,
        resize: &mut Option<mpsc::Receiver<TermSize>>,
        signals: &mut Option<mpsc::Receiver<i32>>,
        cancel: &CancellationToken,
    ) -> Result<bool, ExecError> {
        let stage = |err: io::Error| io_error("watch the step", &err);
        let mut cancelled = false;
        let mut buf = vec![0; REPORT_MAX];
        loop {
            tokio::select! {
                ready = ctl.readable() => {
                    ready.map_err(stage)?;
                    let receive = || Ok(wire::receive(ctl, &mut buf, RecvFlags::DONTWAIT)?);
                    match ctl.try_io(Interest::READABLE, receive) {
                        Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                        Ok((0, _)) | Err(_) => return Ok(cancelled),
                        Ok((n, fds)) => {
                            if self.take(&buf[..n], fds)? {
                                return Ok(cancelled);
                            }
                        }
                    }
                }
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    signal(ctl, SIGKILL);
                }
                // A size that comes before the terminal waits for it.
                Some(size) = next(resize), if self.terminal.is_some() => {
                    if let Some(terminal) = &self.terminal
                        && let Err(err) = terminal.resize(size)
                    {
                        tracing::debug!(error = %err, "terminal not resized");
                    }
                }
                Some(number) = next(signals) => signal(ctl, number),
            }
        }
    }

    /// Acts on one report; true if it was the last.
    fn take(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<bool, ExecError> {
        let report = serde_json::from_slice(bytes)
            .map_err(|err| io_error("read the sandbox's report", &io::Error::other(err)))?;
        match report {
            Report::Stub(path) => self.stubs.push(PathBuf::from(OsString::from_vec(path))),
            Report::Process => self.process = fds.into_iter().next(),
            Report::Console => self.open_terminal(fds)?,
            Report::Failed(failure) => self.failure = Some(failure),
            Report::Ready => {
                // Nobody needs to be waiting for it.
                self.started.take().map(|started| started.send(()));
                if let (Some(sandbox), Some(process)) = (self.sandbox.take(), self.process.take()) {
                    let cgroups = std::mem::take(&mut self.cgroups);
                    // As above.
                    sandbox.send(Sandbox { process, cgroups }).ok();
                }
            }
            Report::Exited { code, signal } => {
                self.exited = Some(ExitStatus { code, signal, oom_killed: false });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn open_terminal(&mut self, fds: Vec<OwnedFd>) -> Result<(), ExecError> {
        let (Some(fd), Some((stdin, stdout))) = (fds.into_iter().next(), self.terminal_io.take()) else {
            return Ok(());
        };
        let stage = |err: io::Error| io_error("open the terminal", &err);
        let terminal = Terminal::new(fd).map_err(stage)?;
        self.streams.output("terminal", terminal.reader().map_err(stage)?, stdout);
        self.streams.input(stdin, terminal.writer().map_err(stage)?);
        self.terminal = Some(terminal);
        Ok(())
    }
}

fn signal(ctl: &UnixDatagram, number: i32) {
    if let Err(err) = wire::send(ctl, &number.to_le_bytes(), &[], SendFlags::DONTWAIT) {
        tracing::debug!(error = %err, number, "signal not delivered");
    }
}

/// Listens to the step's pipes, where anybody cares.
fn pipes(streams: &mut Streams, launched: &mut Launched, io: &mut ProcessIo) -> Result<(), ExecError> {
    let stage = |err: io::Error| io_error("watch the streams", &err);
    for (name, fd, output) in [
        ("stdout", launched.stdout.take(), &mut io.stdout),
        ("stderr", launched.stderr.take(), &mut io.stderr),
    ] {
        if let Some(fd) = fd {
            let from = pipe::Receiver::from_owned_fd(fd).map_err(stage)?;
            streams.output(name, from, std::mem::take(output));
        }
    }
    if let Some(fd) = launched.stdin.take() {
        let to = pipe::Sender::from_owned_fd(fd).map_err(stage)?;
        streams.input(std::mem::take(&mut io.stdin), to);
    }
    Ok(())
}

/// Removes empty mount points and the cgroup; says whether the kernel killed for lack of memory, and what was used.
async fn clean_up(kept: Kept, paths: Vec<PathBuf>) -> Result<(bool, Option<StepUsage>), ExecError> {
    if paths.is_empty() && kept.cgroup.is_none() {
        return Ok((false, None));
    }
    blocking(move || {
        if let Some(dir) = &kept.write_dir {
            stubs::remove(dir, &paths)?;
        }
        let Some(cgroup) = kept.cgroup else {
            return Ok((false, None));
        };
        let usage = kept.meter.map(Meter::finish);
        let oom_killed = cgroup.oom_killed();
        cgroup.remove();
        Ok((oom_killed, usage))
    })
    .await?
}
