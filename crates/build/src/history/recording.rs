use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_digest::{Digest, Hasher};
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_progress::Progress;
use rbuild_trace::BuildTrace;

use super::record::{FileKind, HistoryAttestation, HistoryBlob, HistoryError, HistoryRecord, now_ms};
use super::{History, HistoryEventKind};
use crate::explain::Explained;
use crate::provenance::RecordedAttestation;
use crate::request::BuildOutcome;
use crate::usage::Usages;

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
        usages: Usages,
    ) {
        self.progress.close();
        self.progress.closed().await;
        match self.keep(outcome, explained, usages).await {
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
        usages: Usages,
    ) -> io::Result<Arc<HistoryRecord>> {
        let log = self.history.file(&self.record.id, FileKind::Log);
        let error_file = self.history.file(&self.record.id, FileKind::Error);
        let status = outcome.as_ref().err().map(|error| (self.history.inner.encode_error)(error));
        let said = outcome.as_ref().map(|outcome| outcome.attestations.clone()).unwrap_or_default();
        let paths = (0..).map(|number| self.history.file(&self.record.id, FileKind::Attestation(number)));
        let said: Vec<_> = said.into_iter().zip(paths).collect();
        let usage_file = self.history.file(&self.record.id, FileKind::Usage);
        let (log, status, usage, said) = tokio::task::spawn_blocking(move || {
            let status = match status {
                None => None,
                Some(bytes) => {
                    std::fs::write(&error_file, &bytes)?;
                    Some(hash(&error_file)?)
                }
            };
            let said = said.into_iter().map(keep_attestation).collect::<io::Result<Vec<_>>>()?;
            let usage = match usages.is_empty() {
                true => None,
                false => Some(keep_usages(&usage_file, &usages)?),
            };
            Ok::<_, io::Error>((hash(&log)?, status, usage, said))
        })
        .await
        .map_err(io::Error::other)??;
        let mut record = (*self.record).clone();
        record.completed_ms = Some(now_ms());
        record.log = Some(log);
        record.usage = usage;
        record.attestations = said;
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

fn keep_usages(path: &Path, usages: &Usages) -> io::Result<HistoryBlob> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    usages.write(&mut file)?;
    io::Write::flush(&mut file)?;
    hash(path)
}

fn keep_attestation((said, path): (RecordedAttestation, PathBuf)) -> io::Result<HistoryAttestation> {
    std::fs::write(&path, &said.predicate)?;
    let predicate = HistoryBlob { digest: Digest::of(&said.predicate), size: said.predicate.len() as u64 };
    Ok(HistoryAttestation { id: said.id, predicate_type: said.predicate_type, predicate })
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
