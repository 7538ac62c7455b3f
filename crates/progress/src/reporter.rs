use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexStatus};
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::{Progress, time};

/// Time between two updates of one status: faster ones are not seen by anybody and cost every subscriber.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// A vertex as it is shown.
#[derive(Debug, Clone)]
pub struct VertexInfo {
    /// Its digest; synthetic vertices make one up, for instance of their name.
    pub digest: Digest,
    /// Its shown name.
    pub name: String,
    /// The vertices that it needs.
    pub inputs: Vec<Digest>,
    /// Shows it as part of a group.
    pub group: Option<pb::ProgressGroup>,
}

impl VertexInfo {
    /// A synthetic vertex (`[internal] …`, `exporting to image`) that is unique to this call.
    pub fn synthetic(name: impl Into<String>) -> Self {
        let name = name.into();
        let digest = Digest::of(format!("{name}\0{}", rbuild_digest::random_id()));
        Self { digest, name, inputs: Vec::new(), group: None }
    }
}

/// A warning for people.
#[derive(Debug, Clone, Default)]
pub struct Warning {
    /// 1 is most important.
    pub level: i64,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// A page that explains it.
    pub url: String,
    /// The source that it is about.
    pub info: Option<pb::SourceInfo>,
    /// Where in the source.
    pub ranges: Vec<pb::Range>,
}

/// Writes the events of one vertex. A cheap handle.
#[derive(Debug, Clone)]
pub struct Reporter {
    progress: Progress,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    digest: String,
    vertex: Digest,
    current: Mutex<Vertex>,
}

impl Reporter {
    pub(crate) fn new(progress: Progress, info: VertexInfo) -> Self {
        let digest = info.digest.to_string();
        let vertex = Vertex {
            digest: digest.clone(),
            inputs: info.inputs.iter().map(Digest::to_string).collect(),
            name: info.name,
            progress_group: info.group,
            ..Vertex::default()
        };
        let state = State { digest, vertex: info.digest, current: Mutex::new(vertex) };
        Self { progress, state: Arc::new(state) }
    }

    /// Which vertex it is.
    pub fn digest(&self) -> Digest {
        self.state.vertex
    }

    /// The log that it writes to.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    fn change(&self, change: impl FnOnce(&mut Vertex, Timestamp)) {
        let mut vertex = self.state.current.lock();
        change(&mut vertex, time::now());
        // Pushed under the lock, so that events of a vertex keep their order.
        self.progress.push(&StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
    }

    /// The vertex is part of the build.
    pub fn known(&self) {
        self.change(|_, _| {});
    }

    /// Work began (again).
    pub fn started(&self) {
        self.change(|vertex, now| {
            vertex.started = Some(now);
            vertex.completed = None;
        });
    }

    /// The result came from the cache.
    pub fn cached(&self) {
        self.change(|vertex, now| {
            vertex.cached = true;
            vertex.started.get_or_insert(now);
            vertex.completed = Some(now);
        });
    }

    /// Work ended, with an error or without.
    pub fn completed(&self, error: Option<String>) {
        self.change(|vertex, now| {
            vertex.error = error.unwrap_or_default();
            vertex.started.get_or_insert(now);
            vertex.completed = Some(now);
        });
    }

    /// Begins a sub-step, for instance the transfer of a layer. `id` distinguishes it within the vertex.
    pub fn status(&self, id: &str, name: &str) -> StatusHandle {
        let status = VertexStatus {
            id: id.to_owned(),
            vertex: self.state.digest.clone(),
            name: name.to_owned(),
            started: Some(time::now()),
            timestamp: Some(time::now()),
            ..VertexStatus::default()
        };
        push_status(&self.progress, &status);
        let inner = StatusState { status, shown: Instant::now(), done: false };
        StatusHandle { progress: self.progress.clone(), state: Mutex::new(inner) }
    }

    /// Output of the step; `stream` is 1 for stdout, 2 for stderr. Returns at once, unless the disk is
    /// megabytes behind.
    pub fn log(&self, stream: i64, bytes: &[u8]) {
        self.progress.log(&self.state.digest, stream, bytes);
    }

    /// The same, waiting until the disk has caught up: for whoever copies a process's output.
    pub async fn log_paced(&self, stream: i64, bytes: &[u8]) {
        self.progress.room().await;
        self.log(stream, bytes);
    }

    /// A warning about the vertex.
    pub fn warn(&self, warning: Warning) {
        self.progress.warn(Some(self.state.vertex), warning);
    }
}

/// A sub-step in progress; dropping it completes it.
#[derive(Debug)]
pub struct StatusHandle {
    progress: Progress,
    state: Mutex<StatusState>,
}

#[derive(Debug)]
struct StatusState {
    status: VertexStatus,
    shown: Instant,
    done: bool,
}

const TRANSFERRING: &str = "transferring ";

impl StatusHandle {
    /// Sets how far it is, in bytes or pieces; a total of 0 is unknown.
    pub fn set(&self, current: u64, total: u64) {
        self.change(|status| {
            status.current = i64::try_from(current).unwrap_or(i64::MAX);
            status.total = i64::try_from(total).unwrap_or(i64::MAX);
        });
    }

    /// Sets how far a transfer of files is. The files travel in the status's name, which upstream's clients do not
    /// show; ours do.
    pub fn transferred(&self, bytes: u64, files: u64) {
        self.change(|status| {
            status.current = i64::try_from(bytes).unwrap_or(i64::MAX);
            status.name = transfer_name(files);
        });
    }

    /// Adds to how far it is.
    pub fn add(&self, count: u64) {
        self.change(|status| {
            status.current = status.current.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        });
    }

    /// Completes it.
    pub fn done(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.done, true) {
            let now = time::now();
            state.status.timestamp = Some(now);
            state.status.completed = Some(now);
            push_status(&self.progress, &state.status);
        }
    }

    fn change(&self, change: impl FnOnce(&mut VertexStatus)) {
        let mut state = self.state.lock();
        change(&mut state.status);
        if !state.done && state.shown.elapsed() >= STATUS_INTERVAL {
            state.shown = Instant::now();
            state.status.timestamp = Some(time::now());
            push_status(&self.progress, &state.status);
        }
    }
}

/// What the status of a transfer is named; [`files_in_name`] reads it.
fn transfer_name(files: u64) -> String {
    format!("{TRANSFERRING}{files} files")
}

/// The files that a transfer's status tells of; `None` for all other statuses, and those of other daemons.
pub(crate) fn files_in_name(name: &str) -> Option<u64> {
    name.strip_prefix(TRANSFERRING)?.strip_suffix(" files")?.parse().ok()
}

impl Drop for StatusHandle {
    fn drop(&mut self) {
        self.done();
    }
}

fn push_status(progress: &Progress, status: &VertexStatus) {
    progress.push(&StatusResponse { statuses: vec![status.clone()], ..StatusResponse::default() });
}
