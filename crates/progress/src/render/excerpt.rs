use std::fmt::Write as _;

use rbuild_api::pb;

use super::text::{clean, one_line};

/// Lines shown before and after what is marked: enough to see the surroundings.
const AROUND: usize = 2;
/// Most lines of a pointed excerpt; the rest of a long heredoc says nothing.
const MAX_LINES: usize = 20;
const RULE: &str = "--------------------\n";

/// Part of a text that an error or a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// First line, from 1.
    pub first: usize,
    /// Last line.
    pub last: usize,
    /// Characters of the first line, from 0, the end not included.
    pub columns: Option<(usize, usize)>,
}

/// How an excerpt begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Below the file's name, between rules, as upstream's clients print it.
    Framed,
    /// Behind an arrow with the file's name, line and column, the marked word underlined.
    Pointed,
}

impl Mark {
    /// Of lines `first` to `last` and characters of the first one, as they come from a client; `None` without a line.
    pub fn new(first: i64, last: i64, columns: (i64, i64)) -> Option<Self> {
        let number = |value: i64| usize::try_from(value).ok();
        let first = number(first).filter(|first| *first > 0)?;
        let last = number(last).unwrap_or(first).max(first);
        let columns = match (number(columns.0), number(columns.1)) {
            (Some(start), Some(end)) if end > start && first == last => Some((start, end)),
            _ => None,
        };
        Some(Self { first, last, columns })
    }

    /// From the wire.
    pub fn from_wire(range: &pb::Range) -> Option<Self> {
        let (start, end) = (range.start.unwrap_or_default(), range.end.unwrap_or_default());
        let columns = (i64::from(start.character), i64::from(end.character));
        Self::new(start.line.into(), end.line.into(), columns)
    }
}

/// The marked lines of a file with those around them; `None` if nothing is marked.
pub fn excerpt(name: &str, text: &str, marks: &[Mark], look: Look) -> Option<String> {
    let first = marks.iter().map(|mark| mark.first).min()?;
    let last = marks.iter().map(|mark| mark.last).max()?;
    let pointed = marks.iter().find(|mark| mark.columns.is_some());
    // Upstream shows fewer lines around a place of several.
    let around = if look == Look::Framed && first != last { 1 } else { AROUND };
    let (mut from, mut to) = (first.saturating_sub(around).max(1), last.saturating_add(around));
    let name = one_line(name);
    let mut out = match (look, pointed) {
        (Look::Framed, _) => format!("{name}:{first}\n{RULE}"),
        (Look::Pointed, Some(Mark { first, columns: Some((start, _)), .. })) => {
            format!("  --> {name}:{first}:{}\n", start.saturating_add(1))
        }
        (Look::Pointed, _) => format!("  --> {name}:{first}\n"),
    };
    if look == Look::Pointed && to - from >= MAX_LINES {
        let at = pointed.map_or(first, |mark| mark.first);
        from = from.max(at.saturating_sub(MAX_LINES / 2));
        to = to.min(from.saturating_add(MAX_LINES - 1));
    }
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    let end = text.strip_suffix('\n').unwrap_or(text).split('\n').count();
    for (index, line) in lines.skip(from - 1).take((to - from).saturating_add(1)) {
        let number = index + 1;
        if number > end && look == Look::Pointed {
            break;
        }
        let hit = marks.iter().any(|mark| (mark.first..=mark.last).contains(&number));
        let shown = clean(line);
        // Writing to a string cannot fail.
        let _ok = writeln!(out, " {number:>3} | {} {shown}", if hit { ">>>" } else { "   " }).is_ok();
        let columns = marks.iter().filter(|mark| mark.first == number).find_map(|mark| mark.columns);
        if let (Look::Pointed, Some(columns)) = (look, columns) {
            out.push_str(&underline(line, columns));
        }
    }
    if look == Look::Framed {
        out.push_str(RULE);
    }
    Some(out)
}

/// `^^^^` below characters `start` to `end` of a line, whatever a terminal makes of tabs.
fn underline(line: &str, (start, end): (usize, usize)) -> String {
    let clean_length = |count: usize| clean(&line.chars().take(count).collect::<String>()).into_owned();
    let (before, through) = (clean_length(start), clean_length(end));
    let width = through.chars().count().saturating_sub(before.chars().count());
    if width == 0 {
        return String::new();
    }
    let padding: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    format!("     |     {padding}{}\n", "^".repeat(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(first: usize, last: usize) -> Mark {
        Mark { first, last, columns: None }
    }

    #[test]
    fn the_failing_line_is_marked_and_escapes_are_taken_out() {
        let text = "FROM a\n\nRUN \u{1b}[31mx\nRUN y\nRUN z\nRUN w\n";
        let framed = excerpt("Dockerfile", text, &[lines(3, 3)], Look::Framed).unwrap();
        let body = "   1 |     FROM a\n   2 |     \n   3 | >>> RUN x\n   4 |     RUN y\n   5 |     RUN z\n";
        assert_eq!(framed, format!("Dockerfile:3\n{RULE}{body}{RULE}"));
        let pointed = excerpt("Dockerfile", text, &[lines(3, 3)], Look::Pointed).unwrap();
        assert_eq!(pointed, format!("  --> Dockerfile:3\n{body}"));
    }

    #[test]
    fn the_word_is_underlined_behind_tabs_too() {
        let mark = Mark { first: 2, last: 2, columns: Some((6, 11)) };
        let shown = excerpt("f", "FROM a\n\tCOPY --frm a b\n", &[mark], Look::Pointed).unwrap();
        assert_eq!(
            shown,
            "  --> f:2:7\n   1 |     FROM a\n   2 | >>> \tCOPY --frm a b\n     |     \t     ^^^^^\n"
        );
    }

    #[test]
    fn of_a_long_heredoc_the_part_with_the_mark_is_shown() {
        let text: String = (1..=500).map(|n| format!("line {n}\n")).collect();
        let mark = Mark { first: 300, last: 300, columns: Some((0, 4)) };
        let marks: Vec<Mark> = (2..=400).map(|n| if n == 300 { mark } else { lines(n, n) }).collect();
        let shown = excerpt("f", &text, &marks, Look::Pointed).unwrap();
        assert!(shown.contains(" 300 | >>> line 300\n     |     ^^^^\n"), "{shown}");
        assert!(shown.lines().count() <= MAX_LINES + 2, "{shown}");
        let shown = excerpt("f", &text, &[lines(2, 400)], Look::Pointed).unwrap();
        assert!(shown.contains("   2 | >>> line 2\n") && shown.lines().count() <= MAX_LINES + 2, "{shown}");
    }

    #[test]
    fn absurd_ranges_do_not_panic() {
        let far = Mark { first: usize::MAX, last: usize::MAX, columns: Some((usize::MAX - 1, usize::MAX)) };
        let odd = Mark { first: 1, last: 1, columns: Some((7, usize::MAX)) };
        for marks in [&[][..], &[far], &[odd], &[lines(1, usize::MAX)], &[far, odd]] {
            for look in [Look::Framed, Look::Pointed] {
                assert!(excerpt("f", "a\n", marks, look).unwrap_or_default().len() < 200);
            }
        }
        for (first, last) in [(0, 0), (-1, 3), (i64::MIN, i64::MAX)] {
            assert_eq!(Mark::new(first, last, (0, 0)), None);
        }
        assert_eq!(Mark::new(5, 2, (3, 1)), Some(lines(5, 5)));
    }
}
