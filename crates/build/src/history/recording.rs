use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use rbuild_digest::Hasher;
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_progress::Progress;
use rbuild_trace::BuildTrace;

use super::record::{FileKind, HistoryBlob, HistoryError, HistoryRecord, now_ms};
use super::{History, HistoryEventKind};
use crate::explain::Explained;
use crate::request::BuildOutcome;

/// Bytes hashed at a time.
const CHUNK: usize = 128 << 10;

/// A running build's entry. Dropped without [`Recording::finish`] (the build's task ended early), it leaves nothing.
#[derive(Debug)]
pub(crate) struct Recording {
    history: History,
    record: Arc<HistoryRecord>,
    progress: Progress,
    trace: Option<BuildTrace>,
    finished: bool,
}

impl Recording {
    pub(super) fn new(
        history: History,
        record: Arc<HistoryRecord>,
        progress: Progress,
        trace: BuildTrace,
    ) -> Self {
        Self { history, record, progress, trace: Some(trace), finished: false }
    }

    /// Closes the log and keeps the build. The build itself has ended, so a failure here is logged only.
    pub(crate) async fn finish(
        mut self,
        outcome: &Result<BuildOutcome, BuildError>,
        explained: Vec<Explained>,
    ) {
        self.progress.close();
        self.progress.closed().await;
        match self.keep(outcome, explained).await {
            Ok(record) => {
                self.finished = true;
                if let Some(trace) = self.trace.take().filter(|_| !record.internal) {
                    self.history.trace_later(record, trace);
                }
            }
            Err(error) => tracing::warn!(build = %self.record.id, %error, "keeping a build in the history"),
        }
        let history = self.history.clone();
        drop(self);
        history.collect().await;
    }

    async fn keep(
        &self,
        outcome: &Result<BuildOutcome, BuildError>,
        explained: Vec<Explained>,
    ) -> io::Result<Arc<HistoryRecord>> {
        let log = self.history.file(&self.record.id, FileKind::Log);
        let error_file = self.history.file(&self.record.id, FileKind::Error);
        let status = outcome.as_ref().err().map(|error| (self.history.inner.encode_error)(error));
        let (log, status) = tokio::task::spawn_blocking(move || {
            let status = match status {
                None => None,
                Some(bytes) => {
                    std::fs::write(&error_file, &bytes)?;
                    Some(hash(&error_file)?)
                }
            };
            Ok::<_, io::Error>((hash(&log)?, status))
        })
        .await
        .map_err(io::Error::other)??;
        let mut record = (*self.record).clone();
        record.completed_ms = Some(now_ms());
        record.log = Some(log);
        record.tally = self.progress.tally();
        record.explained = explained;
        match outcome {
            Ok(outcome) => record.response.clone_from(&outcome.exporter_response),
            Err(error) => {
                record.error = status.map(|status| HistoryError {
                    message: error.message.clone(),
                    cancelled: error.code == ErrorCode::Cancelled,
                    status,
                });
            }
        }
        self.history.put(&record).await.map_err(io::Error::other)?;
        let record = Arc::new(record);
        let mut state = self.history.inner.state.lock();
        state.running.remove(&record.id);
        state.ended.insert(record.id.clone(), record.clone());
        self.history.tell(HistoryEventKind::Complete, &record);
        drop(state);
        Ok(record)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let id = &self.record.id;
        {
            let mut state = self.history.inner.state.lock();
            state.busy.insert(id.clone());
            if state.running.remove(id).is_some() {
                self.history.tell(HistoryEventKind::Deleted, &self.record);
            }
        }
        // Those who read the log hold the file.
        self.history.remove_files_later(id);
    }
}

/// The name of a file's content. Blocking.
pub(super) fn hash(path: &Path) -> io::Result<HistoryBlob> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(HistoryBlob { digest: hasher.finish(), size });
        }
        hasher.update(&chunk[..count]);
        size += count as u64;
    }
}
