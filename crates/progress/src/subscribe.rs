use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use prost::Message;
use rbuild_api::moby::buildkit::v1::StatusResponse;
use tokio::sync::watch;

use crate::spool::{Extent, Store};

/// Bytes read at a time. Records within one read are joined into one response, so a response is about this
/// large at most, unless a single record is larger.
const CHUNK: usize = 128 << 10;
/// A record larger than any that is written: the file is not a spool, or damaged.
const MAX_RECORD: usize = 16 << 20;

/// Events of a build from the start, then live; ends when the build's log is closed.
pub struct StatusStream {
    state: State,
}

enum State {
    Idle(Box<Reader>),
    Busy(BoxFuture<'static, Option<(StatusResponse, Box<Reader>)>>),
    Done,
}

impl std::fmt::Debug for StatusStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusStream").finish_non_exhaustive()
    }
}

struct Reader {
    store: Arc<Store>,
    /// `None`: a finished log, read to its end.
    extent: Option<watch::Receiver<Extent>>,
    offset: u64,
    /// Bytes that were read and don't make a record yet.
    rest: Vec<u8>,
}

impl StatusStream {
    pub(crate) fn new(store: Arc<Store>, extent: Option<watch::Receiver<Extent>>) -> Self {
        let reader = Reader { store, extent, offset: 0, rest: Vec::new() };
        Self { state: State::Idle(Box::new(reader)) }
    }
}

/// The events of a finished build, from its spool file.
pub fn replay(path: &Path) -> io::Result<StatusStream> {
    let file = std::fs::File::open(path)?;
    Ok(StatusStream::new(Arc::new(Store::File { file, path: path.to_owned() }), None))
}

impl Stream for StatusStream {
    type Item = StatusResponse;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StatusResponse>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Idle(reader) => self.state = State::Busy(reader.next().boxed()),
                State::Busy(mut work) => match work.poll_unpin(cx) {
                    Poll::Pending => {
                        self.state = State::Busy(work);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some((status, reader))) => {
                        self.state = State::Idle(reader);
                        return Poll::Ready(Some(status));
                    }
                    Poll::Ready(None) => return Poll::Ready(None),
                },
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl Reader {
    /// The next events, joined; `None` at the end.
    async fn next(mut self: Box<Self>) -> Option<(StatusResponse, Box<Self>)> {
        loop {
            if !self.wait().await {
                return None;
            }
            let joined = tokio::task::spawn_blocking(move || {
                let outcome = self.read();
                (self, outcome)
            });
            let (reader, outcome) = joined.await.ok()?;
            self = reader;
            match outcome {
                Ok(Some(status)) => return Some((status, self)),
                Ok(None) if self.extent.is_none() => return None,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "build events unreadable");
                    return None;
                }
            }
        }
    }

    /// Waits until there is something to read. False: there never will be.
    async fn wait(&mut self) -> bool {
        let Some(extent) = &mut self.extent else { return true };
        loop {
            let now = *extent.borrow_and_update();
            if now.length > self.offset {
                return true;
            }
            if now.closed || extent.changed().await.is_err() {
                // The writer may have gone without closing; what it wrote last is still to be read.
                return extent.borrow().length > self.offset;
            }
        }
    }

    fn read(&mut self) -> io::Result<Option<StatusResponse>> {
        let mut chunk = vec![0; CHUNK];
        let limit = self.extent.as_ref().map_or(u64::MAX, |extent| extent.borrow().length);
        let mut status = StatusResponse::default();
        let mut found = false;
        while !found {
            let room = usize::try_from(limit.saturating_sub(self.offset)).unwrap_or(CHUNK).min(CHUNK);
            let count = self.store.read_at(&mut chunk[..room], self.offset)?;
            if count == 0 {
                return Ok(None);
            }
            self.offset += count as u64;
            self.rest.extend_from_slice(&chunk[..count]);
            found = self.take_records(&mut status)?;
        }
        Ok(Some(status))
    }

    /// Moves whole records into `status`.
    fn take_records(&mut self, status: &mut StatusResponse) -> io::Result<bool> {
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 4) {
            let length = head.iter().rev().fold(0usize, |n, byte| (n << 8) | usize::from(*byte));
            if length > MAX_RECORD {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "record too long"));
            }
            let Some(record) = self.rest.get(at + 4..at + 4 + length) else { break };
            // Merging an encoding appends to repeated fields, and there are no others.
            status.merge(record).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
            at += 4 + length;
        }
        self.rest.drain(..at);
        Ok(at > 0)
    }
}
