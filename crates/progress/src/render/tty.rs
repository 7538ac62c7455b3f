//! The live view: a header and a line or more per vertex, redrawn in place. The frame is a pure function of the
//! board and the terminal's size; only [`Tty::draw`] touches the terminal.

use std::io::{self, Write as _};
use std::time::Instant;

use super::board::{Board, Entry};
use super::text;

/// Lines of log shown under a running vertex.
const LOG_LINES: usize = 6;

#[derive(Debug)]
pub(super) struct Tty {
    colour: bool,
    drawn: usize,
    last: Option<Instant>,
}

impl Tty {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, drawn: 0, last: None }
    }

    /// Draws the board over what was drawn before; at most some ten times a second but for the last time.
    pub(super) fn draw(&mut self, board: &mut Board, last: bool) -> io::Result<()> {
        let recent = self.last.is_some_and(|at| at.elapsed() < super::REDRAW.mul_f32(0.6));
        if recent && !last {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let (width, height) = size();
        let seconds = board.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let lines = frame(board, width, if last { usize::MAX } else { height }, seconds, last);
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            out.push_str("\r\x1b[2K");
            match (self.colour, line.colour) {
                (true, Some(code)) => out.push_str(&format!("\x1b[{code}m{}\x1b[0m", line.text)),
                _ => out.push_str(&line.text),
            }
            out.push('\n');
        }
        out.push_str("\x1b[J");
        self.drawn = if last { 0 } else { lines.len() };
        io::stderr().lock().write_all(out.as_bytes())
    }
}

/// Columns and rows of the terminal; 80 × 24 if nobody knows.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// A line of a frame; colour is an SGR code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) colour: Option<&'static str>,
}

const BLUE: &str = "34";
const RED: &str = "31";
const YELLOW: &str = "33";

/// What the terminal shows: at most `height` lines of at most `width` columns.
pub(super) fn frame(board: &Board, width: usize, height: usize, seconds: f64, last: bool) -> Vec<Line> {
    let total = board.visible().count();
    let complete = board.visible().filter(|entry| entry.is_complete()).count();
    let failed = board.visible().any(Entry::is_failed);
    let state = match (last, failed) {
        (true, false) => " FINISHED",
        (true, true) => " ERROR",
        (false, _) => "",
    };
    let mut lines = vec![Line {
        text: cut(&format!("[+] Building {seconds:.1}s ({complete}/{total}){state}"), width),
        colour: last.then_some(if failed { RED } else { BLUE }),
    }];
    let room = height.saturating_sub(2);
    let mut body: Vec<(bool, Vec<Line>)> =
        board.visible().map(|entry| (entry.is_complete(), entry_lines(entry, width, last))).collect();
    // Too little room: what is over goes first, oldest first; what runs keeps its place.
    let mut excess = body.iter().map(|(_, lines)| lines.len()).sum::<usize>().saturating_sub(room);
    for (_, lines) in body.iter_mut().filter(|(complete, _)| *complete) {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(lines.len());
        lines.clear();
    }
    lines.extend(body.into_iter().flat_map(|(_, lines)| lines).take(room));
    lines
}

fn entry_lines(entry: &Entry, width: usize, last: bool) -> Vec<Line> {
    let (mark, colour) = match () {
        () if entry.is_cancelled() => ("CANCELED ", Some(YELLOW)),
        () if entry.is_failed() => ("ERROR ", Some(RED)),
        () if entry.vertex.cached => ("CACHED ", Some(BLUE)),
        () if entry.is_complete() => ("", Some(BLUE)),
        () => ("", None),
    };
    let time = format!("{:.1}s", entry.seconds());
    let mut lines = vec![Line { text: spread(&format!(" => {mark}{}", entry.name()), &time, width), colour }];
    if entry.is_complete() && !entry.is_failed() {
        return lines;
    }
    for status in &entry.statuses {
        if status.status.completed.is_none() {
            lines.push(Line {
                text: cut(&format!(" => => {}", text::status_line(&status.status)), width),
                colour: None,
            });
        }
    }
    if !last {
        let skip = entry.last.len().saturating_sub(LOG_LINES);
        for line in entry.last.iter().skip(skip) {
            let body = line.split_once(' ').map_or("", |(_, body)| body);
            lines.push(Line { text: cut(&format!(" => => # {body}"), width), colour: None });
        }
    }
    lines
}

/// Columns of a string, counting every character as one but wide ones (East Asian, emoji) as two.
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

fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    let mut out = String::new();
    for c in text.chars().map(|c| if c == '\t' { ' ' } else { c }) {
        used += columns(c);
        if used > width {
            break;
        }
        out.push(c);
    }
    out
}

/// `left` and `right` at the two ends of the line; `left` is cut if they do not fit.
fn spread(left: &str, right: &str, width: usize) -> String {
    let right_columns = right.len() + 1;
    if width <= right_columns {
        return cut(left, width);
    }
    let left = cut(left, width - right_columns);
    let used: usize = left.chars().map(columns).sum();
    format!("{left}{}{right}", " ".repeat(width - used - right.len()))
}
