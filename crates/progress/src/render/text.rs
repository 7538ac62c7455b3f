//! Words and numbers that the views share.

use std::fmt::Write as _;

use rbuild_api::moby::buildkit::v1::VertexStatus;

use super::board::{Board, seconds_between};

/// Text from outside without what a terminal would act on: escape sequences and control characters.
pub(super) fn clean(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
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
        Some(last) if out.contains('\n') => last.to_owned(),
        _ => out,
    }
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
pub(super) fn bytes(count: i64) -> String {
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

/// One status as a line: `transferring context: 13.16MB 2.2s done`.
pub(super) fn status_line(status: &VertexStatus) -> String {
    let name =
        if status.name.is_empty() || status.id.starts_with(&status.name) { &status.id } else { &status.name };
    let mut line = clean(name);
    let amount = match (status.current, status.total) {
        (0, 0) => None,
        (current, 0) => Some(bytes(current)),
        (current, total) => Some(format!("{} / {}", bytes(current), bytes(total))),
    };
    // Writing to a string cannot fail.
    if let Some(amount) = amount {
        let _ok = write!(line, " {amount}").is_ok();
    }
    if let (Some(started), Some(end)) = (status.started, status.completed.or(status.timestamp)) {
        let seconds = seconds_between(started, end);
        if seconds > 0.01 {
            let _ok = write!(line, " {seconds:.1}s").is_ok();
        }
    }
    if status.completed.is_some() {
        line.push_str(" done");
    }
    line
}

/// The log's end of each failed step, and the warnings.
pub(super) fn failures(board: &Board) -> String {
    let mut out = String::new();
    for entry in board.visible().filter(|entry| entry.is_failed()) {
        let _ok = writeln!(out, "------\n > {}:", entry.name()).is_ok();
        for line in &entry.last {
            let _ok = writeln!(out, "{line}").is_ok();
        }
        out.push_str("------\n");
    }
    if !board.warnings.is_empty() {
        let count = board.warnings.len();
        let _ok = writeln!(out, "\n {count} warning{} found:", if count == 1 { "" } else { "s" }).is_ok();
    }
    for warning in &board.warnings {
        let short = clean(&String::from_utf8_lossy(&warning.short));
        let place = warning.ranges.first().and_then(|range| range.start).map(|start| start.line);
        let place = place.map_or_else(String::new, |line| format!(" (line {line})"));
        let _ok = writeln!(out, " - {short}{place}").is_ok();
        for detail in &warning.detail {
            let _ok = writeln!(out, "   {}", clean(&String::from_utf8_lossy(detail))).is_ok();
        }
        if !warning.url.is_empty() {
            let _ok = writeln!(out, "   {}", clean(&warning.url)).is_ok();
        }
    }
    out
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
    fn sizes_read_as_upstream_prints_them() {
        assert_eq!(bytes(2), "2B");
        assert_eq!(bytes(1_090_000), "1.09MB");
        assert_eq!(bytes(50_123), "50.12kB");
    }
}
