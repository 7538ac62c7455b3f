//! The only place that writes to the terminal: results on standard output, everything else on standard error.

use std::io::Write as _;

/// A line of a result.
pub(crate) fn print(line: &str) {
    write(&mut std::io::stdout(), line);
}

/// Bytes of a result as they are.
pub(crate) fn print_raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        gone();
    }
}

/// Text without control characters, which could change the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// As [`plain`], for texts of many lines.
pub(crate) fn plain_lines(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n')).collect()
}

/// A line for the person at the terminal.
pub(crate) fn note(line: &str) {
    write(&mut std::io::stderr(), line);
}

/// Text that is complete with its line ends.
pub(crate) fn complain(text: &str) {
    if std::io::stderr().write_all(text.as_bytes()).is_err() {
        gone();
    }
}

fn write(stream: &mut impl std::io::Write, line: &str) {
    if writeln!(stream, "{line}").is_err() {
        gone();
    }
}

/// The reader closed the pipe: nobody is there to be told anything.
fn gone() {
    tracing::debug!("output was closed");
}

/// Columns padded to the widest cell, two spaces between.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        print(cells.join("  ").trim_end());
    }
}
