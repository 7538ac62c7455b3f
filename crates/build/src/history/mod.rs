//! The builds that ran: what was asked, how it ended, and every event, kept on disk within limits.
//!
//! Central type: [`History`]. A build's events are written to `history/<id>.log` while they happen (the same file that
//! `Status` reads from), its record goes into the store's database when it ends. A file that no record names is
//! garbage: a daemon that was killed forgets the builds that ran.
//!
//! Records are few (thousands at most) and small, so all of them are in memory; logs never are.

mod record;
mod recording;
mod traces;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_frontend::BuildError;
use rbuild_progress::{Progress, StatusStream};
use rbuild_store::Store;
use rbuild_trace::Tracer;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use crate::request::BuildRequest;

use record::FileKind;
pub(crate) use record::now_ms;
pub use record::{HistoryAttestation, HistoryBlob, HistoryError, HistoryRecord};
pub(crate) use recording::Recording;
use traces::Traces;

/// Space of the store's small values.
const SPACE: &str = "history";
/// Events that a listener may be behind; builds are not that frequent.
const EVENTS: usize = 1024;
/// Bytes of logs of ended builds; beyond, the oldest ones go. Ten builds that print as much as one may.
const MAX_LOG_BYTES: u64 = 10 << 30;

/// A client may ask for the status of a quick build only after its end.
const KEPT_ANYWAY_MS: i64 = 60_000;
/// Of so many builds at most: a client that starts quick builds one after the other must not make the daemon grow.
const KEPT_ANYWAY: usize = 128;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Ended builds go after this time.
    pub max_age: Duration,
    /// Ended builds beyond this number go, the oldest first.
    pub max_entries: usize,
}

impl Default for HistoryLimits {
    /// Two days and fifty builds. Source: upstream's configuration reference, `[history]`.
    fn default() -> Self {
        Self { max_age: Duration::from_secs(48 * 3600), max_entries: 50 }
    }
}

/// The wire's form of an error, of which this crate knows nothing.
pub type EncodeError = fn(&BuildError) -> Vec<u8>;

/// What happened to a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryEventKind {
    /// It began.
    Started,
    /// It ended, or its record was changed since.
    Complete,
    /// It is kept no longer.
    Deleted,
}

/// News of a build.
#[derive(Debug, Clone)]
pub struct HistoryEvent {
    /// What happened.
    pub kind: HistoryEventKind,
    /// The build as it is now.
    pub record: Arc<HistoryRecord>,
}

/// All builds that are known. A cheap handle.
#[derive(Debug, Clone)]
pub struct History {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    dir: PathBuf,
    limits: HistoryLimits,
    encode_error: EncodeError,
    tracer: Tracer,
    traces: Traces,
    state: Mutex<State>,
    events: broadcast::Sender<HistoryEvent>,
    /// Files being removed.
    removals: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    /// Ids that are not free although no build has them: their files are being made or removed.
    busy: HashSet<String>,
    running: HashMap<String, Arc<HistoryRecord>>,
    ended: BTreeMap<String, Arc<HistoryRecord>>,
}

