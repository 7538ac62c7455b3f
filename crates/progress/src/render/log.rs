//! A vertex's output as lines: what is still to be shown, the end that is kept, lines that are not complete yet.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::text;

/// A longer line is cut into several: no log can make memory grow.
const MAX_LINE: usize = 64 << 10;
/// Bytes of a log's end that are kept, however few lines they are.
const MAX_TAIL: usize = 256 << 10;

/// What of a log is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Lines wait to be shown.
    pub(super) pending: bool,
    /// Lines of the end.
    pub(super) tail: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { pending: true, tail: 10 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Log {
    /// Lines not shown yet, each beginning with its time and ending with a newline.
    pending: String,
    /// Where each ends, and its stream.
    ends: Vec<(usize, i64)>,
    tail: VecDeque<String>,
    tail_bytes: usize,
    /// Lines that no longer are in the tail.
    dropped: usize,
    partial: BTreeMap<i64, Partial>,
    /// All bytes so far.
    pub(super) bytes: usize,
    stamp: (f64, String),
}

#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    seconds: f64,
}

/// `0.123`, `12.34`, `123.4`: four digits are enough to see what is slow.
fn stamp(seconds: f64) -> String {
    let digits = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

impl Log {
    /// Takes output in; the number of lines that it completed.
    pub(super) fn feed(&mut self, stream: i64, seconds: f64, mut bytes: &[u8], keep: Keep) -> usize {
        let mut lines = 0;
        self.bytes += bytes.len();
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            if at <= MAX_LINE && !self.partial.contains_key(&stream) {
                self.line(stream, seconds, &bytes[..at], keep);
            } else {
                lines += self.append(stream, seconds, &bytes[..at], keep);
                self.end(stream, keep);
            }
            lines += 1;
            bytes = &bytes[at + 1..];
        }
        lines + self.append(stream, seconds, bytes, keep)
    }

    /// Adds to a line that is not complete.
    fn append(&mut self, stream: i64, seconds: f64, mut bytes: &[u8], keep: Keep) -> usize {
        let mut lines = 0;
        while !bytes.is_empty() {
            let partial =
                self.partial.entry(stream).or_insert_with(|| Partial { bytes: Vec::new(), seconds });
            let room = (MAX_LINE - partial.bytes.len()).min(bytes.len());
            partial.bytes.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if !bytes.is_empty() {
                self.end(stream, keep);
                lines += 1;
            }
        }
        lines
    }

    fn end(&mut self, stream: i64, keep: Keep) {
        if let Some(partial) = self.partial.remove(&stream) {
            self.line(stream, partial.seconds, &partial.bytes, keep);
        }
    }

    /// The output is over: what is not complete never will be. The number of lines that this gives.
    pub(super) fn flush(&mut self, keep: Keep) -> usize {
        let partial = std::mem::take(&mut self.partial);
        let count = partial.len();
        for (stream, partial) in partial {
            self.line(stream, partial.seconds, &partial.bytes, keep);
        }
        count
    }

    fn line(&mut self, stream: i64, seconds: f64, bytes: &[u8], keep: Keep) {
        let raw = String::from_utf8_lossy(bytes);
        let line = text::clean(&raw);
        #[allow(clippy::float_cmp, reason = "the very same value is formatted once")]
        if self.stamp.1.is_empty() || self.stamp.0 != seconds {
            self.stamp = (seconds, stamp(seconds));
        }
        if keep.pending {
            for part in [&self.stamp.1, " ", &*line, "\n"] {
                self.pending.push_str(part);
            }
            self.ends.push((self.pending.len(), stream));
        }
        let mut last = String::new();
        while self.tail.len() >= keep.tail.max(1) || self.tail_bytes > MAX_TAIL {
            // The oldest line's memory becomes the newest's.
            last = self.tail.pop_front().unwrap_or_default();
            self.tail_bytes -= last.len();
            self.dropped += 1;
            last.clear();
        }
        // Writing to a string cannot fail.
        let _ok = write!(last, "{} {line}", self.stamp.1).is_ok();
        self.tail_bytes += last.len();
        self.tail.push_back(last);
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Lines to show, each with its stream and its newline; they are shown now.
    pub(super) fn take(&mut self) -> (String, Vec<(usize, i64)>) {
        (std::mem::take(&mut self.pending), std::mem::take(&mut self.ends))
    }

    /// The first line that is not complete and can be shown as it is, with its stream.
    pub(super) fn partial(&self) -> Option<(i64, String)> {
        let (stream, partial) = self.partial.first_key_value()?;
        let valid = match std::str::from_utf8(&partial.bytes) {
            Ok(text) => text,
            // The last character may still be incomplete; anything else is shown when the line is over.
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&partial.bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return None,
        };
        if valid.is_empty() || valid.chars().any(|c| c.is_control() && c != '\t') {
            return None;
        }
        Some((*stream, format!("{} {valid}", stamp(partial.seconds))))
    }

    /// The end of the log, with how many lines came before.
    pub(super) fn tail(&self) -> (usize, impl DoubleEndedIterator<Item = &str>) {
        (self.dropped, self.tail.iter().map(String::as_str))
    }

    /// The newest `count` lines without their times, newest first; the incomplete one is one of them.
    pub(super) fn newest(&self, count: usize) -> Vec<String> {
        let partial = self.partial.values().map(|partial| {
            let raw = String::from_utf8_lossy(&partial.bytes);
            text::clean(&raw).into_owned()
        });
        let whole = self.tail.iter().rev().map(|line| line.split_once(' ').map_or("", |(_, text)| text));
        partial.chain(whole.map(str::to_owned)).filter(|line| !line.trim().is_empty()).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &mut Log) -> String {
        log.take().0
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let (mut log, keep) = (Log::default(), Keep::default());
        assert_eq!(log.feed(1, 0.1, b"one\ntw", keep), 1);
        assert_eq!(log.feed(2, 0.2, b"other\n", keep), 1);
        assert_eq!(log.partial(), Some((1, "0.100 tw".into())));
        assert_eq!(log.feed(1, 12.345, b"o\n\nlast", keep), 2);
        assert_eq!(log.flush(keep), 1);
        assert_eq!(shown(&mut log), "0.100 one\n0.200 other\n0.100 two\n12.35 \n12.35 last\n");
    }

    #[test]
    fn an_endless_line_is_cut_and_the_tail_is_bounded() {
        let (mut log, keep) = (Log::default(), Keep { pending: false, tail: 1_000 });
        assert_eq!(log.feed(1, 123.45, &vec![b'x'; 100 * MAX_LINE + 1], keep), 100);
        assert!(log.tail_bytes <= MAX_TAIL + MAX_LINE + 16);
        assert_eq!(log.pending_bytes(), 0);
        assert_eq!(log.newest(2)[0], "x");
    }

    #[test]
    fn half_a_character_is_not_shown() {
        let (mut log, keep) = (Log::default(), Keep::default());
        log.feed(1, 0.0, &"aä".as_bytes()[..2], keep);
        assert_eq!(log.partial(), Some((1, "0.000 a".into())));
        log.feed(1, 0.0, &"ä".as_bytes()[1..], keep);
        assert_eq!(log.partial(), Some((1, "0.000 aä".into())));
        log.feed(1, 0.0, b"\x1b[1", keep);
        assert_eq!(log.partial(), None);
    }
}
