//! A frame of the live view: a pure function of the board and the terminal's size.

use super::board::{Board, Entry};
use super::spans::{Spans, seconds};
use super::text;

/// Columns of a log line that are taken by what stands before it.
const LOG_MARGIN: usize = 10;
/// Columns of a row around its name and amount, with a time of six.
const ROW_MARGIN: usize = 18;
/// A vertex whose log was shown keeps being shown: a frame weighs as much as this many bytes of output.
const FRAME_WEIGHT: usize = 50;

/// What the frame must fit in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Lines of log under a running vertex.
    pub(super) log_lines: usize,
}

/// Which colour a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Normal,
    Run,
    Cancel,
    Error,
    Faint,
}

/// A line of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Vertex,
    Status(usize),
    Warning(usize),
}

/// A line to come; made for all vertices, so small.
#[derive(Debug, Clone, Copy)]
struct Row {
    entry: usize,
    kind: Kind,
    /// Need not be seen any more.
    over: bool,
    /// With so many lines of log below.
    log: usize,
}

/// What the terminal shows at `now` (the daemon's time), `elapsed` seconds after the start. `last`: all of it.
pub(super) fn frame(board: &mut Board, size: Size, now: f64, elapsed: f64, last: bool) -> Vec<Line> {
    let total = board.visible().count();
    let complete = board.visible().filter(|(_, entry)| entry.is_complete()).count();
    let finished = if last && total > 0 && complete == total { " FINISHED" } else { "" };
    let head = format!("[+] Building {elapsed:.1}s ({complete}/{total}){finished}");
    let mut lines = vec![Line { text: cut(&head, size.width), style: Style::Normal }];
    let mut rows = rows(board);
    if !last {
        let room = size.height.saturating_sub(2);
        let logs = give_logs(board, &mut rows, room, size.log_lines);
        rows = wrap(rows, room.saturating_sub(logs));
    }
    for row in rows {
        let entry = &mut board.entries[row.entry];
        let before = lines.len();
        lines.extend(render(entry, row.kind, size.width, now));
        if row.log > 0 && lines.len() > before {
            entry.framed += 1;
            lines.extend(log(entry, row.log, size.width));
        }
    }
    if !last {
        lines.truncate(size.height.saturating_sub(1).max(1));
    }
    lines
}

fn rows(board: &Board) -> Vec<Row> {
    let mut rows = Vec::with_capacity(board.entries.len());
    for (index, entry) in board.visible() {
        let row = |kind, over| Row { entry: index, kind, over, log: 0 };
        rows.push(row(Kind::Vertex, entry.is_complete()));
        for (at, status) in entry.statuses.iter().enumerate() {
            rows.push(row(Kind::Status(at), status.status.completed.is_some()));
        }
        rows.extend((0..entry.warnings.len()).map(|at| row(Kind::Warning(at), false)));
    }
    rows
}

/// Decides whose logs there is room for. The lines that they take.
fn give_logs(board: &Board, rows: &mut [Row], room: usize, log_lines: usize) -> usize {
    let mut free = room.saturating_sub(rows.iter().filter(|row| !row.over).count());
    let weight = |row: &Row| {
        let entry = &board.entries[row.entry];
        entry.log.bytes.saturating_add(entry.framed.saturating_mul(FRAME_WEIGHT))
    };
    let mut candidates: Vec<&mut Row> = (rows.iter_mut())
        .filter(|row| matches!(row.kind, Kind::Vertex) && !row.over && board.entries[row.entry].log.bytes > 0)
        .collect();
    candidates.sort_by_key(|row| std::cmp::Reverse(weight(row)));
    let mut taken = 0;
    // Each is reckoned with all of its lines and some room around, so that a frame is not all logs.
    let share = log_lines + 3;
    for row in candidates {
        if free <= share {
            break;
        }
        row.log = log_lines;
        taken += board.entries[row.entry].log.newest(log_lines).len();
        free -= share;
    }
    taken
}

/// The last `limit` rows; what goes on and would be cut off takes the place of what is over.
fn wrap(rows: Vec<Row>, limit: usize) -> Vec<Row> {
    let Some(cut) = rows.len().checked_sub(limit).filter(|cut| *cut > 0) else { return rows };
    let (hidden, shown) = rows.split_at(cut);
    let hidden: Vec<Row> = hidden.iter().filter(|row| !row.over).copied().collect();
    let mut places = hidden.len();
    let mut kept = Vec::with_capacity(limit);
    for row in shown {
        if row.over && places > 0 {
            places -= 1;
        } else {
            kept.push(*row);
        }
    }
    // The newest of the hidden ones, if there is not room for all.
    let mut wrapped = hidden[places.min(hidden.len())..].to_vec();
    wrapped.extend(kept);
    wrapped
}

