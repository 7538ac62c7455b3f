//! Moving a process's bytes: pipes or a terminal on one side, the caller's sources and sinks on the other.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::ExecError;
use crate::runtime::{Chunk, Input, Output};
use crate::spec::TermSize;

/// Bytes held for one stream at most, beside the pipe's own 64 KiB. Half a pipe: one wake-up moves as much as the
/// process can have written meanwhile.
pub const OUTPUT_BUFFER: usize = 32 * 1024;
/// How long a pipe may stay silent and open after its process ended. Only somebody outside of the sandbox can hold it
/// then (a descriptor sent through a mounted socket), and nobody waits for them.
const SILENCE_AFTER_END: Duration = Duration::from_secs(2);

/// Hands everything from `from` to `to`, until its end, or a silence after `ended`.
///
/// A sink that fails does not stop the process: the rest is read and dropped, and the first error returned.
async fn drain(mut from: impl AsyncRead + Unpin, mut to: Output, ended: CancellationToken) -> io::Result<()> {
    let mut outcome = Ok(());
    let mut buf = BytesMut::with_capacity(OUTPUT_BUFFER);
    loop {
        buf.clear();
        buf.reserve(OUTPUT_BUFFER);
        let n = if ended.is_cancelled() {
            match tokio::time::timeout(SILENCE_AFTER_END, from.read_buf(&mut buf)).await {
                Ok(read) => read?,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                biased;
                read = from.read_buf(&mut buf) => read?,
                () = ended.cancelled() => continue,
            }
        };
        if n == 0 {
            break;
        }
        match &mut to {
            Output::Null => {}
            Output::Channel { to: channel, tag } => {
                let chunk = Chunk { tag: *tag, bytes: buf.split().freeze() };
                if channel.send(chunk).await.is_err() {
                    to = Output::Null;
                }
            }
            Output::Writer(writer) => {
                if let Err(err) = writer.write_all(&buf).await {
                    outcome = Err(err);
                    to = Output::Null;
                }
            }
        }
    }
    if let Output::Writer(mut writer) = to {
        writer.shutdown().await?;
    }
    outcome
}

/// Feeds a process; that it does not read to the end is its own affair.
async fn feed(from: Input, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let Input::Reader(mut from) = from else {
        return Ok(());
    };
    match tokio::io::copy(&mut from, &mut to).await {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map(drop),
    }
}

/// The next message of a channel that may not exist; pending for ever if there will be none.
pub(crate) async fn next<T>(channel: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match channel {
        None => std::future::pending().await,
        Some(receiver) => {
            let message = receiver.recv().await;
            if message.is_none() {
                *channel = None;
            }
            message
        }
    }
}

/// The tasks that move a step's bytes; dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    outputs: JoinSet<Result<(), ExecError>>,
    inputs: JoinSet<()>,
    ended: CancellationToken,
}

impl Streams {
    /// Moves output of the step.
    pub(crate) fn output(
        &mut self,
        stream: &'static str,
        from: impl tokio::io::AsyncRead + Unpin + Send + 'static,
        to: Output,
    ) {
        let moving = drain(from, to, self.ended.clone());
        self.outputs.spawn(named(stream, moving));
    }

    /// Moves input to the step.
    pub(crate) fn input(&mut self, from: Input, to: impl tokio::io::AsyncWrite + Unpin + Send + 'static) {
        self.inputs.spawn(async move {
            // A source that fails shows at its owner; the process sees an end.
            if let Err(err) = feed(from, to).await {
                tracing::debug!(error = %err, "standard input ended early");
            }
        });
    }

    /// Waits for what the process still wrote (not if it was cancelled: nobody may be listening any more).
    pub(crate) async fn finish(mut self, cancelled: bool) -> Result<(), ExecError> {
        self.ended.cancel();
        if cancelled {
            self.outputs.abort_all();
        }
        let mut outcome = Ok(());
        while let Some(done) = self.outputs.join_next().await {
            match done {
                Ok(result) => outcome = outcome.and(result),
                Err(err) if err.is_cancelled() => {}
                Err(err) => outcome = Err(stream_error("move output", &io::Error::other(err))),
            }
        }
        outcome
    }
}

async fn named(stream: &'static str, moving: impl Future<Output = io::Result<()>>) -> Result<(), ExecError> {
    moving.await.map_err(|source| ExecError::Stream { stream, source })
}

fn stream_error(stage: &str, err: &io::Error) -> ExecError {
    ExecError::Setup { stage: stage.into(), message: err.to_string() }
}

/// The daemon's end of a terminal. To the reactor it is like a pipe, in both directions.
#[derive(Debug)]
pub(crate) struct Terminal {
    fd: OwnedFd,
}

impl Terminal {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Terminal> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Terminal { fd })
    }

    /// What is written at the other end.
    pub(crate) fn reader(&self) -> io::Result<TerminalReader> {
        Ok(TerminalReader(pipe::Receiver::from_owned_fd_unchecked(self.fd.try_clone()?)?))
    }

    /// What is typed.
    pub(crate) fn writer(&self) -> io::Result<pipe::Sender> {
        pipe::Sender::from_owned_fd_unchecked(self.fd.try_clone()?)
    }

    pub(crate) fn resize(&self, size: TermSize) -> io::Result<()> {
        let size =
            rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.fd, size)?;
        Ok(())
    }
}

/// Output of a terminal.
#[derive(Debug)]
pub(crate) struct TerminalReader(pipe::Receiver);

impl AsyncRead for TerminalReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            // So a terminal says that nobody is at the other end any more.
            Poll::Ready(Err(err)) if err.raw_os_error() == Some(nix::libc::EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failing_sink_is_reported_after_the_end() {
        let (sink, receiver) = tokio::io::duplex(8);
        drop(receiver);
        let out = drain(&[7; 100][..], Output::writer(sink), CancellationToken::new()).await;
        assert_eq!(out.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_that_stays_open_is_left_after_a_silence() {
        let (mut sender, from) = tokio::io::duplex(64);
        sender.write_all(b"last words").await.unwrap();
        let ended = CancellationToken::new();
        ended.cancel();
        let (tx, mut rx) = tokio::sync::mpsc::channel(4);
        drain(from, Output::Channel { to: tx, tag: 0 }, ended).await.unwrap();
        assert_eq!(rx.recv().await.unwrap().bytes, "last words");
        drop(sender);
    }
}
