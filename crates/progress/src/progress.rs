use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use rbuild_api::moby::buildkit::v1::{StatusResponse, VertexLog, VertexWarning};
use rbuild_digest::Digest;

use crate::reporter::{Reporter, VertexInfo, Warning};
use crate::spool::Spool;
use crate::subscribe::StatusStream;
use crate::tally::{Counts, Tally};
use crate::time;

/// Log bytes of one event. Small enough that a stream of responses stays smooth.
const MAX_LOG_EVENT: usize = 32 << 10;
/// How long a writer with back-pressure waits before it looks again whether the disk has caught up.
const ROOM_POLL: Duration = Duration::from_millis(5);

/// Bounds of an event log.
#[derive(Debug, Clone)]
pub struct ProgressOptions {
    /// Log bytes of one build that are kept; beyond, output is clipped and the log says so.
    pub max_log_bytes: u64,
}

impl Default for ProgressOptions {
    /// 1 GiB: more than any sane build prints, less than what fills a disk.
    fn default() -> Self {
        Self { max_log_bytes: 1 << 30 }
    }
}

/// The event log of one build. A cheap handle; all clones are one log.
#[derive(Debug, Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spool: Arc<Spool>,
    options: ProgressOptions,
    logged: AtomicU64,
    counts: Mutex<Counts>,
}

impl Progress {
    /// A log that is spooled to a new file at `path` (truncated if it is there). The file stays after the
    /// build; [`crate::replay`] reads it again. Blocks for as long as opening a file does.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_with(path, ProgressOptions::default())
    }

    /// The same with bounds.
    pub fn create_with(path: &Path, options: ProgressOptions) -> io::Result<Self> {
        Ok(Self::new(Spool::create(path)?, options))
    }

    /// A log in memory, without a bound but that of logs: for tests and small synthetic builds.
    pub fn memory() -> Self {
        Self::new(Spool::memory(), ProgressOptions::default())
    }

    fn new(spool: Arc<Spool>, options: ProgressOptions) -> Self {
        let inner = Inner { spool, options, logged: AtomicU64::new(0), counts: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The spool file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.inner.spool.path()
    }

    /// Starts reporting on a vertex. Nothing is shown before the first event.
    pub fn vertex(&self, info: VertexInfo) -> Reporter {
        Reporter::new(self.clone(), info)
    }

    /// All events from the start, then live; ends after [`Progress::close`]. Any number may subscribe, at any
    /// time, and read as slowly as they like.
    pub fn subscribe(&self) -> StatusStream {
        StatusStream::new(self.inner.spool.store(), Some(self.inner.spool.extent()))
    }

    /// Ends the log: subscribers end once they have read it all, later events are dropped.
    pub fn close(&self) {
        self.inner.spool.close();
    }

    /// Waits until the log is closed and all of it can be read by subscribers.
    pub async fn closed(&self) {
        let mut extent = self.inner.spool.extent();
        // An error means that the writer is gone, which is as closed as can be.
        extent.wait_for(|extent| extent.closed).await.ok();
    }

    /// What the events so far add up to.
    pub fn tally(&self) -> Tally {
        self.inner.counts.lock().tally()
    }

    /// Adds events as they are, for instance those of a frontend or another daemon.
    pub fn push(&self, status: &StatusResponse) {
        if !status.vertexes.is_empty() || !status.warnings.is_empty() {
            self.inner.counts.lock().add(status);
        }
        self.inner.spool.append(&status.encode_to_vec());
    }

    /// A warning, about a vertex or about the build.
    pub fn warn(&self, vertex: Option<Digest>, warning: Warning) {
        let warning = VertexWarning {
            vertex: vertex.map(|digest| digest.to_string()).unwrap_or_default(),
            level: warning.level,
            short: warning.short.into_bytes(),
            detail: warning.detail.into_iter().map(String::into_bytes).collect(),
            url: warning.url,
            info: warning.info,
            ranges: warning.ranges,
        };
        self.push(&StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    }

    /// Log bytes of a vertex, clipped at the bound.
    pub(crate) fn log(&self, vertex: &str, stream: i64, bytes: &[u8]) {
        let limit = self.inner.options.max_log_bytes;
        let before = self.inner.logged.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let room = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
        let (kept, clipped) = bytes.split_at(bytes.len().min(room));
        for part in kept.chunks(MAX_LOG_EVENT) {
            self.push_log(vertex, stream, part.to_vec());
        }
        if !clipped.is_empty() && before <= limit {
            let note = format!("\n[output clipped, log limit {} MiB reached]\n", limit >> 20);
            self.push_log(vertex, stream, note.into_bytes());
        }
    }

    fn push_log(&self, vertex: &str, stream: i64, msg: Vec<u8>) {
        let timestamp = Some(time::now());
        let log = VertexLog { vertex: vertex.to_owned(), timestamp, stream, msg };
        let status = StatusResponse { logs: vec![log], ..StatusResponse::default() };
        self.inner.spool.append(&status.encode_to_vec());
    }

    /// Waits until the disk has caught up with what was logged.
    pub(crate) async fn room(&self) {
        while !self.inner.spool.has_room() {
            tokio::time::sleep(ROOM_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests;
