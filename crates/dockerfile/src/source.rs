use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::{Position, Range, SourceInfo, SourceLocation};

/// Lines of a Dockerfile, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lines {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Lines {
    pub(crate) fn one(line: u32) -> Self {
        Self { first: line, last: line }
    }

    /// One range per line, as upstream marks them.
    pub(crate) fn ranges(self) -> Vec<Range> {
        let line = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        // A heredoc may have millions of lines; what is shown is a screen at most.
        let last = self.last.min(self.first.saturating_add(MAX_RANGES));
        (self.first..=last).map(|n| Range::lines(line(n), line(n))).collect()
    }
}

/// Most lines that are marked for one instruction.
const MAX_RANGES: u32 = 100_000;

/// The text that is compiled.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) info: Arc<SourceInfo>,
}

impl Source {
    pub(crate) fn new(info: SourceInfo) -> Self {
        Self { info: Arc::new(info) }
    }

    /// The vertex that reads it.
    pub(crate) fn vertex(&self) -> Option<Digest> {
        let definition = self.info.definition.as_ref()?;
        // A definition that has no head was refused before.
        definition.head().ok().flatten().map(|(digest, _)| digest)
    }

    pub(crate) fn location(&self, lines: Lines) -> SourceLocation {
        SourceLocation { info: self.info.clone(), ranges: lines.ranges() }
    }

    /// One range per line; that of the line where `word` stands says which characters of it: from 0, the end not
    /// included. Clients that know lines only mark all lines as before.
    pub(crate) fn ranges(&self, lines: Lines, word: Option<&str>) -> Vec<Range> {
        let mut ranges = lines.ranges();
        let Some(word) = word.filter(|word| !word.is_empty() && !word.contains('\n')) else { return ranges };
        let text = String::from_utf8_lossy(&self.info.data);
        let written = text.lines().skip(lines.first.saturating_sub(1) as usize).take(ranges.len());
        for (range, line) in ranges.iter_mut().zip(written) {
            let Some(at) = find_word(line, word) else { continue };
            let count = |text: &str| i32::try_from(text.chars().count()).unwrap_or(i32::MAX);
            let start = count(&line[..at]);
            range.start = Position { character: start, ..range.start };
            range.end = Position { character: start.saturating_add(count(word)), ..range.end };
            break;
        }
        ranges
    }
}

/// Where a line has the word: on its own if possible, else as part of another.
fn find_word(line: &str, word: &str) -> Option<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let free = |at: &usize| {
        let before = line[..*at].chars().next_back().filter(|_| word.starts_with(part_of_word));
        let after = line[*at + word.len()..].chars().next().filter(|_| word.ends_with(part_of_word));
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    };
    let mut places = line.match_indices(word).map(|(at, _)| at);
    let first = places.next()?;
    std::iter::once(first).chain(places).find(free).or(Some(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str, lines: Lines, word: &str) -> Vec<(i32, i32, i32)> {
        let info = SourceInfo { data: text.as_bytes().to_vec().into(), ..SourceInfo::default() };
        let ranges = Source::new(info).ranges(lines, Some(word));
        ranges.iter().map(|range| (range.start.line, range.start.character, range.end.character)).collect()
    }

    #[test]
    fn the_word_is_found_on_the_line_that_has_it() {
        let text = "FROM a\nRUN x \\\n  --mount=typ=bind y\n";
        assert_eq!(columns(text, Lines { first: 2, last: 3 }, "typ"), [(2, 0, 0), (3, 10, 13)]);
        assert_eq!(columns(text, Lines::one(1), "nosuch"), [(1, 0, 0)]);
        assert_eq!(columns(text, Lines::one(99), "a"), [(99, 0, 0)]);
        assert_eq!(columns(text, Lines::one(1), ""), [(1, 0, 0)]);
    }

    #[test]
    fn a_word_of_its_own_is_preferred_to_a_part_of_another() {
        assert_eq!(columns("COPY --from=ab ab b", Lines::one(1), "b"), [(1, 18, 19)]);
        assert_eq!(columns("COPY --frommer --from x", Lines::one(1), "--from"), [(1, 15, 21)]);
        assert_eq!(columns("ENV é=ab", Lines::one(1), "b"), [(1, 7, 8)]);
    }
}