/// One row; `None` if the terminal is too narrow for it.
fn render(entry: &Entry, kind: Kind, width: usize, now: f64) -> Option<Line> {
    let state = |complete: bool| match () {
        () if !complete => Style::Normal,
        () if entry.is_cancelled() => Style::Cancel,
        () if entry.is_failed() => Style::Error,
        () => Style::Run,
    };
    // Files and rate, where there is room for them.
    let mut more = None;
    let (name, amount, time, style) = match kind {
        Kind::Vertex => {
            let mark = match () {
                () if entry.is_cancelled() => "CANCELED ",
                () if entry.is_failed() => "ERROR ",
                () if entry.vertex.cached && entry.is_complete() => "CACHED ",
                () => "",
            };
            let name = format!("{mark}{}", entry.name());
            (name, None, entry.spans.total(now), state(entry.is_complete()))
        }
        Kind::Status(at) => {
            let status = &entry.statuses[at].status;
            let mut spans = Spans::default();
            if let Some(started) = status.started {
                spans.set(seconds(started), status.completed.map(seconds));
            }
            let style = if status.completed.is_some() { Style::Run } else { Style::Normal };
            more = text::transfer(status);
            (format!("=> {}", text::status_name(status)), text::amount(status), spans.total(now), style)
        }
        Kind::Warning(at) => {
            (format!("WARN: {}", entry.warnings[at]), None, entry.spans.total(now), Style::Normal)
        }
    };
    let mut amount = amount;
    if let (Some(amount), Some(more)) = (&mut amount, more)
        && text_columns(&name) + amount.len() + more.len() + ROW_MARGIN <= width
    {
        *amount = format!("{amount} ({more})");
    }
    let text = row_text(&name, amount.as_deref(), time, width)?;
    Some(Line { text, style })
}

/// ` => name amount       1.2s`.
fn row_text(name: &str, amount: Option<&str>, seconds: f64, width: usize) -> Option<String> {
    const PREFIX: &str = " => ";
    // A row with less room for its name says nothing.
    const MIN_NAME: usize = 12;
    let timer = format!(" {seconds:.1}s");
    let mut left = width.checked_sub(PREFIX.len() + timer.len() + 2)?;
    let amount = amount.filter(|amount| left + amount.len() > 20 && left > amount.len());
    left -= amount.map_or(0, |amount| amount.len() + 1);
    if left < MIN_NAME {
        return None;
    }
    let mut text = format!("{PREFIX}{}", cut(name, left));
    if let Some(amount) = amount {
        text.push(' ');
        text.push_str(amount);
    }
    let used = text_columns(&text) + timer.len();
    text.extend(std::iter::repeat_n(' ', (width - 1).saturating_sub(used)));
    text.push_str(&timer);
    Some(text)
}

fn log(entry: &Entry, count: usize, width: usize) -> Vec<Line> {
    let room = width.saturating_sub(LOG_MARGIN);
    let mut pieces: Vec<String> = Vec::new();
    for line in entry.log.newest(count) {
        let mut parts = split(&line, room, count);
        parts.reverse();
        pieces.extend(parts);
    }
    pieces.truncate(count);
    let line = |piece| Line { text: cut(&format!(" => => # {piece}"), width), style: Style::Faint };
    pieces.into_iter().rev().map(line).collect()
}

/// A line as it wraps in `width` columns; of many pieces the last.
fn split(line: &str, width: usize, count: usize) -> Vec<String> {
    let mut pieces = std::collections::VecDeque::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (at, piece) = prefix(rest, width);
        if at == 0 {
            break;
        }
        pieces.push_back(piece);
        if pieces.len() > count {
            pieces.pop_front();
        }
        rest = &rest[at..];
    }
    pieces.into()
}

/// Columns of a character: wide ones (East Asian, emoji) take two.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

pub(super) fn text_columns(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn cut(text: &str, width: usize) -> String {
    prefix(text, width).1
}

/// As much of a text as fits: its bytes, and how it is shown.
fn prefix(text: &str, width: usize) -> (usize, String) {
    let (mut used, mut out) = (0, String::new());
    for (at, c) in text.char_indices() {
        used += columns(c);
        if used > width {
            return (at, out);
        }
        out.push(if c == '\t' { ' ' } else { c });
    }
    (text.len(), out)
}
