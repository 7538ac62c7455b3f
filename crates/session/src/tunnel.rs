//! The byte stream inside a stream of `BytesMessage`s, and the tasks of the HTTP/2 connection on it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, PollSender, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// Messages that may wait for the network. With [`MAX_CHUNK`] this bounds what a slow peer makes us hold.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Largest chunk written in one message: below every peer's message limit, large enough to make its cost vanish.
const MAX_CHUNK: usize = 256 * 1024;
/// Bytes a peer may send on one stream before it must wait for us. Small windows are what makes a session slow.
pub(crate) const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// The same for all streams of a connection together.
pub(crate) const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Largest HTTP/2 frame we take.
pub(crate) const MAX_FRAME: u32 = 1024 * 1024;

/// One end of the tunnel as a byte stream. When the token is cancelled it reads as ended and refuses writes; when the
/// peer ends, the token is cancelled.
pub(crate) struct TunnelIo {
    inbound: BoxStream<'static, io::Result<Bytes>>,
    pending: Bytes,
    outbound: PollSender<Bytes>,
    token: CancellationToken,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl std::fmt::Debug for TunnelIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelIo").field("closed", &self.token.is_cancelled()).finish_non_exhaustive()
    }
}

/// A byte stream over `inbound`; what is written comes out of the receiver.
pub(crate) fn tunnel<S>(inbound: S, token: CancellationToken) -> (TunnelIo, mpsc::Receiver<Bytes>)
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let io = TunnelIo {
        inbound: inbound.boxed(),
        pending: Bytes::new(),
        outbound: PollSender::new(sender),
        cancelled: Box::pin(token.clone().cancelled_owned()),
        token,
    };
    (io, receiver)
}

impl Drop for TunnelIo {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.pending.is_empty() {
            if this.cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.inbound.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => this.pending = chunk,
                Some(Err(err)) => {
                    this.token.cancel();
                    return Poll::Ready(Err(err));
                }
                None => {
                    this.token.cancel();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let take = this.pending.len().min(buf.remaining());
        buf.put_slice(&this.pending[..take]);
        this.pending.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let broken = || io::Error::new(io::ErrorKind::BrokenPipe, "session closed");
        if this.token.is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        if ready!(this.outbound.poll_reserve(cx)).is_err() {
            this.token.cancel();
            return Poll::Ready(Err(broken()));
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut chunk = Vec::with_capacity(total.min(MAX_CHUNK));
        for slice in slices {
            let room = MAX_CHUNK - chunk.len();
            chunk.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let written = chunk.len();
        this.outbound.send_item(chunk.into()).map_err(|_| broken())?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outbound.close();
        Poll::Ready(Ok(()))
    }
}

/// Runs a connection's tasks so that they have an owner: all end when the token is cancelled.
#[derive(Clone, Debug)]
pub(crate) struct OwnedTasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) token: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for OwnedTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.tracker.spawn(self.token.clone().run_until_cancelled_owned(task));
    }
}