/// What cannot be done with a build's record.
#[derive(Debug, thiserror::Error)]
pub enum HistoryRefusal {
    /// It is not known.
    #[error("no build `{0}` in the history")]
    Unknown(String),
    /// It runs.
    #[error("build `{0}` is still running")]
    Running(String),
    /// A build of that name was kept.
    #[error("a build with the id `{0}` exists already")]
    Taken(String),
    /// Its log.
    #[error("event log: {0}")]
    Log(#[source] io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] rbuild_store::StoreError),
}

impl History {
    /// Reads what is kept and removes files that belong to nothing. Blocks on the disk.
    pub(crate) fn open(
        store: Store,
        limits: HistoryLimits,
        encode_error: EncodeError,
        tracer: Tracer,
    ) -> io::Result<Self> {
        let dir = store.root().join("history");
        std::fs::create_dir_all(&dir)?;
        let mut state = State::default();
        for (key, value) in store.kv_list(SPACE).map_err(io::Error::other)? {
            match serde_json::from_slice::<HistoryRecord>(&value) {
                Ok(mut record) if record.id.as_bytes() == key && is_whole(&dir, &record) => {
                    // A trace is of no use to anybody but its reader: a build is kept without it.
                    record.trace = record.trace.filter(|blob| has(&dir, &record.id, *blob, FileKind::Trace));
                    record.usage = record.usage.filter(|blob| has(&dir, &record.id, *blob, FileKind::Usage));
                    state.ended.insert(record.id.clone(), Arc::new(record));
                }
                Ok(record) => tracing::warn!(build = %record.id, "files of the build history are damaged"),
                Err(error) => tracing::warn!(%error, "a record of the build history is unreadable"),
            }
        }
        sweep(&dir, &state)?;
        let (events, _) = broadcast::channel(EVENTS);
        let (state, removals) = (Mutex::new(state), TaskTracker::new());
        let traces = Traces::default();
        let inner = Inner { store, dir, limits, encode_error, tracer, traces, state, events, removals };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Enters a build that begins, and opens its log. Cancel: by drop, leaves nothing.
    pub(crate) async fn begin(
        &self,
        request: &BuildRequest,
    ) -> Result<(Recording, Progress), HistoryRefusal> {
        {
            let mut state = self.inner.state.lock();
            let known = state.ended.contains_key(&request.id) || state.running.contains_key(&request.id);
            if known || !state.busy.insert(request.id.clone()) {
                return Err(HistoryRefusal::Taken(request.id.clone()));
            }
        }
        let opening = Opening { history: self.clone(), id: request.id.clone() };
        let log = self.file(&request.id, FileKind::Log);
        // If nobody waits any more, what was opened is dropped on the thread that opened it.
        let opened = tokio::task::spawn_blocking(move || Progress::create(&log).map(|log| (opening, log)));
        let opened = opened.await.map_err(io::Error::other).and_then(|opened| opened);
        let (opening, progress) = opened.map_err(HistoryRefusal::Log)?;
        let record = Arc::new(HistoryRecord::begin(request));
        let mut state = self.inner.state.lock();
        opening.done(&mut state);
        state.running.insert(request.id.clone(), record.clone());
        self.tell(HistoryEventKind::Started, &record);
        drop(state);
        let trace = self.inner.tracer.begin(request.trace);
        Ok((Recording::new(self.clone(), record, progress.clone(), trace), progress))
    }

    fn file(&self, id: &str, kind: FileKind) -> PathBuf {
        self.inner.dir.join(kind.file_name(id))
    }

    /// Removes the files of a build and frees its id, which is busy. Blocking.
    fn remove_files(&self, id: &str) {
        let _turn = self.inner.traces.files.lock();
        for kind in FileKind::SINGLE {
            remove(&self.file(id, kind));
        }
        let said = (0..u16::MAX).map(|number| self.file(id, FileKind::Attestation(number)));
        said.take_while(|path| remove(path)).for_each(drop);
        self.inner.state.lock().busy.remove(id);
    }

    /// The same on a thread that may block; returns at once.
    fn remove_files_later(&self, id: &str) {
        let (history, id) = (self.clone(), id.to_owned());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let remove = move || history.remove_files(&id);
                drop(self.inner.removals.spawn_blocking_on(remove, &runtime));
            }
            // The daemon is ending: no one is kept waiting.
            Err(_) => history.remove_files(&id),
        }
    }

    /// Called with the state locked, so that listeners get events in the order of changes.
    fn tell(&self, kind: HistoryEventKind, record: &Arc<HistoryRecord>) {
        if record.internal {
            return;
        }
        // Nobody may be listening.
        self.inner.events.send(HistoryEvent { kind, record: record.clone() }).ok();
    }

    /// All builds, oldest first, and the news from then on.
    pub fn listen(&self) -> (Vec<Arc<HistoryRecord>>, broadcast::Receiver<HistoryEvent>) {
        let state = self.inner.state.lock();
        let all = state.running.values().chain(state.ended.values());
        let mut records: Vec<_> = all.filter(|record| !record.internal).cloned().collect();
        records.sort_by_key(|record| record.created_ms);
        (records, self.inner.events.subscribe())
    }

    /// A build.
    pub fn get(&self, id: &str) -> Option<Arc<HistoryRecord>> {
        let state = self.inner.state.lock();
        state.running.get(id).or_else(|| state.ended.get(id)).cloned()
    }

    /// All events of a build that ended; `None` if it is not known or runs.
    pub fn log(&self, id: &str) -> Option<io::Result<StatusStream>> {
        self.inner.state.lock().ended.get(id)?;
        Some(rbuild_progress::replay(&self.file(id, FileKind::Log)))
    }

    /// The file with the given content, and its size.
    pub fn blob(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let state = self.inner.state.lock();
        state.ended.values().find_map(|record| {
            let (blob, kind) = record.blobs().find(|(blob, _)| blob.digest == *digest)?;
            Some((self.file(&record.id, kind), blob.size))
        })
    }

