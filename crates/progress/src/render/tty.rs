//! The live view on a terminal: frames drawn over each other.

use std::io::{self, Write as _};
use std::time::Instant;

use super::board::Board;
use super::colours::Colours;
use super::rows::{Line, Size, Style, frame};

/// Lines of log under a running vertex, unless `BUILDKIT_TTY_LOG_LINES` says otherwise.
const LOG_LINES: usize = 6;
/// More would not fit in any terminal.
const MAX_LOG_LINES: usize = 1_000;

#[derive(Debug)]
pub(super) struct Tty {
    pub(super) colours: Colours,
    log_lines: usize,
    began: Instant,
    drawn: usize,
}

impl Tty {
    /// As the environment wants it.
    pub(super) fn new(colour: bool) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let colours =
            if colour { Colours::with(variable("BUILDKIT_COLORS").as_deref()) } else { Colours::none() };
        let lines = variable("BUILDKIT_TTY_LOG_LINES").and_then(|lines| lines.parse().ok());
        let log_lines = lines.unwrap_or(LOG_LINES).min(MAX_LOG_LINES);
        Self { colours, log_lines, began: Instant::now(), drawn: 0 }
    }

    /// Draws the board over what was drawn before.
    pub(super) fn draw(&mut self, board: &mut Board, last: bool) -> io::Result<()> {
        let (width, height) = size();
        let size = Size { width, height, log_lines: self.log_lines };
        let now = board.now();
        let lines = frame(board, size, now, self.began.elapsed().as_secs_f64(), last);
        io::stderr().lock().write_all(self.paint(&lines, last).as_bytes())
    }

    fn paint(&mut self, lines: &[Line], last: bool) -> String {
        let mut out = String::from("\x1b[?25l");
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            let colour = match line.style {
                Style::Normal => None,
                Style::Run => self.colours.run.as_deref(),
                Style::Cancel => self.colours.cancel.as_deref(),
                Style::Error => self.colours.error.as_deref(),
                Style::Faint => self.colours.faint.as_deref(),
            };
            match colour {
                Some(code) => out.push_str(&format!("\r\x1b[{code}m{}\x1b[0m\x1b[K\n", line.text)),
                None => out.push_str(&format!("\r{}\x1b[K\n", line.text)),
            }
        }
        out.push_str("\x1b[J\x1b[?25h");
        self.drawn = if last { 0 } else { lines.len() };
        out
    }
}

/// Columns and rows of the terminal; 80 × 24 if nobody knows.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let mut tty = Tty { colours: Colours::with(None), log_lines: 6, began: Instant::now(), drawn: 0 };
        let line = |text: &str, style| Line { text: text.into(), style };
        let first = tty.paint(&[line("head", Style::Normal), line(" => a", Style::Run)], false);
        assert_eq!(first, "\x1b[?25l\rhead\x1b[K\n\r\x1b[34m => a\x1b[0m\x1b[K\n\x1b[J\x1b[?25h");
        let second = tty.paint(&[line("head", Style::Normal)], true);
        assert_eq!(second, "\x1b[?25l\x1b[2A\rhead\x1b[K\n\x1b[J\x1b[?25h");
        assert_eq!(tty.drawn, 0);
    }
}
