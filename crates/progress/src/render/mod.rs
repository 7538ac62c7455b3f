//! Progress as text, for people or scripts: a stream of `StatusResponse`s in, lines or a redrawn terminal out.
//! It doesn't matter which daemon the stream comes from.

mod board;
mod colours;
mod excerpt;
mod log;
mod plain;
mod raw;
mod rows;
mod spans;
#[cfg(test)]
mod tests;
mod text;
mod tty;

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use rbuild_api::moby::buildkit::v1::StatusResponse;

pub use excerpt::{Look, Mark, excerpt};
pub use text::bytes;

use board::Board;
use log::Keep;
use plain::Plain;
use tty::Tty;

/// Time between two looks at what has changed, and between two frames.
const REDRAW: Duration = Duration::from_millis(100);
/// Events that are taken in at a time.
const BATCH: usize = 64;
/// After this many bytes of logs lines are shown without waiting for the next look: memory stays bounded.
const MAX_FRESH_BYTES: usize = 1 << 20;
/// Lines of each log's end that the live view keeps, to repeat them if the step fails.
const TTY_TAIL: usize = 1_000;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// A live view if stderr is a terminal, lines otherwise.
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// A live view on stderr.
    Tty,
    /// A JSON object per event.
    RawJson,
    /// Nothing but the ends of the logs of failed steps.
    Quiet,
}

/// The word is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown progress mode `{0}`: expected auto, plain, tty, rawjson or quiet")]
pub struct ParseModeError(String);

impl FromStr for Mode {
    type Err = ParseModeError;
    fn from_str(word: &str) -> Result<Self, ParseModeError> {
        Ok(match word {
            "auto" | "" => Self::Auto,
            "plain" => Self::Plain,
            "tty" => Self::Tty,
            "rawjson" => Self::RawJson,
            "quiet" => Self::Quiet,
            _ => return Err(ParseModeError(word.to_owned())),
        })
    }
}

/// How the output looks.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// Colours in the live view.
    pub colour: bool,
    /// A line with the totals at the end.
    pub summary: bool,
    /// The warnings at the end with their explanations and the lines that they are about.
    pub details: bool,
    /// Said beside the warnings when they come without details: how to have them.
    pub details_hint: Option<&'static str>,
}

impl Default for RenderOptions {
    /// Colours unless `NO_COLOR` is set; with totals; warnings without details.
    fn default() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: !no_color, summary: true, details: false, details_hint: None }
    }
}

/// Totals of what was shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Vertices that began.
    pub vertices: usize,
    /// Of these, from the cache.
    pub cached: usize,
    /// Of these, failed.
    pub failed: usize,
    /// Warnings.
    pub warnings: usize,
}

impl Summary {
    /// One line: `built 7 steps, 3 cached, in 1.2s`.
    pub fn line(&self, elapsed: Duration) -> String {
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let mut line = if self.failed > 0 { "failed after ".to_owned() } else { "built ".to_owned() };
        line.push_str(&plural(self.vertices, "step"));
        line.push_str(&format!(", {} cached", self.cached));
        if self.failed > 0 {
            line.push_str(&format!(", {} failed", self.failed));
        }
        if self.warnings > 0 {
            line.push_str(&format!(", {}", plural(self.warnings, "warning")));
        }
        line.push_str(&format!(", in {:.1}s", elapsed.as_secs_f64()));
        line
    }
}

/// Turns events into text.
pub struct Renderer {
    board: Board,
    view: View,
    writer: Box<dyn Write + Send>,
    options: RenderOptions,
    started: Instant,
    /// Nobody reads what is written.
    broken: bool,
}

