//! What fuzz targets call: a function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

mod model;
#[cfg(test)]
#[path = "../../../../tests/fuzz/src/replay.rs"]
mod replay;

use crate::path::{clean, parents};
use crate::{DirState, Match, PatternSet, Verdict, WalkFilter, glob_match, parse_dockerignore};

/// Longer files only take longer.
const MAX_LINES: usize = 12;

/// A `.dockerignore` file, then paths behind zero bytes.
///
/// Claims: a set says what a slow matcher says, line by line and as a whole; a walk that prunes shows what a
/// walk that goes everywhere shows; line ends don't matter.
pub fn dockerignore(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let paths: Vec<String> = parts.take(16).filter_map(path).collect();
    let lines = parse_dockerignore(text);
    line_ends_do_not_matter(text, &lines);
    for line in &lines {
        assert_eq!(clean(&clean(line)), clean(line));
        for path in &paths {
            globs_match_as_the_model_does(line, path);
        }
    }
    if lines.len() > MAX_LINES {
        return;
    }
    let Ok(set) = PatternSet::parse(&lines) else {
        assert!(lines.iter().any(|line| PatternSet::parse([line]).is_err()), "{lines:?}");
        return;
    };
    for path in &paths {
        if let Some(expected) = model::set_matches(&lines, path) {
            assert_eq!(set.matches(path), expected, "{lines:?} on {path:?}");
        }
        if !set.has_negation() {
            assert_eq!(walked(&set, path).matched(), set.matches(path), "{lines:?} on {path:?}");
        }
    }
    // One of three: patterns are slow to compile.
    let (front, back) = lines.split_at(lines.len() / 2);
    match data.len() % 3 {
        0 => pruning_hides_nothing(&[], &lines, &paths),
        1 => pruning_hides_nothing(&lines, &[], &paths),
        _ => pruning_hides_nothing(front, back, &paths),
    }
}

/// A path as walks have them.
fn path(bytes: &[u8]) -> Option<String> {
    let path = clean(&String::from_utf8_lossy(bytes));
    let path = path.trim_start_matches('/').to_owned();
    let inside = !path.is_empty() && path != "." && path != ".." && !path.starts_with("../");
    inside.then_some(path)
}

fn line_ends_do_not_matter(text: &[u8], lines: &[String]) {
    assert!(lines.iter().all(|line| !line.contains('\n')));
    let mut windows = Vec::with_capacity(text.len() + 8);
    for byte in text {
        if *byte == b'\n' {
            windows.push(b'\r');
        }
        windows.push(*byte);
    }
    assert_eq!(parse_dockerignore(&windows), lines);
    let marked = [b"\xef\xbb\xbf", text].concat();
    if !text.starts_with(b"\xef\xbb\xbf") {
        assert_eq!(parse_dockerignore(&marked), lines);
    }
}

fn globs_match_as_the_model_does(pattern: &str, path: &str) {
    if let (Ok(found), Some(expected)) = (glob_match(pattern, path), model::glob_matches(pattern, path)) {
        assert_eq!(found, expected, "{pattern:?} on {path:?}");
    }
}

/// What a walk that goes everywhere knows of a path.
fn walked(set: &PatternSet, path: &str) -> Match {
    let above = parents(path).fold(Match::default(), |above, dir| set.matches_with_parent(dir, &above));
    set.matches_with_parent(path, &above)
}

fn pruning_hides_nothing(include: &[String], exclude: &[String], paths: &[String]) {
    let Ok(filter) = WalkFilter::new(include, exclude) else { return };
    let set = |lines: &[String]| PatternSet::parse(lines).ok().filter(|_| !lines.is_empty());
    let (include_set, exclude_set) = (set(include), set(exclude));
    for path in paths {
        let shown = include_set.as_ref().is_none_or(|set| walked(set, path).matched())
            && !exclude_set.as_ref().is_some_and(|set| walked(set, path).matched());
        let mut state = DirState::default();
        let mut reached = true;
        for dir in parents(path) {
            let (verdict, below) = filter.visit(dir, true, &state);
            state = below;
            if verdict == Verdict::Skip {
                reached = false;
                break;
            }
        }
        let emitted = reached && filter.visit(path, false, &state).0 == Verdict::Emit;
        assert_eq!(emitted, shown, "+{include:?} -{exclude:?} on {path:?}");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs_of_dockerignore_hold() {
        super::replay::corpus("dockerignore").iter().for_each(|input| super::dockerignore(input));
    }
}
