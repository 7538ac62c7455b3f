//! What the events add up to: vertices in the order in which they began, groups of vertices as one.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use rbuild_api::pb;

use super::Summary;
use super::log::{Keep, Log};
use super::spans::{Spans, seconds};
use super::text;

/// One vertex, or a group of vertices that is shown as one.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) vertex: Vertex,
    pub(super) spans: Spans,
    /// The group that is shown instead.
    group: Option<usize>,
    /// Of a group.
    members: Vec<usize>,
    /// `#N`; given when it is first shown.
    pub(super) number: Option<usize>,
    /// Statuses in order of appearance.
    pub(super) statuses: Vec<Status>,
    by_id: HashMap<String, usize>,
    /// Statuses that changed since they were last looked at.
    pub(super) updated: BTreeSet<usize>,
    /// Short texts of its warnings.
    pub(super) warnings: Vec<String>,
    pub(super) warnings_shown: usize,
    pub(super) log: Log,
    /// Something happened since it was last shown.
    pub(super) changed: bool,
    /// How much happened since `since`: what makes a vertex more worth showing than another.
    pub(super) count: usize,
    /// Since when it waits for the floor, or has it.
    pub(super) since: Option<Duration>,
    /// The last line of its last showing.
    pub(super) end_shown: Option<String>,
    /// How often its log was part of a frame.
    pub(super) framed: usize,
    /// How many began before it; none until it is listed.
    listed: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) status: VertexStatus,
    pub(super) shown: Option<VertexStatus>,
}

impl Entry {
    pub(super) fn name(&self) -> String {
        text::one_line(&self.vertex.name)
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

    fn is_visible(&self) -> bool {
        self.group.is_none() && self.vertex.started.is_some() && !self.vertex.name.is_empty()
    }

    /// Takes a vertex's new state. Whether it differs from the old.
    fn update(&mut self, mut vertex: Vertex) -> bool {
        if vertex.name.is_empty() {
            vertex.name = std::mem::take(&mut self.vertex.name);
        }
        if vertex.started.is_none() && self.vertex.started.is_some() {
            // Named once more by another part of the build: that does not undo its beginning.
            let changed = self.vertex.name != vertex.name;
            self.vertex.name = vertex.name;
            return changed;
        }
        if let Some(started) = vertex.started {
            self.spans.set(seconds(started), vertex.completed.map(seconds));
        }
        let changed = self.vertex != vertex;
        self.vertex = vertex;
        changed
    }

    fn status(&mut self, status: VertexStatus) {
        let index = match self.by_id.get(&status.id) {
            Some(index) => {
                self.statuses[*index].status = status;
                *index
            }
            None => {
                self.by_id.insert(status.id.clone(), self.statuses.len());
                self.statuses.push(Status { status, shown: None });
                self.statuses.len() - 1
            }
        };
        self.updated.insert(index);
        self.count += 1;
    }
}

/// All vertices of a build.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) entries: Vec<Entry>,
    index: HashMap<String, usize>,
    groups: HashMap<String, usize>,
    /// Entries that are shown, in the order in which they began.
    order: Vec<usize>,
    begun: usize,
    /// Of these, those that go on, by when they began.
    open: BTreeSet<(usize, usize)>,
    /// Entries that changed since they were last looked at.
    pub(super) dirty: Vec<usize>,
    pub(super) warnings: Vec<VertexWarning>,
    numbered: usize,
    pub(super) keep: Keep,
    /// Bytes of logs since it was last asked.
    pub(super) fresh_bytes: usize,
    /// By how much this clock is ahead of the daemon's.
    ahead: Option<f64>,
}

impl Board {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Takes events in.
    pub(super) fn apply(&mut self, event: StatusResponse) {
        for vertex in event.vertexes {
            self.vertex(vertex);
        }
        for status in event.statuses {
            let index = self.shown(&status.vertex);
            self.entries[index].status(status);
            self.mark(index);
        }
        for log in &event.logs {
            self.log(log);
        }
        for warning in event.warnings {
            if self.index.contains_key(&warning.vertex) {
                let index = self.shown(&warning.vertex);
                self.entries[index].warnings.push(text::one_line(&String::from_utf8_lossy(&warning.short)));
                self.mark(index);
            }
            self.warnings.push(warning);
        }
    }

    fn vertex(&mut self, vertex: Vertex) {
        if let Some(started) = vertex.started {
            self.ahead.get_or_insert_with(|| clock() - seconds(started));
        }
        let index = self.entry(&vertex.digest);
        let group = vertex.progress_group.clone().filter(|group| !group.id.is_empty());
        let mut changed = self.entries[index].update(vertex);
        let mut shown = index;
        if let Some(group) = group {
            shown = self.join(index, group);
            changed |= self.refresh(shown);
        }
        self.list(shown);
        if changed {
            self.mark(shown);
        }
    }

