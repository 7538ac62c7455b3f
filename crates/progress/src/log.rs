use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use rbuild_api::moby::buildkit::v1::StatusResponse;
use tokio::sync::watch;

use crate::reporter::{Reporter, VertexInfo};
use crate::spool::{Next, Spool, read_record};

/// One build's event log. Cheap to clone; all clones write to the same log.
#[derive(Debug, Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spool: Mutex<Spool>,
    /// Counts writes, so that subscribers wake; `closed` ends them once they have read all.
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    written: u64,
    closed: bool,
}

impl Progress {
    /// A log that is spooled to a new file at `path`. The caller removes the file when nobody wants it any more.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::with(Spool::create(path)?))
    }

    /// A log in memory: for tests and for builds of a few events.
    pub fn memory() -> Self {
        Self::with(Spool::memory())
    }

    fn with(spool: Spool) -> Self {
        let inner = Inner { spool: Mutex::new(spool), state: watch::Sender::new(State::default()) };
        Self { inner: Arc::new(inner) }
    }

    /// Writes about one vertex.
    pub fn vertex(&self, info: VertexInfo) -> Reporter {
        Reporter::new(self.clone(), info)
    }

    /// Appends events. Never waits for a reader. What cannot be written (a full disk) is dropped with a warning:
    /// a build must not fail because its log cannot be kept.
    pub fn push(&self, events: &StatusResponse) {
        let record = events.encode_to_vec().into();
        if let Err(error) = self.inner.spool.lock().push(record) {
            tracing::warn!(%error, "writing a build's event log");
            return;
        }
        self.inner.state.send_modify(|state| state.written += 1);
    }

    /// Nothing more is written; subscribers end when they have read all.
    pub fn close(&self) {
        self.inner.state.send_modify(|state| state.closed = true);
    }

    /// All events from the start, then live ones; ends after [`Progress::close`].
    pub fn subscribe(&self) -> impl Stream<Item = StatusResponse> + Send + 'static {
        let state = self.inner.state.subscribe();
        let start = Cursor { inner: self.inner.clone(), state, offset: 0 };
        futures::stream::unfold(start, |mut cursor| async move {
            let events = cursor.next().await?;
            Some((events, cursor))
        })
    }
}

struct Cursor {
    inner: Arc<Inner>,
    state: watch::Receiver<State>,
    offset: u64,
}

impl Cursor {
    async fn next(&mut self) -> Option<StatusResponse> {
        loop {
            // Looked at before the spool: what is written in between is then a change still to be seen.
            let closed = self.state.borrow_and_update().closed;
            let next = self.inner.spool.lock().next(self.offset);
            let (record, after) = match next {
                Next::Record(record, after) => (record, after),
                Next::OnDisk(file) => {
                    let offset = self.offset;
                    match tokio::task::spawn_blocking(move || read_record(&file, offset)).await {
                        Ok(Ok(found)) => found,
                        Ok(Err(error)) => {
                            tracing::warn!(%error, "reading a build's event log");
                            return None;
                        }
                        Err(_) => return None,
                    }
                }
                Next::End if closed => return None,
                Next::End => {
                    self.state.changed().await.ok()?;
                    continue;
                }
            };
            self.offset = after;
            match StatusResponse::decode(record) {
                Ok(events) => return Some(events),
                Err(error) => tracing::warn!(%error, "a record of a build's event log is broken"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use rbuild_digest::Digest;

    use super::*;

    fn info(name: &str) -> VertexInfo {
        VertexInfo { digest: Digest::of(name), name: name.into(), inputs: vec![], group: None }
    }

    #[tokio::test]
    async fn late_and_early_subscribers_see_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress::create(&dir.path().join("log")).unwrap();
        let early = progress.subscribe();
        let reporter = progress.vertex(info("a"));
        reporter.known();
        reporter.started();
        for _ in 0..2_000 {
            reporter.log(1, &[b'x'; 1_000]);
        }
        reporter.completed(None);
        let late = progress.subscribe();
        progress.close();
        let (early, late) = tokio::join!(early.collect::<Vec<_>>(), late.collect::<Vec<_>>());
        assert_eq!(early, late);
        let bytes: usize = early.iter().flat_map(|events| &events.logs).map(|log| log.msg.len()).sum();
        assert_eq!(bytes, 2_000_000);
        assert!(early.last().unwrap().vertexes[0].completed.is_some());
    }

    #[tokio::test]
    async fn a_subscriber_waits_for_what_comes() {
        let progress = Progress::memory();
        let mut events = Box::pin(progress.subscribe());
        assert!(futures::poll!(events.next()).is_pending());
        progress.vertex(info("a")).known();
        assert_eq!(events.next().await.unwrap().vertexes[0].name, "a");
        progress.close();
        assert!(events.next().await.is_none());
    }
}
