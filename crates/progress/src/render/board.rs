//! What the events add up to: vertices in order of appearance, their statuses, logs not yet shown.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexStatus, VertexWarning};

use super::Summary;
use super::text;

/// Lines of a failed step's log that are repeated at the end.
pub(super) const LAST_LINES: usize = 10;
/// A longer line is cut into several: no log can make memory grow.
const MAX_LINE: usize = 64 << 10;

/// One vertex as it is shown.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) vertex: Vertex,
    /// `#N`; given when it is first shown.
    pub(super) number: Option<usize>,
    /// Statuses in order of appearance, with how each was last shown in plain mode.
    pub(super) statuses: Vec<Status>,
    /// Complete log lines, with seconds since the start, not yet shown in plain mode.
    pub(super) lines: VecDeque<String>,
    /// The end of the log.
    pub(super) last: VecDeque<String>,
    partial: HashMap<i64, (Vec<u8>, f64)>,
    /// Something happened since it was last shown.
    pub(super) changed: bool,
    pub(super) end_shown: bool,
}

#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) status: VertexStatus,
    pub(super) shown: Option<VertexStatus>,
}

impl Entry {
    pub(super) fn name(&self) -> String {
        text::clean(&self.vertex.name)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.vertex.completed.is_some()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.vertex.error.ends_with("context canceled")
    }

    pub(super) fn is_failed(&self) -> bool {
        !self.vertex.error.is_empty() && !self.is_cancelled()
    }

    /// Seconds of work so far.
    pub(super) fn seconds(&self) -> f64 {
        let Some(started) = self.vertex.started else { return 0.0 };
        seconds_between(started, self.vertex.completed.unwrap_or_else(clock))
    }

    fn log(&mut self, stream: i64, at: Option<Timestamp>, bytes: &[u8]) {
        let seconds = match (self.vertex.started, at) {
            (Some(started), Some(at)) => seconds_between(started, at),
            _ => 0.0,
        };
        let (mut buffer, first) = self.partial.remove(&stream).unwrap_or((Vec::new(), seconds));
        let mut at = first;
        for byte in bytes {
            if *byte == b'\n' || buffer.len() >= MAX_LINE {
                self.line(at, &buffer);
                buffer.clear();
                at = seconds;
            }
            if *byte != b'\n' {
                buffer.push(*byte);
            }
        }
        if !buffer.is_empty() {
            self.partial.insert(stream, (buffer, at));
        }
    }

    fn line(&mut self, seconds: f64, bytes: &[u8]) {
        let text = text::clean(&String::from_utf8_lossy(bytes));
        let line = format!("{seconds:.3} {text}");
        self.last.push_back(line.clone());
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
        self.lines.push_back(line);
        self.changed = true;
    }

    fn flush(&mut self) {
        let mut partial: Vec<_> = self.partial.drain().collect();
        partial.sort_by_key(|(stream, _)| *stream);
        for (_, (buffer, seconds)) in partial {
            self.line(seconds, &buffer);
        }
    }
}

fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// From `start` to `end` in seconds, never negative.
#[allow(clippy::cast_precision_loss, reason = "shown with at most three digits after the point")]
pub(super) fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    let seconds = end.seconds.saturating_sub(start.seconds) as f64;
    (seconds + f64::from(end.nanos.saturating_sub(start.nanos)) / 1e9).max(0.0)
}

/// All vertices of a build.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) entries: Vec<Entry>,
    index: HashMap<String, usize>,
    pub(super) warnings: Vec<VertexWarning>,
    numbered: usize,
    pub(super) began: Option<std::time::Instant>,
}

impl Board {
    /// Takes events in. `quiet`: logs are not kept to be shown.
    pub(super) fn apply(&mut self, event: StatusResponse, quiet: bool) {
        self.began.get_or_insert_with(std::time::Instant::now);
        for vertex in event.vertexes {
            let entry = self.entry(&vertex.digest);
            entry.changed |= vertex.started.is_some() && entry.vertex != vertex;
            // A vertex may be started again after it had completed; a name once known stays.
            let name = std::mem::take(&mut entry.vertex.name);
            entry.end_shown &= vertex.completed.is_some();
            entry.vertex = vertex;
            if entry.vertex.name.is_empty() {
                entry.vertex.name = name;
            }
            if entry.is_complete() {
                entry.flush();
            }
        }
        for status in event.statuses {
            let entry = self.entry(&status.vertex.clone());
            entry.changed = true;
            match entry.statuses.iter_mut().find(|known| known.status.id == status.id) {
                Some(known) => known.status = status,
                None => entry.statuses.push(Status { status, shown: None }),
            }
        }
        for log in event.logs {
            let entry = self.entry(&log.vertex);
            entry.log(log.stream, log.timestamp, &log.msg);
            if quiet {
                entry.lines.clear();
            }
        }
        self.warnings.extend(event.warnings);
    }

    fn entry(&mut self, digest: &str) -> &mut Entry {
        let index = match self.index.get(digest) {
            Some(index) => *index,
            None => {
                self.entries.push(Entry::default());
                self.index.insert(digest.to_owned(), self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        &mut self.entries[index]
    }

    /// The number of an entry that is about to be shown.
    pub(super) fn number(&mut self, index: usize) -> usize {
        let entry = &mut self.entries[index];
        *entry.number.get_or_insert_with(|| {
            self.numbered += 1;
            self.numbered
        })
    }

    /// Entries that have something to show: begun, and with a name.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.vertex.started.is_some() && !entry.vertex.name.is_empty())
    }

    pub(super) fn summary(&self) -> Summary {
        let count = |keep: &dyn Fn(&Entry) -> bool| self.visible().filter(|entry| keep(entry)).count();
        Summary {
            vertices: count(&|_| true),
            cached: count(&|entry| entry.vertex.cached),
            failed: count(&Entry::is_failed),
            warnings: self.warnings.len(),
        }
    }
}