    /// Keeps the lists after a change.
    fn list(&mut self, index: usize) {
        let keep = self.keep;
        let entry = &mut self.entries[index];
        if !entry.is_visible() {
            return;
        }
        let begun = *entry.listed.get_or_insert_with(|| {
            self.order.push(index);
            self.begun += 1;
            self.begun
        });
        if entry.is_complete() {
            let lines = entry.log.flush(keep);
            entry.count += lines;
            self.open.remove(&(begun, index));
        } else {
            self.open.insert((begun, index));
        }
    }

    fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.entries[index].changed, true) {
            self.dirty.push(index);
        }
    }

    fn log(&mut self, log: &VertexLog) {
        let started = self.index.get(&log.vertex).and_then(|index| self.entries[*index].vertex.started);
        let at = match (started, log.timestamp) {
            (Some(started), Some(at)) => (seconds(at) - seconds(started)).max(0.0),
            _ => 0.0,
        };
        let index = self.shown(&log.vertex);
        let entry = &mut self.entries[index];
        entry.count += entry.log.feed(log.stream, at, &log.msg, self.keep);
        self.fresh_bytes += log.msg.len();
        self.mark(index);
    }

    /// Makes a vertex part of a group.
    fn join(&mut self, index: usize, group: pb::ProgressGroup) -> usize {
        let next = self.entries.len();
        let shown = *self.groups.entry(group.id).or_insert(next);
        if shown == next {
            let vertex = Vertex { name: group.name, ..Vertex::default() };
            self.entries.push(Entry { vertex, ..Entry::default() });
        }
        if self.entries[index].group.is_none() {
            self.entries[index].group = Some(shown);
            self.entries[shown].members.push(index);
            // It may have been shown by itself before anybody said that it is in a group.
            if let Some(begun) = self.entries[index].listed {
                self.open.remove(&(begun, index));
                self.order.retain(|listed| *listed != index);
            }
        }
        shown
    }

    /// What the members' states make of their group's. Whether that differs from before.
    fn refresh(&mut self, index: usize) -> bool {
        let group = &self.entries[index];
        let mut spans = Spans::default();
        let mut state = Vertex { name: group.vertex.name.clone(), cached: true, ..Vertex::default() };
        let mut running = false;
        let begun = group.members.iter().map(|member| &self.entries[*member]);
        for member in begun.filter(|member| member.vertex.started.is_some()) {
            let vertex = &member.vertex;
            let earlier = |a: prost_types::Timestamp, b| if seconds(a) <= seconds(b) { a } else { b };
            let later = |a: prost_types::Timestamp, b| if seconds(a) >= seconds(b) { a } else { b };
            state.started = state.started.into_iter().chain(vertex.started).reduce(earlier);
            state.completed = state.completed.into_iter().chain(vertex.completed).reduce(later);
            state.cached &= vertex.cached;
            running |= vertex.completed.is_none();
            if state.error.is_empty() {
                state.error.clone_from(&vertex.error);
            }
            spans.join(&member.spans);
        }
        if running {
            state.completed = None;
        }
        let group = &mut self.entries[index];
        let changed = group.vertex != state;
        (group.spans, group.vertex) = (spans, state);
        changed
    }

    fn entry(&mut self, digest: &str) -> usize {
        if let Some(index) = self.index.get(digest) {
            return *index;
        }
        self.entries.push(Entry::default());
        self.index.insert(digest.to_owned(), self.entries.len() - 1);
        self.entries.len() - 1
    }

    /// The entry under which what a vertex does is shown.
    fn shown(&mut self, digest: &str) -> usize {
        let index = self.entry(digest);
        self.entries[index].group.unwrap_or(index)
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
    pub(super) fn visible(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.order.iter().map(|index| (*index, &self.entries[*index]))
    }

    /// Who began first of those that go on.
    pub(super) fn first_open(&self) -> Option<usize> {
        self.open.first().map(|(_, index)| *index)
    }

    /// Entries that changed, began and have a name, in that order; what else changed waits for its beginning.
    pub(super) fn take_dirty(&mut self) -> Vec<usize> {
        let (mut visible, hidden): (Vec<usize>, Vec<usize>) =
            std::mem::take(&mut self.dirty).into_iter().partition(|index| {
                let entry = &self.entries[*index];
                entry.is_visible()
            });
        self.dirty = hidden;
        visible.sort_by_key(|index| self.entries[*index].listed);
        visible
    }

    /// The daemon's time.
    pub(super) fn now(&self) -> f64 {
        clock() - self.ahead.unwrap_or(0.0)
    }

    pub(super) fn summary(&self) -> Summary {
        let count = |keep: fn(&Entry) -> bool| self.visible().filter(|(_, entry)| keep(entry)).count();
        Summary {
            vertices: count(|_| true),
            cached: count(|entry| entry.vertex.cached),
            failed: count(Entry::is_failed),
            warnings: self.warnings.len(),
        }
    }
}

fn clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
