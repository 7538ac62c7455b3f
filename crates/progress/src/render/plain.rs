//! Plain lines. One vertex at a time has the floor, so that its lines stand together. It yields when it is
//! complete, when another completes, or when others have waited for a while: the busier it is, the longer it
//! may keep the floor.

use std::fmt::Write as _;
use std::time::Duration;

use rbuild_api::moby::buildkit::v1::VertexStatus;

use super::board::{Board, Entry};
use super::text;

/// The floor is kept for this long at least while others wait. A vertex with a share `s` of all that happens
/// keeps it for `TURN / (1 - s)`.
const TURN: Duration = Duration::from_secs(5);
/// Nobody waits longer than this.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Whoever has this much to show need not wait at all: memory stays bounded.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// A counter is shown again after this much of its total, or after a while.
const STEP: f64 = 0.05;
const STATUS_EVERY_S: i64 = 5;

#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Who has the floor.
    current: Option<usize>,
    /// What stands on a line that is not complete.
    open: Option<Open>,
    any: bool,
}

#[derive(Debug)]
struct Open {
    stream: i64,
    text: String,
}

impl Plain {
    /// What there is to show at `now`, a time since the start.
    pub(super) fn lines(&mut self, board: &mut Board, now: Duration) -> String {
        let mut out = String::new();
        let (mut complete, mut waiting): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for index in board.take_dirty() {
            let entry = &mut board.entries[index];
            entry.since.get_or_insert(now);
            if entry.is_complete() { complete.push(index) } else { waiting.push(index) }
        }
        // Who completed needs the floor for a moment only; who has it is first.
        complete.sort_by_key(|index| self.current != Some(*index));
        for index in complete {
            self.give(board, index, now, &mut out);
        }
        if let Some(current) = self.current {
            waiting.retain(|index| *index != current);
            self.give(board, current, now, &mut out);
            if let Some(next) = next(board, current, &waiting, now) {
                waiting.retain(|index| *index != next);
                self.give(board, next, now, &mut out);
            }
        } else if let Some(next) = busiest(board, &waiting, now) {
            waiting.retain(|index| *index != next);
            self.give(board, next, now, &mut out);
        } else if let Some(next) = board.first_open() {
            self.give(board, next, now, &mut out);
        }
        // Who has too much to show does not wait for another round.
        for index in waiting {
            if board.entries[index].log.pending_bytes() > MAX_WAITING_BYTES {
                self.give(board, index, now, &mut out);
            } else {
                board.dirty.push(index);
            }
        }
        out
    }

    /// Gives a vertex the floor and shows what it has to say.
    fn give(&mut self, board: &mut Board, index: usize, now: Duration, out: &mut String) {
        if !worth_showing(&board.entries[index], board.now()) {
            board.entries[index].changed = false;
            return;
        }
        if self.current != Some(index) {
            self.leave(board, out);
            if self.any {
                out.push('\n');
            }
            self.any = true;
            let number = board.number(index);
            let entry = &mut board.entries[index];
            (entry.since, entry.count) = (Some(now), 0);
            line(out, number, &entry.name());
            self.current = Some(index);
        }
        self.show(board, index, out);
    }

    /// Takes the floor from who has it.
    fn leave(&mut self, board: &mut Board, out: &mut String) {
        let Some(old) = self.current.take() else { return };
        self.close(out);
        let entry = &mut board.entries[old];
        (entry.since, entry.count) = (None, 0);
        if let (false, Some(number)) = (entry.is_complete(), entry.number) {
            line(out, number, "...");
        }
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            out.push('\n');
        }
    }

    fn show(&mut self, board: &mut Board, index: usize, out: &mut String) {
        let now = board.now();
        let entry = &mut board.entries[index];
        let Some(number) = entry.number else { return };
        entry.changed = false;
        for id in std::mem::take(&mut entry.updated) {
            let status = &mut entry.statuses[id];
            if status_is_due(&status.status, status.shown.as_ref()) {
                self.close(out);
                line(out, number, &text::status_line(&status.status));
                status.shown = Some(status.status.clone());
            }
        }
        for warning in &entry.warnings[entry.warnings_shown..] {
            self.close(out);
            line(out, number, &format!("WARN: {warning}"));
        }
        entry.warnings_shown = entry.warnings.len();
        self.log(entry, number, out);
        if entry.is_complete() {
            self.close(out);
            let end = end(entry, now);
            line(out, number, &end);
            entry.end_shown = Some(end);
            (entry.since, entry.count) = (None, 0);
            self.current = None;
        }
    }

    fn log(&mut self, entry: &mut Entry, number: usize, out: &mut String) {
        let (text, ends) = entry.log.take();
        out.reserve(text.len() + ends.len() * 6);
        let prefix = format!("#{number} ");
        let mut from = 0;
        for (to, stream) in ends {
            let line = &text[from..to];
            from = to;
            match self.open.take() {
                Some(open) if open.stream == stream && line.starts_with(&open.text) => {
                    out.push_str(&line[open.text.len()..]);
                    continue;
                }
                Some(_) => out.push('\n'),
                None => {}
            }
            out.push_str(&prefix);
            out.push_str(line);
        }
        if let Some((stream, text)) = entry.log.partial() {
            match &self.open {
                Some(open) if open.stream == stream && text.starts_with(&open.text) => {
                    out.push_str(&text[open.text.len()..]);
                }
                _ => {
                    self.close(out);
                    out.push_str(&prefix);
                    out.push_str(&text);
                }
            }
            self.open = Some(Open { stream, text });
        }
    }

    /// Everything that is left, and what failed.
    pub(super) fn finish(&mut self, board: &mut Board) -> String {
        let mut out = String::new();
        let mut left = board.take_dirty();
        left.sort_by_key(|index| self.current != Some(*index));
        for index in left {
            self.give(board, index, Duration::ZERO, &mut out);
        }
        self.close(&mut out);
        out.push_str(&text::failures(board));
        out
    }
}

