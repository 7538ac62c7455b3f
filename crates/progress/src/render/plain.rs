//! Plain lines. One vertex at a time has the floor, so that its lines stand together; it yields when it is
//! complete, or when others have waited and it has nothing to say.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rbuild_api::moby::buildkit::v1::VertexStatus;

use super::board::{Board, Entry};
use super::text;

/// How long a running vertex keeps the floor while others wait.
const TURN: Duration = Duration::from_secs(1);
/// Others that have this many lines to show need not wait for the turn to end.
const MAX_WAITING_LINES: usize = 5_000;
/// A counter is shown again after this much of its total, or after a while.
const STEP: f64 = 0.05;
const STATUS_EVERY_S: i64 = 5;

#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Who has the floor, and since when.
    current: Option<(usize, Instant)>,
    any: bool,
}

impl Plain {
    /// What there is to show after an event or after some time.
    pub(super) fn lines(&mut self, board: &mut Board) -> String {
        let mut out = String::new();
        loop {
            if let Some((index, since)) = self.current {
                show(board, index, &mut out, false);
                if board.entries[index].is_complete() {
                    self.current = None;
                } else {
                    let waits = |i: usize, entry: &Entry| i != index && wants(entry);
                    let waiting: Vec<_> =
                        board.entries.iter().enumerate().filter(|(i, entry)| waits(*i, entry)).collect();
                    let urgent = waiting.iter().any(|(_, entry)| entry.lines.len() > MAX_WAITING_LINES);
                    if waiting.is_empty() || (since.elapsed() < TURN && !urgent) {
                        return out;
                    }
                    self.current = None;
                }
            }
            // Those who are complete first: they need the floor for a moment only.
            let wanting = || board.entries.iter().enumerate().filter(|(_, entry)| wants(entry));
            let next = wanting().find(|(_, entry)| entry.is_complete()).or_else(|| wanting().next());
            let Some(index) = next.map(|(index, _)| index) else { return out };
            self.give(board, index, &mut out);
        }
    }

    fn give(&mut self, board: &mut Board, index: usize, out: &mut String) {
        let again = board.entries[index].number.is_some();
        let number = board.number(index);
        if self.any {
            out.push('\n');
        }
        self.any = true;
        let name = board.entries[index].name();
        let mark = if again { " ..." } else { "" };
        // Writing to a string cannot fail.
        let _ok = writeln!(out, "#{number} {name}{mark}").is_ok();
        self.current = Some((index, Instant::now()));
    }

    /// Everything that is left, and what failed.
    pub(super) fn finish(&mut self, board: &mut Board) -> String {
        let mut out = String::new();
        if let Some((index, _)) = self.current.take() {
            show(board, index, &mut out, true);
        }
        for index in 0..board.entries.len() {
            if wants(&board.entries[index]) {
                self.give(board, index, &mut out);
                show(board, index, &mut out, true);
            }
        }
        out.push_str(&text::failures(board));
        out
    }
}

/// Whether a vertex has something to show.
fn wants(entry: &Entry) -> bool {
    if entry.vertex.started.is_none() || entry.vertex.name.is_empty() {
        return false;
    }
    entry.number.is_none() || (entry.changed && !entry.end_shown)
}

fn show(board: &mut Board, index: usize, out: &mut String, last: bool) {
    let Some(number) = board.entries[index].number else { return };
    let entry = &mut board.entries[index];
    entry.changed = false;
    for status in &mut entry.statuses {
        if last || status_is_due(&status.status, status.shown.as_ref()) {
            if status.shown.as_ref() != Some(&status.status) {
                let _ok = writeln!(out, "#{number} {}", text::status_line(&status.status)).is_ok();
            }
            status.shown = Some(status.status.clone());
        }
    }
    while let Some(line) = entry.lines.pop_front() {
        let _ok = writeln!(out, "#{number} {line}").is_ok();
    }
    if entry.is_complete() && !entry.end_shown {
        entry.end_shown = true;
        let end = match () {
            () if entry.is_cancelled() => "CANCELED".to_owned(),
            () if entry.is_failed() => format!("ERROR: {}", text::clean(&entry.vertex.error)),
            () if entry.vertex.cached => "CACHED".to_owned(),
            () => format!("DONE {:.1}s", entry.seconds()),
        };
        let _ok = writeln!(out, "#{number} {end}").is_ok();
    }
}

fn status_is_due(status: &VertexStatus, shown: Option<&VertexStatus>) -> bool {
    let Some(shown) = shown else {
        // The first sight of a counter that has not moved says nothing yet.
        return status.completed.is_some() || status.current > 0;
    };
    if shown.completed.is_some() {
        return false;
    }
    if status.completed.is_some() {
        return true;
    }
    #[allow(clippy::cast_precision_loss, reason = "a fraction to compare with five percent")]
    let moved = status.total > 0 && (status.current - shown.current) as f64 / status.total as f64 >= STEP;
    let seconds = |status: &VertexStatus| status.timestamp.map_or(0, |time| time.seconds);
    moved || seconds(status) - seconds(shown) >= STATUS_EVERY_S
}
