//! The trace of a build: written a moment after its end, when its client had the time to send its part.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use rbuild_trace::{BuildTrace, Ending, Trace};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::record::{FileKind, HistoryBlob, HistoryRecord};
use super::recording::hash;
use super::{History, HistoryEventKind, HistoryRefusal};

/// Clients send their spans when they end, which is soon after the build. Source: as long as upstream waits.
const CLIENT_HAS: Duration = Duration::from_secs(3);

/// Traces that are to be written.
#[derive(Debug, Default)]
pub(super) struct Traces {
    tasks: TaskTracker,
    /// The daemon ends: no more waiting.
    closing: CancellationToken,
    waiting: Mutex<HashMap<String, Waiting>>,
    /// Files of a build are written or removed by one at a time. Held by threads that may block.
    pub(super) files: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Waiting {
    /// Somebody wants it now.
    wanted: CancellationToken,
    /// There is nothing more to come.
    done: CancellationToken,
}

impl History {
    /// Keeps the trace of a build that ended, in the background.
    pub(super) fn trace_later(&self, record: Arc<HistoryRecord>, trace: BuildTrace) {
        let traces = &self.inner.traces;
        let waiting = Waiting::default();
        traces.waiting.lock().insert(record.id.clone(), waiting.clone());
        let closing = traces.closing.clone();
        // A history that is gone needs no traces, and is not held for them.
        let inner = Arc::downgrade(&self.inner);
        traces.tasks.spawn(async move {
            let _done = waiting.done.clone().drop_guard();
            tokio::select! {
                () = tokio::time::sleep(CLIENT_HAS) => {}
                () = waiting.wanted.cancelled() => {}
                () = closing.cancelled() => {}
            }
            let Some(history) = inner.upgrade().map(|inner| Self { inner }) else { return };
            if let Err(error) = history.keep_trace(&record, trace).await {
                tracing::warn!(build = %record.id, %error, "keeping the trace of a build");
            }
            let mut all = history.inner.traces.waiting.lock();
            // A build that took the id since has an entry of its own.
            if all.get(&record.id).is_some_and(|entry| entry.done == waiting.done) {
                all.remove(&record.id);
            }
        });
    }

    /// Has everything of a build that ended written now, and waits for it.
    pub async fn finalize(&self, id: &str) -> Result<(), HistoryRefusal> {
        self.inner.state.lock().known(id)?;
        let waiting = self.inner.traces.waiting.lock().get(id).cloned();
        if let Some(waiting) = waiting {
            waiting.wanted.cancel();
            waiting.done.cancelled().await;
        }
        Ok(())
    }

    /// Writes what is still to be written.
    pub(crate) async fn close(&self) {
        self.inner.traces.closing.cancel();
        self.inner.traces.tasks.close();
        self.inner.traces.tasks.wait().await;
    }

    async fn keep_trace(&self, record: &Arc<HistoryRecord>, trace: BuildTrace) -> io::Result<()> {
        let mut spans = trace.spans();
        let mut events = rbuild_progress::replay(&self.file(&record.id, FileKind::Log))?;
        while let Some(status) = events.next().await {
            spans.add(&status);
        }
        let trace = trace.finish(spans, &ending(record));
        let (history, ours) = (self.clone(), record.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _turn = history.inner.traces.files.lock();
            if !history.is_kept(&ours) {
                return Ok(None);
            }
            let path = history.file(&ours.id, FileKind::Trace);
            let written = write(&path, &trace);
            if written.is_err() {
                super::remove(&path);
            }
            written.map(Some)
        });
        let Some(blob) = written.await.map_err(io::Error::other)?? else { return Ok(()) };
        let record = {
            let mut state = self.inner.state.lock();
            let Some(kept) = state.ended.get_mut(&record.id) else { return Ok(()) };
            if kept.created_ms != record.created_ms {
                return Ok(());
            }
            let changed =
                HistoryRecord { trace: Some(blob), generation: kept.generation + 1, ..(**kept).clone() };
            *kept = Arc::new(changed);
            let record = kept.clone();
            self.tell(HistoryEventKind::Complete, &record);
            record
        };
        self.put(&record).await.map_err(io::Error::other)
    }

    /// Whether the history still has this very build.
    fn is_kept(&self, record: &HistoryRecord) -> bool {
        let state = self.inner.state.lock();
        state.ended.get(&record.id).is_some_and(|kept| kept.created_ms == record.created_ms)
    }
}

fn ending(record: &HistoryRecord) -> Ending<'_> {
    let count = |name, number: u32| (name, number.to_string());
    let tally = &record.tally;
    Ending {
        build: &record.id,
        frontend: &record.frontend,
        begun_ms: record.created_ms,
        ended_ms: record.completed_ms.unwrap_or(record.created_ms),
        error: record.error.as_ref().map(|error| error.message.as_str()),
        attributes: vec![count("steps", tally.total), count("steps.cached", tally.cached)],
    }
}

fn write(path: &Path, trace: &Trace) -> io::Result<HistoryBlob> {
    let mut file = BufWriter::new(File::create(path)?);
    trace.write(&mut file)?;
    file.flush()?;
    hash(path)
}