fn line(out: &mut String, number: usize, text: &str) {
    // Writing to a string cannot fail.
    let _ok = writeln!(out, "#{number} {text}").is_ok();
}

/// How much happens, per second.
#[allow(clippy::cast_precision_loss, reason = "only compared")]
fn speed(entry: &Entry, now: Duration) -> f64 {
    let waited = entry.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    entry.count as f64 / waited.as_secs_f64().max(0.001)
}

fn busiest(board: &Board, waiting: &[usize], now: Duration) -> Option<usize> {
    let speed = |index: &usize| speed(&board.entries[*index], now);
    // The first of those that are equally busy.
    waiting.iter().copied().rev().max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

/// Who gets the floor next, if it is time that `current` yields.
fn next(board: &Board, current: usize, waiting: &[usize], now: Duration) -> Option<usize> {
    let held = |index: usize| {
        board.entries[index].since.map_or(Duration::ZERO, |since| now.saturating_sub(since)).as_secs_f64()
    };
    let too_long = |index: &&usize| {
        held(**index) > MAX_WAIT.as_secs_f64()
            || board.entries[**index].log.pending_bytes() > MAX_WAITING_BYTES
    };
    if let Some(index) = waiting.iter().find(too_long) {
        return Some(*index);
    }
    let next = busiest(board, waiting, now)?;
    let own = speed(&board.entries[current], now);
    let all: f64 = own + waiting.iter().map(|index| speed(&board.entries[*index], now)).sum::<f64>();
    let share = if all > 0.0 { own / all } else { 0.0 };
    // Without a break for the others' sake if nothing at all happens elsewhere.
    (TURN.as_secs_f64() / (1.0 - share) < held(current)).then_some(next)
}

/// Whether showing a vertex tells anything that was not told before.
fn worth_showing(entry: &Entry, now: f64) -> bool {
    let due = |id: &usize| status_is_due(&entry.statuses[*id].status, entry.statuses[*id].shown.as_ref());
    !entry.is_complete()
        || entry.warnings_shown < entry.warnings.len()
        || entry.log.pending_bytes() > 0
        || entry.updated.iter().any(due)
        || entry.end_shown.as_ref() != Some(&end(entry, now))
}

fn end(entry: &Entry, now: f64) -> String {
    match () {
        () if entry.is_cancelled() => "CANCELED".to_owned(),
        () if entry.is_failed() => format!("ERROR: {}", text::lines(&entry.vertex.error)),
        () if entry.vertex.cached => "CACHED".to_owned(),
        () => format!("DONE {:.1}s", entry.spans.total(now)),
    }
}

fn status_is_due(status: &VertexStatus, shown: Option<&VertexStatus>) -> bool {
    let Some(shown) = shown else { return true };
    if status.completed.is_some() || shown.completed.is_some() {
        return shown != status;
    }
    #[allow(clippy::cast_precision_loss, reason = "a fraction to compare with five percent")]
    let moved =
        status.total > 0 && status.current.saturating_sub(shown.current) as f64 / status.total as f64 >= STEP;
    let seconds = |status: &VertexStatus| status.timestamp.map_or(0, |time| time.seconds);
    moved || seconds(status).saturating_sub(seconds(shown)) >= STATUS_EVERY_S
}