    /// Keeps a build whatever the limits say, or no longer.
    pub async fn pin(&self, id: &str, pinned: bool) -> Result<(), HistoryRefusal> {
        let record = {
            let mut state = self.inner.state.lock();
            let record = state.known(id)?;
            let changed = HistoryRecord { pinned, generation: record.generation + 1, ..(**record).clone() };
            *record = Arc::new(changed);
            let record = record.clone();
            self.tell(HistoryEventKind::Complete, &record);
            record
        };
        self.put(&record).await?;
        Ok(())
    }

    /// Forgets a build that ended.
    pub async fn delete(&self, id: &str) -> Result<(), HistoryRefusal> {
        self.inner.state.lock().known(id)?;
        self.forget(vec![id.to_owned()]).await;
        Ok(())
    }

    async fn put(&self, record: &HistoryRecord) -> rbuild_store::Result<()> {
        let json = serde_json::to_vec(record).expect("strings, numbers and maps with string keys");
        self.inner.store.kv_put(SPACE, record.id.as_bytes(), &json).await
    }

    /// Removes what is beyond the limits.
    pub(crate) async fn collect(&self) {
        let too_many = self.beyond_limits(now_ms());
        self.forget(too_many).await;
    }

    fn beyond_limits(&self, now_ms: i64) -> Vec<String> {
        let limits = self.inner.limits;
        let max_age_ms = i64::try_from(limits.max_age.as_millis()).unwrap_or(i64::MAX);
        let state = self.inner.state.lock();
        let mut ended: Vec<_> = state.ended.values().filter(|record| !record.pinned).collect();
        ended.sort_by_key(|record| std::cmp::Reverse(record.completed_ms));
        let mut bytes = 0u64;
        let mut gone = Vec::new();
        for (index, record) in ended.into_iter().enumerate() {
            let files = [record.log, record.trace];
            bytes = files.iter().flatten().fold(bytes, |sum, file| sum.saturating_add(file.size));
            let age_ms = now_ms.saturating_sub(record.completed_ms.unwrap_or(now_ms));
            let is_fresh = age_ms < KEPT_ANYWAY_MS && index < KEPT_ANYWAY;
            let is_too_much = index >= limits.max_entries || (index > 0 && bytes > MAX_LOG_BYTES);
            if !is_fresh && (age_ms > max_age_ms || is_too_much || record.internal) {
                gone.push(record.id.clone());
            }
        }
        gone
    }

    /// The record goes first: a file without a record is garbage, a record without its files would be a lie.
    async fn forget(&self, ids: Vec<String>) {
        for id in ids {
            if let Err(error) = self.inner.store.kv_delete(SPACE, id.as_bytes()).await {
                tracing::warn!(build = %id, %error, "forgetting a build");
                continue;
            }
            {
                let mut state = self.inner.state.lock();
                let Some(record) = state.ended.remove(&id) else { continue };
                state.busy.insert(id.clone());
                self.tell(HistoryEventKind::Deleted, &record);
            }
            self.remove_files_later(&id);
        }
    }
}

/// An id that is taken while its log is being opened. Dropped, it is free and the log is gone.
struct Opening {
    history: History,
    id: String,
}

impl Opening {
    fn done(mut self, state: &mut State) {
        state.busy.remove(&std::mem::take(&mut self.id));
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            self.history.remove_files_later(&self.id);
        }
    }
}

impl State {
    fn known(&mut self, id: &str) -> Result<&mut Arc<HistoryRecord>, HistoryRefusal> {
        if self.running.contains_key(id) {
            return Err(HistoryRefusal::Running(id.to_owned()));
        }
        self.ended.get_mut(id).ok_or_else(|| HistoryRefusal::Unknown(id.to_owned()))
    }
}

/// Whether it was there.
fn remove(path: &Path) -> bool {
    match std::fs::remove_file(path) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "removing a file of the build history"),
    }
    false
}

/// Its files are there in full length; after a power loss they may not be.
fn is_whole(dir: &Path, record: &HistoryRecord) -> bool {
    let mut needed = record.blobs().filter(|(_, kind)| !matches!(kind, FileKind::Trace | FileKind::Usage));
    needed.all(|(blob, kind)| has(dir, &record.id, blob, kind))
}

fn has(dir: &Path, id: &str, blob: HistoryBlob, kind: FileKind) -> bool {
    let meta = std::fs::metadata(dir.join(kind.file_name(id)));
    meta.is_ok_and(|meta| meta.len() == blob.size)
}

fn sweep(dir: &Path, state: &State) -> io::Result<()> {
    let kept: std::collections::HashSet<String> = state
        .ended
        .values()
        .flat_map(|record| record.blobs().map(|(_, kind)| kind.file_name(&record.id)))
        .collect();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
            remove(&entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