enum View {
    Plain(Plain),
    Tty(Tty),
    RawJson,
    Quiet,
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renderer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Renderer {
    /// Lines and JSON go to `writer`; the live view goes to stderr.
    pub fn new(mode: Mode, writer: Box<dyn Write + Send>, options: RenderOptions) -> Self {
        let mode = match mode {
            Mode::Auto if io::stderr().is_terminal() => Mode::Tty,
            Mode::Auto => Mode::Plain,
            mode => mode,
        };
        let view = match mode {
            Mode::Tty => View::Tty(Tty::new(options.colour)),
            Mode::RawJson => View::RawJson,
            Mode::Quiet => View::Quiet,
            Mode::Auto | Mode::Plain => View::Plain(Plain::default()),
        };
        let keep = match view {
            View::Plain(_) => Keep { pending: true, tail: text::LAST_LINES },
            View::Tty(_) => Keep { pending: false, tail: TTY_TAIL },
            View::Quiet => Keep { pending: false, tail: text::LAST_LINES },
            View::RawJson => Keep { pending: false, tail: 1 },
        };
        Self { board: Board::new(keep), view, writer, options, started: Instant::now(), broken: false }
    }

    /// Renders to stderr.
    pub fn stderr(mode: Mode) -> Self {
        Self::new(mode, Box::new(io::stderr()), RenderOptions::default())
    }

    /// Shows events until the stream ends, then what failed, the warnings and the totals. A writer that fails
    /// (a closed pipe) ends the showing, not the reading.
    pub async fn run(mut self, events: impl Stream<Item = StatusResponse> + Send) -> Summary {
        let mut events = std::pin::pin!(events.ready_chunks(BATCH));
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let batch = tokio::select! {
                batch = events.next() => match batch {
                    Some(batch) => Some(batch),
                    None => break,
                },
                _ = ticks.tick() => None,
            };
            // The terminal may stall (Ctrl-S, a slow pipe): that must not stall sessions on the same runtime.
            let shown = tokio::task::spawn_blocking(move || {
                self.step(batch);
                self
            });
            let Ok(renderer) = shown.await else { return Summary::default() };
            self = renderer;
        }
        let summary = self.board.summary();
        if !self.broken && tokio::task::spawn_blocking(move || self.finish()).await.is_err() {
            tracing::debug!("the end of the progress was not shown");
        }
        summary
    }

    /// Takes events in; without any, it is time to show.
    fn step(&mut self, batch: Option<Vec<StatusResponse>>) {
        let Some(batch) = batch else { return self.try_to(Self::show) };
        if matches!(self.view, View::RawJson) {
            let lines = batch.iter().map(|event| format!("{}\n", raw::json(event))).collect::<String>();
            self.try_to(|renderer| {
                renderer.writer.write_all(lines.as_bytes())?;
                renderer.writer.flush()
            });
        }
        for event in batch {
            self.board.apply(event);
            if self.board.fresh_bytes > MAX_FRESH_BYTES && matches!(self.view, View::Plain(_)) {
                self.try_to(Self::show);
            }
        }
    }

    /// Writes, unless that failed before.
    fn try_to(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) {
        if !self.broken && write(self).is_err() {
            self.broken = true;
            self.board.keep.pending = false;
        }
    }

    fn show(&mut self) -> io::Result<()> {
        match &mut self.view {
            View::Plain(plain) => {
                self.board.fresh_bytes = 0;
                let text = plain.lines(&mut self.board, self.started.elapsed());
                self.writer.write_all(text.as_bytes())?;
                self.writer.flush()
            }
            View::Tty(tty) => tty.draw(&mut self.board, false),
            View::RawJson | View::Quiet => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let colour = match &mut self.view {
            View::Plain(plain) => {
                let text = plain.finish(&mut self.board);
                self.writer.write_all(text.as_bytes())?;
                None
            }
            View::Tty(tty) => {
                tty.draw(&mut self.board, true)?;
                let text = text::failures(&self.board);
                self.writer.write_all(text.as_bytes())?;
                tty.colours.warning.clone()
            }
            View::Quiet => {
                let text = text::failures(&self.board);
                self.writer.write_all(text.as_bytes())?;
                return self.writer.flush();
            }
            View::RawJson => return Ok(()),
        };
        let warnings = text::warnings(&self.board, &self.options, colour.as_deref());
        self.writer.write_all(warnings.as_bytes())?;
        let summary = self.board.summary();
        if self.options.summary && summary.vertices > 0 {
            writeln!(self.writer, "\n{}", summary.line(self.started.elapsed()))?;
        }
        self.writer.flush()
    }
}
