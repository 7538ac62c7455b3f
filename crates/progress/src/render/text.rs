//! Words and numbers that the views share.

use std::borrow::Cow;
use std::fmt::Write as _;

use rbuild_api::moby::buildkit::v1::{VertexStatus, VertexWarning};

use super::RenderOptions;
use super::board::Board;
use super::excerpt::{Look, Mark, excerpt};
use super::spans::seconds;
use crate::reporter::files_in_name;

/// Lines of a failed step's log that are repeated at the end of plain output.
pub(super) const LAST_LINES: usize = 10;
/// A shorter transfer has no rate worth reading.
const MIN_TRANSFER_S: f64 = 0.2;

/// A line from outside without what a terminal would act on: escape sequences and control characters.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    // All control characters but the rare C1 ones, which are two bytes that begin with 0xc2, are single bytes.
    if !text.bytes().any(|byte| byte < b' ' || byte == 0x7f || byte == 0xc2) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => out.push('\t'),
            // What was before it on the line would be overwritten on a terminal.
            '\r' if chars.peek().is_some() => out.push('\n'),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    // Of a line that overwrites itself (a download's counter), what stands last.
    match out.rsplit('\n').find(|part| !part.is_empty()) {
        Some(last) if out.contains('\n') => Cow::Owned(last.to_owned()),
        _ => Cow::Owned(out),
    }
}

/// A name or a message on one line, clean.
pub(super) fn one_line(text: &str) -> String {
    if text.contains(['\n', '\r']) {
        clean(&text.replace("\r\n", " ").replace(['\n', '\r'], " ")).into_owned()
    } else {
        clean(text).into_owned()
    }
}

/// Several lines, each of them clean.
pub(super) fn lines(text: &str) -> String {
    text.trim_end().split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            for c in chars.by_ref() {
                if ('@'..='~').contains(&c) {
                    break;
                }
            }
        }
        Some(']') => {
            for c in chars.by_ref() {
                if c == '\u{7}' || c == '\u{1b}' {
                    break;
                }
            }
        }
        _ => {
            chars.next();
        }
    }
}

/// `13.16MB`: decimal units, at most two digits after the point, as upstream's clients print them.
pub fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count}B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = count as f64 / 1_000.0;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// What a status is called: its id, which says what it is about.
pub(super) fn status_name(status: &VertexStatus) -> String {
    one_line(if status.id.is_empty() { &status.name } else { &status.id })
}

/// How far a status is: `1.09MB / 3.40MB`.
pub(super) fn amount(status: &VertexStatus) -> Option<String> {
    match (status.current, status.total) {
        (0, 0) => None,
        (current, 0) => Some(bytes(current)),
        (current, total) => Some(format!("{} / {}", bytes(current), bytes(total))),
    }
}

/// Seconds that a status has taken so far.
fn taken(status: &VertexStatus) -> Option<f64> {
    Some(seconds(status.completed.or(status.timestamp)?) - seconds(status.started?))
}

/// Files and rate of a transfer that takes long enough for a rate: `10000 files, 5.98MB/s`.
pub(super) fn transfer(status: &VertexStatus) -> Option<String> {
    let files = files_in_name(&status.name)?;
    let seconds = taken(status).filter(|seconds| *seconds >= MIN_TRANSFER_S)?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "two digits are shown")]
    let rate = bytes((status.current as f64 / seconds) as i64);
    Some(format!("{files} file{}, {rate}/s", if files == 1 { "" } else { "s" }))
}

/// One status as a line: `transferring context: 13.16MB 2.2s done`, behind which a daemon of ours adds files and rate.
pub(super) fn status_line(status: &VertexStatus) -> String {
    let mut line = status_name(status);
    // Writing to a string cannot fail.
    if let Some(amount) = amount(status) {
        let _ok = write!(line, " {amount}").is_ok();
    }
    if let Some(seconds) = taken(status).filter(|seconds| *seconds > 0.01) {
        let _ok = write!(line, " {seconds:.1}s").is_ok();
    }
    if status.completed.is_some() {
        line.push_str(" done");
    }
    if let Some(transfer) = transfer(status) {
        let _ok = write!(line, " ({transfer})").is_ok();
    }
    line
}

/// The end of each failed step's log; nothing for those that said nothing.
pub(super) fn failures(board: &Board) -> String {
    let mut out = String::new();
    for (_, entry) in board.visible().filter(|(_, entry)| entry.is_failed()) {
        let (before, lines) = entry.log.tail();
        let mut lines = lines.peekable();
        if lines.peek().is_none() {
            continue;
        }
        let _ok = writeln!(out, "------\n > {}:", entry.name()).is_ok();
        if before > 0 && board.keep.tail > LAST_LINES {
            let _ok = writeln!(out, "[{before} lines before]").is_ok();
        }
        for line in lines {
            let _ok = writeln!(out, "{line}").is_ok();
        }
        out.push_str("------\n");
    }
    out
}

/// The warnings: `short` lines, or with all that is known about each. The headline may have a colour.
pub(super) fn warnings(board: &Board, options: &RenderOptions, colour: Option<&str>) -> String {
    let mut out = String::new();
    let count = board.warnings.len();
    if count == 0 {
        return out;
    }
    let hint = options.details_hint.filter(|_| !options.details);
    let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
    let headline = format!("{count} warning{} found{hint}:", if count == 1 { "" } else { "s" });
    let _ok = match colour {
        Some(code) => writeln!(out, "\n \x1b[{code}m{headline}\x1b[0m"),
        None => writeln!(out, "\n {headline}"),
    }
    .is_ok();
    for warning in &board.warnings {
        let _ok = writeln!(out, " - {}", one_line(&String::from_utf8_lossy(&warning.short))).is_ok();
        if options.details {
            warning_details(&mut out, warning);
        }
    }
    out
}

fn warning_details(out: &mut String, warning: &VertexWarning) {
    for detail in &warning.detail {
        let _ok = writeln!(out, "{}", lines(&String::from_utf8_lossy(detail))).is_ok();
    }
    if !warning.url.is_empty() {
        let _ok = writeln!(out, "More info: {}", one_line(&warning.url)).is_ok();
    }
    if let Some(info) = &warning.info {
        let marks: Vec<Mark> = warning.ranges.iter().filter_map(Mark::from_wire).collect();
        let text = String::from_utf8_lossy(&info.data);
        out.push_str(&excerpt(&info.filename, &text, &marks, Look::Framed).unwrap_or_default());
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_passes() {
        assert_eq!(clean("a\u{1b}[31mred\u{1b}[0m"), "ared");
        assert_eq!(clean("\u{1b}]0;title\u{7}x"), "x");
        assert_eq!(clean("10%\r50%\r100%\r"), "100%");
        assert_eq!(clean("a\u{8}\u{0}b\tc"), "ab\tc");
    }

    #[test]
    fn several_lines_stay_or_become_one() {
        assert_eq!(one_line("RUN a\r\nb\nc"), "RUN a b c");
        assert_eq!(lines("a\u{1b}[1mb\nc\n"), "ab\nc");
        assert_eq!(clean("\u{9b}31mx"), "31mx");
    }

    #[test]
    fn sizes_read_as_upstream_prints_them() {
        assert_eq!(bytes(2), "2B");
        assert_eq!(bytes(1_090_000), "1.09MB");
        assert_eq!(bytes(50_123), "50.12kB");
    }
}
